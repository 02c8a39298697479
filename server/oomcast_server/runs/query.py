"""Reads for the page: the list of runs, and one run in detail."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, Row

from oomcast.sample import EVENT_COLUMNS
from oomcast_server.charts.tables import event_json
from oomcast_server.rest.shapes import RunDetail, RunList, RunSummary, SourceDetail, Verdict, milliseconds
from oomcast_server.runs.listing import Filters, page_of
from oomcast_server.runs.presence import Presence
from oomcast_server.runs.standing import RunState, SourceState
from oomcast_server.runs.summary import source_detail, summarize
from oomcast_server.store import schema
from oomcast_server.store.base import Store
from oomcast_server.store.schema import State

__all__ = [
    "RunStanding",
    "SourceKey",
    "Standing",
    "live_runs",
    "run_list",
    "run_page",
    "source_key",
    "standing_of",
    "standings_of",
]

_MOST_EVENTS = 2_000
_MOST_BOUND = 500  # values in one statement; SQLite takes 999 at least
_RUN_FIELDS = [field.name for field in dataclasses.fields(RunState)]
_RUN_COLUMNS = [schema.runs.c[name] for name in _RUN_FIELDS]
_SOURCE_FIELDS = [field.name for field in dataclasses.fields(SourceState)]
_SOURCE_COLUMNS = [schema.sources.c[name] for name in _SOURCE_FIELDS]

Standing = tuple[RunState, Sequence[SourceState]]


def live_runs(store: Store, limit: int) -> list[Standing]:
    """The newest runs that have not ended, with all their sources.

    Raises:
        StoreUnavailable: the database can't be read.
    """
    runs = schema.runs
    live = sa.select(runs.c.pk).where(runs.c.state == int(State.LIVE)).order_by(runs.c.created_ns.desc()).limit(limit)
    with store.read() as connection:
        return standings_of(connection, connection.execute(live).scalars().all())


def run_list(store: Store, presence: Presence, now_ns: int, limit: int) -> list[RunSummary]:
    """The newest runs, live ones first.

    Raises:
        StoreUnavailable: the database can't be read.
    """
    return run_page(store, presence, Filters(), limit, None, now_ns).runs


def run_page(
    store: Store, presence: Presence, filters: Filters, limit: int, cursor: str | None, now_ns: int
) -> RunList:
    """A page of the runs that pass the filters, live ones first, newest first.

    Raises:
        BadCursor: not a cursor of this list.
        StoreUnavailable: the database can't be read.
    """
    page = page_of(store, filters, limit, cursor, now_ns)
    with store.read() as connection:
        standings = standings_of(connection, page.pks)
    summaries = [summarize(run, sources, now_ns, presence) for run, sources in standings]
    return RunList(runs=summaries, now_ms=milliseconds(now_ns), next=page.next)


def standings_of(connection: Connection, run_pks: Sequence[int]) -> list[Standing]:
    """These runs, in this order; the live ones with their sources, since silence is judged by them."""
    found: dict[int, RunState] = {}
    for begin in range(0, len(run_pks), _MOST_BOUND):
        those = schema.runs.c.pk.in_(run_pks[begin : begin + _MOST_BOUND])
        rows = connection.execute(sa.select(*_RUN_COLUMNS).where(those)).mappings()
        found |= {row["pk"]: RunState(**row) for row in rows}
    sources = _sources(connection, [pk for pk, run in found.items() if run.state == State.LIVE])
    return [(found[pk], sources[pk]) for pk in run_pks if pk in found]


def _sources(connection: Connection, run_pks: Sequence[int]) -> defaultdict[int, list[SourceState]]:
    sources: defaultdict[int, list[SourceState]] = defaultdict(list)
    table = schema.sources
    for begin in range(0, len(run_pks), _MOST_BOUND):
        of_runs = table.c.run_pk.in_(run_pks[begin : begin + _MOST_BOUND])
        for row in connection.execute(sa.select(*_SOURCE_COLUMNS).where(of_runs).order_by(table.c.pk)).mappings():
            sources[row["run_pk"]].append(SourceState(**row))
    return sources


@dataclasses.dataclass(frozen=True)
class RunStanding:
    """A run and its sources as they stand now, without its events."""

    pk: int
    version: int
    summary: RunSummary  # its verdict with its detail
    sources: Sequence[SourceDetail]
    source_pks: Sequence[int]

    @property
    def key(self) -> tuple[object, ...]:
        """What tells this answer from the next: its version, and what passing time and its agents' coming change."""
        run = self.summary
        told = [(source.connected, source.state, _text(source.verdict)) for source in self.sources]
        return (self.pk, self.version, run.state, _text(run.verdict), told)

    def detail(self, store: Store) -> RunDetail:
        """The run with its sources and newest events.

        Raises:
            StoreUnavailable: the database can't be read.
        """
        with store.read() as connection:
            rows = _newest_events(connection, self.pk)
        ids = {pk: source.id for pk, source in zip(self.source_pks, self.sources, strict=True)}
        events = [event_json(ids[row[0]], row[1:], msgspec.json.decode(row[-1])) for row in rows if row[0] in ids]
        return RunDetail(**msgspec.structs.asdict(self.summary), sources_detail=list(self.sources), events=events)


