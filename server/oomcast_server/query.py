"""Reads for the page: the list of runs, and one run in detail."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from oomcast.sample import EVENT_COLUMNS
from oomcast_server.shapes import EventJson, GpuJson, RunDetail, RunSummary, SourceDetail, milliseconds
from oomcast_server.store import schema
from oomcast_server.store.schema import State
from oomcast_server.store.sqlite import SqliteStore
from oomcast_server.summary import RunState, summarize
from oomcast_server.tables import event_json

__all__ = ["SourceKey", "run_detail", "run_list", "source_key"]

_MOST_EVENTS = 2_000
_RUN_COLUMNS = [schema.runs.c[field.name] for field in dataclasses.fields(RunState)]


def run_list(store: SqliteStore, now_ns: int, limit: int) -> list[RunSummary]:
    """The newest runs, live ones first.

    Raises:
        StoreUnavailable: the database can't be read.
    """
    runs = schema.runs
    live_first = (runs.c.state != State.LIVE, runs.c.created_ns.desc(), runs.c.pk.desc())
    with store.read() as connection:
        rows = connection.execute(sa.select(*_RUN_COLUMNS).order_by(*live_first).limit(limit)).all()
    return [summarize(RunState(*row), now_ns) for row in rows]


def run_detail(store: SqliteStore, run_id: str, now_ns: int) -> RunDetail | None:
    """One run with its sources and newest events, or None where there is none of that id.

    Raises:
        StoreUnavailable: the database can't be read.
    """
    with store.read() as connection:
        row = connection.execute(sa.select(*_RUN_COLUMNS).where(schema.runs.c.id == run_id)).one_or_none()
        if row is None:
            return None
        run = RunState(*row)
        sources, events = _sources(connection, run.pk), _events(connection, run.pk)
    summary = msgspec.structs.asdict(summarize(run, now_ns))
    return RunDetail(**summary, sources_detail=sources, events=events)


def _sources(connection: Connection, run_pk: int) -> list[SourceDetail]:
    table = schema.sources
    rows = connection.execute(sa.select(table).where(table.c.run_pk == run_pk).order_by(table.c.pk)).mappings()
    return [_source(dict(row)) for row in rows]


def _source(row: dict[str, Any]) -> SourceDetail:
    names = ("id", "host", "pid", "rank", "user", "command", "python", "platform", "backend", "gpu_note", "watermark")
    return SourceDetail(
        **{name: row[name] for name in names},
        gpus=msgspec.json.decode(row["gpus"], type=list[GpuJson]),
        started_ms=milliseconds(row["started_ns"]),
    )


def _events(connection: Connection, run_pk: int) -> list[EventJson]:
    events, sources = schema.events, schema.sources
    newest = (
        sa.select(sources.c.id, sources.c.pk, *(events.c[name] for name in EVENT_COLUMNS))
        .join(sources, events.c.source_pk == sources.c.pk)
        .where(sources.c.run_pk == run_pk)
        .order_by(events.c.wall_ns.desc(), events.c.seq.desc())
        .limit(_MOST_EVENTS)
    )
    rows = sorted(connection.execute(newest).all(), key=lambda row: (row[1], row[2]))
    return [event_json(row[0], row[2:], msgspec.json.decode(row[-1])) for row in rows]


@dataclasses.dataclass(frozen=True)
class SourceKey:
    """A source as the store calls it."""

    pk: int
    id: str
    has_batches: bool


def source_key(store: SqliteStore, run_id: str, source_id: str | None) -> SourceKey | None:
    """The source of that id in the run, or the run's first where no id is given; None where there is none.

    Raises:
        StoreUnavailable: the database can't be read.
    """
    runs, sources = schema.runs, schema.sources
    query = (
        sa.select(sources.c.pk, sources.c.id, sources.c.batch_samples)
        .join(runs, sources.c.run_pk == runs.c.pk)
        .where(runs.c.id == run_id)
        .order_by(sources.c.pk)
        .limit(1)
    )
    if source_id is not None:
        query = query.where(sources.c.id == source_id)
    with store.read() as connection:
        row = connection.execute(query).one_or_none()
    return SourceKey(row[0], row[1], row[2] > 0) if row is not None else None
