"""What other servers commit to a shared store, polled for the runs that someone watches here.

Rows are read by each source's cursor, the seq up to which viewers here were told. Commits of this server move it too,
so that no row is told twice; one that doesn't follow on it (another server stored what lies between) is left to the
next poll, which reads all of it in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, Table

from oomcast.sample import EVENT_COLUMNS, GPU_COLUMNS, SAMPLE_COLUMNS, Event, EventKind, GpuReading, Kind, Phase, Sample
from oomcast.wire import Status
from oomcast_server.errors import StoreUnavailable
from oomcast_server.intake.pipeline import Commit
from oomcast_server.live.hub import Hub
from oomcast_server.runs.standing import RunState, SourceState
from oomcast_server.store import schema
from oomcast_server.store.base import Store

__all__ = ["Follower"]

_log = logging.getLogger("oomcast_server")

_EVERY_S = 0.25
_LIST_EVERY = 4  # polls
_MOST_ROWS = 5_000  # of one source at once; beyond it viewers had better fetch the run
_MOST_BOUND = 500  # values in one statement; SQLite takes 999 at least
_MOST_LISTED = 1_000
_FORGET_AFTER = 8  # polls in which nobody watches a run
# Clocks of servers differ, and a transaction is seen later than the time it was stamped with.
_MARGIN_NS = 10_000_000_000

_RUN_FIELDS = [field.name for field in dataclasses.fields(RunState)]
_SOURCE_FIELDS = [field.name for field in dataclasses.fields(SourceState)]


@dataclasses.dataclass
class _Followed:
    """A run that is watched here: its newest standing, and up to where its viewers were told."""

    version: int = -1  # up to which nothing more is to be read; -1: its cursors are still to be set
    cursors: dict[int, int] = dataclasses.field(default_factory=dict)
    run: RunState | None = None
    sources: Sequence[SourceState] = ()
    idle: int = 0

    def take(self, run: RunState, sources: Sequence[SourceState]) -> None:
        if self.run is None or run.version >= self.run.version:
            self.run, self.sources = run, sources


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Rows of one source behind a cursor; None: too many to be worth sending."""

    source: SourceState
    samples: Sequence[Sample] = ()
    gpus: Sequence[GpuReading] = ()
    events: Sequence[Event] = ()
    too_many: bool = False


@dataclasses.dataclass(frozen=True)
class _Found:
    """A run whose version had changed."""

    run: RunState
    sources: Sequence[SourceState]
    rows: Sequence[_Rows]


