"""One transaction's worth of messages, and what is known between transactions."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from oomcast.sample import Event
from oomcast.wire import Frame, Hello, SourceInfo
from oomcast_server.store import schema
from oomcast_server.store.schema import State
from oomcast_server.store.sqlite import SqliteStore
from oomcast_server.summary import RunState, SourceState, fold_run, fold_source, run_state_of
from oomcast_server.text import clean, clean_or

__all__ = ["Batch", "Known"]

_MOST_KNOWN = 4_000

_RUN_FIELDS = [field.name for field in dataclasses.fields(RunState)]
_SOURCE_FIELDS = [field.name for field in dataclasses.fields(SourceState)]


class Known:
    """Standings as they are on the disk, so that a frame needn't read them; forgets all when it grows too large."""

    def __init__(self) -> None:
        self.runs: dict[int, RunState] = {}
        self.sources: dict[int, SourceState] = {}

    def keep(self, batch: Batch) -> None:
        """Take over what `batch` has committed."""
        if len(self.runs) + len(self.sources) > _MOST_KNOWN:
            self.runs.clear()
            self.sources.clear()
        self.runs.update(batch.runs)
        self.sources.update(batch.sources)


class Batch:
    """Works on copies of the standings, which become known only when the transaction is on the disk."""

    def __init__(self, store: SqliteStore, connection: Connection, known: Known, now_ns: int) -> None:
        self._store = store
        self._connection = connection
        self._known = known
        self._now_ns = now_ns
        self.runs: dict[int, RunState] = {}
        self.sources: dict[int, SourceState] = {}

    def run(self, pk: int) -> RunState:
        """The run's standing, to be changed in place."""
        if pk not in self.runs:
            known = self._known.runs.get(pk)
            self.runs[pk] = dataclasses.replace(known) if known else self._load_run(pk)
        return self.runs[pk]

    def source(self, pk: int) -> SourceState:
        """The source's standing, to be changed in place."""
        if pk not in self.sources:
            known = self._known.sources.get(pk)
            self.sources[pk] = dataclasses.replace(known) if known else self._load_source(pk)
        return self.sources[pk]

    def _load_run(self, pk: int) -> RunState:
        columns = [schema.runs.c[name] for name in _RUN_FIELDS]
        return RunState(*self._connection.execute(sa.select(*columns).where(schema.runs.c.pk == pk)).one())

    def _load_source(self, pk: int) -> SourceState:
        columns = [schema.sources.c[name] for name in _SOURCE_FIELDS]
        return SourceState(*self._connection.execute(sa.select(*columns).where(schema.sources.c.pk == pk)).one())

    def register(self, hello: Hello) -> SourceState:
        """The source of `hello`, and its run, made where they are new. What was said first stands."""
        run = self.run(self._run_pk(hello))
        table = schema.sources
        known = sa.select(table.c.pk).where(table.c.run_pk == run.pk, table.c.id == hello.source.id)
        pk = self._connection.execute(known).scalar()
        if pk is None:
            run.sources += 1
            run.state, run.ended_ns = State.LIVE, None
            run.last_ns = max(run.last_ns, self._now_ns)
            pk = self._insert(table, _source_row(run.pk, hello.source))
        return self.source(pk)

    def _run_pk(self, hello: Hello) -> int:
        table = schema.runs
        pk = self._connection.execute(sa.select(table.c.pk).where(table.c.id == hello.run.id)).scalar()
        return pk if pk is not None else self._insert(table, _run_row(hello, self._now_ns))

    def _insert(self, table: sa.Table, values: dict[str, Any]) -> int:
        pk = self._connection.execute(sa.insert(table).values(values)).inserted_primary_key
        assert pk is not None
        return int(pk[0])

    def new_rows(self, source_pk: int, frame: Frame) -> Frame | None:
        """What of `frame` is not stored yet, or None if that is nothing or doesn't follow on what is."""
        watermark = self.source(source_pk).watermark
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
        )

    def add(self, source: SourceState, frame: Frame) -> RunState:
        """Store the rows of `frame`, all of them new, and fold them into the standings."""
        if frame.samples:
            self._store.insert_samples(self._connection, source.pk, frame.samples)
        if frame.gpus:
            rows = [{"source_pk": source.pk, **reading._asdict()} for reading in frame.gpus]
            self._connection.execute(sa.insert(schema.gpu_samples).prefix_with("OR IGNORE", dialect="sqlite"), rows)
        if frame.events:
            rows = [_event_row(source.pk, event) for event in frame.events]
            self._connection.execute(sa.insert(schema.events).prefix_with("OR IGNORE", dialect="sqlite"), rows)
        run, before = self.run(source.run_pk), source.state
        fold_source(source, frame.last_seq, frame.samples, frame.events)
        fold_run(run, frame.samples, frame.events, self._now_ns)
        if source.state != before:
            run.state = self._run_state(run, source)
        return run

    def _run_state(self, run: RunState, source: SourceState) -> State:
        table = schema.sources
        stored = self._connection.execute(sa.select(table.c.pk, table.c.state).where(table.c.run_pk == run.pk))
        states: dict[int, int] = {row.pk: row.state for row in stored}
        states.update({other.pk: other.state for other in self.sources.values() if other.run_pk == run.pk})
        return run_state_of([*states.values(), source.state])

    def write_standings(self) -> None:
        """Write the changed standings, as the transaction's last step."""
        for table, standings in ((schema.runs, self.runs), (schema.sources, self.sources)):
            changed = [
                dataclasses.asdict(standing) for pk, standing in standings.items() if self._changed(pk, standing)
            ]
            for values in changed:
                pk = values.pop("pk")
                self._connection.execute(sa.update(table).where(table.c.pk == pk).values(values))

    def _changed(self, pk: int, standing: RunState | SourceState) -> bool:
        known = self._known.runs if isinstance(standing, RunState) else self._known.sources
        return known.get(pk) != standing


def _run_row(hello: Hello, now_ns: int) -> dict[str, Any]:
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


def _source_row(run_pk: int, source: SourceInfo) -> dict[str, Any]:
    gpus = [
        {"device": gpu.device, "uuid": clean(gpu.uuid), "name": clean(gpu.name), "total_bytes": gpu.total_bytes}
        for gpu in source.gpus
    ]
    texts = ("user", "command", "python", "platform", "backend", "gpu_note")
    return {
        "run_pk": run_pk,
        "id": source.id,
        "host": clean_or(source.host, "unknown"),
        "pid": source.pid,
        "rank": source.rank,
        **{name: clean_or(getattr(source, name), "") or None for name in texts},
        "gpus": msgspec.json.encode(gpus).decode(),
        "started_ns": source.started_ns,
        "state": int(State.LIVE),
        "watermark": 0,
        "batch_samples": 0,
    }


def _event_row(source_pk: int, event: Event) -> dict[str, Any]:
    return {"source_pk": source_pk, **event._asdict(), "detail": msgspec.json.encode(event.detail).decode()}
