"""Messages as rows of the tables (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from oomcast.sample import Event, EventKind
from oomcast.wire import GpuDevice, Hello, SourceInfo
from oomcast_server.runs.verdicts import verdict_of
from oomcast_server.store.schema import State
from oomcast_server.text import clean, clean_or

__all__ = ["assessment_rows", "day_of", "event_rows", "gap_rows", "run_row", "source_row", "verdict_row"]

_DAY_NS = 86_400_000_000_000
_LARGEST = 2**62


def run_row(hello: Hello, now_ns: int) -> dict[str, Any]:
    """The run of `hello`, new."""
    tags = [clean_or(tag, "unnamed") for tag in hello.run.tags]
    return {
        "id": hello.run.id,
        "project": clean_or(hello.run.project, "default"),
        "name": clean_or(hello.run.name, hello.run.id),
        "tags": msgspec.json.encode(tags).decode(),
        "host": clean_or(hello.source.host, "unknown"),
        "pid": hello.source.pid,
        "sources": 0,
        "state": int(State.LIVE),
        "created_ns": hello.source.started_ns,
        "last_ns": now_ns,
        "samples": 0,
    }


def source_row(run_pk: int, source: SourceInfo, now_ns: int) -> dict[str, Any]:
    """The source of a hello, new."""
    texts = ("user", "command", "python", "platform", "backend", "gpu_note")
    return {
        "run_pk": run_pk,
        "id": source.id,
        "host": clean_or(source.host, "unknown"),
        "pid": source.pid,
        "rank": source.rank,
        **{name: clean_or(getattr(source, name), "") or None for name in texts},
        "gpus": msgspec.json.encode([_gpu(gpu) for gpu in source.gpus]).decode(),
        "started_ns": source.started_ns,
        "state": int(State.LIVE),
        "last_ns": now_ns,
        "watermark": 0,
        "batch_samples": 0,
        "kind": clean_or(source.kind, "callback"),
        "local_rank": source.local_rank,
        "world_size": source.world_size,
        "launcher": clean_or(source.launcher, "") or None,
        "rolled": 1,
    }


def _gpu(gpu: GpuDevice) -> dict[str, Any]:
    texts = {"uuid": clean(gpu.uuid), "name": clean(gpu.name), "instance": gpu.instance and clean(gpu.instance)}
    return {**msgspec.structs.asdict(gpu), **texts}


def day_of(now_ns: int) -> int:
    """The day since 1970 on which `now_ns` is."""
    return now_ns // _DAY_NS


def event_rows(events: Sequence[Event]) -> list[tuple[Any, ...]]:
    """Rows of `events` behind run and source."""
    return [(*event[:-1], msgspec.json.encode(event.detail).decode()) for event in _plain(events)]


def _plain(events: Sequence[Event]) -> list[Any]:
    return [event._replace(kind=int(event.kind)) for event in events]  # type: ignore[arg-type]


def gap_rows(events: Sequence[Event], first_seq: int) -> list[tuple[Any, ...]]:
    """Rows of `gaps`: the seqs that are lost from `first_seq` on, and why.

    An agent may say it again of more seqs before the first time was acknowledged: what is stored stays as it is.
    """
    gaps: dict[int, tuple[Any, ...]] = {}
    for event in events:
        if event.kind is EventKind.GAP:
            first, last = _seq(event.detail.get("from"), event.seq), _seq(event.detail.get("to"), event.seq)
            reason = str(event.detail.get("reason") or "")
            first = max(first, first_seq)
            gaps[first] = (first, max(first, last), event.wall_ns, event.batch, reason)
    return list(gaps.values())


def _seq(value: str | int | None, otherwise: int) -> int:
    return value if isinstance(value, int) and 0 <= value <= _LARGEST else otherwise


def assessment_rows(events: Sequence[Event]) -> list[tuple[Any, ...]]:
    """Rows of `assessments`; what was not said is None."""
    return [_assessment(event) for event in events if event.kind in (EventKind.CRITICAL, EventKind.CLEAR)]


def _assessment(event: Event) -> tuple[Any, ...]:
    state = event.detail.get("state") or ("critical" if event.kind is EventKind.CRITICAL else "steady")
    told = (event.seq, event.wall_ns, event.epoch, event.batch, str(state))
    return (*told, *[None] * 9, msgspec.json.encode(event.detail).decode())


def verdict_row(detail: str, ended_ns: int) -> tuple[Any, ...]:
    """The row of `verdicts` behind run and source, for an end with this detail (JSON)."""
    verdict = verdict_of(detail, "", whole=False)
    return (ended_ns, verdict.ending, verdict.grade, verdict.text, detail)
