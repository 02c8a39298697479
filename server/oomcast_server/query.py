"""Reads for the page: the list of runs, and one run in detail."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping

from oomcast.sample import EVENT_COLUMNS
from oomcast_server.presence import Presence
from oomcast_server.shapes import EventJson, RunDetail, RunSummary
from oomcast_server.standing import RunState, SourceState
from oomcast_server.store import schema
from oomcast_server.store.schema import State
from oomcast_server.store.sqlite import SqliteStore
from oomcast_server.summary import source_detail, summarize
from oomcast_server.tables import event_json

__all__ = ["SourceKey", "Standing", "live_runs", "run_detail", "run_list", "source_key"]

_MOST_EVENTS = 2_000
_MOST_BOUND = 500  # values in one statement; SQLite takes 999 at least
_RUN_COLUMNS = [schema.runs.c[field.name] for field in dataclasses.fields(RunState)]
_SOURCE_FIELDS = [field.name for field in dataclasses.fields(SourceState)]
_SOURCE_COLUMNS = [schema.sources.c[name] for name in _SOURCE_FIELDS]

Standing = tuple[RunState, Sequence[SourceState]]


def live_runs(store: SqliteStore, limit: int) -> list[Standing]:
    """The newest runs that have not ended, with all their sources.

    Raises:
        StoreUnavailable: the database can't be read.
    """
    return [standing for standing in _newest(store, limit) if standing[0].state == State.LIVE]


def run_list(store: SqliteStore, presence: Presence, now_ns: int, limit: int) -> list[RunSummary]:
    """The newest runs, live ones first.

    Raises:
        StoreUnavailable: the database can't be read.
    """
    return [summarize(run, sources, now_ns, presence) for run, sources in _newest(store, limit)]


def _newest(store: SqliteStore, limit: int) -> list[Standing]:
    """Runs, live ones first; these with their sources, since silence is judged by them."""
    runs = schema.runs
    live_first = (runs.c.state != State.LIVE, runs.c.created_ns.desc(), runs.c.pk.desc())
    with store.read() as connection:
        rows = connection.execute(sa.select(*_RUN_COLUMNS).order_by(*live_first).limit(limit)).mappings().all()
        found = [RunState(**row) for row in rows]
        sources = _live_sources(connection, [run.pk for run in found if run.state == State.LIVE])
    return [(run, sources[run.pk]) for run in found]


def _live_sources(connection: Connection, run_pks: Sequence[int]) -> defaultdict[int, list[SourceState]]:
    sources: defaultdict[int, list[SourceState]] = defaultdict(list)
    table = schema.sources
    for begin in range(0, len(run_pks), _MOST_BOUND):
        of_runs = table.c.run_pk.in_(run_pks[begin : begin + _MOST_BOUND])
        for row in connection.execute(sa.select(*_SOURCE_COLUMNS).where(of_runs).order_by(table.c.pk)).mappings():
            sources[row["run_pk"]].append(SourceState(**row))
    return sources


def run_detail(store: SqliteStore, presence: Presence, run_id: str, now_ns: int) -> RunDetail | None:
    """One run with its sources and newest events, or None where there is none of that id.

    Raises:
        StoreUnavailable: the database can't be read.
    """
    with store.read() as connection:
        query = sa.select(*_RUN_COLUMNS).where(schema.runs.c.id == run_id)
        row = connection.execute(query).mappings().one_or_none()
        if row is None:
            return None
        run = RunState(**row)
        rows, events = _source_rows(connection, run.pk), _events(connection, run.pk)
    sources = [SourceState(**{name: row[name] for name in _SOURCE_FIELDS}) for row in rows]
    summary = msgspec.structs.asdict(summarize(run, sources, now_ns, presence, whole=True))
    details = [source_detail(source, row, run, now_ns, presence) for source, row in zip(sources, rows, strict=True)]
    return RunDetail(**summary, sources_detail=details, events=events)


def _source_rows(connection: Connection, run_pk: int) -> Sequence[RowMapping]:
    table = schema.sources
    return connection.execute(sa.select(table).where(table.c.run_pk == run_pk).order_by(table.c.pk)).mappings().all()


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
    """The source of that id in the run, or the run's main one where no id is given; None where there is none.

    Raises:
        StoreUnavailable: the database can't be read.
    """
    runs, sources = schema.runs, schema.sources
    query = (
        sa.select(sources.c.pk, sources.c.id, sources.c.batch_samples)
        .join(runs, sources.c.run_pk == runs.c.pk)
        .where(runs.c.id == run_id)
    )
    is_it = sources.c.pk == runs.c.main_source_pk if source_id is None else sources.c.id == source_id
    with store.read() as connection:
        row = connection.execute(query.where(is_it)).one_or_none()
    return SourceKey(row[0], row[1], row[2] > 0) if row is not None else None
