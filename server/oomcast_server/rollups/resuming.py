"""The unfinished rollups of a source, made again of what the store has of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from oomcast.sample import SAMPLE_COLUMNS
from oomcast_server.intake.known import Pyramids
from oomcast_server.rollups.pyramids import open_buckets
from oomcast_server.store.schema import GPU_METRICS, gpu_rollups, gpu_samples, rollups, samples

__all__ = ["readings_between", "resume", "samples_between"]

Place = tuple[int, int]  # a source: pk of its run, and its own

_ROLLUP_VALUES = [column for column in rollups.c if not column.primary_key]
_GPU_ROLLUP_VALUES = [column for column in gpu_rollups.c if not column.primary_key]


def resume(connection: Connection, run_pk: int, source_pk: int, watermark: int) -> Pyramids:
    """The unfinished rollups of a source whose rows up to `watermark` are stored: a few dozen rows are read."""
    pyramids, place = Pyramids(), (run_pk, source_pk)
    for level, bucket, first, last in open_buckets(watermark):
        if level > 1:
            for row in _finished(connection, place, level - 1, first, last):
                pyramids.samples.put(level, row[0], bucket, list(row[1:]))
            for row in _finished_gpus(connection, place, level - 1, first, last):
                pyramids.gpus.put(level, row[0], bucket, list(row[1:]))
            continue
        for of, rows in samples_between(connection, place, first, last).items():
            pyramids.samples.wait(of, rows)
        for of, rows in readings_between(connection, place, first, last).items():
            pyramids.gpus.wait(of, rows)
    return pyramids


def _finished(connection: Connection, place: Place, level: int, first: int, last: int) -> Sequence[Row[Any]]:
    table = rollups.c
    here = (table.run_pk == place[0], table.source_pk == place[1], table.level == level)
    query = sa.select(table.kind, *_ROLLUP_VALUES).where(*here, table.bucket.between(first, last))
    return connection.execute(query.order_by(table.kind, table.bucket)).all()


def _finished_gpus(connection: Connection, place: Place, level: int, first: int, last: int) -> Sequence[Row[Any]]:
    table = gpu_rollups.c
    here = (table.run_pk == place[0], table.source_pk == place[1], table.level == level)
    query = sa.select(table.device, *_GPU_ROLLUP_VALUES).where(*here, table.bucket.between(first, last))
    return connection.execute(query.order_by(table.device, table.bucket)).all()


def samples_between(connection: Connection, place: Place, first: int, last: int) -> dict[int, list[Row[Any]]]:
    """Samples apart by kind, each in the order of `SAMPLE_COLUMNS`."""
    table = samples.c
    here = (table.run_pk == place[0], table.source_pk == place[1], table.seq.between(first, last))
    query = sa.select(*(table[name] for name in SAMPLE_COLUMNS)).where(*here).order_by(table.seq)
    return _apart(connection.execute(query).all(), at=1)


def readings_between(connection: Connection, place: Place, first: int, last: int) -> dict[int, list[Any]]:
    """GPU readings apart by device, each as `rollups.roll_readings` takes it."""
    gpu, sample = gpu_samples.c, samples.c
    same = sa.and_(gpu.run_pk == sample.run_pk, gpu.source_pk == sample.source_pk, gpu.seq == sample.seq)
    here = (gpu.run_pk == place[0], gpu.source_pk == place[1], gpu.seq.between(first, last))
    query = (
        sa.select(gpu.device, gpu.seq, sample.wall_ns, sample.batch, *(gpu[name] for name in GPU_METRICS))
        .select_from(gpu_samples.join(samples, same))
        .where(*here)
        .order_by(gpu.seq)
    )
    apart = _apart(connection.execute(query).all(), at=0)
    return {device: [row[1:] for row in rows] for device, rows in apart.items()}


def _apart(rows: Sequence[Row[Any]], at: int) -> dict[int, list[Row[Any]]]:
    apart: defaultdict[int, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        apart[row[at]].append(row)
    return dict(apart)
