"""Paging and stalls of the place that a process lives in: PSI, swapping, refaults.

PSI (the kernel's accounting/psi.rst) says for how long tasks stood still for want of memory: "some" while one did,
"full" while all did. It is kept for each cgroup of v2, also where v2 has no memory controller, and for the system.
What was swapped and what had to be read again stands in the cgroup's `memory.stat`, where the kernel counts it there,
else in /proc/vmstat, for the whole host.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

from oomcast.probes.cgroups import Cgroup, find_cgroups
from oomcast.probes.files import OpenFile, figure, number
from oomcast.probes.process import PAGE_BYTES

__all__ = ["PressureProbe", "PressureReading"]

_PSI = re.compile(rb"^(some|full) [^\n]{0,200}\btotal=(\d{1,19})$", re.MULTILINE)


class PressureReading(NamedTuple):
    """Totals that only ever grow, but for the last; None where it can't be read."""

    psi_some_us: int | None = None
    psi_full_us: int | None = None
    swap_in_bytes: int | None = None
    swap_out_bytes: int | None = None
    refaults: int | None = None  # pages
    host_swap_bytes: int | None = None  # in use on the whole host now


class PressureProbe:
    """The figures of one process's place; the files stay open, and are found anew when it moves to another cgroup.

    The totals go on from where they stood when it moves: what the new place had counted before is not taken for this
    process's.
    """

    def __init__(self, pid: int, root: Path = Path("/"), portable: bool = sys.platform != "linux") -> None:
        """Open what there is.

        Args:
            pid: the process.
            root: the file system's root; tests pass a recorded tree.
            portable: by psutil instead of procfs, which knows of the host's swap only.
        """
        self._pid = pid
        self._root = root
        self._top = str(root).rstrip("/")
        self._portable = portable and root == Path("/")
        self._membership = b""
        self._raw: dict[str, int] = {}
        self._totals: dict[str, int] = {}
        self._psi: OpenFile | None = None
        self._stat: OpenFile | None = None
        self.source: str | None = None
        """Whose PSI it is: "cgroup /job" or "system"; None: there is none here."""
        self._where, self._vmstat, self._meminfo = (
            OpenFile(f"{self._top}/proc/{name}") for name in (f"{pid}/cgroup", "vmstat", "meminfo")
        )
        if not self._portable:
            self._find(self._where.read())

    def _find(self, membership: bytes) -> None:
        self._close_found()
        self._membership = membership
        self._raw = {}
        cgroups = find_cgroups(self._pid, self._root)
        places = [(f"{one.folder}/memory.pressure", f"cgroup {one.name}") for one in cgroups if _has_psi(one)]
        self.source = None
        for path, name in [*places, (f"{self._top}/proc/pressure/memory", "system")]:
            self._psi = OpenFile(path)
            if _PSI.search(self._psi.read()):
                self.source = name
                break
            self._psi.close()
        for cgroup in cgroups:
            self._stat = OpenFile(f"{cgroup.folder}/memory.stat")
            if self._stat.read():
                break
            self._stat.close()

    def read_psi(self) -> tuple[int | None, int | None]:
        """PSI's totals now, "some" and "full", in µs; some 5 µs."""
        text = self._psi.read() if self._psi else b""
        totals = {name: number(total) for name, total in _PSI.findall(text)}
        return self._total("some", totals.get(b"some")), self._total("full", totals.get(b"full"))

    def read(self) -> PressureReading:
        """Everything now; some 60 µs."""
        if self._portable:
            return _read_by_psutil()
        # Of a process that is gone it says nothing, and the place that it lived in goes on counting.
        if (membership := self._where.read()) and membership != self._membership:
            self._find(membership)
        some, full = self.read_psi()
        stat, vmstat = self._stat.read() if self._stat else b"", self._vmstat.read()
        return PressureReading(
            psi_some_us=some,
            psi_full_us=full,
            swap_in_bytes=self._total("in", _swapped(b"pswpin ", stat, vmstat)),
            swap_out_bytes=self._total("out", _swapped(b"pswpout ", stat, vmstat)),
            refaults=self._total("refaults", _refaults(stat, vmstat)),
            host_swap_bytes=_host_swap(self._meminfo.read()),
        )

    def _total(self, name: str, raw: int | None) -> int | None:
        if raw is None:
            return None
        if name in self._raw:
            self._totals[name] += max(0, raw - self._raw[name])
        else:
            self._totals.setdefault(name, raw)
        self._raw[name] = raw
        return self._totals[name]

    def _close_found(self) -> None:
        for file in (self._psi, self._stat):
            if file:
                file.close()

    def close(self) -> None:
        """Give the files back; what is read afterwards is None."""
        self._close_found()
        for file in (self._where, self._vmstat, self._meminfo):
            file.close()


def _has_psi(cgroup: Cgroup) -> bool:
    # The root's is the system's; only the root has no `cgroup.type`, in a container as well.
    return cgroup.version == 2 and os.path.exists(f"{cgroup.folder}/cgroup.type")


def _swapped(name: bytes, stat: bytes, vmstat: bytes) -> int | None:
    own = figure(stat, name, PAGE_BYTES)
    return figure(vmstat, name, PAGE_BYTES) if own is None else own


def _refaults(stat: bytes, vmstat: bytes) -> int | None:
    # v1 tells its own and, as totals, with all below it; kernels before 5.9 didn't tell anonymous pages from files.
    for text, prefix in ((stat, b"total_"), (stat, b""), (vmstat, b"")):
        kinds = [figure(text, prefix + b"workingset_refault" + kind) for kind in (b"_anon ", b"_file ", b" ")]
        known = [value for value in kinds if value is not None]
        if known:
            return sum(known)
    return None


def _host_swap(meminfo: bytes) -> int | None:
    total, free = figure(meminfo, b"SwapTotal:", 1024), figure(meminfo, b"SwapFree:", 1024)
    return None if total is None or free is None else max(0, total - free)


def _read_by_psutil() -> PressureReading:
    import psutil

    # What it has of paging elsewhere counts files as well (macOS), or is always 0 (Windows).
    with contextlib.suppress(psutil.Error, OSError):
        return PressureReading(host_swap_bytes=psutil.swap_memory().used)
    return PressureReading()
