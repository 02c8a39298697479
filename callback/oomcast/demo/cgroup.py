"""One memory cgroup, v1 or v2: made, entered, limited, read and removed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from pathlib import Path

__all__ = ["MemoryGroup", "adopt_group", "make_group", "sweep"]

_PREFIX = "oomcast-demo-"
_UNLIMITED = 1 << 60  # v1 says "no limit" by a number near 2**63


@dataclasses.dataclass(frozen=True)
class MemoryGroup:
    """A cgroup with a memory controller.

    Source: the kernel's admin-guide/cgroup-v1/memory.rst and admin-guide/cgroup-v2.rst.
    """

    version: int
    folder: Path

    def join(self, pid: int) -> None:
        """Move a process in; what it allocates from now on is charged here."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    def members(self) -> list[int]:
        """The processes in it."""
        return [int(word) for word in (self.folder / "cgroup.procs").read_text().split()]

    def usage_bytes(self) -> int:
        """What counts against the limit, page cache and all."""
        return self._number("memory.usage_in_bytes" if self.version == 1 else "memory.current")

    def charged_bytes(self) -> int:
        """The same, less the page cache that the kernel would take back first."""
        inactive = "total_inactive_file" if self.version == 1 else "inactive_file"
        return self.usage_bytes() - self._counter("memory.stat", inactive, 0)

    def set_limit(self, limit_bytes: int, swap_bytes: int) -> None:
        """Allow `limit_bytes` of memory and `swap_bytes` of swap.

        Raises:
            OSError: refused; a limit that is below what can't be reclaimed, for one.
        """
        if self.version == 2:
            (self.folder / "memory.max").write_text(str(limit_bytes))
            with contextlib.suppress(FileNotFoundError):  # a kernel without swap
                (self.folder / "memory.swap.max").write_text(str(swap_bytes))
            return
        both = self.folder / "memory.memsw.limit_in_bytes"
        files = [(self.folder / "memory.limit_in_bytes", limit_bytes)]
        if both.exists():
            files.append((both, limit_bytes + swap_bytes))
            if limit_bytes > self._number("memory.memsw.limit_in_bytes"):
                files.reverse()  # the sum may never be the smaller one
        elif not swap_bytes:
            (self.folder / "memory.swappiness").write_text("0")
        for file, size in files:
            file.write_text(str(size))

    def limit_bytes(self) -> int | None:
        """The limit in force; None is unlimited."""
        text = (self.folder / ("memory.limit_in_bytes" if self.version == 1 else "memory.max")).read_text().strip()
        return None if text == "max" or int(text) >= _UNLIMITED else int(text)

    def oom_kills(self) -> int | None:
        """How many processes the kernel has killed in here for memory; None where it doesn't count them."""
        with contextlib.suppress(OSError):
            return self._counter("memory.oom_control" if self.version == 1 else "memory.events", "oom_kill", None)
        return None

    def remove(self, refuge: Path, patience_s: float = 10.0) -> None:
        """Take the group away; whoever is still in it (the run's agent) goes on in the group at `refuge`.

        Raises:
            OSError: it can't be removed in `patience_s` seconds.
        """
        deadline = time.monotonic() + patience_s
        while self.folder.is_dir():
            for pid in self.members():
                with contextlib.suppress(OSError):  # it has just ended
                    (refuge / "cgroup.procs").write_text(str(pid))
            try:
                self.folder.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)  # a killed process leaves its group a moment after its parent hears of it

    def _number(self, file: str) -> int:
        return int((self.folder / file).read_text())

    def _counter(self, file: str, key: str, otherwise: int | None) -> int:
        for line in (self.folder / file).read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
        return otherwise  # type: ignore[return-value]  # None only where the caller gives it


def make_group(pid: int, root: Path = Path("/")) -> tuple[MemoryGroup, Path] | None:
    """A new memory cgroup below the nearest one of `pid`'s ancestors where that is allowed.

    Args:
        pid: this process.
        root: the file system's root.

    Returns:
        The group, and the folder of the one that `pid` is in; None where no memory cgroup can be made.
    """
    for version, mount, home in _memberships(pid, root):
        for parent in (home, *(p for p in home.parents if p == mount or mount in p.parents)):
            if version == 2 and not _delegates(parent):
                continue
            folder = parent / f"{_PREFIX}{pid}"
            with contextlib.suppress(OSError):
                folder.mkdir()
                group = MemoryGroup(version, folder)
                if _usable(group):
                    return group, home
                folder.rmdir()
    return None


def adopt_group(pid: int, root: Path = Path("/")) -> MemoryGroup | None:
    """The v2 memory cgroup that `pid` was put in by someone else, if its limit can be changed."""
    for version, _, home in _memberships(pid, root):
        if version == 2 and os.access(home / "memory.max", os.W_OK):
            return MemoryGroup(version, home)
    return None


def sweep(pid: int, root: Path = Path("/")) -> None:
    """Remove the groups of demos that could not: their process is gone."""
    for _, mount, home in _memberships(pid, root):
        for parent in (home, *(p for p in home.parents if p == mount or mount in p.parents)):
            for folder in parent.glob(f"{_PREFIX}*"):
                owner = folder.name.removeprefix(_PREFIX)
                if owner.isdecimal() and not (root / "proc" / owner).exists():
                    with contextlib.suppress(OSError):
                        folder.rmdir()


def _delegates(parent: Path) -> bool:
    # A process moves only where its user may write to the group that is above both its old and its new one.
    controllers = _read(parent / "cgroup.subtree_control").split()
    return "memory" in controllers and os.access(parent / "cgroup.procs", os.W_OK)


def _usable(group: MemoryGroup) -> bool:
    try:
        limit = group.limit_bytes()
        (group.folder / ("memory.limit_in_bytes" if group.version == 1 else "memory.max")).write_text(
            str(limit or (1 << 50))
        )
        return os.access(group.folder / "cgroup.procs", os.W_OK)
    except OSError:
        return False


def _memberships(pid: int, root: Path) -> list[tuple[int, Path, Path]]:
    """(version, mount point, the group's folder) of the hierarchies that can limit memory; v1 first."""
    mounts: dict[int, Path] = {}
    for line in _read(root / "proc/self/mounts").splitlines():
        _, point, kind, options, *_ = line.split(" ")
        if kind == "cgroup2" or (kind == "cgroup" and "memory" in options.split(",")):
            mounts.setdefault(2 if kind == "cgroup2" else 1, root / point.lstrip("/"))
    found = []
    for line in _read(root / f"proc/{pid}/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        version = 2 if number == "0" else 1
        if version in mounts and (version == 2 or "memory" in controllers.split(",")):
            folder = mounts[version] / path.lstrip("/")
            # In a container the path may be the host's, while the mount shows only our part of it.
            found.append((version, mounts[version], folder if folder.is_dir() else mounts[version]))
    return sorted(found)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
