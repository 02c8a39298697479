"""What the training process does when its memory is critical: `on_critical` of `MemoryMonitor` and `watch`.

The downlink's thread calls `hear`; whoever owns the hooks asks `is_due`, and calls `act` at the next batch boundary in
the thread that trains, where model and optimizer can be touched.

One process of several is never stopped: the others would wait in their next exchange for ever. It saves what it holds
for itself, under its rank's name, once in a fit, and says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oomcast import console
from oomcast.assessment import Assessment, State
from oomcast.ballast import Ballast, give_back
from oomcast.launchers import Launch
from oomcast.sample import EventKind
from oomcast.session import Session
from oomcast.settings import Settings

if TYPE_CHECKING:  # it needs numpy, which a loop of one's own may not have
    from oomcast.checkpoint import Place

__all__ = ["Critical"]

_SAVE = "checkpoint_and_stop"


class Critical:
    """The state of memory as it was last heard, and what was done about it."""

    def __init__(self, settings: Settings, launch: Launch, say: Callable[[str], None] = console.say) -> None:
        """Nothing heard yet.

        Args:
            settings: the values in force.
            launch: the process's place among those that train together.
            say: takes lines for the user.
        """
        self._choice = settings.on_critical
        self._folder = Path(os.path.abspath(settings.checkpoint_dir))  # before the training changes its own
        self._ballast_bytes = settings.ballast
        self._ballast: Ballast | None = None
        self._launch = launch
        self._is_one_of_several = (launch.world_size or 1) > 1
        self._say = say
        self._now: Assessment | None = None  # while critical
        self._is_called = False  # the function, since it got critical
        # Saving and stopping may free so much that it gets steady, and critical again before the fit is over.
        self._served: set[int | None] = set()  # the fits that were stopped
        self._is_checked = False

    def begin_fit(self) -> None:
        """Get ready to save: look at the folder, have what saving needs in memory, hold the ballast."""
        if self._choice != _SAVE:
            return
        from oomcast.checkpoint import obstacle

        if not self._is_checked and (reason := obstacle(self._folder)):
            self._say(f"checkpoint_dir={str(self._folder)!r}: {reason}; choose a folder on a disk that can be written")
        self._is_checked = True
        self.hold_ballast()

    def hold_ballast(self) -> None:
        """Take the memory that is given back before the model is saved; nothing where nothing will be saved."""
        if self._choice != _SAVE or self._ballast is not None or self._now is not None:
            return
        try:
            self._ballast = Ballast(self._ballast_bytes)
        except (OSError, MemoryError, ValueError, OverflowError):
            self._say(f"no ballast: {_size(self._ballast_bytes)} can't be taken; saving will have to do without")

    def hear(self, assessment: Assessment) -> None:
        """The state has changed; called in another thread."""
        if assessment.state is not State.CRITICAL:
            self._now = None
            return
        before, self._now = self._now, assessment
        if before is not None:
            return  # from an agent that was started again: the same episode
        self._is_called = False
        if self._choice == "warn":
            self._say(f'{_figures(assessment)}; on_critical="{_SAVE}" would save the model and end the training here')

    def is_due(self, fit: int | None) -> bool:
        """Whether something is to be done at the next batch boundary.

        Args:
            fit: a number of the call of `fit` that is under way, None where there is none. Each fit is stopped once; a
                function is called once each time that memory gets critical.
        """
        if self._now is None or self._choice == "warn":
            return False
        if callable(self._choice):
            return not self._is_called
        return fit is not None and fit not in self._served

    def act(self, fit: int | None, model: Any, place: Place | None, session: Session) -> None:
        """Do what is due. Whatever a function of the user's raises is told, and goes no further.

        Args:
            fit: as for `is_due`.
            model: the model in training; None in a loop of one's own.
            place: where the training stands, None likewise.
            session: what was done is noted there.
        """
        assessment = self._now
        if assessment is None or not self.is_due(fit):
            return
        if callable(self._choice):
            self._is_called = True
            self._call(assessment, model, session)
            return
        self._served.add(fit)
        if place is None:
            self._ask(assessment, session)
        elif self._is_one_of_several:
            self._save_alone(assessment, model, place, session)
        else:
            self._stop(assessment, model, place, session)

    def end(self) -> None:
        """Nothing follows: give back what is held."""
        self._now = None
        self._drop_ballast()

    def _ask(self, assessment: Assessment, session: Session) -> None:
        # A loop of one's own saves and ends by itself; it gets the ballast for it.
        began = time.monotonic()
        self._drop_ballast()
        self._report(f"{_figures(assessment)}: run.should_stop is True from here on", None, session, began)

    def _call(self, assessment: Assessment, model: Any, session: Session) -> None:
        began = time.monotonic()
        text = "on_critical was called"
        try:
            _bring_home(model)
            self._choice(assessment)
        except Exception as error:
            text = f"on_critical raised {_one_line(error)}; training goes on"
            self._say(text)
        self._note(session, "call", text, began)

    def _stop(self, assessment: Assessment, model: Any, place: Place, session: Session) -> None:
        began = time.monotonic()
        model.stop_training = True  # first: whatever saving comes to, the training ends here
        path: Path | None = None
        done = f"stopped at {place}"
        if self._choice == _SAVE:
            path, what = self._save(model, place, session)
            done = f"{what}, and {done}"
            if path is not None:
                done += f"; to go on: oomcast.load_checkpoint(model, path), fit(initial_epoch={place.initial_epoch})"
        self._report(f"{_figures(assessment)}: {done}", path, session, began)

    def _save_alone(self, assessment: Assessment, model: Any, place: Place, session: Session) -> None:
        began = time.monotonic()
        path: Path | None = None
        rank = f"rank {self._launch.rank} of {self._launch.world_size}"
        what = "not stopped"
        if self._choice == _SAVE:
            if _is_read_together(model):
                what = "not saved, since the other ranks would have to read the variables at the same time"
            else:
                path, what = self._save(model, place._replace(rank=self._launch.rank), session)
        text = f"{_figures(assessment)}, {rank}: {what}; goes on, since the others would wait for one that stops"
        self._report(text, path, session, began)

    def _save(self, model: Any, place: Place, session: Session) -> tuple[Path | None, str]:
        from oomcast.checkpoint import save_checkpoint

        self._drop_ballast()
        give_back()
        began = time.monotonic()
        try:
            _bring_home(model)
            path = save_checkpoint(model, self._folder, session.run.name, place)
        except Exception as error:
            return None, f"could not save to {self._folder} ({_one_line(error)})"
        return path, f"saved {path} ({_size(path.stat().st_size)} in {time.monotonic() - began:.1f} s)"

    def _drop_ballast(self) -> None:
        ballast, self._ballast = self._ballast, None
        if ballast is not None:
            ballast.release()

    def _report(self, text: str, path: Path | None, session: Session, began: float) -> None:
        self._say(text)
        self._note(session, self._choice, text, began, path)

    def _note(self, session: Session, action: str, text: str, began: float, path: Path | None = None) -> None:
        took_ms = round(1000 * (time.monotonic() - began))
        where = None if path is None else str(path)
        try:
            session.note(EventKind.ACTION, action=action, text=text, path=where, took_ms=took_ms)
        except OSError as error:
            self._say(f"the page will not show what was done ({error})")


def _bring_home(model: Any) -> None:
    """On JAX, put the state that the last batch left into the variables, as the callbacks' property `model` does."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


def _is_read_together(model: Any) -> bool:
    """Whether TensorFlow would ask the other processes for a variable's value: batch statistics, for instance."""
    strategy = getattr(model, "distribute_strategy", None)
    return getattr(strategy, "num_replicas_in_sync", 1) > 1


def _figures(assessment: Assessment) -> str:
    """What is used of which limit, what is left, and where."""
    where = []
    if assessment.epoch is not None:
        where.append(f"epoch {assessment.epoch + 1}")
    if assessment.batch is not None:
        where.append(f"batch {assessment.batch + 1} of the run")
    text = "memory is nearly out" + (f" at {', '.join(where)}" if where else "")
    used, limit, left = assessment.used_bytes, assessment.limit_bytes, assessment.headroom_bytes
    if used is None or limit is None or left is None:
        return text
    text += f" ({_size(used)} of {_size(limit)} in use, limit: {assessment.limit_kind}; "
    if assessment.spike_bytes:
        text += f"a batch needs up to {_size(assessment.spike_bytes)} more; "
    return text + (f"{_size(left)} left)" if left > 0 else "nothing left)")


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


def _size(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
