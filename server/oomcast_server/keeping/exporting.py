"""Reads a whole run from the store, chunk by chunk, so that its length costs no memory and holds no connection.

What is exported is what was stored when the export began. Each chunk is read by short statements of its own; a run that
is deleted, or loses samples to retention, while it is read ends the export with an error rather than with a hole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping, Table

from oomcast.sample import EVENT_COLUMNS, GPU_COLUMNS, SAMPLE_COLUMNS
from oomcast.wire import GpuDevice, RunInfo, SourceInfo, Status
from oomcast_server.errors import StoreUnavailable
from oomcast_server.store import schema
from oomcast_server.store.base import Store

__all__ = ["Chunk", "Exported", "ExportedSource", "chunks", "open_export"]

_MOST_ROWS = 5_000  # samples, or events, of a chunk
_MOST_READINGS = 20_000
_SCAN_ROWS = 50_000  # seqs looked through at once for GPUs


@dataclasses.dataclass(frozen=True)
class ExportedSource:
    """A source as it stood when the export began."""

    pk: int
    info: SourceInfo
    status: Status | None
    watermark: int
    kept_from: int


@dataclasses.dataclass(frozen=True)
class Exported:
    """What is to be exported."""

    pk: int
    run: RunInfo
    sources: Sequence[ExportedSource]
    events: int
    devices: Sequence[int]
    """GPUs of which there are readings; only looked for where they are asked for."""


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Neighbouring rows of one source, each kind in order of seq, in the columns' order of `sample.py`."""

    source: ExportedSource
    samples: Sequence[Sequence[Any]]
    gpus: Sequence[Sequence[Any]]
    events: Sequence[Sequence[Any]]


def open_export(store: Store, run_id: str, *, with_devices: bool) -> Exported | None:
    """The run of that id, ready to be read; None where there is none.

    Raises:
        StoreUnavailable: the database can't be read.
    """
    runs, sources, events = schema.runs, schema.sources, schema.events
    with store.read() as connection:
        run = connection.execute(sa.select(runs).where(runs.c.id == run_id)).mappings().one_or_none()
        if run is None:
            return None
        of_run = sa.select(sources).where(sources.c.run_pk == run["pk"]).order_by(sources.c.pk)
        found = [_source(row) for row in connection.execute(of_run).mappings()]
        counted = sa.select(sa.func.count()).select_from(events).where(events.c.run_pk == run["pk"])
        count = connection.execute(counted).scalar_one()
    info = RunInfo(
        id=run["id"], project=run["project"], name=run["name"], tags=msgspec.json.decode(run["tags"], type=list[str])
    )
    devices = {device for source in found if with_devices for device in _devices(store, run["pk"], source)}
    return Exported(run["pk"], info, found, count, sorted(devices))


def _source(row: RowMapping) -> ExportedSource:
    texts = ("user", "command", "python", "platform", "backend", "gpu_note", "kind", "launcher")
    numbers = ("id", "host", "pid", "started_ns", "rank", "local_rank", "world_size")
    gpus = msgspec.json.decode(row["gpus"], type=list[GpuDevice])
    info = SourceInfo(**{name: row[name] for name in (*numbers, *texts)}, gpus=gpus)
    status = msgspec.json.decode(row["status"], type=Status) if row["status"] else None
    return ExportedSource(row["pk"], info, status, row["watermark"], row["full_from"])


def _devices(store: Store, run_pk: int, source: ExportedSource) -> Iterator[int]:
    table = schema.gpu_samples
    here = _here(table, run_pk, source.pk)
    with store.read() as connection:
        query = sa.select(table.c.seq).where(*here).order_by(table.c.seq).limit(1)
        at = connection.execute(query).scalar()
    while at is not None and at <= source.watermark:
        until = at + _SCAN_ROWS
        with store.read() as connection:
            yield from connection.execute(
                sa.select(table.c.device).where(*here, table.c.seq.between(at, until - 1)).distinct()
            ).scalars()
            query = sa.select(table.c.seq).where(*here, table.c.seq >= until).order_by(table.c.seq).limit(1)
            at = connection.execute(query).scalar()


def chunks(store: Store, exported: Exported) -> Iterator[Chunk]:
    """Everything, source by source, in order of seq.

    Raises:
        StoreUnavailable: the database can't be read, or the run has lost rows since the export began.
    """
    for source in exported.sources:
        after = 0
        while after < source.watermark:
            with store.read() as connection:
                chunk, after = _chunk(connection, exported, source, after)
                _check(connection, exported, source)
            if chunk.samples or chunk.events:
                yield chunk


def _chunk(connection: Connection, exported: Exported, source: ExportedSource, after: int) -> tuple[Chunk, int]:
    samples = _rows(connection, schema.samples, SAMPLE_COLUMNS, exported, source, after)
    events = _rows(connection, schema.events, EVENT_COLUMNS, exported, source, after)
    # Where one of the two is cut off, the other must not run ahead of it.
    ends = [rows[-1][0] for rows in (samples, events) if len(rows) == _MOST_ROWS]
    through = min([source.watermark, *ends])
    gpus = _readings(connection, exported, source, after, through)
    if len(gpus) == _MOST_READINGS:
        through = gpus[-1][0] - 1  # the last seq may not be whole; no seq has so many devices
    samples, events = ([row for row in rows if row[0] <= through] for rows in (samples, events))
    measured = {row[0] for row in samples}
    gpus = [reading for reading in gpus if reading[0] in measured]
    return Chunk(source, samples, gpus, events), through


def _rows(
    connection: Connection,
    table: Table,
    names: Sequence[str],
    exported: Exported,
    source: ExportedSource,
    after: int,
) -> Sequence[Sequence[Any]]:
    seq = table.c.seq
    query = sa.select(*(table.c[name] for name in names)).where(
        *_here(table, exported.pk, source.pk), seq > after, seq <= source.watermark
    )
    return connection.execute(query.order_by(seq).limit(_MOST_ROWS)).all()


def _readings(
    connection: Connection, exported: Exported, source: ExportedSource, after: int, through: int
) -> Sequence[Sequence[Any]]:
    table = schema.gpu_samples
    seq = table.c.seq
    query = sa.select(*(table.c[name] for name in GPU_COLUMNS)).where(
        *_here(table, exported.pk, source.pk), seq > after, seq <= through
    )
    return connection.execute(query.order_by(seq, table.c.device).limit(_MOST_READINGS)).all()


def _here(table: Table, run_pk: int, source_pk: int) -> tuple[Any, Any]:
    return table.c.run_pk == run_pk, table.c.source_pk == source_pk


def _check(connection: Connection, exported: Exported, source: ExportedSource) -> None:
    table = schema.sources
    query = sa.select(table.c.full_from).where(table.c.pk == source.pk, table.c.run_pk == exported.pk)
    kept_from = connection.execute(query).scalar()
    if kept_from != source.kept_from:
        what = "was deleted" if kept_from is None else "has lost samples to retention"
        raise StoreUnavailable(f"the run {what} while it was exported: export it again")
