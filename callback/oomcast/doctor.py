"""`oomcast doctor`: what can be measured and delivered here, with the value, and why not where not."""

from __future__ import annotations

import json
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from oomcast import console, doctor_kernel, identity, local_server
from oomcast._version import __version__
from oomcast.errors import OomcastError
from oomcast.findings import Finding, size
from oomcast.launchers import LAUNCHER_VARIABLES, Launch
from oomcast.places import make_private, places
from oomcast.probes.gpu import GpuProbe
from oomcast.sample import GpuReading
from oomcast.settings import LOOPBACK, TABLE, Settings, inherited_environment, origins
from oomcast.wire import GpuDevice

__all__ = ["Finding", "as_json", "as_lines", "examine", "is_well"]

_PATIENCE_S = 3.0
# Clocks of two machines that are further apart than this put a run's points beside where they belong.
_SKEW_S = 2.0


def examine(settings: Settings) -> Iterator[Finding]:
    """Try everything that a training on this machine would need, one after the other."""
    yield from doctor_kernel.memory()
    yield from doctor_kernel.limits()
    yield from doctor_kernel.pressure()
    yield from doctor_kernel.death()
    yield _gpu()
    yield _agent()
    yield from _folders(settings)
    yield from _server(settings)
    yield from _launch(settings)
    yield from _settings(settings)


def is_well(findings: Sequence[Finding]) -> bool:
    """Whether a training can be watched here at all."""
    return all(finding.good for finding in findings if finding.needed)


def as_lines(findings: Sequence[Finding]) -> Iterator[str]:
    """For people: ✓ works, – does not, ✗ does not and has to."""
    width = max((len(finding.name) for finding in findings if len(finding.name) <= 40), default=0)
    for finding in findings:
        mark = "✓" if finding.good else "✗" if finding.needed else "–"
        yield f"{mark} {finding.name:{width}}  {finding.text}"


def as_json(findings: Sequence[Finding]) -> str:
    """For programs."""
    rows = [finding._asdict() for finding in findings]
    return json.dumps({"oomcast": __version__, "well": is_well(findings), "findings": rows}, indent=2)


def _gpu() -> Finding:
    environment = inherited_environment()
    probe = GpuProbe(visible=environment.get("CUDA_VISIBLE_DEVICES"), order=environment.get("CUDA_DEVICE_ORDER"))
    readings = probe.read(0, {os.getpid()})
    texts = [_one_gpu(device, reading) for device, reading in zip(probe.devices, readings, strict=True)]
    watched = "errors (Xid) are told" if probe.xids_watched else "errors (Xid) are not told here"
    probe.close()
    return Finding("GPU", bool(texts), "; ".join([*texts, watched]) if texts else probe.note or "none")


def _one_gpu(device: GpuDevice, reading: GpuReading) -> str:
    name = device.name if device.instance is None else f"{device.name}, MIG {device.instance}"
    if reading.used_bytes is None:
        return f"{name} (its memory is not told here)"
    reserved = f", {size(reading.reserved_bytes)} reserved" if reading.reserved_bytes else ""
    return f"{name} ({size(reading.used_bytes)} of {size(reading.total_bytes)} in use{reserved})"


def _agent() -> Finding:
    try:
        import oomcast.agent.loop  # noqa: F401  what its process loads first
    except Exception as error:
        return Finding("agent", False, f"can't be loaded ({type(error).__name__}: {error})", needed=True)
    return Finding("agent", True, f"oomcast {__version__}")


def _folders(settings: Settings) -> Iterator[Finding]:
    state, config = places(settings.home).state, places(settings.home).config
    yield _folder("journal", state, settings.journal_max, needed=True)
    yield _folder("token", config, 0, needed=False)


def _folder(name: str, folder: Path, wanted_bytes: int, *, needed: bool) -> Finding:
    name = f"folder of the {name}"
    try:
        make_private(folder)
        free = shutil.disk_usage(folder).free
    except (OomcastError, OSError) as error:
        return Finding(name, False, str(error), needed)
    if not wanted_bytes:
        return Finding(name, True, str(folder))
    journals, used = _journals(folder / "journals")
    text = f"{folder}: {journals} of {size(used)} ({size(wanted_bytes)} each at most), {size(free)} free on its disk"
    return Finding(name, free >= wanted_bytes, text)


def _journals(folder: Path) -> tuple[str, int]:
    found = [path for path in folder.glob("*") if path.is_dir()] if folder.is_dir() else []
    used = 0
    for path in (path for journal in found for path in journal.glob("*")):
        try:
            used += path.stat().st_size
        except OSError:
            continue  # delivered meanwhile
    return ("1 journal" if len(found) == 1 else f"{len(found)} journals"), used


