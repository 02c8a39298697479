"""One monitored training, seen from inside its process: starts the agent, writes marks and records, ends both.

Whatever fails in here is told once on stderr, counted, noted for the page, and forgotten: training goes on.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import urllib.parse
import weakref
from collections.abc import Callable
from pathlib import Path

from oomcast import console, identity
from oomcast.allocator import Allocators
from oomcast.assessment import Assessment
from oomcast.descriptors import out_of_the_way
from oomcast.errors import RingError, SettingsError
from oomcast.handover import Handover, folder_parents, hold, make_folder, note_line, remove_folder, write_handover
from oomcast.names import random_id
from oomcast.places import places, read_or_create_token
from oomcast.probes.death import Standing, boot_id
from oomcast.recorder import Context, Hooks, Mark, Recorder
from oomcast.ring import RingWriter
from oomcast.sample import EventKind, Phase
from oomcast.settings import LOOPBACK, Settings, inherited_environment
from oomcast.sidecar import Sidecar
from oomcast.wire import RunInfo

__all__ = ["Session"]

# How long the end of a training may wait for the last samples' delivery. It matters where the agent can't outlive the
# training, as in a container whose first process the training is.
_FAREWELL_S = 3.0

_LONGEST_CHAIN = 10

_open_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


class Session:
    """One run's recording in this process, from the first hook to the end of the process or of its owner."""

    def __init__(
        self,
        settings: Settings,
        *,
        backend: str | None = None,
        kind: str = "callback",
        on_assessment: Callable[[Assessment], None] | None = None,
    ) -> None:
        """Make the ring, start the agent, and tell the user where to look.

        Args:
            settings: the values in force.
            backend: the framework that computes, where known.
            kind: who records, as in `SourceInfo`.
            on_assessment: called in another thread whenever the state of memory changes.

        Raises:
            OSError, OomcastError: nothing could be started; nothing is left behind.
        """
        self._kind = kind
        self._launch = identity.launch_here()
        run_id, name = identity.run_identity(settings, self._launch)
        self.run = RunInfo(id=run_id, project=settings.project, name=name, tags=list(settings.tags))
        self._settings = settings
        self._on_assessment = on_assessment
        self._owner_pid = os.getpid()
        self._lock = threading.RLock()
        self._failures = 0
        self._closed = False
        self._notes = -1
        self._hold: int | None = None
        self._start_somewhere(backend)
        _open_sessions.add(self)
        with contextlib.suppress(Exception):  # it runs; what the terminal takes is another matter
            console.say_start(self.run, settings)

    def _start_somewhere(self, backend: str | None) -> None:
        *parents, last = folder_parents()
        for parent in parents:
            with contextlib.suppress(RingError, OSError):
                self._start(parent, backend)
                return
        self._start(last, backend)

    def _start(self, parent: Path, backend: str | None) -> None:
        self._folder = make_folder(parent)
        try:
            self._hold = hold(self._folder)
            self._ring = RingWriter(self._folder / "ring")
            write_handover(self._folder, self._handover(backend))
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._notes = out_of_the_way(os.open(self._folder / "notes", flags, 0o600))
            settings = self._settings
            self._recorder = Recorder(self._ring, reset_peak=settings.reset_peak, sample_every=settings.sample_every)
            self._allocators = Allocators(self._notice, reset_peak=settings.reset_peak)
            self._sidecar = Sidecar(self._folder, console.say, self._hold, on_assessment=self._on_assessment)
        except BaseException:
            self._close_files()
            remove_folder(self._folder)
            raise

    def _handover(self, backend: str | None) -> Handover:
        settings, environment = self._settings, inherited_environment()
        return Handover(
            run=self.run,
            source=identity.describe(random_id(), backend, kind=self._kind, launch=self._launch),
            server=settings.server,
            mode=settings.mode,
            token=settings.token or _token(settings),
            home=settings.home,
            journal_max=settings.journal_max,
            autostart=settings.autostart,
            critical_headroom=settings.critical_headroom,
            visible_gpus=environment.get("CUDA_VISIBLE_DEVICES"),
            gpu_order=environment.get("CUDA_DEVICE_ORDER"),
            standing=Standing.of(os.getpid(), time.monotonic_ns()),
            boot=boot_id(),
        )

    @property
    def agent_pid(self) -> int:
        """The agent's process id."""
        return self._sidecar.pid

    def mark(self, context: Context, *, step: int = -1, value: int = -1) -> None:
        """Note on the time axis where the training stands."""
        if not self._closed:
            self._recorder.mark(context, step=step, value=value)

    def begin_peaks(self) -> None:
        """Start a new high-water mark."""
        if not self._closed:
            self._recorder.rearm()
            self._allocators.rearm()

    def batch_hooks(self, context: Context) -> Hooks:
        """The hooks for the batches of one phase; see `Recorder.batch_hooks` and `Allocators.wrap`."""
        hooks = self._recorder.batch_hooks(context, self.fail)
        return self._allocators.wrap(hooks, self._recorder, self._ring.append, context, self.fail)

    def _notice(self, text: str) -> None:
        self.note(EventKind.NOTICE, text=text)

    def note(self, kind: EventKind, **detail: str | int | None) -> None:
        """Tell the agent something that has text."""
        with self._lock:
            if not self._closed:
                os.write(self._notes, note_line(kind, detail))

    def fail(self, error: BaseException) -> None:
        """Our own fault: told once, counted, shown on the page, and not raised.

        Raises:
            BaseException: `error`, if a signal's handler of the user's raised it while one of our hooks ran.
        """
        if not _is_ours(error):
            raise error
        with contextlib.suppress(Exception), self._lock:
            if self._closed:
                return
            self._failures += 1
            text = f"a measurement failed ({type(error).__name__}: {error}); training goes on, the chart may have holes"
            if self._failures == 1:
                console.say(text)
            if self._failures & (self._failures - 1) == 0:  # 1, 2, 4, 8 …: told to the page, but not at every batch
                self.note(EventKind.NOTICE, text=text, count=self._failures)

    def close(self, *, orderly: bool = True) -> None:
        """Say that nothing follows, and let the agent deliver the rest; nothing the second time or after a fork."""
        if os.getpid() != self._owner_pid:
            return
        with self._lock:
            if self._closed:
                return
            with contextlib.suppress(Exception):
                self.mark(Context(Mark.CLOSE, Phase.IDLE, 1, -1, 0, -1), step=int(orderly))
            self._closed = True
            try:
                with contextlib.suppress(Exception):
                    self._sidecar.let_go(_FAREWELL_S)
            finally:  # Ctrl-C may come while we wait
                self._release()
                _open_sessions.discard(self)

    def _release(self) -> None:
        for stop in (self._allocators.stop, self._recorder.stop):
            with contextlib.suppress(Exception):
                stop()
        self._close_files()

    def _close_files(self) -> None:
        for fd in (self._notes, self._hold):
            if fd is not None and fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._notes, self._hold = -1, None

    def detach(self) -> None:
        """In a forked child: this session is the parent's; nothing is recorded here, nothing of the parent's ends."""
        self._closed = True
        self._lock = threading.RLock()  # another thread of the parent's may have held it
        with contextlib.suppress(Exception):
            self._sidecar.detach()
        self._release()


