"""Ranges of a source's samples read at any resolution: rollups in the middle, samples at the edges.

However many samples a range has, the rows that are read are some thousand: of the coarsest level that gives a chart
enough points, and at most fifteen samples and six nodes of each finer level beside it.
"""

# ruff: noqa: S608 - the texts are made of this module's and the schema's own words; every value is bound

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from oomcast.sample import Kind
from oomcast_server.charts.strips import PLACES, Strip, joined
from oomcast_server.rollups.pyramids import TOP_LEVEL, Piece, cover, width
from oomcast_server.store.schema import SUMMED

__all__ = ["Reader", "Span"]

_BATCH, _TICK = Kind.BATCH.value, Kind.TICK.value
# Rows to read for each point that is wanted. A node costs three times what a sample does, and of two levels the coarser
# one has more than half a point for each.
_MOST_NODES = 2
_MOST_SAMPLES = 6


@dataclasses.dataclass(frozen=True)
class Span:
    """A part of the axis: batches, or times in ns; ends are inclusive, None is open."""

    by_batch: bool
    begin: int | None = None
    end: int | None = None

    @property
    def column(self) -> str:
        """What of a sample is compared with the ends."""
        return "batch" if self.by_batch else "wall_ns"

    @property
    def ends(self) -> dict[str, int]:
        """The ends that there are, as parameters."""
        given = {"begin": self.begin, "end": self.end}
        return {name: value for name, value in given.items() if value is not None}

    def condition(self, sample: str) -> str:
        """As SQL on the samples called so."""
        texts = [f" AND {sample}.{self.column} {'>=' if end == 'begin' else '<='} :{end}" for end in self.ends]
        return "".join(texts)


