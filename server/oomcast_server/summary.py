"""A run's and a source's standing, folded from the rows as they come (pure)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec

from oomcast.sample import Event, EventKind, Kind, Sample
from oomcast_server.shapes import Outcome, RunSummary, milliseconds
from oomcast_server.store.schema import State
from oomcast_server.tables import phase_name

__all__ = ["SILENT_AFTER_NS", "RunState", "SourceState", "fold_run", "fold_source", "run_state_of", "summarize"]

SILENT_AFTER_NS = 10_000_000_000

_LARGEST = 2**62
_OUTCOMES = {"finished": State.FINISHED, "failed": State.FAILED, "died": State.DIED, "stopped": State.STOPPED}
# The worst that befell any source names the run, once none of them lives.
_GRAVITY = (State.LIVE, State.DIED, State.FAILED, State.STOPPED, State.FINISHED)


@dataclasses.dataclass
class RunState:
    """One row of `runs`; a field for each column."""

    pk: int
    id: str
    project: str
    name: str
    tags: str
    host: str
    pid: int
    sources: int
    state: int
    created_ns: int
    last_ns: int
    ended_ns: int | None
    samples: int
    phase: int | None
    epoch: int | None
    epochs: int | None
    batch: int | None
    step: int | None
    steps_per_epoch: int | None
    rss_bytes: int | None
    peak_bytes: int | None
    swap_bytes: int | None
    limit_bytes: int | None
    working_set_bytes: int | None
    limit_kind: str | None
    outcome_type: str | None
    outcome_message: str | None


@dataclasses.dataclass
class SourceState:
    """What changes in a row of `sources`, and its keys."""

    pk: int
    run_pk: int
    id: str
    state: int
    watermark: int
    batch_samples: int


def fold_source(source: SourceState, last_seq: int, samples: Sequence[Sample], events: Sequence[Event]) -> None:
    """Take new rows of `source`, in order of seq, into its standing."""
    source.watermark = last_seq
    source.batch_samples += sum(sample[1] == Kind.BATCH for sample in samples)
    ends = [event for event in events if event.kind is EventKind.END]
    if not ends:
        source.state = State.LIVE
        return
    # Rows after an end mean that the process goes on, whatever it said before.
    source.state = _end_state(ends[-1]) if ends[-1].seq == last_seq else State.LIVE


def _end_state(event: Event) -> State:
    return _OUTCOMES.get(str(event.detail.get("outcome")), State.DIED)


def run_state_of(states: Sequence[int]) -> State:
    """A run's state from those of its sources."""
    return next((state for state in _GRAVITY if state in states), State.LIVE)


def fold_run(run: RunState, samples: Sequence[Sample], events: Sequence[Event], now_ns: int) -> None:
    """Take new rows of one of its sources, in order of seq, into the run's standing; its `state` is set elsewhere."""
    run.last_ns = max(run.last_ns, now_ns)
    run.samples += len(samples)
    for event in events:
        _fold_event(run, event)
    if samples:
        _fold_samples(run, samples)


def _fold_samples(run: RunState, samples: Sequence[Sample]) -> None:
    run.phase = int(samples[-1].phase)
    # The last known figure: what the training thread measures and what the agent measures come in different rows.
    for name in ("epoch", "batch", "step", "rss_bytes", "swap_bytes", "limit_bytes", "working_set_bytes"):
        at = Sample._fields.index(name)
        value = next((sample[at] for sample in reversed(samples) if sample[at] is not None), None)
        if value is not None:
            setattr(run, name, value)
    rss, peak = Sample._fields.index("rss_bytes"), Sample._fields.index("peak_bytes")
    figures = [figure for sample in samples for figure in (sample[rss], sample[peak]) if figure is not None]
    if figures:
        run.peak_bytes = max([run.peak_bytes or 0, *figures])


def _fold_event(run: RunState, event: Event) -> None:
    detail = event.detail
    if event.kind is EventKind.TRAIN_BEGIN:
        run.epochs, run.steps_per_epoch = _count(detail.get("epochs")), _count(detail.get("steps"))
        run.outcome_type = run.outcome_message = None
    elif event.kind is EventKind.LIMIT:
        run.limit_kind = _text(detail.get("kind"))
        run.limit_bytes = _count(detail.get("limit_bytes"))
    elif event.kind is EventKind.EXCEPTION:
        run.outcome_type, run.outcome_message = _text(detail.get("type")), _text(detail.get("message"))
    elif event.kind is EventKind.END:
        run.ended_ns = event.wall_ns
        _fold_end(run, event)


def _fold_end(run: RunState, event: Event) -> None:
    if _end_state(event) is State.FINISHED:
        run.outcome_type = run.outcome_message = None
    elif event.detail.get("type") or event.detail.get("message"):
        run.outcome_type, run.outcome_message = _text(event.detail.get("type")), _text(event.detail.get("message"))


def _count(value: str | int | None) -> int | None:
    return value if isinstance(value, int) and 0 <= value <= _LARGEST else None


def _text(value: str | int | None) -> str | None:
    return None if value is None else str(value)


def summarize(run: RunState, now_ns: int) -> RunSummary:
    """The run as the page shows it now."""
    ended = run.state != State.LIVE
    known = run.limit_bytes is not None and run.working_set_bytes is not None
    return RunSummary(
        id=run.id,
        project=run.project,
        name=run.name,
        tags=msgspec.json.decode(run.tags, type=list[str]),
        state=_state_name(run, now_ns),
        host=run.host,
        pid=run.pid,
        sources=run.sources,
        created_ms=milliseconds(run.created_ns),
        last_ms=milliseconds(run.last_ns),
        ended_ms=milliseconds(run.ended_ns) if ended and run.ended_ns is not None else None,
        phase=phase_name(run.phase),
        epoch=run.epoch,
        epochs=run.epochs,
        batch=run.batch,
        step=run.step,
        steps_per_epoch=run.steps_per_epoch,
        rss_bytes=run.rss_bytes,
        peak_bytes=run.peak_bytes,
        swap_bytes=run.swap_bytes,
        limit_bytes=run.limit_bytes,
        limit_kind=run.limit_kind,
        working_set_bytes=run.working_set_bytes,
        headroom_bytes=(run.limit_bytes or 0) - (run.working_set_bytes or 0) if known else None,
        samples=run.samples,
        outcome=_outcome(run),
    )


def _state_name(run: RunState, now_ns: int) -> str:
    if run.state == State.LIVE and now_ns - run.last_ns >= SILENT_AFTER_NS:
        return "silent"
    return State(run.state).name.lower()


def _outcome(run: RunState) -> Outcome | None:
    if run.outcome_type is None and run.outcome_message is None:
        return None
    return Outcome(run.outcome_type or "", run.outcome_message or "")
