"""One transaction's worth of messages, and what is known between transactions."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from oomcast.sample import Event
from oomcast.wire import Frame, GpuDevice, Hello, SourceInfo
from oomcast_server.standing import RunState, SourceState, fold_source, settle_run
from oomcast_server.store import schema
from oomcast_server.store.schema import State
from oomcast_server.store.sqlite import SqliteStore
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
        self._sources_of: dict[int, list[SourceState]] = {}

    def run(self, pk: int) -> RunState:
        """The run's standing, to be changed in place."""
        if pk not in self.runs:
            known = self._known.runs.get(pk)
            self.runs[pk] = copy.copy(known) if known else self._load_run(pk)
        return self.runs[pk]

    def source(self, pk: int) -> SourceState:
        """The source's standing, to be changed in place."""
        if pk not in self.sources:
            known = self._known.sources.get(pk)
            self.sources[pk] = copy.copy(known) if known else self._load_source(pk)
        return self.sources[pk]

    def _load_run(self, pk: int) -> RunState:
        columns = [schema.runs.c[name] for name in _RUN_FIELDS]
        row = self._connection.execute(sa.select(*columns).where(schema.runs.c.pk == pk)).one()
        return RunState(**row._mapping)

    def _load_source(self, pk: int) -> SourceState:
        columns = [schema.sources.c[name] for name in _SOURCE_FIELDS]
        row = self._connection.execute(sa.select(*columns).where(schema.sources.c.pk == pk)).one()
        return SourceState(**row._mapping)

    def sources_of(self, run: RunState) -> Sequence[SourceState]:
        """Every source of the run, in the order in which they came."""
        if run.pk not in self._sources_of:
            table = schema.sources
            pks = sa.select(table.c.pk).where(table.c.run_pk == run.pk).order_by(table.c.pk)
            self._sources_of[run.pk] = [self.source(pk) for pk in self._connection.execute(pks).scalars()]
        return self._sources_of[run.pk]

    def register(self, hello: Hello) -> SourceState:
        """The source of `hello`, and its run, made where they are new. What was said first stands."""
        run = self.run(self._run_pk(hello))
        table = schema.sources
        known = sa.select(table.c.pk).where(table.c.run_pk == run.pk, table.c.id == hello.source.id)
        pk = self._connection.execute(known).scalar()
        if pk is None:
            run.sources += 1
            run.last_ns = self._now_ns
            pk = self._insert(table, _source_row(run.pk, hello.source, self._now_ns))
            self._sources_of.pop(run.pk, None)
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
            status=frame.status,
        )

    def add(self, source: SourceState, frame: Frame) -> None:
        """Store the rows of `frame`, all of them new, and fold them into the standings."""
        if frame.samples:
            self._store.insert_samples(self._connection, source.pk, frame.samples)
        if frame.gpus:
            self._store.insert_gpus(self._connection, source.pk, frame.gpus)
        if frame.events:
            rows = [_event_row(source.pk, event) for event in frame.events]
            self._connection.execute(sa.insert(schema.events).prefix_with("OR IGNORE", dialect="sqlite"), rows)
        fold_source(source, frame.last_seq, frame.samples, frame.events, frame.status, self._now_ns)
        run = self.run(source.run_pk)
        run.last_ns = self._now_ns
        run.samples += len(frame.samples)

    def write_standings(self) -> None:
        """Settle the runs and write the changed standings, as the transaction's last step."""
        for run in self.runs.values():
            settle_run(run, self.sources_of(run))
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


def _source_row(run_pk: int, source: SourceInfo, now_ns: int) -> dict[str, Any]:
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
    }


def _gpu(gpu: GpuDevice) -> dict[str, Any]:
    texts = {"uuid": clean(gpu.uuid), "name": clean(gpu.name), "instance": gpu.instance and clean(gpu.instance)}
    return {**msgspec.structs.asdict(gpu), **texts}


def _event_row(source_pk: int, event: Event) -> dict[str, Any]:
    return {"source_pk": source_pk, **event._asdict(), "detail": msgspec.json.encode(event.detail).decode()}
