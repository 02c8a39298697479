"""Which limit will stop a process, and what is charged against it now.

Candidates are the limits of every cgroup that the process lives in, up to the root, its resource limits (RLIMIT_AS,
RLIMIT_DATA: setrlimit(2)), and the host's memory. The binding one has the least headroom.

What is charged against a cgroup is its usage without the page cache that nobody used lately (`inactive_file`): the
kernel takes that back before it kills anyone. Sources: the kernel's admin-guide/cgroup-v2.rst and
cgroup-v1/memory.rst.

- v2 `memory.max`, v1 `memory.limit_in_bytes`: the cgroup's own memory. Where it may swap, the kernel swaps before it
  kills, and the kill comes as late as at the limit "with swap". The limit stands here as it is nevertheless: from it on
  the training runs at the disk's pace, what can't be swapped (locked and kernel memory) may be killed for at once, and
  swap that is free now may be another's in a second.
- "(with swap)": v1 `memory.memsw.limit_in_bytes`, on v2 the sum of `memory.max` and `memory.swap.max`, each no further
  than the host has swap left; listed where it reaches further than memory alone. A swap limit by itself stops nobody,
  so it is no candidate.
- "(memory.high)": beyond it the kernel throttles, and never kills.
- The host's memory: what is not available counts as used. Its swap counts only where all cgroups let this process swap
  (v2: no `memory.swap.max` of 0; v1: a memsw limit above the memory limit, and a `memory.swappiness` that is not 0).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

from oomcast.probes.cgroups import Cgroup, find_cgroups, memory_cgroups
from oomcast.probes.files import KeptOpen, OneLook, figure, number
from oomcast.probes.process import ProcessReading

__all__ = ["Limit", "LimitProbe", "binding", "killing", "memory_cgroups", "read_limits"]

_KIB = 1024


class Limit(NamedTuple):
    """One limit and what counts against it."""

    kind: str  # for people: "cgroup /job/7", "host memory", "RLIMIT_AS"
    limit_bytes: int
    used_bytes: int
    kills: bool = True  # it ends a process that reaches it: by a kill, or an allocation that fails (RLIMIT_…)

    @property
    def headroom_bytes(self) -> int:
        """What is left; below zero where the limit was lowered under what is used."""
        return self.limit_bytes - self.used_bytes


def binding(limits: Sequence[Limit]) -> Limit | None:
    """The limit with the least headroom; None if none is known."""
    return min(limits, key=lambda limit: limit.headroom_bytes, default=None)


def killing(limits: Sequence[Limit]) -> Limit | None:
    """The limit with the least headroom among those that end a process; None if none is known."""
    return binding([limit for limit in limits if limit.kills])


class LimitProbe:
    """Finds every limit that could stop one process; the folders may change while it runs, and so may the figures."""

    def __init__(self, pid: int, root: Path = Path("/"), portable: bool = sys.platform != "linux") -> None:
        """Look at nothing yet.

        Args:
            pid: the process.
            root: the file system's root; tests pass a recorded tree.
            portable: by psutil instead of procfs, which knows of the host's memory only.
        """
        self._pid = pid
        self._root = root
        self._portable = portable and root == Path("/")
        self._binding: _Place | None = None
        self._kept = KeptOpen()
        self.limits: tuple[Limit, ...] = ()
        """All of them, as of the last full look."""

    def read(self, process: ProcessReading) -> list[Limit]:
        """All of them, found anew; some 0.2 ms.

        Args:
            process: a fresh look at the process, for what its resource limits count.
        """
        look = OneLook()
        found = [(limit, place) for place in self._places(look) if (limit := place.read(process, look.read))]
        tightest = min(found, key=lambda pair: pair[0].headroom_bytes)[1] if found else None
        if tightest != self._binding:
            self._kept.close()
        self._binding = tightest
        self.limits = tuple(limit for limit, _ in found)
        return list(self.limits)

    def _places(self, look: OneLook) -> list[_Place]:
        if self._portable:
            return [_HostByPsutil()]
        top = str(self._root).rstrip("/")
        meminfo = f"{top}/proc/meminfo"
        cgroups = find_cgroups(self._pid, self._root)
        swappiness = next((f"{one.folder}/memory.swappiness" for one in cgroups if one.version == 1), "")
        places: list[_Place] = [place for one in cgroups for place in _of_cgroup(one, swappiness, meminfo)]
        places += _rlimits(look.read(f"{top}/proc/{self._pid}/limits"))
        return [*places, _Host(meminfo, _may_swap(cgroups, swappiness, look.read))]

    def binding(self, process: ProcessReading, *, anew: bool) -> Limit | None:
        """The limit with the least headroom.

        Args:
            process: as for `read`.
            anew: find it among all; else the one that bound last is read again, which costs some 15 µs.
        """
        if not anew and self._binding:
            if known := self._binding.read(process, self._kept.read):
                return known
            self._kept.close()  # its cgroup may have been removed, and made anew
        return binding(self.read(process))

    def close(self) -> None:
        """Give the files back that `binding` keeps open."""
        self._kept.close()


def read_limits(pid: int, process: ProcessReading, root: Path = Path("/")) -> list[Limit]:
    """Every limit that could stop `pid` now; see `LimitProbe`."""
    return LimitProbe(pid, root).read(process)


_Read: TypeAlias = Callable[[str], bytes]


class _Place(Protocol):
    """Where a limit stands."""

    def read(self, process: ProcessReading, read: _Read) -> Limit | None:
        """The limit now; None where there is none, or it can't be read."""