class Follower:
    """Stands between the pipeline and the hub where a store is shared. Lives on the event loop."""

    def __init__(self, store: Store, hub: Hub, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._store = store
        self._hub = hub
        self._wall_ns = wall_ns
        self._followed: dict[str, _Followed] = {}
        self._listed: dict[str, int] = {}  # versions that list viewers were told of
        self._polling: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._failing = False

    def start(self) -> None:
        """Start to poll."""
        self._polling = asyncio.create_task(self._poll_forever())

    async def close(self) -> None:
        """Stop."""
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.gather(self._polling, return_exceptions=True)

    async def follow(self, run_id: str) -> None:
        """Note how far the run is stored, before someone watches it: what he fetches then is no older than that."""
        if run_id not in self._followed:
            await self._set_cursors([run_id])

    def committed(self, commits: Sequence[Commit]) -> None:
        """Take what this server has committed, and pass on what viewers haven't been told."""
        self._hub.committed([self._passed(commit) for commit in commits])

    def _passed(self, commit: Commit) -> Commit:
        run = commit.run
        self._note(run)
        followed = self._followed.get(run.id)
        if followed is None or followed.version < 0:
            return commit
        if followed.version + 1 == run.version:  # nobody else has changed the run in between
            followed.version = run.version
        followed.take(run, commit.sources)
        span, cursor = _span(commit), followed.cursors.get(commit.source.pk, 0)
        if span is None:
            return commit
        if span[0] > cursor + 1:
            followed.version = min(followed.version, run.version - 1)
            self._hurry.set()
            return dataclasses.replace(commit, samples=(), gpus=(), events=(), status=None)
        followed.cursors[commit.source.pk] = max(cursor, span[1])
        return commit if span[0] == cursor + 1 else _behind(commit, cursor)

    def _note(self, run: RunState) -> None:
        """The list has been told of it, and needn't be again."""
        self._listed.pop(run.id, None)
        self._listed[run.id] = run.version
        while len(self._listed) > 2 * _MOST_LISTED:
            del self._listed[next(iter(self._listed))]

    async def _poll_forever(self) -> None:
        for turn in itertools.count():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), _EVERY_S)
            self._hurry.clear()
            try:
                await self.poll(with_list=turn % _LIST_EVERY == 0)
            except StoreUnavailable as error:
                self._fail(error)
            except Exception:  # what can't be told now may be told by the next poll
                _log.exception("what other servers store could not be followed")
            else:
                self._failing = False

    def _fail(self, error: StoreUnavailable) -> None:
        if not self._failing:
            _log.error("%s; what other servers store is not shown until that works", error)
        self._failing = True

    async def poll(self, with_list: bool) -> None:
        """Look once at what is watched, and at the list of runs where someone has it open.

        Raises:
            StoreUnavailable: the database can't be read; the next poll reads what this one would have.
        """
        self._forget(self._hub.watched_runs)
        unset = [run_id for run_id in self._hub.watched_runs if run_id not in self._followed]
        if unset:  # `follow` has failed for them: their viewers may have fetched less than this
            await self._set_cursors(unset)
            for run_id in unset:
                self._hub.missed(run_id)
        wanted = {run_id: (followed.version, dict(followed.cursors)) for run_id, followed in self._followed.items()}
        for found in await asyncio.to_thread(self._read, wanted) if wanted else ():
            self._deliver(found)
        if with_list and self._hub.is_listed:
            await self._poll_list()

    def _forget(self, watched: frozenset[str]) -> None:
        for run_id, followed in list(self._followed.items()):
            followed.idle = 0 if run_id in watched else followed.idle + 1
            if followed.idle > _FORGET_AFTER:
                del self._followed[run_id]

    def _deliver(self, found: _Found) -> None:
        followed = self._followed.get(found.run.id)
        if followed is None:
            return
        followed.take(found.run, found.sources)
        followed.version = max(followed.version, found.run.version)
        assert followed.run is not None
        commits = [Commit(followed.run, followed.sources, found.sources[0], (), (), (), None)] if not found.rows else []
        for rows in found.rows:
            cursor = followed.cursors.get(rows.source.pk, 0)
            followed.cursors[rows.source.pk] = max(cursor, rows.source.watermark)
            if rows.too_many:
                self._hub.missed(found.run.id)
            status = msgspec.json.decode(rows.source.status, type=Status) if rows.source.status else None
            read = (rows.samples, rows.gpus, rows.events, status)
            commits.append(_behind(Commit(followed.run, followed.sources, rows.source, *read), cursor))
        self._hub.committed(commits)

    async def _set_cursors(self, run_ids: Sequence[str]) -> None:
        found = {run.id: (run, sources) for run, sources in await asyncio.to_thread(self._standings, run_ids)}
        for run_id in run_ids:
            if run_id in self._followed:  # someone else was faster
                continue
            run, sources = found.get(run_id, (None, ()))
            cursors = {source.pk: source.watermark for source in sources}
            self._followed[run_id] = _Followed(run.version if run else 0, cursors, run, sources)

    async def _poll_list(self) -> None:
        since_ns = self._wall_ns() - _MARGIN_NS
        before = dict(self._listed)
        changed = await asyncio.to_thread(self._changed, since_ns, before)
        # What was committed here meanwhile is newer, and told.
        told = [found for found in changed if self._listed.get(found[0].id) == before.get(found[0].id)]
        for run, _ in told:
            self._note(run)
        self._hub.committed([Commit(run, sources, sources[0], (), (), (), None) for run, sources in told])

    # On a thread from here on.

    def _read(self, wanted: Mapping[str, tuple[int, Mapping[int, int]]]) -> list[_Found]:
        """The runs of `wanted` (by id: version and cursors) that have changed, with the rows behind the cursors."""
        runs = schema.runs
        with self._store.read() as connection:
            versions: dict[str, int] = {}
            for ids in _chunks(list(wanted)):
                rows = connection.execute(sa.select(runs.c.id, runs.c.version).where(runs.c.id.in_(ids)))
                versions |= {row[0]: row[1] for row in rows}
            changed = [run_id for run_id, version in versions.items() if version != wanted[run_id][0]]
            standings = _load(connection, runs.c.id, changed)
            return [
                _Found(run, sources, _read_rows(connection, sources, wanted[run.id][1])) for run, sources in standings
            ]

    def _standings(self, run_ids: Sequence[str]) -> list[tuple[RunState, list[SourceState]]]:
        with self._store.read() as connection:
            return _load(connection, schema.runs.c.id, run_ids)

    def _changed(self, since_ns: int, listed: Mapping[str, int]) -> list[tuple[RunState, list[SourceState]]]:
        runs = schema.runs
        recent = sa.select(runs.c.id, runs.c.version).where(runs.c.last_ns > since_ns)
        with self._store.read() as connection:
            rows = connection.execute(recent.order_by(runs.c.last_ns.desc()).limit(_MOST_LISTED)).all()
            changed = [run_id for run_id, version in rows if listed.get(run_id) != version]
            return _load(connection, runs.c.id, changed)


