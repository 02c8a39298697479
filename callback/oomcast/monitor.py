"""The Keras callback: turns Keras's hooks into marks and records of one session.

It keeps off the model: `self.model` would sync the whole state on JAX at every access.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from oomcast import console, settings
from oomcast.recorder import Context, Hooks, Mark
from oomcast.sample import EventKind, Phase

if TYPE_CHECKING:
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
    ) -> None:
        super().__init__()
        self._given: dict[str, Any] = {
            "project": project,
            "run_name": run_name,
            "server": server,
            "tags": tags,
            "sample_every": sample_every,
            "mode": mode,
        }
        self._settings = settings.load(on_bad_variable=lambda error: console.say(str(error)), **self._given)
        self._forget()

    def _forget(self) -> None:
        self._session: Session | None = None
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
        self._guard(self._mark, Mark.EPOCH_END)

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
        from oomcast.session import Session  # here, since a callback that is only constructed starts nothing

        session = Session(self._settings, backend=_backend())
        # Also at the interpreter's end. A callback that Keras has dropped after fit is a run that has finished.
        weakref.finalize(self, session.close)
        return session

    def _train_begin(self) -> None:
        assert self._session is not None
        model = id(self._watched())
        # It can't be inside its own fit: that one was left by an exception, and whatever it had begun.
        stale = next((depth for depth, level in enumerate(self._levels) if level.fits(model)), len(self._levels))
        del self._levels[stale:]
        self._push(Phase.TRAIN, epoch=-1)
        self._session.note(EventKind.MODEL, name=_model_name(self._watched()), backend=_backend())
        self._session.begin_peaks()
        self._mark(Mark.TRAIN_BEGIN, step=_number(self.params, "epochs"), value=_number(self.params, "steps"))
        self._install()

    def _epoch_begin(self, epoch: int) -> None:
        if not self._levels:
            return
        level = self._levels[-1]
        self._serial += 1
        self._levels[-1] = level._replace(context=level.context._replace(epoch=epoch, serial=self._serial))
        self._mark(Mark.EPOCH_BEGIN)
        self._install()

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
        total = -1 if phase is Phase.VALIDATION else _number(self.params, "steps")
        steps = max(1, int(getattr(self._watched(), "steps_per_execution", 1) or 1))
        context = Context(Mark.BATCH, phase, steps, epoch, self._serial, total, depth=len(self._levels))
        self._levels.append(_Level(context, id(self._watched()), None))

    def _install(self, known: Hooks | None = None) -> None:
        assert self._session is not None
        context = self._levels[-1].context
        hooks = known or self._session.batch_hooks(context)
        self._levels[-1] = self._levels[-1]._replace(hooks=hooks)
        begin, end, _ = hooks
        if context.phase is Phase.TRAIN:
            self.on_train_batch_begin, self.on_train_batch_end = begin, end  # type: ignore[method-assign, assignment]
        elif context.phase is Phase.PREDICT:
            self.on_predict_batch_begin, self.on_predict_batch_end = begin, end  # type: ignore[method-assign, assignment]
        else:
            self.on_test_batch_begin, self.on_test_batch_end = begin, end  # type: ignore[method-assign, assignment]

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
_OF_THIS_PROCESS = _BATCH_HOOKS | {"params", "model", "_model", "_session", "_started", "_levels", "_serial", "_fresh"}


def _number(params: Any, name: str) -> int:
    value = (params or {}).get(name)
    return int(value) if value is not None else -1


def _model_name(model: Any) -> str | None:
    name = getattr(model, "name", None)
    return name if isinstance(name, str) else None


def _backend() -> str | None:
    """The framework that computes, with its version; only what is imported already is asked."""
    with contextlib.suppress(Exception):
        keras = sys.modules.get("keras") or sys.modules.get("tf_keras")
        assert keras is not None
        name = keras.backend.backend()
        version = getattr(sys.modules.get(name), "__version__", "")
        return f"Keras {keras.__version__}, {name} {version}".strip()
    return None