class Reader:
    """Reads one source; use it on one connection, at once."""

    def __init__(self, connection: Connection, run_pk: int, source_pk: int) -> None:
        self._connection = connection
        self._place = {"run": run_pk, "source": source_pk}
        self.rows_read = 0
        self._sqlite = connection.dialect.name == "sqlite"
        row = self._all("SELECT watermark, full_from, rollups_from FROM sources WHERE run_pk = :run AND pk = :source")
        watermark, full_from, rollups_from = row[0] if row else (0, 1, 1)
        self.watermark: int = watermark
        self._full_from: int = full_from
        self._first: int = rollups_from

    def _all(self, text: str, **parameters: Any) -> Sequence[Any]:
        result = self._connection.execute(_statement(text), {**self._place, **parameters})
        # The driver's own tuples: to wrap each in a row object takes as long as to read it.
        assert result.cursor is not None
        rows: Sequence[Any] = result.cursor.fetchall()
        result.close()
        self.rows_read += len(rows)
        return rows

    # Where on the axis a seq is.

    def seqs(self, span: Span, kinds: Sequence[int]) -> tuple[int, int] | None:
        """First and last seq between which all samples of `span` stand; None where there are none."""
        if self.watermark < self._first:
            return None
        first: int | None = self._first
        last: int | None = self.watermark
        pieces = cover(self._first, self.watermark, TOP_LEVEL)
        if span.begin is not None:
            first = self._seek(pieces, kinds, f"{span.column} >= :x", f"{span.column}_max >= :x", span.begin, "")
        if span.end is not None:
            down = list(reversed(pieces))
            last = self._seek(down, kinds, f"{span.column} <= :x", f"{span.column}_min <= :x", span.end, " DESC")
        return (first, last) if first is not None and last is not None and first <= last else None

    def _seek(
        self, pieces: Sequence[Piece], kinds: Sequence[int], sample: str, node: str, x: int, order: str
    ) -> int | None:
        """The first seq, in this order, of a sample that `x` is true of: down from the coarsest nodes."""
        of = f"kind IN ({', '.join(map(str, kinds))})"
        for piece in pieces:
            level, first, last = piece
            while True:
                table, seq = ("rollups", "bucket") if level else ("samples", "seq")
                where = f"run_pk = :run AND source_pk = :source AND {of} AND {node if level else sample}"
                at_level = "AND level = :level " if level else ""
                text = f"SELECT {seq} FROM {table} WHERE {where} {at_level}AND {seq} BETWEEN :first AND :last "
                text += f"ORDER BY {seq}{order} LIMIT 1"
                given = {"level": level} if level else {}
                rows = self._all(text, x=x, first=first, last=last, **given)
                if not rows:
                    break
                found = rows[0][0]
                if level == 0:
                    return int(found)
                begin, end = found * width(level) + 1, (found + 1) * width(level)
                if level == 1 and begin < self._full_from:  # the samples themselves are gone
                    return int(end if order else begin)
                level -= 1
                first, last = (begin, end) if level == 0 else ((begin - 1) // width(level), end // width(level) - 1)
        return None

    # What stands there.

    def samples(self, seqs: tuple[int, int], span: Span, kind: int, names: Sequence[str], points: int) -> Strip:
        """Samples of this kind, or nodes of them: enough for a chart of `points` points, and few times more."""
        first, last, floor = self._kept(*seqs)
        level = max(floor, _level(first, last, _MOST_NODES * points))
        while True:
            pieces = cover(first, last, level)
            strip = joined([self._piece(piece, span, kind, names) for piece in pieces])
            if level > floor and _is_coarse(level, strip, points):
                level -= 1
                continue
            return strip

    def _kept(self, first: int, last: int) -> tuple[int, int, int]:
        """The seqs, and the finest level, that are still there: pruned samples are shown by the nodes around them."""
        if first >= self._full_from:
            return first, last, 0
        wide = width(1)
        if last < self._full_from:
            last = -(-last // wide) * wide
        return (first - 1) // wide * wide + 1, last, 1

    def _piece(self, piece: Piece, span: Span, kind: int, names: Sequence[str]) -> Strip:
        bounds = {"first": piece.first, "last": piece.last}
        if piece.level == 0:
            text = _samples_text(kind, tuple(names), self._sqlite, span.by_batch, span.condition("s"))
            rows = self._all(text, **bounds, **span.ends)
            return Strip.of_samples(kind, rows, names, PLACES)
        rows = self._all(_nodes_text(kind, tuple(names)), level=piece.level, **bounds)
        return Strip.of_nodes(kind, width(piece.level), rows, names, PLACES)

    def readings(self, seqs: tuple[int, int], span: Span, names: Sequence[str], points: int) -> dict[int, Strip]:
        """The same of GPU readings, for each device that has some; a strip's kind is its device."""
        first, last, floor = self._kept(*seqs)
        level = max(floor, _level(first, last, _MOST_NODES * points))
        while True:
            strips = self._devices(cover(first, last, level), span, names)
            if strips and level > floor and all(_is_coarse(level, strip, points) for strip in strips.values()):
                level -= 1
                continue
            return strips

    def _devices(self, pieces: Sequence[Piece], span: Span, names: Sequence[str]) -> dict[int, Strip]:
        parts: dict[int, list[Strip]] = {}
        for piece in pieces:
            bounds = {"first": piece.first, "last": piece.last}
            if piece.level == 0:
                rows = self._all(_readings_text(tuple(names), span.condition("s")), **bounds, **span.ends)
            else:
                rows = self._all(_gpu_nodes_text(tuple(names)), level=piece.level, **bounds)
            for device in sorted({row[0] for row in rows}):
                own = [row[1:] for row in rows if row[0] == device]
                if piece.level:
                    strip = Strip.of_nodes(device, width(piece.level), own, names, ())
                else:
                    strip = Strip.of_samples(device, own, names, ())
                parts.setdefault(device, []).append(strip)
        return {device: joined(strips) for device, strips in sorted(parts.items())}


def _level(first: int, last: int, most: int) -> int:
    """The finest level of which at most so many nodes span these seqs."""
    return next(level for level in range(TOP_LEVEL + 1) if (last - first + 1) // width(level) <= most)


def _is_coarse(level: int, strip: Strip, points: int) -> bool:
    """Whether the level below has not too much to read: many seqs in between may be another kind's, or lost."""
    return sum(strip.rows) <= _MOST_SAMPLES * points if level == 1 else len(strip) <= points // 2


@functools.lru_cache(maxsize=512)
def _statement(text: str) -> sa.TextClause:
    return sa.text(text)


_HERE = "run_pk = :run AND source_pk = :source"


@functools.lru_cache(maxsize=256)
def _samples_text(kind: int, names: tuple[str, ...], sqlite: bool, by_batch: bool, condition: str) -> str:
    columns = ", ".join(f"s.{name}" for name in ("seq", "wall_ns", "batch", *PLACES, *names))
    # By the index of ticks alone: among a million batches a few thousand of them would be sought for long.
    index = " INDEXED BY samples_ticks" if sqlite and kind == _TICK else ""
    known = " AND s.batch IS NOT NULL" if kind == _BATCH and by_batch else ""
    return (
        f"SELECT {columns} FROM samples s{index} WHERE s.run_pk = :run AND s.source_pk = :source "
        f"AND s.kind = {kind}{known} AND s.seq BETWEEN :first AND :last{condition} ORDER BY s.seq"
    )


def _of_nodes(names: Sequence[str]) -> list[str]:
    spans = [f"{name}_{kind}" for kind in ("min", "max", "last") for name in names]
    sums = [f"{name}_sum" for name in names if name in SUMMED]
    return [*spans, *sums]


@functools.lru_cache(maxsize=64)
def _nodes_text(kind: int, names: tuple[str, ...]) -> str:
    columns = ", ".join(("bucket", "rows", "last_seq", "wall_ns_max", "batch_max", *PLACES, *_of_nodes(names)))
    where = f"{_HERE} AND level = :level AND kind = {kind} AND bucket BETWEEN :first AND :last"
    return f"SELECT {columns} FROM rollups WHERE {where} ORDER BY bucket"


@functools.lru_cache(maxsize=64)
def _gpu_nodes_text(names: tuple[str, ...]) -> str:
    columns = ", ".join(("device", "bucket", "rows", "last_seq", "wall_ns_max", "batch_max", *_of_nodes(names)))
    where = f"{_HERE} AND level = :level AND bucket BETWEEN :first AND :last"
    return f"SELECT {columns} FROM gpu_rollups WHERE {where} ORDER BY bucket, device"


@functools.lru_cache(maxsize=64)
def _readings_text(names: tuple[str, ...], condition: str) -> str:
    columns = ", ".join(["g.device, g.seq, s.wall_ns, s.batch", *(f"g.{name}" for name in names)])
    return (
        f"SELECT {columns} FROM gpu_samples g JOIN samples s "
        "ON s.run_pk = g.run_pk AND s.source_pk = g.source_pk AND s.seq = g.seq "
        "WHERE g.run_pk = :run AND g.source_pk = :source AND g.seq BETWEEN :first AND :last"
        f"{condition} ORDER BY g.seq, g.device"
    )
