"""One process's memory and faults, from /proc or, elsewhere than on Linux, from psutil."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

__all__ = ["ProcessReading", "parse_statm", "parse_status", "read_process"]

_STATUS_LINE = re.compile(rb"^((?:Vm|Rss)\w+):\s*(\d+) kB$", re.MULTILINE)
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class ProcessReading(NamedTuple):
    """One look at a process. All None: it is gone."""

    rss_bytes: int | None = None
    shared_bytes: int | None = None
    swap_bytes: int | None = None
    virtual_bytes: int | None = None
    data_bytes: int | None = None  # what RLIMIT_DATA counts
    minor_faults: int | None = None  # since the process began
    major_faults: int | None = None


def parse_statm(text: bytes, page_bytes: int = PAGE_BYTES) -> tuple[int | None, int | None]:
    """RSS and shared bytes from the text of /proc/<pid>/statm, even if it was cut after its third number.

    Source: proc_pid_statm(5); the fields are size, resident, shared, in pages.
    """
    fields = text.rstrip(b"\0").split()
    if len(fields) < 3:
        return None, None
    return int(fields[1]) * page_bytes, int(fields[2]) * page_bytes


def parse_status(text: bytes) -> dict[str, int]:
    """The "Vm…" and "Rss…" lines of /proc/<pid>/status, in bytes (proc_pid_status(5) gives KiB)."""
    return {name.decode("ascii"): int(kib) * 1024 for name, kib in _STATUS_LINE.findall(text)}


def parse_stat_faults(text: bytes) -> tuple[int | None, int | None]:
    """Minor and major faults from /proc/<pid>/stat: fields 10 and 12; the name before them may hold blanks."""
    fields = text.rpartition(b")")[2].split()
    return (int(fields[7]), int(fields[9])) if len(fields) > 9 else (None, None)


def read_process(pid: int, proc: Path = Path("/proc")) -> ProcessReading:
    """What the system says of `pid` now.

    Args:
        pid: the process.
        proc: where procfs is mounted.
    """
    if sys.platform != "linux" and proc == Path("/proc"):
        return _read_by_psutil(pid)
    folder = f"{proc}/{pid}"
    try:
        status = parse_status(_read(f"{folder}/status"))
    except (OSError, ValueError):
        return ProcessReading()
    minor = major = None
    with contextlib.suppress(OSError, ValueError):
        minor, major = parse_stat_faults(_read(f"{folder}/stat"))
    shared = [status[name] for name in ("RssFile", "RssShmem") if name in status]
    return ProcessReading(
        rss_bytes=status.get("VmRSS"),
        shared_bytes=sum(shared) if shared else None,
        swap_bytes=status.get("VmSwap"),
        virtual_bytes=status.get("VmSize"),
        data_bytes=status.get("VmData"),
        minor_faults=minor,
        major_faults=major,
    )


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read(8192)


def _read_by_psutil(pid: int) -> ProcessReading:
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        memory = psutil.Process(pid).memory_info()
        # macOS has pfaults and pageins, Windows num_page_faults, of which no part is known to be major.
        return ProcessReading(
            rss_bytes=memory.rss,
            virtual_bytes=memory.vms,
            minor_faults=getattr(memory, "pfaults", getattr(memory, "num_page_faults", None)),
            major_faults=getattr(memory, "pageins", None),
        )
    return ProcessReading()
