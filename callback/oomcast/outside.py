"""Watching a process from outside: a command that is started here (`run`), or one that runs already (`attach`).

The agent is the same as a callback's; there are no records, so that it has its own looks only. A callback inside the
process joins the same run as another source.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import signal
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

from oomcast import console, identity
from oomcast.errors import OomcastError, RingError, SettingsError
from oomcast.handover import (
    Detail,
    Handover,
    folder_parents,
    hold,
    make_folder,
    readable,
    remove_folder,
    write_handover,
)
from oomcast.launchers import Launch
from oomcast.names import random_id
from oomcast.places import places, read_or_create_token
from oomcast.probes.death import Standing, boot_id
from oomcast.ring import RingWriter
from oomcast.settings import LOOPBACK, Settings, inherited_environment
from oomcast.sidecar import Sidecar
from oomcast.signals import SignalsPassedOn, stopped_by_signals
from oomcast.target import Target, find_target, open_pidfd, watched_as
from oomcast.wire import RunInfo, SourceInfo

__all__ = ["attach", "run"]

# What a shell returns for a command that can't be found, or can't be executed; and for one that a signal ended, from
# 128 up: POSIX, Shell Command Language, 2.8.2.
_NOT_FOUND, _NOT_EXECUTABLE, _SIGNALLED = 127, 126, 128
# How long the command's end may wait for the verdict and for the last samples' delivery, both together.
_FAREWELL_S = 3.0
# Nothing is written to the ring; the agent wants one all the same.
_SLOTS = 64
# How often to see whether an agent, or a process without a pidfd, is still there.
_LOOK_S = 0.5


class Watcher:
    """An agent at work on another process than this one."""

    def __init__(
        self,
        settings: Settings,
        info: RunInfo,
        source: SourceInfo,
        pidfd: int | None,
        environ: Mapping[str, str],
        *,
        detachable: bool = False,
    ) -> None:
        """Start it.

        Args:
            settings: the values in force.
            info: the run that the process belongs to.
            source: the process.
            pidfd: of the process; for every agent that is started on it, so kept open. None: the system has none.
            environ: the process's environment.
            detachable: whether the process may outlive the watching.

        Raises:
            OSError, OomcastError: nothing could be started; nothing is left behind.
        """
        self._handover = Handover(
            run=info,
            source=source,
            server=settings.server,
            mode=settings.mode,
            token=_token(settings),
            home=settings.home,
            journal_max=settings.journal_max,
            autostart=settings.autostart,
            critical_headroom=settings.critical_headroom,
            visible_gpus=environ.get("CUDA_VISIBLE_DEVICES"),
            standing=Standing.of(source.pid, time.monotonic_ns()),
            boot=boot_id(),
            outside=True,
            detachable=detachable,
        )
        self._pidfd = pidfd
        self._heard = threading.Event()
        self._verdict: Detail | None = None
        self._hold: int | None = None
        *parents, last = folder_parents()
        for parent in parents:
            with contextlib.suppress(RingError, OSError):
                self._start(parent)
                return
        self._start(last)

    def _start(self, parent: Path) -> None:
        self._folder = make_folder(parent)
        try:
            self._hold = hold(self._folder)
            RingWriter(self._folder / "ring", slots=_SLOTS).close()
            write_handover(self._folder, self._handover)
            (self._folder / "notes").touch(0o600)
            self._sidecar = Sidecar(
                self._folder, console.say, self._hold, pidfd=self._pidfd, on_verdict=self._take_verdict
            )
        except BaseException:
            self._let_folder_go()
            remove_folder(self._folder)
            raise

    def _take_verdict(self, verdict: Detail) -> None:
        self._verdict = verdict
        self._heard.set()

    @property
    def died(self) -> bool:
        """Whether the agent is gone for good before its time."""
        return self._sidecar.died

    def tell_status(self, status: int) -> None:
        """How the process ended, from the only one who can wait for it.

        Before Linux 6.15 nobody else is told (`probes/death.py`).

        Args:
            status: as wait(2) gives it.
        """
        with contextlib.suppress(OSError):  # judged already, and the folder is gone
            draft = self._folder / "exit.new"
            draft.write_text(str(status))
            draft.rename(self._folder / "exit")

    def end(self, wait_s: float) -> Detail | None:
        """Wait until the agent has judged the end and delivered what it has; None if it has not, by then."""
        deadline = time.monotonic() + wait_s
        if not self.died:
            self._heard.wait(wait_s)
        self.let_go(deadline - time.monotonic())
        return self._verdict

    def let_go(self, wait_s: float) -> None:
        """Leave the agent to itself; wait for what it still delivers."""
        self._sidecar.let_go(max(0.0, wait_s))
        self._let_folder_go()

    def _let_folder_go(self) -> None:
        lock, self._hold = self._hold, None
        if lock is not None:
            os.close(lock)


def _token(settings: Settings) -> str | None:
    with contextlib.suppress(SettingsError):
        if urllib.parse.urlsplit(settings.server).hostname in LOOPBACK:
            # The agent may be about to start the server, which will take the token that it finds.
            return settings.token or read_or_create_token(places(settings.home).config)
    return console.token_for(settings)


def run(command: list[str], settings: Settings) -> int:
    """Run a command and watch it: the command of `oomcast run`.

    Args:
        command: program and arguments.
        settings: the values in force.

    Returns:
        The command's exit code; 128 + N if signal N ended it; 127 if there is no such command, 126 if it can't be
        executed.
    """
    launch = identity.launch_here()
    info = _run_info(settings, launch)
    environment = inherited_environment() | {"OOMCAST_RUN_ID": info.id} | _options(settings)
    with SignalsPassedOn() as signals:
        try:
            # Files that a shell opened for the command (`3<data`) are the command's; ours close themselves.
            process = subprocess.Popen(command, env=environment, close_fds=False)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            console.say(f"{readable(command[0])} can't be run: {'no such command' if missing else error.strerror}")
            return _NOT_FOUND if missing else _NOT_EXECUTABLE
        signals.to(process)
        watcher = _watch_command(settings, info, launch, process, command, environment)
        status = process.wait()
        verdict = None
        if watcher is not None:
            watcher.tell_status(-status if status < 0 else status << 8)
            verdict = watcher.end(_FAREWELL_S)
        if settings.mode != "disabled":
            console.say_end(verdict or _plain(status))
    return _SIGNALLED - status if status < 0 else status


def _run_info(settings: Settings, launch: Launch) -> RunInfo:
    run_id, name = identity.run_identity(settings, launch)
    return RunInfo(id=run_id, project=settings.project, name=name, tags=list(settings.tags))


def _options(settings: Settings) -> dict[str, str]:
    """What a callback inside is to know: the options' values come before the environment's."""
    values = {"OOMCAST_PROJECT": settings.project, "OOMCAST_RUN_NAME": settings.run_name}
    return {name: value for name, value in values.items() if value} | (
        {"OOMCAST_TAGS": ",".join(settings.tags)} if settings.tags else {}
    )


def _watch_command(
    settings: Settings,
    info: RunInfo,
    launch: Launch,
    process: subprocess.Popen[bytes],
    command: list[str],
    environment: dict[str, str],
) -> Watcher | None:
    if settings.mode == "disabled":
        return None
    try:
        who = identity.Process(process.pid, identity.user_name(), " ".join(command))
        source = identity.describe(random_id(), None, kind="run", launch=launch, process=who)
        # Not waited for yet, so that the pid is still its own.
        watcher = Watcher(settings, info, source, open_pidfd(process.pid), environment)
    except (OSError, OomcastError) as error:
        console.say(f"not watching this command ({type(error).__name__}: {error}); it runs all the same")
        return None
    console.say_start(info, settings)
    return watcher


def _plain(status: int) -> Detail:
    """What can be said without the agent."""
    if status < 0:
        text = f"Ended by {signal.Signals(-status).name if -status in set(signal.Signals) else f'signal {-status}'}"
        return {"outcome": "died", "text": f"{text}; what is known of why is on the page."}
    return {"outcome": "failed" if status else "finished", "text": f"Ended with exit code {status}."}


def attach(pid: int, settings: Settings) -> int:
    """Watch a process that runs already, until it ends or Ctrl-C ends the watching: the command of `oomcast attach`.

    Args:
        pid: the process, of this user.
        settings: the values in force.

    Returns:
        0; 1 if no agent could be kept alive.

    Raises:
        TargetError: it can't be watched; the text says why.
        OSError, OomcastError: no agent could be started.
    """
    target = find_target(pid)
    info, launch = _run_of(target, settings)
    source = identity.describe(random_id(), None, kind="attach", launch=launch, process=target.process)
    watcher: Watcher | None = None
    try:
        with stopped_by_signals():
            watcher = Watcher(settings, info, source, target.pidfd, target.variables, detachable=True)
            console.say_start(info, settings)
            console.say(f"Ctrl-C ends the watching; {pid} goes on")
            _wait_for_end(target, watcher)
    except KeyboardInterrupt:
        with contextlib.suppress(KeyboardInterrupt):
            if watcher is not None:
                watcher.let_go(_FAREWELL_S)
        console.say(f"no longer watching {pid}")
        return 0
    if watcher.died:
        return 1
    with contextlib.suppress(KeyboardInterrupt):
        verdict = watcher.end(_FAREWELL_S)
        console.say_end(verdict or {"outcome": "unknown", "text": f"{pid} is gone; nobody says how it ended."})
    return 0


def _run_of(target: Target, settings: Settings) -> tuple[RunInfo, Launch]:
    """The process's run: the one that a callback of its own records, or its launcher's, or a new one."""
    launch = identity.launch_of(target.process.pid, target.variables)
    if (known := watched_as(target.process.pid)) and settings.run_name is None:
        console.say(f"{target.process.pid} is watched already, as {known.name}: this look from outside joins it")
        return known, launch
    given = target.variables.get("OOMCAST_RUN_ID", "").strip()
    return _run_info(dataclasses.replace(settings, run_id=settings.run_id or given or None), launch), launch


def _wait_for_end(target: Target, watcher: Watcher) -> None:
    poll = select.poll() if target.pidfd is not None else None
    if poll is not None and target.pidfd is not None:
        poll.register(target.pidfd, select.POLLIN)
    while not watcher.died:
        if poll is None:
            if not target.alive():
                return
            time.sleep(_LOOK_S)
        elif poll.poll(int(_LOOK_S * 1000)):
            return
