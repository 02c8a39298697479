"""What the system tells of this process's memory, its limits and its end: one part of `oomcast doctor`."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from oomcast.errors import RingError
from oomcast.findings import Finding, size
from oomcast.handover import folder_parents, make_folder, remove_folder
from oomcast.probes.cgroups import find_cgroups
from oomcast.probes.children import ChildrenProbe
from oomcast.probes.death import KernelLog, KillCounters, exit_status
from oomcast.probes.files import read_file
from oomcast.probes.limits import Limit, binding, killing, read_limits
from oomcast.probes.pressure import PressureProbe
from oomcast.probes.process import ProcessReading, read_process, tree_pss
from oomcast.recorder import Recorder
from oomcast.ring import RingWriter
from oomcast.target import open_pidfd

__all__ = ["death", "limits", "memory", "pressure"]

_EXIT_CODE = 7


def memory() -> Iterator[Finding]:
    """The process's own figures, from outside and from within."""
    reading = read_process(os.getpid())
    yield Finding("RSS from outside", reading.rss_bytes is not None, size(reading.rss_bytes), needed=True)
    parts = f"{size(reading.anonymous_bytes)} anonymous, {size(reading.file_bytes)} of files"
    known = reading.anonymous_bytes is not None
    yield Finding("parts of the RSS", known, parts if known else size(None))
    yield Finding("virtual size", reading.virtual_bytes is not None, size(reading.virtual_bytes))
    yield Finding("swap of the process", reading.swap_bytes is not None, size(reading.swap_bytes))
    yield _faults(reading)
    pss = tree_pss([os.getpid()])
    none = "no readable /proc/<pid>/smaps_rollup (Linux 4.14 and later have it)"
    yield Finding("shared pages divided (PSS)", pss is not None, none if pss is None else size(pss))
    yield from _ring()


def _faults(reading: ProcessReading) -> Finding:
    faults = reading.minor_faults, reading.major_faults
    known = None not in faults
    text = f"{faults[0]} minor, {faults[1]} major so far" if known else "not told here"
    return Finding("page faults", known, text)


def _ring() -> Iterator[Finding]:
    """Where records go, and whether each batch can have a peak of its own."""
    why = ""
    for parent in folder_parents():
        folder = make_folder(parent)
        try:
            recorder = Recorder(RingWriter(folder / "ring"))
        except (RingError, OSError) as error:
            why = str(error)
            continue
        finally:
            remove_folder(folder)
        recorder.stop()
        shared = parent == Path("/dev/shm")  # noqa: S108  only its name
        free = f", {size(_free(parent))} free"
        slower = "" if shared else "; it is no shared memory, so that a disk that is busy can slow a training down"
        yield Finding("records in shared memory", shared, f"{parent}{free}{slower}")
        text = "the high-water mark can be re-armed" if recorder.peaks_rearmed else "no writable /proc/self/clear_refs"
        yield Finding("peak inside a batch", recorder.peaks_rearmed, text)
        return
    yield Finding("records in shared memory", False, why, needed=True)


def _free(folder: Path) -> int | None:
    if not hasattr(os, "statvfs"):
        return None
    with contextlib.suppress(OSError):
        system = os.statvfs(folder)
        return system.f_bavail * system.f_frsize
    return None


def limits() -> Iterator[Finding]:
    """Every limit that could stop a process here, and which one will."""
    found = read_limits(os.getpid(), read_process(os.getpid()))
    tightest, deadly = binding(found), killing(found)
    for limit in found:
        yield Finding(f"limit: {limit.kind}", True, _limit(limit, limit is tightest, limit is deadly))
    if not found:
        yield Finding("limits", False, "neither a cgroup nor /proc/meminfo can be read")


def _limit(limit: Limit, binds: bool, kills: bool) -> str:
    mark = " (binds)" if binds else " (the nearest that kills)" if kills else ""
    mark += "" if limit.kills else " (slows down, never kills)"
    return f"{size(limit.used_bytes)} of {size(limit.limit_bytes)} in use{mark}"


