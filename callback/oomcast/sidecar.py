"""The agent's process, as the training sees it: start it, hear from it, let it know that we are gone.

Two pipes go with it. The life-line carries no data: only this process holds its writing end, so that its end of file
tells the agent of our death, whatever killed us. The downlink carries lines from the agent; a thread that sleeps in
`read` takes them, which costs the training nothing. The agent never holds our stdout or stderr: a shell that waits for
the end of a pipe would wait for the agent too.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from oomcast.handover import Notice
from oomcast.settings import AGENT_LIMITS, inherited_environment

__all__ = ["Sidecar"]


class Sidecar:
    """One running agent."""

    def __init__(self, folder: Path, on_text: Callable[[str], None], hold: int | None = None) -> None:
        """Start the agent on a session's folder.

        Args:
            folder: where handover, ring and notes lie; the agent removes it at its end.
            on_text: called in another thread with lines for the user.
            hold: the open file that holds `folder`; the agent shares it from birth, or another's sweep could come in
                between our death and its first line of Python.

        Raises:
            OSError: no process could be started.
        """
        if getattr(sys, "frozen", False):
            raise OSError("a frozen program has no Python to run the agent with")
        self._on_text = on_text
        self._done = threading.Event()
        self.died = False  # without having said that it was done
        watched, self._lifeline = os.pipe()
        self._downlink, uplink = os.pipe()
        myself = _pidfd()
        try:
            self._process = _start(folder, watched, uplink, myself, () if hold is None else (hold,))
        except BaseException:
            os.close(self._lifeline)
            os.close(self._downlink)
            raise
        finally:
            os.close(watched)
            os.close(uplink)
            if myself is not None:
                os.close(myself)
        _running.add(self._process)
        self._listener = threading.Thread(target=self._listen, name="oomcast-downlink", daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        """The agent's process id."""
        return self._process.pid

    def _listen(self) -> None:
        rest = b""
        while chunk := os.read(self._downlink, 65536):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                self._take(line)
        # Forgotten before it is closed: a child forked now must not close what the number means next.
        downlink, self._downlink = self._downlink, -1
        os.close(downlink)
        if not self._done.is_set():
            self.died = True
            self._done.set()
            self._on_text(
                "the agent ended before the training did: no more samples are taken (was it killed? what it had "
                "recorded is in its journal; `oomcast sync` sends it)"
            )
        self._process.wait()
        _running.discard(self._process)

    def _take(self, line: bytes) -> None:
        with contextlib.suppress(msgspec.MsgspecError):
            notice = msgspec.json.decode(line, type=Notice)
            if notice.text:
                self._on_text(notice.text)
            if notice.done:
                self._done.set()

    def let_go(self, wait_s: float) -> None:
        """End the life-line, and wait until the agent has delivered what it has, at most `wait_s`."""
        lifeline, self._lifeline = self._lifeline, -1
        if lifeline >= 0:
            os.close(lifeline)
        if threading.current_thread() is not self._listener:  # garbage collection may call from there
            self._done.wait(wait_s)

    def detach(self) -> None:
        """In a forked child: give up both pipes, which belong to the parent."""
        pipes, self._lifeline, self._downlink = (self._lifeline, self._downlink), -1, -1
        for fd in pipes:
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._process.returncode = 0


# Agents that have not been waited for: kept, or Popen's finalizer would warn of what is meant to go on without us.
_running: set[subprocess.Popen[bytes]] = set()


@atexit.register
def _leave_running() -> None:
    for process in _running:
        process.returncode = 0


def _pidfd() -> int | None:
    """This process, for the agent: opened here, since the agent may come to life only after our death."""
    with contextlib.suppress(OSError, AttributeError):
        return os.pidfd_open(os.getpid())
    return None


def _start(
    folder: Path, watched: int, uplink: int, myself: int | None, shared: tuple[int, ...]
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "oomcast.agent", str(folder), str(watched), str(uplink)]
    passed = [watched, uplink, *shared]
    if myself is not None:
        command.append(str(myself))
        passed.append(myself)
    return subprocess.Popen(
        command,
        # The folder, not the user's: a random.py beside train.py must not become the agent's `random`.
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=passed,
        start_new_session=True,  # Ctrl-C and a closed terminal are for the training; the agent tells of them
    )


def _environment() -> dict[str, str]:
    environment = inherited_environment()
    root = str(Path(__file__).resolve().parent.parent)
    if root not in (p for p in sys.path if p.endswith("-packages")):
        # A source tree or a folder put on sys.path by hand: the agent must find the same oomcast.
        old = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{old}{os.pathsep}{root}" if old else root
    return environment | AGENT_LIMITS
