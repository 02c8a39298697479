"""The Keras callback: turns Keras's hooks into marks and records of one session.

It keeps off the model: `self.model` would sync the whole state on JAX at every access.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from oomcast import backend, console, settings
from oomcast.assessment import Assessment
from oomcast.recorder import Context, Hook, Hooks, Mark
from oomcast.sample import EventKind, Phase

if TYPE_CHECKING:
    import os

    from oomcast.critical import Critical
    from oomcast.session import Session

if "tf_keras" in sys.modules:
    # Keras 2 takes only its own callbacks; Keras 3 takes both.
    from tf_keras.callbacks import Callback
else:
    from keras.callbacks import Callback

__all__ = ["MemoryMonitor"]


class _Level(NamedTuple):
    """One phase under way. Validation runs inside train; a callback may even run another model's fit inside."""

    context: Context
    model: int  # its id()
    watched: Callable[[], Any]  # the model, or None when it is gone
    fit: int | None  # a number of the fit that this is, or is the validation of
    hooks: Hooks | None

    def fits(self, model: int) -> bool:
        """Whether this is a fit of that model."""
        return self.context.phase is Phase.TRAIN and self.model == model


class MemoryMonitor(Callback):  # type: ignore[misc]  # keras ships no types
    """Watch the memory of a training: `model.fit(..., callbacks=[MemoryMonitor()])`.

    Put it last in the list, so that what other callbacks allocate at the end of a batch is seen at once.

    The first hook starts an agent, a process of its own that samples, records and sends; in this process a batch costs
    a few microseconds. One instance may be used for several calls of `fit`, `evaluate` and `predict`: they are one run.
    A copy or a pickled one starts a run of its own. Nothing that fails in here ever reaches the training.

    Args:
        project: the project that the run is listed under.
        run_name: the run's name; a made-up one if not given.
        server: where samples are sent, such as "http://127.0.0.1:6662".
        tags: words to find the run by.
        sample_every: take a sample every so many batches; its peak covers all of them.
        mode: "online", "offline" (record only; `oomcast sync` sends it later) or "disabled".
        on_critical: what to do when memory is nearly out. "warn" says so in the terminal, once. "stop" ends `fit` at
            the next batch boundary as an early stopping does. "checkpoint_and_stop" saves weights and optimizer before
            that; `oomcast.load_checkpoint` goes on from there. A function is called with the `Assessment`, once, at
            the next batch boundary and in the thread that trains. Where several processes train together, none is
            stopped.
        critical_headroom: nearly out means that less than this share of the limit is left at a batch's peak.
        checkpoint_dir: where "checkpoint_and_stop" saves to.
        ballast: memory that "checkpoint_and_stop" holds, and gives back before it saves, such as "32MiB".

    After a stop, Keras goes on to the end of the epoch as always: its validation runs in full, since a figure from a
    part of it might pass for the best one. By then the checkpoint is on the disk. On JAX and torch, where `fit` only
    looks after a batch whether to stop, one more batch is trained than was saved.

    Each that is not given comes from its environment variable, then from the default: see README's table.

    Raises:
        SettingsError: an argument that can't be used, with what was expected.
    """

    # Keras would otherwise convert the logs on the training thread at every step of JAX and torch. The hooks take
    # their figures from the system, not from `logs`, and may be called from several threads.
    async_safe = True
    _supports_tf_logs = True  # the same for Keras 2

    def __init__(
        self,
        *,
        project: str | None = None,
        run_name: str | None = None,
        server: str | None = None,
        tags: Sequence[str] | None = None,
        sample_every: int | None = None,
        mode: str | None = None,
        on_critical: str | Callable[[Assessment], object] | None = None,
        critical_headroom: float | None = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        ballast: str | int | None = None,
    ) -> None:
        super().__init__()
        self._given: dict[str, Any] = {
            "project": project,
            "run_name": run_name,
            "server": server,
            "tags": tags,
            "sample_every": sample_every,
            "mode": mode,
            "on_critical": on_critical,
            "critical_headroom": critical_headroom,
            "checkpoint_dir": checkpoint_dir,
            "ballast": ballast,
        }
        self._settings = settings.load(on_bad_variable=lambda error: console.say(str(error)), **self._given)
        self._forget()

    def _forget(self) -> None:
        self._session: Session | None = None
        self._critical: Critical | None = None
        self._thread = -1  # that runs fit
        self._started = self._settings.mode == "disabled"
        self._levels: list[_Level] = []
        self._serial = 0
        self._fresh = False  # whether Keras has made a new callback list since the last phase began

    # Batch hooks are set on the instance when a phase begins (`_install`): looking a method up and looking its state up
    # would cost as much as reading the clocks. These stand in until then, and tell Keras that they are overridden.

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        """Nothing until a phase has begun."""

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """Nothing until a phase has begun."""

    def on_test_batch_begin(self, batch: int, logs: object = None) -> None:
        """Nothing until a phase has begun."""

    def on_test_batch_end(self, batch: int, logs: object = None) -> None:
        """Nothing until a phase has begun."""

    def on_predict_batch_begin(self, batch: int, logs: object = None) -> None:
        """Nothing until a phase has begun."""

    def on_predict_batch_end(self, batch: int, logs: object = None) -> None:
        """Nothing until a phase has begun."""

    def on_train_begin(self, logs: object = None) -> None:
        """A fit begins."""
        self._guard(self._train_begin)

    def on_train_end(self, logs: object = None) -> None:
        """A fit ended as it should; after an exception Keras calls nothing."""
        self._guard(self._end, Mark.TRAIN_END, Phase.TRAIN)

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        """An epoch begins."""
        self._guard(self._epoch_begin, epoch)

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        """An epoch ended, its validation too."""
        self._guard(self._epoch_end)

    def set_params(self, params: Any) -> None:
        """Keras does so for each call of `fit`, `evaluate` or `predict`, but not for the validation inside a fit."""
        super().set_params(params)
        self._fresh = True

    def on_test_begin(self, logs: object = None) -> None:
        """An evaluation begins: a fit's validation, or one of its own."""
        inside = bool(self._levels) and self._levels[-1].context.phase is Phase.TRAIN and not self._fresh
        self._guard(self._begin, Mark.PHASE_BEGIN, Phase.VALIDATION if inside else Phase.TEST)

    def on_test_end(self, logs: object = None) -> None:
        """An evaluation ended."""
        self._guard(self._end, Mark.PHASE_END, Phase.VALIDATION, Phase.TEST)

    def on_predict_begin(self, logs: object = None) -> None:
        """A prediction begins."""
        self._guard(self._begin, Mark.PHASE_BEGIN, Phase.PREDICT)

    def on_predict_end(self, logs: object = None) -> None:
        """A prediction ended."""
        self._guard(self._end, Mark.PHASE_END, Phase.PREDICT)

    def _guard(self, action: Callable[..., None], *arguments: Any) -> None:
        try:
            if not self._started:
                self._started = True
                self._session = self._open_session()
            if self._session is not None:
                action(*arguments)
        except Exception as error:
            if self._session is not None:
                self._session.fail(error)
            else:
                console.say(f"not watching this training ({type(error).__name__}: {error}); it goes on without")

    def _open_session(self) -> Session:
        # Here, since a callback that is only constructed starts nothing.
        from oomcast.critical import Critical
        from oomcast.identity import launch_here
        from oomcast.session import Session

        self._critical = Critical(self._settings, launch_here())
        session = Session(self._settings, backend=backend.backend_name(), on_assessment=_weakly(self._hear))
        # Also at the interpreter's end. A callback that Keras has dropped after fit is a run that has finished.
        weakref.finalize(self, session.close)
        return session

    def _train_begin(self) -> None:
        assert self._session is not None
        assert self._critical is not None
        model = id(self._watched())
        # It can't be inside its own fit: that one was left by an exception, and whatever it had begun.
        stale = next((depth for depth, level in enumerate(self._levels) if level.fits(model)), len(self._levels))
        del self._levels[stale:]
        self._push(Phase.TRAIN, epoch=-1)
        self._critical.begin_fit()  # before the peaks: its ballast is no batch's
        self._session.note(EventKind.MODEL, name=backend.model_name(self._watched()), backend=backend.backend_name())
        self._session.begin_peaks()
        self._mark(
            Mark.TRAIN_BEGIN,
            step=backend.number(self.params, "epochs"),
            value=backend.number(self.params, "steps"),
        )
        self._install()

    def _epoch_begin(self, epoch: int) -> None:
        if not self._levels:
            return
        level = self._levels[-1]
        self._serial += 1
        self._levels[-1] = level._replace(context=level.context._replace(epoch=epoch, serial=self._serial))
        self._mark(Mark.EPOCH_BEGIN)
        self._install()

    def _epoch_end(self) -> None:
        self._mark(Mark.EPOCH_END)
        if self._levels:
            self._boundary(None)

    def _begin(self, mark: Mark, phase: Phase) -> None:
        epoch = self._levels[-1].context.epoch if self._levels and phase is Phase.VALIDATION else -1
        self._push(phase, epoch=epoch)
        self._mark(mark)
        self._install()

    def _end(self, mark: Mark, *phases: Phase) -> None:
        if not any(level.context.phase in phases for level in self._levels):
            return  # its begin was not recorded
        while self._levels[-1].context.phase not in phases:
            self._levels.pop()  # left by an exception that someone caught
        self._mark(mark)
        self._levels.pop()
        if self._levels:
            self._install(self._levels[-1].hooks)

    def _push(self, phase: Phase, epoch: int) -> None:
        if self._levels and self._levels[-1].hooks:
            self._levels[-1].hooks.flush()
        self._serial += 1
        self._fresh = False
        # During validation `params` still hold the training's steps.
        total = -1 if phase is Phase.VALIDATION else backend.number(self.params, "steps")
        steps = max(1, int(getattr(self._watched(), "steps_per_execution", 1) or 1))
        context = Context(Mark.BATCH, phase, steps, epoch, self._serial, total, depth=len(self._levels))
        outer = self._levels[-1].fit if self._levels and phase is Phase.VALIDATION else None
        fit = self._serial if phase is Phase.TRAIN else outer
        self._thread = threading.get_ident()
        self._levels.append(_Level(context, id(self._watched()), _reference(self._watched()), fit, None))

    def _install(self, known: Hooks | None = None) -> None:
        assert self._session is not None
        context = self._levels[-1].context
        hooks = known or self._session.batch_hooks(context)
        self._levels[-1] = self._levels[-1]._replace(hooks=hooks)
        self._set_hooks(context.phase, hooks.begin, hooks.end)
        self._arm()  # after that: what comes in meanwhile is seen by one of the two threads

    def _set_hooks(self, phase: Phase, begin: Hook, end: Hook) -> None:
        if phase is Phase.TRAIN:
            self.on_train_batch_begin, self.on_train_batch_end = begin, end  # type: ignore[method-assign, assignment]
        elif phase is Phase.PREDICT:
            self.on_predict_batch_begin, self.on_predict_batch_end = begin, end  # type: ignore[method-assign, assignment]
        else:
            self.on_test_batch_begin, self.on_test_batch_end = begin, end  # type: ignore[method-assign, assignment]

    # When memory gets critical, the batch hooks are changed for others, which call them and act once, in the thread
    # that runs fit; before and after that it costs a batch nothing.

    def _hear(self, assessment: Assessment) -> None:
        """The state has changed; called in the downlink's thread."""
        if self._critical is not None:
            self._critical.hear(assessment)
            self._arm()

    def _arm(self) -> None:
        with contextlib.suppress(IndexError):  # the phase has just ended: the next one sees to it when it begins
            level = self._levels[-1]
            if self._critical is not None and self._critical.is_due(level.fit):
                self._set_hooks(level.context.phase, self._armed_begin, self._armed_end)

    def _armed_begin(self, step: int, logs: object = None) -> None:
        hooks = self._levels[-1].hooks if self._levels else None
        if not backend.stops_at_end():
            self._at_boundary(step)
        if hooks is not None:
            hooks.begin(step)

    def _armed_end(self, step: int, logs: object = None) -> None:
        hooks = self._levels[-1].hooks if self._levels else None
        if hooks is not None:
            hooks.end(step)
        self._at_boundary(step + 1)

    def _at_boundary(self, batches: int) -> None:
        # On JAX and torch, ends may be told in other threads and late, where the state is not that of this batch.
        if threading.get_ident() == self._thread and self._levels:
            self._guard(self._boundary, batches)
            self._guard(self._install, self._levels[-1].hooks)

    def _boundary(self, batches: int | None) -> None:
        """Between two batches, or two epochs (None): do what is due."""
        level = self._levels[-1]
        if self._session is None or self._critical is None or not self._critical.is_due(level.fit):
            return
        from oomcast.checkpoint import Place

        total = level.context.total
        ended = batches is None or level.context.phase is Phase.VALIDATION or 0 < total <= batches
        place = Place(max(0, level.context.epoch), None if ended else batches)
        self._critical.act(level.fit, level.watched(), place, self._session)

    def _mark(self, mark: Mark, *, step: int = -1, value: int = -1) -> None:
        if self._session is None or not self._levels:
            return
        level = self._levels[-1]
        if level.hooks:
            level.hooks.flush()
        self._session.mark(level.context._replace(mark=mark), step=step, value=value)

    def _watched(self) -> Any:
        # Not the property `model`, which on JAX syncs the whole state; Keras 2 has a plain attribute.
        model = self.__dict__.get("_model")
        return self.__dict__.get("model") if model is None else model

    def __getstate__(self) -> dict[str, Any]:
        """All but what belongs to this process: a copy (KerasTuner makes one per trial) is a run of its own."""
        return {name: value for name, value in self.__dict__.items() if name not in _OF_THIS_PROCESS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The inverse of `__getstate__`."""
        self.__dict__.update(state)
        self.params = self._model = None
        self._forget()


_BATCH_HOOKS = {f"on_{phase}_batch_{end}" for phase in ("train", "test", "predict") for end in ("begin", "end")}
_OF_THIS_PROCESS = _BATCH_HOOKS | {
    *("params", "model", "_model", "_session", "_critical", "_thread", "_started", "_levels", "_serial", "_fresh")
}


def _weakly(method: Callable[[Assessment], None]) -> Callable[[Assessment], None]:
    """The same, without keeping its object alive: a callback that Keras has dropped is a run that has finished."""
    reference = weakref.WeakMethod(method)

    def call(assessment: Assessment) -> None:
        if (alive := reference()) is not None:
            alive(assessment)

    return call


def _reference(model: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(model)
    except TypeError:
        return lambda: None