def _server(settings: Settings) -> Iterator[Finding]:
    where = settings.server
    if not local_server.listens(where):
        if local_server.is_installed() and settings.autostart:
            text = f"none at {where} yet; installed here, the first training starts it"
            yield Finding("server", _is_local(where), text if _is_local(where) else f"none answers at {where}")
        elif local_server.is_installed():
            yield Finding(
                "server", False, f"none answers at {where}: `oomcast serve` starts it (OOMCAST_AUTOSTART is off)"
            )
        else:
            text = f"none at {where}, none installed: `pip install 'oomcast[server]'`, or set OOMCAST_SERVER"
            yield Finding("server", False, text)
        yield _clock(None)
        return
    token = console.token_for(settings)
    if not token:
        text = f"something listens at {where}, but OOMCAST_TOKEN for it is not set (`oomcast token` prints it there)"
        yield Finding("server", False, text)
        yield _clock(None)
        return
    answer, why = _ask(where, token)
    version = f"oomcast {answer.get('version')} at {where} answers and takes our token" if answer else why
    yield Finding("server", answer is not None, version)
    yield _clock(answer)


def _is_local(server: str) -> bool:
    return urllib.parse.urlsplit(server).hostname in LOOPBACK


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The token is for one server, not for where it sends us."""

    def redirect_request(self, *_: Any) -> None:
        """Nowhere."""


def _ask(server: str, token: str) -> tuple[dict[str, Any] | None, str]:
    """What a server says of itself; or None, and why."""
    request = urllib.request.Request(  # noqa: S310  `settings.py` takes http and https only
        f"{server}/api/server", headers={"Authorization": f"Bearer {token}"}
    )
    proxies = [urllib.request.ProxyHandler({})] if _is_local(server) else []
    try:
        with urllib.request.build_opener(_NoRedirect(), *proxies).open(request, timeout=_PATIENCE_S) as response:
            answer = json.loads(response.read(65536))
        return (answer, "") if isinstance(answer, dict) and "version" in answer else (None, _other(server))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            return None, f"the server at {server} does not take our token: `oomcast token` prints the right one there"
        return None, _other(server)
    except (OSError, ValueError) as error:
        return None, f"what listens at {server} gives no answer ({getattr(error, 'reason', error)})"


def _other(server: str) -> str:
    return f"what listens at {server} is no oomcast server: set OOMCAST_SERVER, or free the port"


def _clock(answer: dict[str, Any] | None) -> Finding:
    now = time.time()
    text = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    there = answer.get("now_ms") if answer else None
    if not isinstance(there, int | float):
        return Finding("clock", now > _FIRST_RELEASE_S, text)
    apart = abs(there / 1000 - now)
    return Finding("clock", apart < _SKEW_S, f"{text}, {apart:.1f} s from the server's")


# 2025-01-01: a clock that stands before it was never set.
_FIRST_RELEASE_S = 1_735_689_600


def _launch(settings: Settings) -> Iterator[Finding]:
    environment = inherited_environment()
    seen = [f"{name}={environment[name][:60]}" for name in LAUNCHER_VARIABLES if environment.get(name)]
    yield Finding("launcher's variables", bool(seen), " ".join(seen) or "none: a process of its own")
    launch = identity.launch_here()
    known = launch.rank is not None
    yield Finding("rank", known, _rank(launch))
    run_id, name = identity.run_identity(settings, launch)
    joined = bool(settings.run_id or launch.job)
    yield Finding("run", True, f"{run_id} ({name})" if joined else "a new one for each training")


def _rank(launch: Launch) -> str:
    if launch.rank is None:
        return f"none, in {launch.launcher}" if launch.launcher else "none"
    local = "" if launch.local_rank is None else f", {launch.local_rank} on this machine"
    return f"{launch.rank} of {launch.world_size}{local}, by {launch.launcher}"


def _settings(settings: Settings) -> Iterator[Finding]:
    where = origins()
    for row in TABLE:
        shown = _shown(row.name, getattr(settings, row.name))
        yield Finding(f"setting: {row.name}", True, f"{shown} ({where[row.name]})")


def _shown(name: str, value: Any) -> str:
    if value in (None, ()):
        return "–"
    if name == "token":
        return "set"  # never itself
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, tuple):
        return ", ".join(value)
    return size(value) if name in ("ballast", "journal_max") else str(value)