def _text(verdict: Verdict | None) -> str | None:
    return verdict.text if verdict is not None else None


def standing_of(store: Store, presence: Presence, run_id: str, now_ns: int) -> RunStanding | None:
    """The run of that id, or None where there is none.

    Raises:
        StoreUnavailable: the database can't be read.
    """
    runs, table = schema.runs, schema.sources
    with store.read() as connection:
        query = sa.select(*_RUN_COLUMNS, runs.c.version.label("counted")).where(runs.c.id == run_id)
        row = connection.execute(query).mappings().one_or_none()
        if row is None:
            return None
        of_run = sa.select(table).where(table.c.run_pk == row["pk"]).order_by(table.c.pk)
        rows = connection.execute(of_run).mappings().all()
    run = RunState(**{name: row[name] for name in _RUN_FIELDS})
    sources = [SourceState(**{name: row[name] for name in _SOURCE_FIELDS}) for row in rows]
    return RunStanding(
        run.pk,
        row["counted"],
        summarize(run, sources, now_ns, presence, whole=True),
        [source_detail(source, row, run, now_ns, presence) for source, row in zip(sources, rows, strict=True)],
        [source.pk for source in sources],
    )


def _newest_events(connection: Connection, run_pk: int) -> Sequence[Row[Any]]:
    """In order of source and seq."""
    events = schema.events
    newest = (
        sa.select(events.c.source_pk, *(events.c[name] for name in EVENT_COLUMNS))
        .where(events.c.run_pk == run_pk)
        .order_by(events.c.wall_ns.desc(), events.c.seq.desc())
        .limit(_MOST_EVENTS)
    )
    return sorted(connection.execute(newest).all(), key=lambda row: (row[0], row[1]))


@dataclasses.dataclass(frozen=True)
class SourceKey:
    """A source as the store calls it."""

    run_pk: int
    pk: int
    id: str
    has_batches: bool
    version: int  # of its run: another one where anything of it has changed


def source_key(store: Store, run_id: str, source_id: str | None) -> SourceKey | None:
    """The source of that id in the run, or the run's main one where no id is given; None where there is none.

    Raises:
        StoreUnavailable: the database can't be read.
    """
    runs, sources = schema.runs, schema.sources
    query = (
        sa.select(sources.c.run_pk, sources.c.pk, sources.c.id, sources.c.batch_samples, runs.c.version)
        .join(runs, sources.c.run_pk == runs.c.pk)
        .where(runs.c.id == run_id)
    )
    is_it = sources.c.pk == runs.c.main_source_pk if source_id is None else sources.c.id == source_id
    with store.read() as connection:
        row = connection.execute(query.where(is_it)).one_or_none()
    return SourceKey(row[0], row[1], row[2], row[3] > 0, row[4]) if row is not None else None
