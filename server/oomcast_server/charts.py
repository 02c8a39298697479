"""A source's samples at screen resolution, read with least and largest of each bucket.

Buckets hold about equally many rows, and each is one range of seqs, so that SQLite reads it from the table's own order,
without sorting: measured, half the time of a GROUP BY. Every statement is short, so no reader holds the WAL for long.
"""

# ruff: noqa: S608 - the texts are made of this module's own words; every value is bound

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection

from oomcast.sample import SAMPLE_COLUMNS, Kind
from oomcast_server.query import SourceKey
from oomcast_server.shapes import GpuSeries, Series, Span, TickSeries
from oomcast_server.store.sqlite import SqliteStore
from oomcast_server.tables import (
    GPU_FIGURES,
    METRICS,
    PER_BATCH,
    TICK_METRICS,
    columns_of,
    gpu_series,
    metrics_of,
    tick_columns_of,
    tick_metrics_of,
)

__all__ = ["Range", "read_series"]

Row = Sequence[Any]

_COLUMNS = ", ".join(SAMPLE_COLUMNS)
_SAMPLES = "samples s"
# By the index of ticks alone: among a million batches a few thousand of them would be sought for long.
_TICKS = "samples s INDEXED BY samples_ticks"


@dataclasses.dataclass(frozen=True)
class Range:
    """Which samples of a source a chart shows: by batch number, or by time in ns; ends are inclusive, None is open."""

    by_batch: bool
    begin: int | None = None
    end: int | None = None

    @property
    def where(self) -> tuple[str, tuple[int, ...]]:
        """The condition on `samples` (called s) and its parameters."""
        column = "s.batch" if self.by_batch else "s.wall_ns"
        conditions = [f"s.kind = {Kind.BATCH.value}", "s.batch IS NOT NULL"] if self.by_batch else []
        return self._bounded(conditions, column)

    @property
    def where_ticks(self) -> tuple[str, tuple[int, ...]]:
        """The same for ticks, whatever x is; each stands at the last batch that had ended."""
        return self._bounded([f"s.kind = {Kind.TICK.value}"], "s.batch" if self.by_batch else "s.wall_ns")

    @property
    def where_gpu(self) -> tuple[str, tuple[int, ...]]:
        """The same for the samples of either kind that GPU readings belong to."""
        return self._bounded([], "s.batch" if self.by_batch else "s.wall_ns")

    def _bounded(self, conditions: list[str], column: str) -> tuple[str, tuple[int, ...]]:
        bounds = [(f"{column} >= ?", self.begin), (f"{column} <= ?", self.end)]
        given = [(condition, value) for condition, value in bounds if value is not None]
        texts = [*conditions, *(condition for condition, _ in given)]
        return " AND ".join(["s.source_pk = ?", *texts]), tuple(value for _, value in given)


@dataclasses.dataclass
class _Bucket:
    """Rows that the chart shows as one: how many, the newest one's seq, and least and largest of each metric."""

    rows: int
    last_seq: int
    least: list[int | None]
    largest: list[int | None]

    def take(self, following: _Bucket) -> None:
        self.rows += following.rows
        self.last_seq = following.last_seq
        self.least = [_chosen(min, pair) for pair in zip(self.least, following.least, strict=True)]
        self.largest = [_chosen(max, pair) for pair in zip(self.largest, following.largest, strict=True)]


def _chosen(choose: Any, pair: tuple[int | None, int | None]) -> int | None:
    known = [value for value in pair if value is not None]
    return choose(known) if known else None


def read_series(store: SqliteStore, run_id: str, source: SourceKey, wanted: Range, points: int) -> Series:
    """What a chart of at most `points` points shows of the source's samples in `wanted`.

    Raises:
        StoreUnavailable: the database can't be read, or not in time.
    """
    blank_ticks = source.has_batches
    with store.read() as connection:
        measured = [_measured(name, blank_ticks) for name in METRICS]
        shown = _Reader(connection, source.pk, _SAMPLES, wanted.where, measured).read(points)
        ticks = _Reader(connection, source.pk, _TICKS, wanted.where_ticks, [f"s.{name}" for name in TICK_METRICS])
        shown_ticks = ticks.read(points)
        gpus = _read_gpus(connection, source.pk, wanted, points)
    return Series(
        run=run_id,
        source=source.id,
        x="batch" if wanted.by_batch else "time",
        bucket=shown.bucket,
        rows=shown.rows,
        watermark=shown.last_seq,
        columns=columns_of(shown.samples),
        metrics=_spans(metrics_of(shown.samples, blank_ticks=blank_ticks), shown.buckets),
        ticks=TickSeries(
            columns=tick_columns_of(shown_ticks.samples),
            metrics=_spans(tick_metrics_of(shown_ticks.samples), shown_ticks.buckets),
        ),
        gpus=gpus,
    )


def _spans(last: dict[str, list[Any]], buckets: Sequence[_Bucket] | None) -> dict[str, Span]:
    if buckets is None:
        return {name: Span(last=values) for name, values in last.items()}
    return {
        name: Span(last=values, min=[b.least[at] for b in buckets], max=[b.largest[at] for b in buckets])
        for at, (name, values) in enumerate(last.items())
    }


