"""The agent as its session sees it: a process to start, hear from, start again where it was killed, and let go.

Two pipes hold it. The life-line carries nothing: its end, when the last copy of our side is closed, tells the agent of
our death, whatever killed us. The downlink carries lines from the agent; a thread that sleeps in `read` takes them,
which costs the training nothing. The agent never holds our stdout or stderr: a shell that waits for the end of a pipe
would wait for the agent too.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from oomcast.assessment import Assessment
from oomcast.descriptors import out_of_the_way
from oomcast.handover import Detail, Notice
from oomcast.settings import AGENT_LIMITS, inherited_environment

__all__ = ["Sidecar"]

# An agent that fails by itself is started again at once, twice: what fails at the start fails each time.
_MOST_FAILURES = 3
# One that is killed is started again as often as that, since what it leaves is gone on with; slower, if it never gets
# to live.
_MOST_KILLS = 500
_LIVED_S = 1.0
_PAUSES_S = (0.0, 0.1, 0.2, 0.5, 1.0)


class Sidecar:
    """One running agent, or the next one where it was killed."""

    def __init__(
        self,
        folder: Path,
        on_text: Callable[[str], None],
        hold: int | None = None,
        *,
        pidfd: int | None = None,
        on_assessment: Callable[[Assessment], None] | None = None,
        on_verdict: Callable[[Detail], None] | None = None,
    ) -> None:
        """Start the agent on a session's folder.

        Args:
            folder: where handover, ring and notes lie; the agent removes it at its end.
            on_text: called in another thread with lines for the user.
            hold: the open file that holds `folder`; the agent shares it from birth, or another's sweep could come in
                between our death and its first line of Python.
            pidfd: of the process that is watched, where that is not this one; stays the caller's.
            on_assessment: called in another thread whenever the state of memory changes.
            on_verdict: called in another thread with how the process ended.

        Raises:
            OSError: no process could be started.
        """
        if getattr(sys, "frozen", False):
            raise OSError("a frozen program has no Python to run the agent with")
        self._folder = folder
        self._on_text = on_text
        self._hold = hold
        self._target = pidfd
        self._on_assessment = on_assessment
        self._on_verdict = on_verdict
        self._done = threading.Event()
        self._stop = threading.Event()  # nobody listens any more
        self._detached = False
        self.died = False  # for good, without having said that it was done
        self.restarts = 0
        self._watched, self._lifeline = _pipe()
        self._asleep, self._waker = _pipe()
        try:
            self._process, self._downlink = self._start()
        except BaseException:
            self._close_pipes()
            raise
        self._listener = threading.Thread(target=self._listen, name="oomcast-downlink", daemon=True)
        self._listener.start()

    def _start(self) -> tuple[subprocess.Popen[bytes], int]:
        downlink, uplink = _pipe()
        mine = _pidfd() if self._target is None else None
        target = mine if self._target is None else self._target
        try:
            process = _start(self._folder, self._watched, uplink, target, self._hold)
        except BaseException:
            os.close(downlink)
            raise
        finally:
            os.close(uplink)
            if mine is not None:
                os.close(mine)
        for ended in [one for one in _running if one.poll() is not None]:
            _running.discard(ended)
        _running.add(process)
        return process, downlink

    @property
    def pid(self) -> int:
        """The agent's process id."""
        return self._process.pid

    def _listen(self) -> None:
        failures = kills = hasty = 0
        while True:
            started = time.monotonic()
            self._hear()
            if self._done.is_set() or self._stop.is_set() or self._detached:
                break
            status = self._process.wait()
            killed = status <= 0  # 0: somebody else has waited for it, so that nobody knows
            failures, kills = failures + (not killed), kills + killed
            hasty = 0 if time.monotonic() > started + _LIVED_S else hasty + 1
            if failures >= _MOST_FAILURES or kills >= _MOST_KILLS or not self._start_again(killed, hasty):
                self._give_up()
                break

    def _hear(self) -> None:
        """Take the agent's lines until it is done or gone, or nobody wants to hear them."""
        rest = b""
        while not self._done.is_set() and self._has_news() and (chunk := self._read()):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                self._take(line)
        # Forgotten before it is closed: a child forked now must not close what the number means next.
        downlink, self._downlink = self._downlink, -1
        with contextlib.suppress(OSError):
            os.close(downlink)

    def _read(self) -> bytes:
        try:
            return os.read(self._downlink, 65536)
        except OSError:  # the program has closed it, as it did all files that it doesn't know
            return b""

    def _has_news(self) -> bool:
        """Sleep until there is something to read; False when this is to end."""
        if not hasattr(select, "poll"):  # Windows, where a thread may sleep in `read` to the end
            return not self._stop.is_set()
        poll = select.poll()
        poll.register(self._downlink, select.POLLIN)
        poll.register(self._asleep, select.POLLIN)
        poll.poll()
        return not self._stop.is_set()

    def _start_again(self, killed: bool, hasty: int) -> bool:
        if self._stop.wait(_PAUSES_S[min(hasty, len(_PAUSES_S) - 1)]):
            return True
        try:
            self._process, self._downlink = self._start()
        except (OSError, ValueError):  # ValueError: let go meanwhile
            return False
        self.restarts += 1
        if self.restarts == 1:
            how = "was killed" if killed else "failed"
            self._on_text(f"the agent {how}; another goes on where it was, and nothing that was recorded is lost")
        return True

    def _give_up(self) -> None:
        self.died = True
        self._done.set()
        self._on_text(
            "the agent keeps ending before the training does: no more samples are taken (what was recorded is in its "
            "journal; `oomcast sync` sends it)"
        )

    def _take(self, line: bytes) -> None:
        with contextlib.suppress(msgspec.MsgspecError):
            notice = msgspec.json.decode(line, type=Notice)
            if notice.text:
                self._on_text(notice.text)
            if notice.assessment is not None and self._on_assessment is not None:
                self._on_assessment(notice.assessment)
            if notice.verdict is not None and self._on_verdict is not None:
                self._on_verdict(notice.verdict)
            if notice.done:
                self._done.set()

    def let_go(self, wait_s: float) -> None:
        """End the life-line, and wait until the agent has delivered what it has, at most `wait_s`."""
        lifeline, self._lifeline = self._lifeline, -1
        if lifeline >= 0:
            os.close(lifeline)
        if threading.current_thread() is self._listener:  # garbage collection may call from there
            self._stop.set()
            return
        try:
            self._done.wait(wait_s)
        finally:
            self._end_listener()
            self._close_pipes()

    def _end_listener(self) -> None:
        # A thread that wakes when the interpreter is gone is ended by `pthread_exit`, which aborts the whole process
        # where there is no memory left to load what that needs.
        self._stop.set()
        if self._waker >= 0:
            with contextlib.suppress(OSError):
                os.write(self._waker, b"!")
        self._listener.join(1.0)

    def _close_pipes(self) -> None:
        ends = (self._watched, self._lifeline, self._asleep, self._waker)
        self._watched = self._lifeline = self._asleep = self._waker = -1
        for fd in ends:
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)

    def detach(self) -> None:
        """In a forked child: give up all pipes, which belong to the parent."""
        self._detached = True
        downlink, self._downlink = self._downlink, -1
        if downlink >= 0:
            with contextlib.suppress(OSError):
                os.close(downlink)
        self._close_pipes()
        self._process.returncode = 0


# Agents that have not been waited for: kept, or Popen's finalizer would warn of what is meant to go on without us.
_running: set[subprocess.Popen[bytes]] = set()


@atexit.register
def _leave_running() -> None:
    for process in _running:
        process.returncode = 0


def _pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    return out_of_the_way(reading), out_of_the_way(writing)


def _pidfd() -> int | None:
    """This process, for the agent: opened here, since the agent may come to life only after our death."""
    with contextlib.suppress(OSError, AttributeError):
        return os.pidfd_open(os.getpid())
    return None


def _start(folder: Path, watched: int, uplink: int, target: int | None, hold: int | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "oomcast.agent", str(folder), str(watched), str(uplink)]
    passed = [watched, uplink, *(() if hold is None else (hold,))]
    if target is not None:
        command.append(str(target))
        passed.append(target)
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
