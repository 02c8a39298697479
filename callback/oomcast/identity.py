"""Who is monitored: host, process, rank and interpreter, as the page names them; and which run it belongs to."""

from __future__ import annotations

import collections
import contextlib
import getpass
import os
import platform
import re
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from oomcast import settings as settings_module
from oomcast.handover import readable
from oomcast.launchers import JaxProcess, Launch, describe_launch
from oomcast.names import hashed_id, name_of, random_id
from oomcast.settings import Settings
from oomcast.wire import SourceInfo

__all__ = ["Process", "describe", "launch_here", "launch_of", "run_identity", "user_name"]

_RUN_ID = re.compile(r"[a-z0-9]{8,40}")
# Who takes in orphans: a process under them was not started together with anything.
_INITS = (b"(systemd)", b"(init)", b"(launchd)")

# How many runs of each job this process has had.
_runs_of_job: collections.Counter[str] = collections.Counter()


class Process(NamedTuple):
    """Another process than this one."""

    pid: int
    user: str | None
    command: str | None


def describe(
    source_id: str,
    backend: str | None,
    *,
    kind: str = "callback",
    launch: Launch | None = None,
    process: Process | None = None,
) -> SourceInfo:
    """A process of this host as a source.

    Args:
        source_id: its random id.
        backend: the framework that computes ("tensorflow 2.21.0"), where known.
        kind: who watches it, as `SourceInfo.kind` has it.
        launch: its place among those that were started together; looked up if not given.
        process: which one; this one if not given.
    """
    launch = launch_here() if launch is None else launch
    here = process is None
    process = process or Process(os.getpid(), user_name(), " ".join(sys.argv))
    return SourceInfo(
        id=source_id,
        host=_text(socket.gethostname(), 200) or "unknown",
        pid=process.pid,
        started_ns=time.time_ns(),
        user=_text(process.user, 200),
        command=_text(process.command, 2000),
        python=platform.python_version() if here else None,
        platform=platform.platform()[:200],
        backend=backend,
        kind=kind,
        rank=launch.rank,
        local_rank=launch.local_rank,
        world_size=launch.world_size,
        launcher=_text(launch.launcher, 200),
    )


def _text(text: str | None, longest: int) -> str | None:
    return readable(text)[:longest] or None if text else None


def user_name() -> str | None:
    """Who runs this process."""
    with contextlib.suppress(Exception):  # no entry for this uid, as in many containers
        return getpass.getuser()
    return None


def run_identity(settings: Settings, launch: Launch | None = None) -> tuple[str, str]:
    """The id and the name of the run that begins now.

    Processes come to the same id by OOMCAST_RUN_ID, or by being ranks of one launch, of the same project and user. The
    second run within a process is another one in all of them, as every rank of a launch runs the same program. Any
    other run has an id that nobody shares.

    Args:
        settings: the values in force.
        launch: this process's place among those that were started together; looked up if not given.
    """
    launch = launch_here() if launch is None else launch
    if settings.run_id:
        given = settings.run_id
        run_id = given if _RUN_ID.fullmatch(given) else hashed_id("OOMCAST_RUN_ID", given)
    elif launch.job:
        uid = str(os.getuid()) if hasattr(os, "getuid") else ""
        nth = _runs_of_job[launch.job]
        _runs_of_job[launch.job] += 1
        run_id = hashed_id("job", launch.job, settings.project, uid, str(nth))
    else:
        run_id = random_id()
    return run_id, settings.run_name or name_of(run_id)


def launch_here() -> Launch:
    """This process's place among those that were started together."""
    return describe_launch(settings_module.inherited_environment(), _parent(os.getpid()), _jax_process())


def launch_of(pid: int, environ: Mapping[str, str]) -> Launch:
    """Another process's place, from its environment."""
    return describe_launch(environ, _parent(pid))


def _parent(pid: int) -> str | None:
    """A text that only children of the same parent share; None where that says nothing."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        parent = int(_stat(pid)[1][1])
        name, fields = _stat(parent)
        # proc_pid_stat(5): ppid is field 4, starttime field 22; two stand before those that are counted here.
        return None if name in _INITS else f"{socket.gethostname()} {parent} {int(fields[19])}"
    return None


def _stat(pid: int) -> tuple[bytes, list[bytes]]:
    name, _, rest = Path(f"/proc/{pid}/stat").read_bytes().partition(b" ")[2].rpartition(b")")
    return name + b")", rest.split()


def _jax_process() -> JaxProcess | None:
    # `jax.process_index()` would start a backend, and with it take the GPU: only what was told already is read.
    with contextlib.suppress(Exception):
        state = sys.modules["jax._src.distributed"].global_state
        if state.client is not None:
            return JaxProcess(int(state.process_id), int(state.num_processes), state.coordinator_address)
    return None
