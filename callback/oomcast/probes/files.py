"""Small text files of the kernel: read whole, and searched for figures. Nothing here raises.

What such a file holds is not always what its manual page says (gVisor, lxcfs, old kernels), so a figure that can't be
made out is None.
"""

from __future__ import annotations

import contextlib
import os

__all__ = ["KeptOpen", "OneLook", "OpenFile", "figure", "number", "read_file"]

_CHUNK_BYTES = 1 << 16
# Larger than any that is looked for: a mount table of thousands of lines.
_LARGEST_BYTES = 1 << 24
_HALF_PAGE_BYTES = 2048
# v1 says "no limit" by the largest multiple of the page size that fits 63 bits; nothing real is near it.
_UNLIMITED = 1 << 60
_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)


def read_file(path: str) -> bytes:
    """All of a file; nothing where it can't be read."""
    try:
        fd = os.open(path, _FLAGS)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return b""
    try:
        return _read_all(fd)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _read_all(fd: int) -> bytes:
    # To its end: a read of a file in /proc gives a page at most, and a container's mounts are longer.
    text = os.read(fd, _CHUNK_BYTES)
    part = text
    while part and len(text) < _LARGEST_BYTES:
        part = os.read(fd, _CHUNK_BYTES)
        text += part
    return text


class OpenFile:
    """A file that stays open, since it is read often: to open one costs more than to read it."""

    def __init__(self, path: str) -> None:
        """Open it; a file that is not there reads as empty."""
        self._fd: int | None = None
        with contextlib.suppress(OSError, ValueError):
            self._fd = os.open(path, _FLAGS)

    def read(self) -> bytes:
        """Its text now; nothing where it can't be read, as when its cgroup has been removed (ENODEV)."""
        text = b""
        with contextlib.suppress(OSError):
            while self._fd is not None:
                part = os.pread(self._fd, _CHUNK_BYTES, len(text))
                text += part
                # Such files have short lines, and give as many as fit a page at each read: this was the last.
                if len(part) < _HALF_PAGE_BYTES or len(text) > _LARGEST_BYTES:
                    break
        return text

    def close(self) -> None:
        """Give it back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class OneLook:
    """Reads files for one look, each once, so that figures of the same file belong together."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._texts: dict[str, bytes] = {}

    def read(self, path: str) -> bytes:
        """As `read_file`, the first time."""
        if path not in self._texts:
            self._texts[path] = read_file(path)
        return self._texts[path]


class KeptOpen:
    """Reads files that stay open from one look to the next."""

    def __init__(self) -> None:
        """Nothing is open yet."""
        self._files: dict[str, OpenFile] = {}

    def read(self, path: str) -> bytes:
        """The file's text now."""
        if path not in self._files:
            self._files[path] = OpenFile(path)
        return self._files[path].read()

    def close(self) -> None:
        """Give all of them back; they are opened anew when they are read again."""
        for file in self._files.values():
            file.close()
        self._files = {}


def number(text: bytes, unit: int = 1) -> int | None:
    """A whole number times its unit; None for "max", for no limit in v1's way, and for anything that is no number."""
    digits = text.strip()
    if not digits.isdigit() or len(digits) > 19:
        return None
    value = int(digits) * unit
    return value if value < _UNLIMITED else None


def figure(text: bytes, name: bytes, unit: int = 1) -> int | None:
    """The number behind `name` at the beginning of a line; None if there is none.

    Args:
        text: of lines such as "anon 5" or "MemTotal:  16 kB".
        name: with what parts it from its number, such as b"anon " or b"MemTotal:".
        unit: what it counts, such as 1024 bytes.
    """
    start = 0 if text.startswith(name) else text.find(b"\n" + name) + 1
    if start == 0 and not text.startswith(name):
        return None
    start += len(name)
    words = text[start : start + 64].partition(b"\n")[0].split(None, 1)
    return number(words[0], unit) if words else None