class _Files(NamedTuple):
    """A cgroup's limit and its usage, in files of their own."""

    kind: str
    limit_file: str
    used_file: str
    stat_file: str
    cache_name: bytes
    kills: bool = True

    def read(self, process: ProcessReading, read: _Read) -> Limit | None:
        """The limit, None where it has none."""
        limit = number(read(self.limit_file))
        used = None if limit is None else number(read(self.used_file))
        if limit is None or used is None:
            return None
        cache = figure(read(self.stat_file), self.cache_name) or 0
        return Limit(self.kind, limit, max(0, used - cache), self.kills)


class _WithSwap(NamedTuple):
    """v2 has no limit of memory and swap together, so that it is made of both."""

    kind: str
    memory: _Files
    swap_limit_file: str
    swap_used_file: str
    meminfo: str

    def read(self, process: ProcessReading, read: _Read) -> Limit | None:
        """The sum, None where nothing may be swapped, or memory has no limit."""
        memory = self.memory.read(process, read)
        used = number(read(self.swap_used_file)) or 0
        free = figure(read(self.meminfo), b"SwapFree:", _KIB)
        # What the cgroup allows, and what the host can still give.
        rooms = [number(read(self.swap_limit_file)), None if free is None else used + free]
        known = [room for room in rooms if room is not None]
        if memory is None or not known or min(known) == 0:
            return None
        return Limit(self.kind, memory.limit_bytes + min(known), memory.used_bytes + used)


class _Memsw(NamedTuple):
    """v1's limit of memory and swap together; it may allow more than the host can swap."""

    kind: str
    memory: _Files
    both: _Files
    swappiness_file: str  # of the process's own cgroup: 0 keeps it from being swapped for a limit
    meminfo: str

    def read(self, process: ProcessReading, read: _Read) -> Limit | None:
        """How far it really reaches, None where that is no further than memory alone."""
        memory, both = self.memory.read(process, read), self.both.read(process, read)
        if memory is None or both is None:
            return both
        free = figure(read(self.meminfo), b"SwapFree:", _KIB)
        if number(read(self.swappiness_file)) == 0:
            free = 0
        swapped = max(0, both.used_bytes - memory.used_bytes)
        reach = both.limit_bytes if free is None else min(both.limit_bytes, memory.limit_bytes + swapped + free)
        found = Limit(self.kind, reach, both.used_bytes)
        return None if found[1:3] == memory[1:3] else found


