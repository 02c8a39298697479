"""Swap for the scenario that needs some: the machine's own, or a small file that is taken away again."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from oomcast.demo.scenarios import DemoError

__all__ = ["free_swap_bytes", "swap", "sweep"]

_PREFIX = "oomcast-swap-"
_TOOLS = os.pathsep.join(("/usr/sbin", "/sbin", "/usr/bin", "/bin"))  # not on every user's PATH


def free_swap_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """How much swap is free; 0 where there is none."""
    with contextlib.suppress(OSError):
        for line in meminfo.read_text().splitlines():
            if line.startswith("SwapFree:"):
                return int(line.split()[1]) * 1024
    return 0


@contextlib.contextmanager
def swap(needed_bytes: int, folders: Sequence[Path]) -> Iterator[int]:
    """At least `needed_bytes` of free swap while the block runs; its value is how much there is.

    Args:
        needed_bytes: the machine's own is taken if it has this much free, else a file of this size is added (as root).
        folders: where the file may go, the first that can hold it.

    Raises:
        DemoError: there is none, and none can be added.
    """
    if (free := free_swap_bytes()) >= needed_bytes:
        yield free
        return
    if os.geteuid() != 0:
        raise DemoError(
            "this machine has no free swap, and only root can add a file of it: `sudo make demo SCENARIO=swap`, or add "
            "swap first"
        )
    path = _add(needed_bytes, folders)
    try:
        yield free_swap_bytes()
    finally:
        _take_away(path)


def _add(size: int, folders: Sequence[Path]) -> Path:
    sweep(folders)
    reasons = []
    for folder in folders:
        try:
            return _make(size, folder)
        except (OSError, subprocess.CalledProcessError) as error:
            detail = (
                error.stderr.decode(errors="replace") if isinstance(error, subprocess.CalledProcessError) else error
            )
            reasons.append(f"{folder}: {str(detail).strip()}")
    raise DemoError(f"no swap file can be added here ({'; '.join(reasons)}): add swap yourself, or show another one")


def _make(size: int, folder: Path) -> Path:
    if shutil.disk_usage(folder).free < size + (256 << 20):
        raise OSError("too little free space")
    place = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=folder))  # 0700: it will hold memory
    path = place / "swap"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)
        finally:
            os.close(fd)
        _tool("mkswap", str(path))
        _tool("swapon", str(path))
    except BaseException:
        _take_away(path)
        raise
    return path


def _take_away(path: Path) -> None:
    if _in_use(path):
        try:
            _tool("swapoff", str(path))
        except (OSError, subprocess.CalledProcessError) as error:
            raise DemoError(f"the swap file is still in use: `swapoff {path} && rm -r {path.parent}`") from error
    shutil.rmtree(path.parent, ignore_errors=True)


def sweep(folders: Sequence[Path]) -> None:
    """Take away the swap files of demos that could not: their process is gone."""
    for folder in folders:
        for place in folder.glob(f"{_PREFIX}*-*"):
            owner = place.name.removeprefix(_PREFIX).partition("-")[0]
            if owner.isdecimal() and not Path("/proc", owner).exists():
                with contextlib.suppress(DemoError):
                    _take_away(place / "swap")


def _in_use(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return any(line.split(" ")[0] == str(path) for line in Path("/proc/swaps").read_text().splitlines())
    return False


def _tool(name: str, argument: str) -> None:
    found = shutil.which(name, path=_TOOLS)
    if found is None:
        raise OSError(f"no {name} on this machine")
    subprocess.run([found, argument], check=True, capture_output=True, stdin=subprocess.DEVNULL)
