"""Runs and sources as the page shows them now (pure)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import RowMapping

from oomcast.wire import Status
from oomcast_server.charts.tables import phase_name
from oomcast_server.rest.shapes import (
    GpuJson,
    LimitJson,
    Outcome,
    ProcessJson,
    RunSummary,
    SourceDetail,
    StatusJson,
    Tightest,
    Verdict,
    milliseconds,
)
from oomcast_server.runs.presence import Presence
from oomcast_server.runs.standing import RunState, SourceState, current_sources
from oomcast_server.runs.verdicts import vanished, verdict_of
from oomcast_server.store.schema import State

__all__ = ["SILENT_AFTER_NS", "source_detail", "status_json", "summarize", "told"]

SILENT_AFTER_NS = 10_000_000_000

_SAME = ("id", "project", "name", "host", "pid", "sources", "samples")
_SAME_FIGURES = ("epoch", "batch", "step", "rss_bytes", "peak_bytes", "swap_bytes", "limit_bytes", "limit_kind")
_SAME_TEXTS = ("kind", "launcher", "user", "command", "python", "platform", "backend", "gpu_note")
_SAME_NUMBERS = ("rank", "local_rank", "world_size")


def told(
    run: RunState, sources: Sequence[SourceState], now_ns: int, presence: Presence, *, whole: bool = False
) -> tuple[str, Verdict | None]:
    """The run's state and verdict now: what may change while nothing comes. `sources` are all of a live run's."""
    return _state_name(run.state, run.last_ns, now_ns), _verdict(run, sources, now_ns, presence, whole)


def summarize(
    run: RunState, sources: Sequence[SourceState], now_ns: int, presence: Presence, *, whole: bool = False
) -> RunSummary:
    """The run as the page shows it now. `sources` are all of a live run's; `whole`: the verdict has its detail."""
    state, verdict = told(run, sources, now_ns, presence, whole=whole)
    ended = run.state != State.LIVE
    return RunSummary(
        **{name: getattr(run, name) for name in (*_SAME, *_SAME_FIGURES, "epochs", "steps_per_epoch")},
        tags=msgspec.json.decode(run.tags, type=list[str]),
        state=state,
        main_source=run.main_source,
        created_ms=milliseconds(run.created_ns),
        last_ms=milliseconds(run.last_ns),
        ended_ms=milliseconds(run.ended_ns) if ended and run.ended_ns is not None else None,
        phase=phase_name(run.phase),
        working_set_bytes=run.working_set_bytes,
        headroom_bytes=_headroom(run.limit_bytes, run.working_set_bytes),
        outcome=_outcome(run),
        verdict=verdict,
        trouble=run.trouble,
        tightest=msgspec.json.decode(run.tightest, type=Tightest) if run.tightest else None,
    )


def _state_name(state: int, last_ns: int, now_ns: int) -> str:
    if state == State.LIVE and now_ns - last_ns >= SILENT_AFTER_NS:
        return "silent"
    return State(state).name.lower()


def _headroom(limit_bytes: int | None, used_bytes: int | None) -> int | None:
    return None if limit_bytes is None or used_bytes is None else limit_bytes - used_bytes


def _outcome(run: RunState) -> Outcome | None:
    if run.outcome_type is None and run.outcome_message is None:
        return None
    return Outcome(run.outcome_type or "", run.outcome_message or "")


def _verdict(
    run: RunState, sources: Sequence[SourceState], now_ns: int, presence: Presence, whole: bool
) -> Verdict | None:
    said = None
    if run.verdict is not None:
        said = verdict_of(run.verdict, run.verdict_source or "", whole=whole)
    if run.state != State.LIVE or not sources or (said is not None and _is_sure(run, sources)):
        return said
    lost = [_inferred(source, now_ns, presence) for source in current_sources(sources)]
    probable_first = sorted(filter(None, lost), key=lambda verdict: verdict.grade != "probable")
    return next(iter(probable_first), said)


def _is_sure(run: RunState, sources: Sequence[SourceState]) -> bool:
    """Whether the run's verdict is a death or a failure that was seen: nothing inferred takes its place."""
    return any(source.id == run.verdict_source and source.state in (State.DIED, State.FAILED) for source in sources)


def _inferred(source: SourceState, now_ns: int, presence: Presence) -> Verdict | None:
    if source.state != State.LIVE or not presence.lost(source.pk, source.last_ns, now_ns):
        return None
    return vanished(source.id, now_ns - source.last_ns, source.limit_bytes, source.working_set_bytes)


def source_detail(source: SourceState, row: RowMapping, run: RunState, now_ns: int, presence: Presence) -> SourceDetail:
    """A source as the page shows it now; `row` is its row of the table."""
    verdict = verdict_of(source.verdict, source.id, whole=True) if source.verdict else None
    return SourceDetail(
        **{name: row[name] for name in (*_SAME_TEXTS, *_SAME_NUMBERS)},
        **{name: getattr(source, name) for name in ("id", "host", "pid", "watermark", *_SAME_FIGURES)},
        main=source.pk == run.main_source_pk,
        state=_state_name(source.state, source.last_ns, now_ns),
        connected=presence.heard(source.pk, source.last_ns, now_ns),
        gpus=msgspec.json.decode(row["gpus"], type=list[GpuJson]),
        started_ms=milliseconds(source.started_ns),
        last_ms=milliseconds(source.last_ns),
        ended_ms=None if source.ended_ns is None else milliseconds(source.ended_ns),
        phase=phase_name(source.phase),
        working_set_bytes=source.working_set_bytes,
        headroom_bytes=_headroom(source.limit_bytes, source.working_set_bytes),
        verdict=verdict or _inferred(source, now_ns, presence),
        status=status_json(msgspec.json.decode(source.status, type=Status)) if source.status else None,
    )


def status_json(status: Status) -> StatusJson:
    """A status as the page takes it."""
    hung_ns = status.hung_since_ns
    return StatusJson(
        time_ms=milliseconds(status.wall_ns),
        limits=[LimitJson(**msgspec.structs.asdict(limit)) for limit in status.limits],
        processes=[ProcessJson(**msgspec.structs.asdict(process)) for process in status.processes],
        pressure=status.pressure,
        hung_since_ms=None if hung_ns is None else milliseconds(hung_ns),
    )
