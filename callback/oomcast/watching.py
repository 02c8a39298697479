"""Watching a loop of one's own, in any framework or none: `with watch() as run: … run.step(batch)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType

from oomcast import console, settings
from oomcast.assessment import Assessment
from oomcast.critical import Critical
from oomcast.identity import launch_here
from oomcast.recorder import Context, Hook, Hooks, Mark
from oomcast.sample import EventKind, Phase
from oomcast.session import Session

__all__ = ["Watch", "watch"]

_LOOP = 0  # the number of the one "fit" that a loop is


class Watch:
    """One run of a custom loop; made by `watch`, used in a `with` statement."""

    def __init__(self, values: settings.Settings, epochs: int | None, steps: int | None) -> None:
        self._settings = values
        self._plan = (-1 if epochs is None else epochs, -1 if steps is None else steps)
        self.should_stop = False
        """Whether memory is nearly out and the loop was asked to save what it has and to end: look after each step."""
        self._session: Session | None = None
        self._critical: Critical | None = None
        self._hooks: Hooks | None = None
        self._begin: Hook | None = None
        self._end: Hook | None = None
        self._epoch = -1
        self._serial = 0
        self._next = 0

    def __enter__(self) -> Watch:
        """Start the run."""
        if self._settings.mode == "disabled":
            return self
        try:
            self._critical = Critical(self._settings, launch_here())
            self._critical.hold_ballast()
            self._session = Session(self._settings, kind="watch", on_assessment=self._hear)
            self._session.begin_peaks()
            self._session.mark(self._context(Mark.TRAIN_BEGIN), step=self._plan[0], value=self._plan[1])
            self._install()
        except Exception as error:
            console.say(f"not watching this loop ({type(error).__name__}: {error}); it goes on without")
        return self

    def epoch(self, number: int) -> None:
        """An epoch begins, counted from 0; steps count from 0 again."""
        if self._session is None:
            return
        try:
            self._flush()
            if self._epoch >= 0:
                self._session.mark(self._context(Mark.EPOCH_END))
            self._epoch, self._next = number, 0
            self._serial += 1
            self._session.mark(self._context(Mark.EPOCH_BEGIN))
            self._install()
        except Exception as error:
            self._session.fail(error)

    def step(self, batch: int | None = None) -> None:
        """A batch has ended.

        Args:
            batch: its number in the epoch, from 0; counted here if not given.
        """
        if self._end is None or self._begin is None:
            return
        number = self._next if batch is None else batch
        if number == 0 and self._next > 0:
            self._again()
        self._next = number + 1
        self._end(number)
        self._begin(number + 1)

    def _again(self) -> None:
        # The loop counts from 0 again without having said that an epoch began.
        assert self._session is not None
        self._next = 0
        self._serial += 1
        try:
            self._install()
        except Exception as error:
            self._session.fail(error)

    def _install(self) -> None:
        assert self._session is not None
        self._flush()
        self._hooks = self._session.batch_hooks(self._context(Mark.BATCH))
        self._set_hooks()
        self._hooks.begin(self._next)

    def _set_hooks(self) -> None:
        assert self._hooks is not None
        self._begin, self._end, _ = self._hooks
        self._arm()  # after that: what comes in meanwhile is seen by one of the two threads

    def _flush(self) -> None:
        if self._hooks is not None:
            self._hooks.flush()

    # When memory gets critical, the next step's end is changed for one that acts as well, once, in the loop's thread.

    def _hear(self, assessment: Assessment) -> None:
        """The state has changed; called in the downlink's thread."""
        if self._critical is not None:
            self._critical.hear(assessment)
            self._arm()

    def _arm(self) -> None:
        if self._end is not None and self._critical is not None and self._critical.is_due(_LOOP):
            self._end = self._armed_end

    def _armed_end(self, step: int, logs: object = None) -> None:
        session, critical = self._session, self._critical
        if session is None or critical is None or self._hooks is None:
            return  # the run has just ended
        self._hooks.end(step)
        try:
            if critical.is_due(_LOOP):
                self.should_stop = self.should_stop or not callable(self._settings.on_critical)
                critical.act(_LOOP, None, None, session)
            self._set_hooks()
        except Exception as error:
            session.fail(error)

    def _context(self, mark: Mark) -> Context:
        return Context(mark, Phase.TRAIN, 1, self._epoch, self._serial, self._plan[1])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run; an exception is recorded and goes on its way."""
        session, self._session, self._begin, self._end = self._session, None, None, None
        if self._critical is not None:
            self._critical.end()
        if session is None:
            return
        try:
            self._flush()
            if error is not None:
                session.note(EventKind.EXCEPTION, type=type(error).__qualname__, message=str(error))
            elif self._epoch >= 0:
                session.mark(self._context(Mark.EPOCH_END))
            if error is None:
                session.mark(self._context(Mark.TRAIN_END))
        except Exception as ours:
            session.fail(ours)
        session.close()


def watch(
    *,
    project: str | None = None,
    run_name: str | None = None,
    server: str | None = None,
    tags: Sequence[str] | None = None,
    sample_every: int | None = None,
    mode: str | None = None,
    on_critical: str | Callable[[Assessment], object] | None = None,
    critical_headroom: float | None = None,
    ballast: str | int | None = None,
    epochs: int | None = None,
    steps: int | None = None,
) -> Watch:
    """Watch the memory of a loop of your own.

    ```python
    with watch(run_name="my loop") as run:
        for batch, (x, y) in enumerate(data):
            train_step(x, y)
            run.step(batch)
            if run.should_stop:  # with on_critical="stop"
                break
    ```

    Args:
        project, run_name, server, tags, sample_every, mode, critical_headroom: as for `MemoryMonitor`.
        on_critical: what to do when memory is nearly out. "warn" says so in the terminal, once. With "stop" and
            "checkpoint_and_stop", `run.should_stop` becomes true: the loop saves by itself what it wants to keep. A
            function is called with the `Assessment`, once, in `run.step`.
        ballast: memory that "checkpoint_and_stop" holds, and gives back before `run.should_stop` becomes true.
        epochs: how many epochs are planned, where known; call `run.epoch(n)` when one begins.
        steps: how many batches an epoch has, where known.

    Raises:
        SettingsError: an argument that can't be used, with what was expected.
    """
    values = settings.load(
        on_bad_variable=lambda error: console.say(str(error)),
        project=project,
        run_name=run_name,
        server=server,
        tags=tags,
        sample_every=sample_every,
        mode=mode,
        on_critical=on_critical,
        critical_headroom=critical_headroom,
        ballast=ballast,
    )
    return Watch(values, epochs, steps)
