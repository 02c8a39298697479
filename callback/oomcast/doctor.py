"""`oomcast doctor`: what can be measured and delivered here, with the value, and why not where not."""

from __future__ import annotations

import os
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from oomcast import console, local_server
from oomcast.errors import OomcastError
from oomcast.handover import folder_parents
from oomcast.places import make_private, places
from oomcast.probes.death import KernelLog, KillCounters
from oomcast.probes.gpu import GpuProbe
from oomcast.probes.limits import binding, read_limits
from oomcast.probes.process import read_process
from oomcast.recorder import Recorder
from oomcast.ring import RingWriter
from oomcast.settings import Settings

__all__ = ["Finding", "examine"]


class Finding(NamedTuple):
    """One thing that was tried."""

    name: str
    good: bool
    text: str  # the value, or why there is none


def examine(settings: Settings) -> Iterator[Finding]:
    """Try everything that a training on this machine would need, one after the other."""
    yield from _process()
    yield from _limits()
    yield from _death()
    yield _gpu()
    yield from _folders(settings)
    yield _server(settings)


def _process() -> Iterator[Finding]:
    reading = read_process(os.getpid())
    yield Finding("RSS from outside", reading.rss_bytes is not None, _size(reading.rss_bytes))
    yield Finding("swap of the process", reading.swap_bytes is not None, _size(reading.swap_bytes))
    faults = reading.minor_faults, reading.major_faults
    known = None not in faults
    yield Finding("page faults", known, f"{faults[0]} minor, {faults[1]} major so far" if known else "not told here")
    with tempfile.TemporaryDirectory() as folder:
        ring = RingWriter(Path(folder) / "ring", slots=8)
        recorder = Recorder(ring)
        text = "the high-water mark can be re-armed" if recorder.peaks_rearmed else "no writable /proc/self/clear_refs"
        recorder.stop()
    yield Finding("peak inside a batch", recorder.peaks_rearmed, text)


def _limits() -> Iterator[Finding]:
    limits = read_limits(os.getpid(), read_process(os.getpid()))
    tightest = binding(limits)
    for limit in limits:
        mark = " (binds)" if limit is tightest else ""
        used = f"{_size(limit.used_bytes)} of {_size(limit.limit_bytes)} in use{mark}"
        yield Finding(f"limit: {limit.kind}", True, used)
    if not limits:
        yield Finding("limits", False, "neither a cgroup nor /proc/meminfo can be read")


def _death() -> Iterator[Finding]:
    kills = KillCounters(os.getpid()).before
    own = "no counter in this process's cgroup" if kills.own is None else f"{kills.own} in this cgroup so far"
    yield Finding("out-of-memory kills counted", kills.own is not None, own)
    log = KernelLog()
    readable = log.readable
    log.close()
    text = (
        "the kernel's log can be read" if readable else "the kernel's log can't be read (no permission, or a container)"
    )
    yield Finding("out-of-memory kills named", readable, text)


def _gpu() -> Finding:
    probe = GpuProbe()
    devices = ", ".join(f"{device.name} ({_size(device.total_bytes)})" for device in probe.devices)
    probe.close()
    return Finding("GPU", bool(probe.devices), devices or probe.note or "none")


def _folders(settings: Settings) -> Iterator[Finding]:
    parent = folder_parents()[0]
    yield Finding("shared memory for records", parent == Path("/dev/shm"), str(parent))  # noqa: S108  only its name
    for name, folder in (("journal", places(settings.home).state), ("token", places(settings.home).config)):
        try:
            make_private(folder)
            yield Finding(f"folder of the {name}", True, str(folder))
        except OomcastError as error:
            yield Finding(f"folder of the {name}", False, str(error))


def _server(settings: Settings) -> Finding:
    host = urllib.parse.urlsplit(settings.server).hostname or ""
    if local_server.listens(settings.server):
        known = "with a token for it" if console.token_for(settings) else f"but OOMCAST_TOKEN for {host} is not set"
        return Finding("server", bool(console.token_for(settings)), f"something listens at {settings.server}, {known}")
    if local_server.is_installed():
        return Finding("server", True, f"none at {settings.server} yet; installed here, the first training starts it")
    text = f"none at {settings.server}, none installed: `pip install 'oomcast[server]'`, or set OOMCAST_SERVER"
    return Finding("server", False, text)


def _size(size: int | None) -> str:
    if size is None:
        return "not told here"
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"
