"""Which limit will stop a process, and what is charged against it now.

Candidates are every cgroup that the process lives in, up to the root (v2 `memory.max`, v1 `memory.limit_in_bytes`), its
resource limits (RLIMIT_AS, RLIMIT_DATA), and the host's memory. The binding one has the least headroom.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import NamedTuple, Protocol

from oomcast.probes.process import ProcessReading

__all__ = ["Limit", "LimitProbe", "binding", "memory_cgroups", "read_limits"]

# v1 says "no limit" by the largest multiple of the page size that fits 63 bits; nothing real is near it.
_UNLIMITED = 1 << 60


class Limit(NamedTuple):
    """One limit and what counts against it."""

    kind: str  # for people: "cgroup /job/7", "host memory", "RLIMIT_AS"
    limit_bytes: int
    used_bytes: int

    @property
    def headroom_bytes(self) -> int:
        """What is left; below zero where the limit was lowered under what is used."""
        return self.limit_bytes - self.used_bytes


def binding(limits: list[Limit]) -> Limit | None:
    """The limit with the least headroom; None if none is known."""
    return min(limits, key=lambda limit: limit.headroom_bytes, default=None)


class LimitProbe:
    """Finds every limit that could stop one process; the folders may change while it runs, and so may the figures."""

    def __init__(self, pid: int, root: Path = Path("/")) -> None:
        """Look at nothing yet.

        Args:
            pid: the process.
            root: the file system's root; tests pass a recorded tree.
        """
        self._pid = pid
        self._root = root
        self._portable = sys.platform != "linux" and root == Path("/")
        self._binding: _Readable | None = None

    def read(self, process: ProcessReading) -> list[Limit]:
        """All of them, found anew; some 0.3 ms.

        Args:
            process: a fresh look at the process, for what its resource limits count.
        """
        found = [(limit, place) for place in self._places() if (limit := place.read(process))]
        self._binding = min(found, key=lambda pair: pair[0].headroom_bytes)[1] if found else None
        return [limit for limit, _ in found]

    def _places(self) -> list[_Readable]:
        if self._portable:
            return [_HostByPsutil()]
        return [*_cgroups(self._pid, self._root), *_rlimits(self._pid, self._root), _Host(f"{self._root}/proc/meminfo")]

    def binding(self, process: ProcessReading, *, anew: bool) -> Limit | None:
        """The limit with the least headroom.

        Args:
            process: as for `read`.
            anew: find it among all; else the one that bound last is read again, which costs a tenth.
        """
        known = None if anew or self._binding is None else self._binding.read(process)
        return known or binding(self.read(process))


def read_limits(pid: int, process: ProcessReading, root: Path = Path("/")) -> list[Limit]:
    """Every limit that could stop `pid` now; see `LimitProbe`."""
    return LimitProbe(pid, root).read(process)


def memory_cgroups(pid: int, root: Path = Path("/")) -> list[tuple[int, str]]:
    """(version, folder) of every memory cgroup that `pid` is in, its own first, then those above it."""
    return [(cgroup.version, cgroup.folder) for cgroup in _cgroups(pid, root)]


class _Readable(Protocol):
    """A place where a limit stands."""

    def read(self, process: ProcessReading) -> Limit | None:
        """The limit now; None where there is none, or it can't be read."""


class _Cgroup(NamedTuple):
    """One cgroup with a memory controller."""

    folder: str
    version: int
    kind: str

    def read(self, process: ProcessReading) -> Limit | None:
        """Its limit, None where it has none."""
        limit_file, used_file, cache_key = _FILES[self.version]
        try:
            text = _read(f"{self.folder}/{limit_file}").strip()
            if text == "max" or int(text) >= _UNLIMITED:
                return None
            used = int(_read(f"{self.folder}/{used_file}")) - _stat(self.folder, cache_key)
            return Limit(self.kind, int(text), max(0, used))
        except (OSError, ValueError):
            return None


_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def _cgroups(pid: int, root: Path) -> list[_Cgroup]:
    found: list[_Cgroup] = []
    for version, mount, path in _memberships(pid, root):
        folder = mount / path.lstrip("/")
        if not folder.is_dir():
            folder = mount  # in a container the path is the host's, and the mount shows only our part of it
        while True:
            name = folder.relative_to(mount).as_posix()
            found.append(_Cgroup(str(folder), version, "cgroup /" if name == "." else f"cgroup /{name}"))
            if folder == mount:
                break
            folder = folder.parent
    return found


def _memberships(pid: int, root: Path) -> list[tuple[int, Path, str]]:
    """(cgroup version, mount point, path) of the hierarchies that can limit memory."""
    with contextlib.suppress(OSError, ValueError):
        mounts = _mounts(root)
        lines = _read(f"{root}/proc/{pid}/cgroup").splitlines()
        found = []
        for line in lines:
            number, controllers, path = line.split(":", 2)
            if number == "0" and "v2" in mounts:
                found.append((2, mounts["v2"], path))
            elif "memory" in controllers.split(",") and "v1" in mounts:
                found.append((1, mounts["v1"], path))
        return found
    return []


def _mounts(root: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for line in _read(f"{root}/proc/self/mounts").splitlines():
        _, point, kind, options, *_ = line.split(" ")
        place = root / point.encode().decode("unicode_escape").lstrip("/")
        if kind == "cgroup2":
            found.setdefault("v2", place)
        elif kind == "cgroup" and "memory" in options.split(","):
            found.setdefault("v1", place)
    return found


def _stat(folder: str, key: str) -> int:
    # Page cache that nobody used lately: the kernel takes it back before it kills anyone.
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(_read(f"{folder}/memory.stat").split(f"\n{key} ", 1)[1].split("\n", 1)[0])
    return 0


def _read(path: str) -> str:
    # To its end: a read of a file in /proc gives a page at most, and a container's mounts are longer.
    with open(path, "rb", buffering=0) as file:
        return file.readall().decode("ascii", "replace")


class _Rlimit(NamedTuple):
    """A resource limit, as it was when it was found."""

    kind: str
    limit_bytes: int

    def read(self, process: ProcessReading) -> Limit | None:
        """The limit, and what counts against it: setrlimit(2)."""
        used = process.virtual_bytes if self.kind == "RLIMIT_AS" else process.data_bytes
        return None if used is None else Limit(self.kind, self.limit_bytes, used)


_RLIMITS = {"Max address space": "RLIMIT_AS", "Max data size": "RLIMIT_DATA"}


def _rlimits(pid: int, root: Path) -> list[_Rlimit]:
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in _read(f"{root}/proc/{pid}/limits").splitlines():
            for title, kind in _RLIMITS.items():
                if line.startswith(title) and (soft := line[len(title) :].split()[0]) != "unlimited":
                    found.append(_Rlimit(kind, int(soft)))
    return found


class _Host(NamedTuple):
    """The machine's memory: used is what is not available, by the kernel's own estimate."""

    meminfo: str

    def read(self, process: ProcessReading) -> Limit | None:
        """Its size and what is used of it; proc_meminfo(5) gives KiB."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            text = _read(self.meminfo)
            total, available = (int(text.split(f"{name}:", 1)[1].split(None, 1)[0]) * 1024 for name in _MEMINFO)
            return Limit("host memory", total, total - available)
        return None


_MEMINFO = ("MemTotal", "MemAvailable")


class _HostByPsutil:
    """The same elsewhere than on Linux."""

    def read(self, process: ProcessReading) -> Limit | None:
        """Its size and what is used of it."""
        import psutil

        memory = psutil.virtual_memory()
        return Limit("host memory", memory.total, memory.total - memory.available)
