"""One transaction's worth of messages."""

from __future__ import annotations

import copy
import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, Table

from oomcast.wire import Frame, Hello
from oomcast_server.intake import records
from oomcast_server.intake.known import Known, KnownRun, Pyramids
from oomcast_server.keeping.deletion import next_run_pk
from oomcast_server.rollups.pyramids import Done, by_device, by_kind
from oomcast_server.rollups.resuming import resume
from oomcast_server.runs.standing import RunState, SourceState, fold_source, settle_run
from oomcast_server.runs.terms import MOST_WORDS, terms_of
from oomcast_server.store import schema
from oomcast_server.store.base import Rows, Store
from oomcast_server.store.upsert import insert_if_new

__all__ = ["Batch", "gpu_row", "load_run", "rollup_row"]

_RUN_FIELDS = [field.name for field in dataclasses.fields(RunState)]
_SOURCE_FIELDS = [field.name for field in dataclasses.fields(SourceState)]


def _update(table: Table, fields: Sequence[str]) -> sa.Update:
    values: dict[str, Any] = {name: sa.bindparam(name) for name in fields if name != "pk"}
    return sa.update(table).where(table.c.pk == sa.bindparam("key")).values(values)


_UPDATE_RUN = _update(schema.runs, _RUN_FIELDS)
_UPDATE_SOURCE = _update(schema.sources, _SOURCE_FIELDS)


def load_run(connection: Connection, run_pk: int) -> KnownRun | None:
    """The run and its sources as they are in the store; None where there is none."""
    runs, sources = schema.runs, schema.sources
    query = sa.select(*(runs.c[name] for name in _RUN_FIELDS)).where(runs.c.pk == run_pk)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        return None
    of_run = sa.select(*(sources.c[name] for name in _SOURCE_FIELDS)).where(sources.c.run_pk == run_pk)
    rows = connection.execute(of_run.order_by(sources.c.pk)).mappings()
    return KnownRun(RunState(**row), {found["pk"]: SourceState(**found) for found in rows})


