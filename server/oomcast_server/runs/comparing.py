"""Reads what runs came to, from the rollups of their sources: some hundred rows, however long they were."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from oomcast.sample import Kind
from oomcast_server.rest.shapes import RunFigures, SourceDetail, SourceFigures
from oomcast_server.rollups.pyramids import TOP_LEVEL, Piece, cover, width
from oomcast_server.runs.figures import Bucket, Totals, total
from oomcast_server.runs.presence import Presence
from oomcast_server.runs.query import RunStanding, standing_of
from oomcast_server.store import schema
from oomcast_server.store.base import Store
from oomcast_server.store.schema import rollups, samples

__all__ = ["run_figures"]

_BUCKETS = 400  # at about so many points a slope is as good as over all samples
_MOST_BUCKETS = 20_000  # of all sources of a run
_FIELDS = [field.name for field in dataclasses.fields(Bucket)]


def run_figures(store: Store, presence: Presence, run_id: str, now_ns: int) -> RunFigures | None:
    """What the run came to, or None where there is none of that id.

    Raises:
        StoreUnavailable: the database can't be read.
    """
    found = standing_of(store, presence, run_id, now_ns)
    if found is None:
        return None
    buckets = max(16, min(_BUCKETS, _MOST_BUCKETS // max(1, len(found.sources))))
    with store.read() as connection:
        kept = _kept(connection, found)
        sources = [
            _source_figures(connection, found.pk, pk, source, kept.get(pk, _NOTHING_KEPT), buckets)
            for pk, source in zip(found.source_pks, found.sources, strict=True)
        ]
    run = found.summary
    return RunFigures(
        id=run.id,
        project=run.project,
        name=run.name,
        tags=run.tags,
        state=run.state,
        created_ms=run.created_ms,
        ended_ms=run.ended_ms,
        verdict=run.verdict,
        main_source=run.main_source,
        sources=sources,
    )


@dataclasses.dataclass(frozen=True)
class _Kept:
    """What is still there of a source."""

    has_batches: bool
    full_from: int
    rollups_from: int


_NOTHING_KEPT = _Kept(False, 1, 1)


def _kept(connection: Connection, found: RunStanding) -> dict[int, _Kept]:
    table = schema.sources.c
    columns = (table.pk, table.batch_samples, table.full_from, table.rollups_from)
    rows = connection.execute(sa.select(*columns).where(table.run_pk == found.pk))
    return {pk: _Kept(batches > 0, full, rolls) for pk, batches, full, rolls in rows}


def _source_figures(
    connection: Connection, run_pk: int, source_pk: int, source: SourceDetail, kept: _Kept, buckets: int
) -> SourceFigures:
    kind = Kind.BATCH if kept.has_batches else Kind.TICK
    totals = total(_Reader(connection, run_pk, source_pk, kind).read(source.watermark, buckets))
    return SourceFigures(
        id=source.id,
        host=source.host,
        rank=source.rank,
        main=source.main,
        state=source.state,
        complete=kept.rollups_from <= 1 and kept.full_from <= _first_unrolled(source.watermark),
        samples=totals.rows,
        batches=totals.batches if kept.has_batches else None,
        epochs=source.epoch + 1 if source.epoch is not None else None,
        duration_s=_duration_s(source, totals),
        batches_per_s=totals.batches_per_s if kept.has_batches else None,
        rss_mean_bytes=totals.rss_mean_bytes,
        rss_max_bytes=totals.rss_max_bytes,
        peak_bytes=source.peak_bytes if source.peak_bytes is not None else totals.peak_bytes,
        limit_bytes=source.limit_bytes,
        peak_share=_share(source.peak_bytes, source.limit_bytes),
        growth_bytes_per_batch=totals.growth_bytes_per_batch if kept.has_batches else None,
        minor_faults=totals.minor_faults,
        major_faults=totals.major_faults,
        swap_in_bytes=totals.swap_in_bytes,
        swap_out_bytes=totals.swap_out_bytes,
        stall_share=totals.stall_share,
    )


def _first_unrolled(watermark: int) -> int:
    """The first of the newest samples, which are not in any rollup yet."""
    return watermark // width(1) * width(1) + 1


def _duration_s(source: SourceDetail, totals: Totals) -> float | None:
    last_ms = source.ended_ms if source.ended_ms is not None else (totals.wall_ns_max or 0) / 1e6
    return (last_ms - source.started_ms) / 1e3 if last_ms >= source.started_ms else None


def _share(used_bytes: int | None, limit_bytes: int | None) -> float | None:
    return used_bytes / limit_bytes if used_bytes is not None and limit_bytes else None


class _Reader:
    """One source's samples of one kind, in buckets."""

    def __init__(self, connection: Connection, run_pk: int, source_pk: int, kind: Kind) -> None:
        self._connection = connection
        self._place = (run_pk, source_pk)
        self._kind = int(kind)

    def read(self, watermark: int, most: int) -> list[Bucket]:
        """About `most` buckets over all samples up to `watermark`."""
        level = next((level for level in range(TOP_LEVEL) if width(level) * most >= watermark), TOP_LEVEL)
        return [bucket for piece in cover(1, watermark, level) for bucket in self._piece(piece)]

    def _piece(self, piece: Piece) -> Sequence[Bucket]:
        if piece.level == 0:
            return self._rows(piece.first, piece.last)
        table = rollups.c
        query = sa.select(*(table[name] for name in _FIELDS)).where(
            *(table.run_pk == self._place[0], table.source_pk == self._place[1]),
            *(table.level == piece.level, table.kind == self._kind, table.bucket.between(piece.first, piece.last)),
        )
        return _buckets(self._connection, query)

    def _rows(self, first: int, last: int) -> Sequence[Bucket]:
        table = samples.c
        query = sa.select(*(_of_one(name) for name in _FIELDS)).where(
            *(table.run_pk == self._place[0], table.source_pk == self._place[1]),
            *(table.kind == self._kind, table.seq.between(first, last)),
        )
        return _buckets(self._connection, query.order_by(table.seq))


def _buckets(connection: Connection, query: sa.Select[Any]) -> list[Bucket]:
    return [Bucket(**dict(zip(_FIELDS, row, strict=True))) for row in connection.execute(query)]


def _of_one(name: str) -> sa.ColumnElement[Any]:
    base = name.removesuffix("_min").removesuffix("_max").removesuffix("_sum")
    return sa.literal(1) if name == "rows" else samples.c[base]