def _of_cgroup(cgroup: Cgroup, swappiness: str, meminfo: str) -> list[_Place]:
    kind, stat = f"cgroup {cgroup.name}", f"{cgroup.folder}/memory.stat"

    def files(suffix: str, limit: str, used: str, *, kills: bool = True) -> _Files:
        cache = b"inactive_file " if cgroup.version == 2 else b"total_inactive_file "
        return _Files(kind + suffix, f"{cgroup.folder}/{limit}", f"{cgroup.folder}/{used}", stat, cache, kills)

    if cgroup.version == 1:
        memory = files("", "memory.limit_in_bytes", "memory.usage_in_bytes")
        both = files("", "memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes")
        return [memory, _Memsw(f"{kind} (with swap)", memory, both, swappiness, meminfo)]
    memory = files("", "memory.max", "memory.current")
    swap = (f"{cgroup.folder}/memory.swap.max", f"{cgroup.folder}/memory.swap.current")
    return [
        memory,
        files(" (memory.high)", "memory.high", "memory.current", kills=False),
        _WithSwap(f"{kind} (with swap)", memory, *swap, meminfo),
    ]


def _may_swap(cgroups: Sequence[Cgroup], swappiness: str, read: _Read) -> bool:
    return number(read(swappiness)) != 0 and all(_lets_swap(cgroup, read) for cgroup in cgroups)


def _lets_swap(cgroup: Cgroup, read: _Read) -> bool:
    if cgroup.version == 2:
        return number(read(f"{cgroup.folder}/memory.swap.max")) != 0
    memory = number(read(f"{cgroup.folder}/memory.limit_in_bytes"))
    both = number(read(f"{cgroup.folder}/memory.memsw.limit_in_bytes"))
    return memory is None or both is None or both > memory


class _Rlimit(NamedTuple):
    """A resource limit, as it was when it was found."""

    kind: str
    limit_bytes: int

    def read(self, process: ProcessReading, read: _Read) -> Limit | None:
        """The limit, and what counts against it."""
        used = process.virtual_bytes if self.kind == "RLIMIT_AS" else process.data_bytes
        return None if used is None else Limit(self.kind, self.limit_bytes, used)


_RLIMITS = {b"Max data size": "RLIMIT_DATA", b"Max address space": "RLIMIT_AS"}


def _rlimits(text: bytes) -> list[_Rlimit]:
    softs = [(kind, figure(text, title + b" ")) for title, kind in _RLIMITS.items()]
    return [_Rlimit(kind, soft) for kind, soft in softs if soft is not None]


class _Host(NamedTuple):
    """The machine's memory: used is what is not available, by the kernel's own estimate."""

    meminfo: str
    swaps: bool  # whether this process may use its swap

    def read(self, process: ProcessReading, read: _Read) -> Limit | None:
        """Its size and what is used of it; proc_meminfo(5) gives KiB."""
        text = read(self.meminfo)
        total, available = figure(text, b"MemTotal:", _KIB), figure(text, b"MemAvailable:", _KIB)
        if total is None or available is None:
            return None
        swap, free = figure(text, b"SwapTotal:", _KIB), figure(text, b"SwapFree:", _KIB)
        used = max(0, total - available)
        if self.swaps and swap and free is not None:
            return Limit("host memory and swap", total + swap, used + max(0, swap - free))
        return Limit("host memory", total, used)


class _HostByPsutil:
    """The same elsewhere than on Linux."""

    def read(self, process: ProcessReading, read: _Read) -> Limit | None:
        """Its size and what is used of it."""
        import psutil

        with contextlib.suppress(psutil.Error, OSError):
            memory = psutil.virtual_memory()
            return Limit("host memory", memory.total, memory.total - memory.available)
        return None
