"""One process's memory, faults and processor time, from /proc or, elsewhere than on Linux, from psutil."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from oomcast.probes.files import OpenFile, figure, number, read_file

__all__ = [
    "PAGE_BYTES",
    "ProcessReading",
    "Pulse",
    "Stat",
    "parse_stat",
    "parse_stat_faults",
    "parse_statm",
    "parse_status",
    "read_by_psutil",
    "read_process",
    "tree_pss",
]

_STATUS_LINE = re.compile(rb"^((?:Vm|Rss)\w{1,32}):\s*(\d{1,15}) kB$", re.MULTILINE)
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_TICK_NS = 1_000_000_000 // (os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100)


class ProcessReading(NamedTuple):
    """One look at a process. All None: it is gone."""

    rss_bytes: int | None = None
    shared_bytes: int | None = None  # mapped files and shared memory
    swap_bytes: int | None = None
    virtual_bytes: int | None = None
    data_bytes: int | None = None  # what RLIMIT_DATA counts
    minor_faults: int | None = None  # since the process began
    major_faults: int | None = None
    anonymous_bytes: int | None = None  # RSS that no file backs
    file_bytes: int | None = None  # RSS of mapped files, without shared memory
    cpu_ns: int | None = None  # in user mode and in the kernel, all threads, since the process began; in steps of 10 ms
    name: str | None = None  # as the kernel has it, 15 characters at most


class Stat(NamedTuple):
    """What is used of /proc/<pid>/stat."""

    name: str
    state: str  # one letter; "Z": ended, and its parent has not waited for it
    parent: int
    minor_faults: int
    major_faults: int
    cpu_ns: int
    threads: int
    started: int  # in clock ticks since the system booted; with the pid, an identity
    rss_bytes: int

    @property
    def ended(self) -> bool:
        """Whether it has ended, all its threads included: the first may leave before the others."""
        return self.state in ("Z", "X", "x") and self.threads <= 1


def parse_statm(text: bytes, page_bytes: int = PAGE_BYTES) -> tuple[int | None, int | None]:
    """RSS and shared bytes from the text of /proc/<pid>/statm, even if it was cut after its third number.

    Source: proc_pid_statm(5); the fields are size, resident, shared, in pages.
    """
    fields = text.rstrip(b"\0").split()
    if len(fields) < 3:
        return None, None
    return number(fields[1], page_bytes), number(fields[2], page_bytes)


def parse_status(text: bytes) -> dict[str, int]:
    """The "Vm…" and "Rss…" lines of /proc/<pid>/status, in bytes (proc_pid_status(5) gives KiB)."""
    return {name.decode("ascii"): int(kib) * 1024 for name, kib in _STATUS_LINE.findall(text)}


def parse_stat_faults(text: bytes) -> tuple[int | None, int | None]:
    """Minor and major faults from /proc/<pid>/stat: fields 10 and 12; the name before them may hold blanks."""
    fields = text.rpartition(b")")[2].split()
    return (number(fields[7]), number(fields[9])) if len(fields) > 9 else (None, None)


def parse_stat(text: bytes) -> Stat | None:
    """/proc/<pid>/stat, of which proc_pid_stat(5) numbers the fields; None if it is no such text.

    The name stands in brackets, and may itself hold brackets and blanks.
    """
    before, bracket, after = text.rpartition(b")")
    fields = after.split()
    if not bracket or len(fields) < 22:
        return None
    # Fields 4, 10, 12, 14, 15, 20, 22 and 24; the state is the third.
    places = {1: 1, 7: 1, 9: 1, 11: _TICK_NS, 12: _TICK_NS, 17: 1, 19: 1, 21: PAGE_BYTES}
    values = [number(fields[place], unit) for place, unit in places.items()]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    parent, minor, major, user, system, threads, started, rss = known
    name = before.partition(b"(")[2].decode("utf-8", "replace")
    state = fields[0].decode("ascii", "replace")
    return Stat(name, state, parent, minor, major, user + system, threads, started, rss)


class Pulse:
    """Whether a process still has its memory, for 3 µs: what is charged to a dying one goes back before it is dead."""

    def __init__(self, pid: int, proc: Path = Path("/proc")) -> None:
        """Open what stays open.

        Args:
            pid: the process.
            proc: where procfs is mounted; elsewhere than on Linux nothing is known, and it is taken to live.
        """
        self._file = OpenFile(f"{proc}/{pid}/statm")
        self._known = bool(self._file.read())
        self.close = self._file.close

    def beats(self) -> bool:
        """Whether it is there; a process that has let go of its memory has no pages (proc_pid_statm(5))."""
        text = self._file.read() if self._known else b"?"
        return bool(text) and not text.startswith(b"0 ")


def read_process(pid: int, proc: Path = Path("/proc")) -> ProcessReading:
    """What the system says of `pid` now.

    Args:
        pid: the process.
        proc: where procfs is mounted.
    """
    if sys.platform != "linux" and proc == Path("/proc"):
        return read_by_psutil(pid)
    status = parse_status(read_file(f"{proc}/{pid}/status"))
    if not status:
        return ProcessReading()
    text = read_file(f"{proc}/{pid}/stat")
    minor, major = parse_stat_faults(text)
    stat = parse_stat(text)
    shared = [status[name] for name in ("RssFile", "RssShmem") if name in status]
    return ProcessReading(
        rss_bytes=status.get("VmRSS"),
        shared_bytes=sum(shared) if shared else None,
        swap_bytes=status.get("VmSwap"),
        virtual_bytes=status.get("VmSize"),
        data_bytes=status.get("VmData"),
        minor_faults=minor,
        major_faults=major,
        anonymous_bytes=status.get("RssAnon"),
        file_bytes=status.get("RssFile"),
        cpu_ns=stat.cpu_ns if stat else None,
        name=stat.name if stat else None,
    )


def tree_pss(pids: Iterable[int], proc: Path = Path("/proc")) -> int | None:
    """Memory of several processes together, pages that they share divided among all that use them.

    From `smaps_rollup` (proc_pid_smaps(5)), for which the kernel walks all pages of a process while its page faults
    wait: 0.06 ms for a small process, 2.3 ms at 2.5 GiB. So this is for every few seconds.

    Args:
        pids: the processes; one that is gone counts nothing.
        proc: where procfs is mounted.

    Returns:
        Bytes; None where none of them can be read (another user's, gVisor, a kernel before 4.14).
    """
    sizes = [figure(read_file(f"{proc}/{pid}/smaps_rollup"), b"Pss:", 1024) for pid in pids]
    known = [size for size in sizes if size is not None]
    return sum(known) if known else None


def read_by_psutil(pid: int, psutil: Any = None) -> ProcessReading:
    """The same elsewhere than on Linux: what psutil has there, the rest None.

    Args:
        pid: the process.
        psutil: stands in for the module.
    """
    if psutil is None:
        import psutil as module  # only here, so that Linux need not load it

        psutil = module
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        memory = process.memory_info()
        minor, major = _faults_by_psutil(process, memory)
        return ProcessReading(
            rss_bytes=memory.rss,
            virtual_bytes=memory.vms,
            minor_faults=minor,
            major_faults=major,
            cpu_ns=_cpu_by_psutil(process, psutil),
            name=_name_by_psutil(process, psutil),
        )
    return ProcessReading()


def _faults_by_psutil(process: Any, memory: Any) -> tuple[int | None, int | None]:
    # psutil 8 has a method for it. Before, macOS has pfaults and pageins, Windows num_page_faults, of which no part is
    # known to be major.
    faults: Any = SimpleNamespace()
    with contextlib.suppress(Exception):
        faults = process.page_faults()
    minor = getattr(faults, "minor", getattr(memory, "pfaults", getattr(memory, "num_page_faults", None)))
    return minor, getattr(faults, "major", getattr(memory, "pageins", None))


def _cpu_by_psutil(process: Any, psutil: Any) -> int | None:
    with contextlib.suppress(psutil.Error, OSError):
        times = process.cpu_times()
        return int((times.user + times.system) * 1e9)
    return None


def _name_by_psutil(process: Any, psutil: Any) -> str | None:
    with contextlib.suppress(psutil.Error, OSError):
        return str(process.name())
    return None