class Batch:
    """Works on copies of the standings, which become known only when the transaction is on the disk."""

    def __init__(self, store: Store, connection: Connection, known: Known, now_ns: int) -> None:
        self._store = store
        self._connection = connection
        self._known = known
        self._now_ns = now_ns
        self._day = records.day_of(now_ns)
        self._held: set[int] = set()  # no other server can change these
        self._touched: dict[int, KnownRun] = {}
        self._rows: defaultdict[Table, list[Rows]] = defaultdict(list)

    @property
    def touched(self) -> Iterable[KnownRun]:
        """The runs that this transaction looked at, as it leaves them."""
        return self._touched.values()

    def hold(self, run_pks: Iterable[int], hellos: Iterable[Hello]) -> None:
        """Keep other servers from the runs that the messages are about; before anything else.

        All at once and in one order for every server, so that no two of them wait for each other.
        """
        if not self._store.shared:
            return
        first = {hello.run.id: hello for hello in reversed(list(hellos))}
        known = self._pks_of(first)
        # Before any lock: who waits here for another server's new run keeps nothing that it could be waiting for.
        self._make_runs([first[run_id] for run_id in sorted(first.keys() - known.keys())])
        self._lock({*run_pks, *self._pks_of(first).values()})

    def _pks_of(self, run_ids: Iterable[str]) -> dict[str, int]:
        runs, ids = schema.runs, list(run_ids)
        query = sa.select(runs.c.id, runs.c.pk).where(runs.c.id.in_(ids))
        return {row.id: row.pk for row in self._connection.execute(query)} if ids else {}

    def _make_runs(self, hellos: Sequence[Hello]) -> None:
        rows = [records.run_row(hello, self._now_ns) for hello in hellos]
        if not self._store.shared:  # PostgreSQL gives none twice by itself
            for pk, row in enumerate(rows, next_run_pk(self._connection)):
                row["pk"] = pk
        named = [{"name": name, "created_ns": self._now_ns} for name in sorted({row["project"] for row in rows})]
        insert_if_new(self._connection, schema.projects, named)
        insert_if_new(self._connection, schema.runs, rows)

    def _lock(self, run_pks: Iterable[int]) -> None:
        pks = sorted(set(run_pks) - self._held)
        versions = self._store.lock_runs(self._connection, pks)
        for pk in pks if self._store.shared else ():
            known = self._known.get(pk)
            if known is not None and known.run.version != versions.get(pk):
                self._known.forget(pk)
        self._held.update(pks)

    def run(self, pk: int) -> KnownRun | None:
        """The run with its sources, whose standings may be changed; None where it was deleted."""
        if pk not in self._touched:
            known = self._known.get(pk) or load_run(self._connection, pk)
            if known is None:
                return None
            sources = {at: copy.copy(source) for at, source in known.sources.items()}
            self._touched[pk] = KnownRun(copy.copy(known.run), sources, known.pyramids)
        return self._touched[pk]

    def register(self, hello: Hello) -> SourceState:
        """The source of `hello`, and its run, made where they are new. What was said first stands."""
        held = self.run(self._run_pk(hello))
        assert held is not None
        for source in held.sources.values():
            if source.id == hello.source.id:
                return source
        made = self._connection.execute(
            sa.insert(schema.sources).values(records.source_row(held.run.pk, hello.source, self._now_ns))
        ).inserted_primary_key
        assert made is not None
        query = sa.select(*(schema.sources.c[name] for name in _SOURCE_FIELDS)).where(schema.sources.c.pk == made[0])
        source = SourceState(**self._connection.execute(query).mappings().one())
        held.sources[source.pk] = source
        held.run.sources += 1
        held.run.last_ns = self._now_ns
        if held.run.sources <= MOST_WORDS:  # of a run of a thousand hosts, those of the first
            self._find_by(held.run, hello)
        return source

    def _run_pk(self, hello: Hello) -> int:
        run_id = hello.run.id
        if run_id not in (known := self._pks_of([run_id])):
            self._make_runs([hello])
            known = self._pks_of([run_id])
            self._lock(known.values())
        return known[run_id]

    def _find_by(self, run: RunState, hello: Hello) -> None:
        tags = msgspec.json.decode(run.tags, type=list[str])
        hosts, commands = [hello.source.host], [hello.source.command or ""]
        terms = sorted(terms_of(run.name, run.id, run.project, tags, hosts, commands))
        rows = [{"kind": int(kind), "term": term, "run_pk": run.pk} for kind, term in terms]
        insert_if_new(self._connection, schema.terms, rows)

    def new_rows(self, source: SourceState, frame: Frame) -> Frame | None:
        """What of `frame` is not stored yet, or None if that is nothing or doesn't follow on what is."""
        watermark = source.watermark
        if frame.first_seq == watermark + 1:
            return frame
        if frame.first_seq > watermark or frame.last_seq <= watermark:
            return None
        return Frame(
            first_seq=watermark + 1,
            last_seq=frame.last_seq,
            samples=[sample for sample in frame.samples if sample.seq > watermark],
            gpus=[reading for reading in frame.gpus if reading.seq > watermark],
            events=[event for event in frame.events if event.seq > watermark],
            status=frame.status,
        )

    def add(self, held: KnownRun, source: SourceState, frame: Frame) -> None:
        """Store the rows of `frame`, all of them new, and fold them into the standings."""
        pyramids = self._pyramids(held, source)
        key = (source.run_pk, source.pk)
        if frame.samples:
            self._rows[schema.samples].append((key, frame.samples))
        if frame.gpus:
            self._rows[schema.gpu_samples].append((key, frame.gpus))
        done = pyramids.samples.take(by_kind(frame.samples), frame.last_seq, self._day)
        self._roll(schema.rollups, key, [rollup_row(node) for node in done])
        done = pyramids.gpus.take(by_device(frame.gpus, frame.samples), frame.last_seq, self._day)
        self._roll(schema.gpu_rollups, key, [gpu_row(node) for node in done])
        if frame.events:
            self._add_events(key, source, frame)
        fold_source(source, frame.last_seq, frame.samples, frame.events, frame.status, self._now_ns)
        held.run.last_ns = self._now_ns
        held.run.samples += len(frame.samples)

    def _roll(self, table: Table, key: tuple[int, int], rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            self._rows[table].append((key, rows))

    def _pyramids(self, held: KnownRun, source: SourceState) -> Pyramids:
        if source.pk not in held.pyramids:
            held.pyramids[source.pk] = resume(self._connection, source.run_pk, source.pk, source.watermark)
        return held.pyramids[source.pk]

    def _add_events(self, key: tuple[int, int], source: SourceState, frame: Frame) -> None:
        made = {
            schema.events: records.event_rows(frame.events),
            schema.gaps: records.gap_rows(frame.events, frame.first_seq),
            schema.assessments: records.assessment_rows(frame.events),
        }
        for table, rows in made.items():
            self._roll(table, key, rows)

    def write(self) -> None:
        """Put everything into the store, as the transaction's last step."""
        for table, rows in self._rows.items():
            self._store.insert(self._connection, table, rows)
        for held in self._touched.values():
            if held.sources:
                settle_run(held.run, list(held.sources.values()))
        self._write_verdicts()
        self._write_standings()

    def _write_verdicts(self) -> None:
        table = schema.verdicts
        for held in self._touched.values():
            before = self._known.get(held.run.pk)
            for source in held.sources.values():
                known = before.sources.get(source.pk) if before else None
                if known is not None and known.verdict == source.verdict and known.ended_ns == source.ended_ns:
                    continue
                key = (table.c.run_pk == source.run_pk, table.c.source_pk == source.pk)
                if known is None or known.verdict is not None:
                    self._connection.execute(sa.delete(table).where(*key))
                if source.verdict is not None:
                    row = records.verdict_row(source.verdict, source.ended_ns or source.last_ns)
                    self._store.insert(self._connection, table, [((source.run_pk, source.pk), [row])])

    def _write_standings(self) -> None:
        runs, sources = [], []
        for held in self._touched.values():
            before = self._known.get(held.run.pk)
            changed = [
                source for source in held.sources.values() if before is None or before.sources.get(source.pk) != source
            ]
            if changed or before is None or before.run != held.run:
                held.run.version += 1
                runs.append(_values(held.run))
                sources += [_values(source) for source in changed]
        if sources:
            self._connection.execute(_UPDATE_SOURCE, sources)
        if runs:
            self._connection.execute(_UPDATE_RUN, runs)


def rollup_row(done: Done) -> tuple[Any, ...]:
    """A row of `rollups` behind run and source."""
    return (done.level, done.of, done.bucket, *done.node)


def gpu_row(done: Done) -> tuple[Any, ...]:
    """A row of `gpu_rollups` behind run and source."""
    return (done.level, done.bucket, done.of, *done.node)


def _values(standing: RunState | SourceState) -> dict[str, Any]:
    values = dict(vars(standing))
    values["key"] = values.pop("pk")
    return values