@dataclasses.dataclass(frozen=True)
class _Shown:
    """Samples to be shown; `buckets` are what stands behind each, or None where each stands for itself."""

    rows: int
    last_seq: int
    samples: Sequence[Row]
    buckets: Sequence[_Bucket] | None

    @property
    def bucket(self) -> int:
        return 1 if self.buckets is None else -(-self.rows // len(self.buckets))


class _Reader:
    """The statements for one kind of rows. All values are bound; the texts are made of this module's own words only."""

    def __init__(
        self,
        connection: Connection,
        source_pk: int,
        table: str,
        where: tuple[str, tuple[int, ...]],
        measured: Sequence[str],
    ) -> None:
        self._connection = connection
        self._source_pk = source_pk
        self._table = table
        self._where, bounds = where
        self._parameters = (source_pk, *bounds)
        self._width = len(measured)
        least, largest = (", ".join(f"{kind}({text})" for text in measured) for kind in ("min", "max"))
        self._bucket_sql = (
            f"SELECT count(*), max(s.seq), {least}, {largest} FROM {table} "
            f"WHERE {self._where} AND s.seq BETWEEN ? AND ?"
        )

    def read(self, points: int) -> _Shown:
        """At most `points` samples."""
        rows, first, last = self.extent()
        if rows <= points:
            return _Shown(rows, last, self.all_rows(), None)
        buckets = self.buckets(rows, first, last, points)
        return _Shown(rows, last, self.rows_at([b.last_seq for b in buckets]), buckets)

    def _all(self, sql: str, parameters: tuple[int, ...]) -> Sequence[Row]:
        return self._connection.exec_driver_sql(sql, parameters).all()

    def extent(self) -> tuple[int, int, int]:
        """How many rows there are, and their first and last seq (0 where there are none)."""
        sql = f"SELECT count(*), min(s.seq), max(s.seq) FROM {self._table} WHERE {self._where}"
        rows, first, last = self._all(sql, self._parameters)[0]
        return rows, first or 0, last or 0

    def all_rows(self) -> Sequence[Row]:
        """Every row, in order of seq."""
        return self._all(f"SELECT {_COLUMNS} FROM {self._table} WHERE {self._where} ORDER BY s.seq", self._parameters)

    def rows_at(self, seqs: Sequence[int]) -> Sequence[Row]:
        """The rows of these seqs."""
        sql = f"SELECT {_COLUMNS} FROM samples WHERE source_pk = ? AND seq = ?"
        return [self._all(sql, (self._source_pk, seq))[0] for seq in seqs]

    def buckets(self, rows: int, first: int, last: int, points: int) -> list[_Bucket]:
        """At most `points` buckets over the seqs from `first` to `last`."""
        target = -(-rows // (points - 1))
        merged: list[_Bucket] = []
        for bucket in self._fine_buckets(first, last, points, target):
            if merged and merged[-1].rows + bucket.rows <= target:
                merged[-1].take(bucket)
            else:
                merged.append(bucket)
        return merged

    def _fine_buckets(self, first: int, last: int, points: int, target: int) -> Iterator[_Bucket]:
        for begin, end in _cut(first, last, points):
            bucket = self._bucket(begin, end)
            if bucket is None:
                continue
            if bucket.rows <= 2 * target or begin == end:
                yield bucket
                continue
            # Rows stand more densely here than elsewhere (other seqs are ticks or events): cut it finer.
            finer = (self._bucket(*piece) for piece in _cut(begin, end, -(-bucket.rows // target)))
            yield from (piece for piece in finer if piece is not None)

    def _bucket(self, begin: int, end: int) -> _Bucket | None:
        row = self._all(self._bucket_sql, (*self._parameters, begin, end))[0]
        if row[0] == 0:
            return None
        return _Bucket(row[0], row[1], list(row[2 : 2 + self._width]), list(row[2 + self._width :]))


def _read_gpus(connection: Connection, source_pk: int, wanted: Range, points: int) -> list[GpuSeries]:
    """The devices' readings; where there are more than `points` for each, the largest of each range of seqs."""
    where, bounds = wanted.where_gpu
    parameters = (source_pk, *bounds)
    tables = f"gpu_samples g JOIN samples s ON s.source_pk = g.source_pk AND s.seq = g.seq WHERE {where}"
    counts = f"SELECT count(DISTINCT g.device), count(*), min(g.seq), max(g.seq) FROM {tables}"
    devices, rows, first, last = connection.exec_driver_sql(counts, parameters).one()
    if rows <= points * max(devices, 1):
        columns = ", ".join(f"g.{name}" for name in GPU_FIGURES)
        sql = f"SELECT g.device, s.wall_ns, s.batch, {columns} FROM {tables} ORDER BY g.seq, g.device"
        return gpu_series(connection.exec_driver_sql(sql, parameters).all())
    columns = ", ".join(f"max(g.{name})" for name in GPU_FIGURES)
    sql = (
        f"SELECT g.device, max(s.wall_ns), max(s.batch), {columns} FROM {tables} "
        "AND g.seq BETWEEN ? AND ? GROUP BY g.device"
    )
    pieces = _cut(first, last, points)
    return gpu_series(row for piece in pieces for row in connection.exec_driver_sql(sql, (*parameters, *piece)).all())


def _measured(name: str, blank_ticks: bool) -> str:
    per_batch = blank_ticks and name in PER_BATCH
    return f"CASE WHEN s.kind = {Kind.BATCH.value} THEN s.{name} END" if per_batch else f"s.{name}"


def _cut(first: int, last: int, pieces: int) -> Iterator[tuple[int, int]]:
    width = max(1, -(-(last - first + 1) // pieces))
    for begin in range(first, last + 1, width):
        yield begin, min(begin + width - 1, last)
