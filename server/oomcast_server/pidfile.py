"""Which process serves a port: a file that says so, believed only as far as the process bears it out."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from oomcast.places import make_private
from oomcast_server.errors import StartError

__all__ = ["pid_file", "stop"]


def _path(state: Path, port: int) -> Path:
    return state / f"server-{port}.pid"


@contextlib.contextmanager
def pid_file(state: Path, port: int) -> Iterator[None]:
    """Name this process in `<state>/server-<port>.pid` (its id, and when it began) while the block runs.

    Raises:
        SettingsError: the state folder can't be written.
    """
    path = _path(make_private(state), port)
    content = f"{os.getpid()}\n{psutil.Process().create_time()}\n"
    path.write_text(content, "ascii")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if path.read_text("ascii") == content:  # another server may have taken the port since
                path.unlink()


def stop(state: Path, port: int, timeout_s: float = 10.0) -> int:
    """Ask the server on `port` to end, and wait until it has; returns its process id.

    Raises:
        StartError: there is none that the pid file truly names, or it doesn't end.
    """
    path = _path(state, port)
    process = _named(path)
    if process is None:
        with contextlib.suppress(OSError):
            path.unlink()
        raise StartError(f"no oomcast server of yours runs on port {port} (looked in {path})")
    process.send_signal(signal.SIGTERM)
    until = time.monotonic() + timeout_s
    while _runs(process):
        if time.monotonic() > until:
            raise StartError(f"process {process.pid} doesn't end: end it with `kill -9 {process.pid}`")
        time.sleep(0.02)
    return int(process.pid)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _named(path: Path) -> psutil.Process | None:
    try:
        pid, created = path.read_text("ascii").split()
        process = psutil.Process(int(pid))
        # A process id is used again after a while: the time of its start tells.
        return process if abs(process.create_time() - float(created)) < 1.0 else None
    except (OSError, ValueError, psutil.Error):
        return None