def pressure() -> Iterator[Finding]:
    """Stalls and paging, and whose the figures are."""
    probe = PressureProbe(os.getpid())
    now, source = probe.read(), probe.source
    probe.close()
    some, full = now.psi_some_us, now.psi_full_us
    none = "no PSI: a kernel before 4.20, or one that was started without (psi=1 turns it on)"
    text = none if some is None else f"of the {source}: {some / 1e6:.1f} s some, {(full or 0) / 1e6:.1f} s full so far"
    yield Finding("stalls for want of memory", some is not None, text)
    known = now.swap_in_bytes is not None
    swapped = f"{size(now.swap_in_bytes)} in, {size(now.swap_out_bytes)} out so far, {_counted_by(b'pswpin ')}"
    yield Finding("swapping", known, swapped if known else size(None))
    known = now.refaults is not None
    text = f"{now.refaults} pages so far, {_counted_by(b'workingset_refault')}" if known else size(None)
    yield Finding("pages needed again (refaults)", known, text)
    yield Finding("swap in use on this host", now.host_swap_bytes is not None, size(now.host_swap_bytes))


def _counted_by(name: bytes) -> str:
    """Whose counters they are: the first memory.stat that can be read decides."""
    for cgroup in find_cgroups(os.getpid()):
        if text := read_file(f"{cgroup.folder}/memory.stat"):
            return f"of cgroup {cgroup.name}" if b"\n" + name in b"\n" + text else "of the whole host"
    return "of the whole host"


def death() -> Iterator[Finding]:
    """What would tell how a training ended."""
    counters = KillCounters(os.getpid())
    kills = counters.read()
    counters.close()
    text = "no counter in this process's cgroup" if kills.own is None else f"{kills.own} in this cgroup so far"
    yield Finding("out-of-memory kills counted", kills.own is not None, text)
    above = [str(count) for count in kills.above if count is not None]
    text = f"{', '.join(above)} so far, the nearest first" if above else "only cgroup v2 counts those below a cgroup"
    yield Finding("the same, cgroups above", bool(above), text)
    text = "no oom_kill in /proc/vmstat" if kills.host is None else f"{kills.host} so far"
    yield Finding("the same, whole host", kills.host is not None, text)
    log = KernelLog()
    readable = log.readable
    log.close()
    yield Finding("out-of-memory kills named", readable, "the kernel's log can be read" if readable else _no_log())
    yield from _child()


def _no_log() -> str:
    if not os.path.exists("/dev/kmsg"):
        return "there is no kernel's log here (/dev/kmsg), as in most containers"
    if not os.access("/dev/kmsg", os.R_OK):
        return "no permission to read the kernel's log (/dev/kmsg)"
    return "the kernel's log can't be used: it can't be opened, or it names the host's pids, not this container's"


def _child() -> Iterator[Finding]:
    """Looks at a child that ends when it is told to."""
    code = f"import sys; sys.stdin.read(); sys.exit({_EXIT_CODE})"
    try:
        child = subprocess.Popen([sys.executable, "-I", "-S", "-c", code], stdin=subprocess.PIPE)
    except OSError as error:
        yield Finding("starting a process", False, f"{sys.executable} can't be started: {error}", needed=True)
        return
    pidfd = open_pidfd(child.pid)
    probe = ChildrenProbe(os.getpid())
    try:
        reading = probe.read()
    finally:
        probe.close()
        child.communicate()
    seen = any(one.pid == child.pid for one in reading.children)
    yield Finding("children (data-loader workers)", seen, "a child was seen" if seen else "a child was not seen")
    yield _ending(child.pid, pidfd)
    if pidfd is not None:
        os.close(pidfd)


def _ending(pid: int, pidfd: int | None) -> Finding:
    kernel = f"{platform.system()} {platform.release()}"
    if pidfd is None:
        return Finding("how a process ended", False, f"{kernel} has no pidfd (Linux 5.3 and later have)")
    status = exit_status(pid, pidfd)
    told = status is not None and status.code == _EXIT_CODE
    text = (
        f"the pidfd tells its exit status ({kernel})"
        if told
        else f"{kernel} tells of its end, but its exit status only while nobody has waited for it (6.15 and later tell)"
    )
    return Finding("how a process ended", told, text)