_PACKAGE = str(Path(__file__).parent)


def _is_ours(error: BaseException) -> bool:
    """Whether our code raised it, as against a handler of the user's that ran inside."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is None or trace.tb_frame.f_code.co_filename.startswith(_PACKAGE)


def _token(settings: Settings) -> str | None:
    if urllib.parse.urlsplit(settings.server).hostname not in LOOPBACK:
        return None  # this machine's token is not for others to see: theirs comes by OOMCAST_TOKEN
    try:
        # The agent may be about to start the server, which will take the token that it finds.
        return read_or_create_token(places(settings.home).config)
    except SettingsError as error:
        console.say(str(error))
        return None


def _after_fork() -> None:
    for session in list(_open_sessions):
        session.detach()
    _open_sessions.clear()


if hasattr(os, "register_at_fork"):
    # An open /proc/self file reads the parent even in the child, and the ring would take both for one.
    os.register_at_fork(after_in_child=_after_fork)


def note_exception(kind: type[BaseException], error: BaseException) -> None:
    """Tell every open session's agent what is about to end the training."""
    for session in list(_open_sessions):
        with contextlib.suppress(Exception):
            session.note(EventKind.EXCEPTION, type=_qualified(kind), message=str(error), chain=_chain(error))


def _chain(error: BaseException) -> str | None:
    """The types of what led to `error`, the nearest first: numpy's MemoryError may stand behind a RuntimeError."""
    names: list[str] = []
    seen = {id(error)}
    before = error.__cause__ or error.__context__
    while before is not None and id(before) not in seen and len(names) < _LONGEST_CHAIN:
        seen.add(id(before))
        names.append(_qualified(type(before)))
        before = before.__cause__ or before.__context__
    return ";".join(names) or None


def _qualified(kind: type[BaseException]) -> str:
    return (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )


def _watch_excepthook() -> None:
    previous = sys.excepthook

    def excepthook(kind: type[BaseException], error: BaseException, trace: object) -> None:
        with contextlib.suppress(BaseException):  # a second Ctrl-C, for one: what is told must be the user's own
            note_exception(kind, error)
        previous(kind, error, trace)  # type: ignore[arg-type]

    sys.excepthook = excepthook


_watch_excepthook()
