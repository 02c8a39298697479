"""How a source and its run stand, folded from the rows as they come (pure)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec

from oomcast.sample import Event, EventKind, Kind, Sample
from oomcast.wire import Status
from oomcast_server.rest.shapes import Tightest
from oomcast_server.runs.verdicts import Ended, gravest, packed
from oomcast_server.store.schema import State

__all__ = ["RunState", "SourceState", "current_sources", "fold_source", "main_of", "settle_run"]

_LARGEST = 2**62
_OUTCOMES = {"finished": State.FINISHED, "failed": State.FAILED, "died": State.DIED, "stopped": State.STOPPED}
# The worst that befell any source names the run, once none of them lives.
_GRAVITY = (State.LIVE, State.DIED, State.FAILED, State.STOPPED, State.FINISHED)
# A source that is silent for so long when another one begins has made way for it.
_SUPERSEDED_AFTER_NS = 60_000_000_000
# The last known figure of each: what the training thread measures and what the agent does come in different rows.
_LAST_KNOWN = tuple(
    (name, Sample._fields.index(name))
    for name in ("epoch", "batch", "step", "rss_bytes", "swap_bytes", "limit_bytes", "working_set_bytes")
)


@dataclasses.dataclass(kw_only=True)
class Figures:
    """What is known last of a source, and of a run by its main source."""

    phase: int | None = None
    epoch: int | None = None
    epochs: int | None = None
    batch: int | None = None
    step: int | None = None
    steps_per_epoch: int | None = None
    rss_bytes: int | None = None
    peak_bytes: int | None = None
    swap_bytes: int | None = None
    limit_bytes: int | None = None
    working_set_bytes: int | None = None
    limit_kind: str | None = None
    outcome_type: str | None = None
    outcome_message: str | None = None


_FIGURES = tuple(field.name for field in dataclasses.fields(Figures))


@dataclasses.dataclass(kw_only=True)
class RunState(Figures):
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
    ended_ns: int | None = None
    samples: int
    main_source_pk: int | None = None
    main_source: str | None = None
    verdict: str | None = None
    verdict_source: str | None = None
    tightest: str | None = None
    trouble: str | None = None
    version: int = 0


@dataclasses.dataclass(kw_only=True)
class SourceState(Figures):
    """What changes in a row of `sources`, and what its run is settled by."""

    pk: int
    run_pk: int
    id: str
    host: str
    pid: int
    rank: int | None = None
    started_ns: int
    state: int
    watermark: int
    batch_samples: int
    last_ns: int
    ended_ns: int | None = None
    status: str | None = None
    verdict: str | None = None
    hung: bool = False
    critical: bool = False

    @property
    def trouble(self) -> str | None:
        """What is wrong with it while it lives."""
        return "hung" if self.hung else "critical" if self.critical else None


def fold_source(
    source: SourceState,
    last_seq: int,
    samples: Sequence[Sample],
    events: Sequence[Event],
    status: Status | None,
    now_ns: int,
) -> None:
    """Take new rows of `source`, in order of seq, into its standing."""
    source.watermark = last_seq
    source.last_ns = now_ns  # not the larger one: a clock that was set back must not hide silence
    source.batch_samples += sum(sample[1] == Kind.BATCH for sample in samples)
    if status is not None:
        source.status = msgspec.json.encode(status).decode()
    for event in events:
        _fold_event(source, event)
    if samples:
        _fold_samples(source, samples)
    ends = [event for event in events if event.kind is EventKind.END]
    if ends and ends[-1].seq == last_seq:
        end = ends[-1]
        source.state, source.ended_ns, source.verdict = _end_state(end), end.wall_ns, packed(end.detail)
        source.hung = source.critical = False
    else:
        # Rows after an end mean that the process goes on, whatever it said before.
        source.state, source.ended_ns, source.verdict = State.LIVE, None, None


def _end_state(event: Event) -> State:
    return _OUTCOMES.get(str(event.detail.get("outcome")), State.DIED)


def _fold_samples(source: SourceState, samples: Sequence[Sample]) -> None:
    source.phase = int(samples[-1].phase)
    for name, at in _LAST_KNOWN:
        value = next((sample[at] for sample in reversed(samples) if sample[at] is not None), None)
        if value is not None:
            setattr(source, name, value)
    rss, peak = Sample._fields.index("rss_bytes"), Sample._fields.index("peak_bytes")
    figures = [figure for sample in samples for figure in (sample[rss], sample[peak]) if figure is not None]
    if figures:
        source.peak_bytes = max([source.peak_bytes or 0, *figures])


def _fold_event(source: SourceState, event: Event) -> None:
    detail = event.detail
    if event.kind is EventKind.TRAIN_BEGIN:
        source.epochs, source.steps_per_epoch = _count(detail.get("epochs")), _count(detail.get("steps"))
        source.outcome_type = source.outcome_message = None
    elif event.kind is EventKind.LIMIT:
        source.limit_kind = _text(detail.get("kind"))
        source.limit_bytes = _count(detail.get("limit_bytes"))
    elif event.kind is EventKind.EXCEPTION:
        source.outcome_type, source.outcome_message = _text(detail.get("type")), _text(detail.get("message"))
    elif event.kind in (EventKind.HANG, EventKind.RESUME):
        source.hung = event.kind is EventKind.HANG
    elif event.kind in (EventKind.CRITICAL, EventKind.CLEAR):
        source.critical = event.kind is EventKind.CRITICAL
    elif event.kind is EventKind.END:
        _fold_end(source, event)


def _fold_end(source: SourceState, event: Event) -> None:
    if _end_state(event) is State.FINISHED:
        source.outcome_type = source.outcome_message = None
    elif event.detail.get("type") or event.detail.get("message"):
        source.outcome_type = _text(event.detail.get("type"))
        source.outcome_message = _text(event.detail.get("message"))


def _count(value: str | int | None) -> int | None:
    return value if isinstance(value, int) and 0 <= value <= _LARGEST else None


def _text(value: str | int | None) -> str | None:
    return None if value is None else str(value)


def settle_run(run: RunState, sources: Sequence[SourceState]) -> None:
    """Bring the run up to date with all its sources, of which there is at least one."""
    current = current_sources(sources)
    run.state = next(state for state in _GRAVITY if any(source.state == state for source in current))
    lives = run.state == State.LIVE
    run.ended_ns = None if lives else max((source.ended_ns or 0 for source in current), default=None)
    main = main_of(current)
    run.main_source_pk, run.main_source, run.host, run.pid = main.pk, main.id, main.host, main.pid
    # That one rank of a live run has finished is no news; that it died is.
    worst = gravest([_ended(source) for source in current if _counts(source, lives)])
    run.verdict, run.verdict_source = (worst.detail, worst.id) if worst else (None, None)
    for name in _FIGURES:
        setattr(run, name, getattr(main, name))
    if worst is not None:
        befallen = next(source for source in current if source.pk == worst.pk)
        run.outcome_type, run.outcome_message = befallen.outcome_type, befallen.outcome_message
    troubles = {source.trouble for source in current if source.state == State.LIVE}
    run.trouble = next((trouble for trouble in ("hung", "critical") if trouble in troubles), None)
    run.tightest = _tightest([source for source in current if not lives or source.state == State.LIVE], main)


def current_sources(sources: Sequence[SourceState]) -> list[SourceState]:
    """The sources without earlier attempts: those that were over when the newest one began.

    A training that is started again under the same run id is the same run, and its first death no longer its state.
    """
    newest = max(sources, key=lambda source: (source.started_ns, source.pk))
    return [source for source in sources if source is newest or not _was_over(source, newest.started_ns)]


def _was_over(source: SourceState, at_ns: int) -> bool:
    if source.state == State.LIVE:
        return source.last_ns + _SUPERSEDED_AFTER_NS <= at_ns
    # Where the clock was set back meanwhile, an end says nothing about other sources.
    return source.ended_ns is not None and source.started_ns <= source.ended_ns <= at_ns


def main_of(current: Sequence[SourceState]) -> SourceState:
    """The lowest rank (else the first to come) that has shown a batch; where none has, the lowest rank or the first."""

    def order(source: SourceState) -> tuple[bool, bool, int, int]:
        return source.batch_samples == 0, source.rank is None, source.rank or 0, source.pk

    return min(current, key=order)


def _counts(source: SourceState, lives: bool) -> bool:
    return source.state != State.LIVE and not (lives and source.state == State.FINISHED)


def _ended(source: SourceState) -> Ended:
    return Ended(source.pk, source.id, State(source.state), source.verdict)


def _tightest(sources: Sequence[SourceState], main: SourceState) -> str | None:
    known = [tight for tight in map(_tight, sources) if tight is not None]
    least = min(known, key=lambda tight: tight.headroom_share, default=None)
    return None if least is None or least.id == main.id else msgspec.json.encode(least).decode()


def _tight(source: SourceState) -> Tightest | None:
    limit, used = source.limit_bytes, source.working_set_bytes
    if not limit or used is None:
        return None
    return Tightest(
        id=source.id,
        host=source.host,
        rank=source.rank,
        limit_bytes=limit,
        working_set_bytes=used,
        headroom_bytes=limit - used,
        headroom_share=(limit - used) / limit,
    )