def _span(commit: Commit) -> tuple[int, int] | None:
    """The first and the last seq of what was committed, or None where no rows were."""
    ends = [(rows[0].seq, rows[-1].seq) for rows in (commit.samples, commit.events) if rows]
    if not ends:
        return None
    first, last = min(end[0] for end in ends), max(end[1] for end in ends)
    if commit.events and commit.events[-1].kind is EventKind.GAP:
        # It stands for all the seqs that it names, of which its own is one.
        lost = commit.events[-1].detail
        begin, end = lost.get("from"), lost.get("to")
        if isinstance(begin, int) and isinstance(end, int) and begin <= commit.events[-1].seq <= end:
            first, last = min(first, begin), max(last, min(end, commit.source.watermark))
    return first, last


def _behind(commit: Commit, cursor: int) -> Commit:
    """What of `commit` lies behind `cursor`."""
    return dataclasses.replace(
        commit,
        samples=[sample for sample in commit.samples if sample.seq > cursor],
        gpus=[reading for reading in commit.gpus if reading.seq > cursor],
        events=[event for event in commit.events if event.seq > cursor],
    )


def _chunks(values: Sequence[str] | Sequence[int]) -> Iterable[Sequence[str] | Sequence[int]]:
    return (values[begin : begin + _MOST_BOUND] for begin in range(0, len(values), _MOST_BOUND))


def _load(
    connection: Connection, key: sa.Column[str], values: Sequence[str]
) -> list[tuple[RunState, list[SourceState]]]:
    """These runs with all their sources; a run that has none yet is left out."""
    runs, sources = schema.runs, schema.sources
    found: list[RunState] = []
    of_run: dict[int, list[SourceState]] = {}
    for chunk in _chunks(values):
        # The versions of these runs are read before their sources: what changes in between is read by the next poll.
        rows = connection.execute(sa.select(*(runs.c[name] for name in _RUN_FIELDS)).where(key.in_(chunk)))
        found += [RunState(**row._mapping) for row in rows]
    for pks in _chunks([run.pk for run in found]):
        query = sa.select(*(sources.c[name] for name in _SOURCE_FIELDS)).where(sources.c.run_pk.in_(pks))
        for row in connection.execute(query.order_by(sources.c.pk)):
            of_run.setdefault(row._mapping["run_pk"], []).append(SourceState(**row._mapping))
    return [(run, of_run[run.pk]) for run in found if run.pk in of_run]


def _read_rows(connection: Connection, sources: Sequence[SourceState], cursors: Mapping[int, int]) -> list[_Rows]:
    behind = [(source, cursors.get(source.pk, 0)) for source in sources]
    return [
        _rows_of(connection, source, cursor)
        if source.watermark - cursor <= _MOST_ROWS
        else _Rows(source, too_many=True)
        for source, cursor in behind
        if source.watermark > cursor
    ]


def _rows_of(connection: Connection, source: SourceState, cursor: int) -> _Rows:
    def read(table: Table, columns: Sequence[str]) -> Sequence[sa.Row[tuple[object, ...]]]:
        query = sa.select(*(table.c[name] for name in columns)).where(
            table.c.run_pk == source.run_pk,
            table.c.source_pk == source.pk,
            table.c.seq > cursor,
            table.c.seq <= source.watermark,
        )
        return connection.execute(query.order_by(table.c.seq)).all()

    return _Rows(
        source,
        [_sample(row) for row in read(schema.samples, SAMPLE_COLUMNS)],
        [GpuReading(*row) for row in read(schema.gpu_samples, GPU_COLUMNS)],  # type: ignore[call-arg, arg-type]
        [_event(row) for row in read(schema.events, EVENT_COLUMNS)],
    )


def _sample(row: Sequence[object]) -> Sample:
    sample = Sample(*row)  # type: ignore[arg-type]
    return sample._replace(kind=Kind(sample.kind), phase=Phase(sample.phase))


def _event(row: Sequence[object]) -> Event:
    event = Event(*row)  # type: ignore[arg-type]
    return event._replace(kind=EventKind(event.kind), detail=msgspec.json.decode(str(row[-1])))
