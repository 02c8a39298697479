"""Where nodes stand: buckets that grow fourfold from level to level (pure).

A bucket of level L spans the seqs from k · w + 1 to (k + 1) · w, where w = 16 · 4^(L-1). Its node is finished when
everything up to its end is stored, and never changes after that: whatever a chart asks for is covered by finished
nodes, and by samples at the two edges (`cover`), so that nothing has to be brought up to date and no reader can meet a
half-made node. Batches and ticks have nodes of their own, and so has each GPU.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from oomcast.sample import GPU_COLUMNS, SAMPLE_COLUMNS, GpuReading, Sample
from oomcast_server.rollups.nodes import SAMPLES, Layout, Node, merged, roll_readings, roll_samples
from oomcast_server.store.schema import GPU_METRICS

__all__ = ["TOP_LEVEL", "Done", "Piece", "Pyramid", "by_device", "by_kind", "cover", "open_buckets", "width"]

# Measured by tests/server/bench_fan.py: a row costs 21 µs and 323 B with buckets of 4, 16 and 248 with 8, 11 and 207
# with 16, 10 and 171 with 64, and 14 and 241 where each level is but twice as wide. With 64, a zoom into 10 000 batches
# has 156 points; with levels 16 times as wide, the worst chart takes four times as long to read.
_BASE_BITS, _FAN_BITS = 4, 2
TOP_LEVEL = 24  # of 2^50 seqs: more than any training has

_WALL, _BATCH = (SAMPLE_COLUMNS.index(name) for name in ("wall_ns", "batch"))
_FIRST_FIGURE = len(GPU_COLUMNS) - len(GPU_METRICS)
_seq = itemgetter(0)


def width(level: int) -> int:
    """How many seqs a bucket of this level (from 1) spans; a sample, level 0, is one."""
    return 1 << (_BASE_BITS + _FAN_BITS * (level - 1)) if level else 1


class Done(NamedTuple):
    """A finished node, and what tells it from others of its source: `of` is the kind of its samples, or the device."""

    level: int
    of: int
    bucket: int
    node: Node


class Pyramid:
    """One source's samples, or GPU readings, on their way up: its unfinished nodes, a few for each level.

    Of the finest level there are no unfinished nodes but the rows themselves, fifteen at most: most frames have one or
    two rows, and to roll up so few takes as long as to roll up sixteen.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._open: dict[tuple[int, int], tuple[int, Node]] = {}
        self._waiting: dict[int, list[Sequence[Any]]] = {}

    def take(self, rows: Mapping[int, Sequence[Sequence[Any]]], through: int, day: int) -> list[Done]:
        """The nodes that are finished when everything up to seq `through` is stored, on this day.

        `rows` are those that are new, by kind or device, each in order of seq (their first value).
        """
        done: list[Done] = []
        finished = through >> _BASE_BITS << _BASE_BITS
        for of in {**self._waiting, **rows}:
            given = [*self._waiting.pop(of, ()), *rows.get(of, ())]
            cut = bisect_right(given, finished, key=_seq)
            self.wait(of, given[cut:])
            for bucket, node in self._nodes(given[:cut]):
                self._put(1, of, bucket, node, day, done)
        self._finish(through, day, done)
        return done

    def wait(self, of: int, rows: Sequence[Sequence[Any]]) -> None:
        """Keep rows of a bucket of the finest level that is not finished."""
        if rows:
            self._waiting[of] = list(rows)

    def _nodes(self, rows: Sequence[Sequence[Any]]) -> Iterable[tuple[int, Node]]:
        numbers, edges, begin = [], [], 0
        while begin < len(rows):
            bucket = (rows[begin][0] - 1) >> _BASE_BITS
            last = (bucket + 1) << _BASE_BITS
            end = bisect_right(rows, last, begin, min(len(rows), begin + width(1)), key=_seq)
            numbers.append(bucket)
            edges.append((begin, end))
            begin = end
        if not numbers:
            return ()
        roll = roll_samples if self._layout is SAMPLES else roll_readings
        return zip(numbers, roll(rows, edges), strict=True)

    def put(self, level: int, of: int, bucket: int, node: Node) -> None:
        """Take back a part of an unfinished node, as it was before this process."""
        self._put(level, of, bucket, node, 0, [])

    def _put(self, level: int, of: int, bucket: int, node: Node, day: int, done: list[Done]) -> None:
        before = self._open.get((level, of))
        if before is not None and before[0] != bucket:
            self._close(level, of, day, done)
            before = None
        self._open[level, of] = (bucket, node if before is None else merged(self._layout, before[1], node))

    def _close(self, level: int, of: int, day: int, done: list[Done]) -> None:
        bucket, node = self._open.pop((level, of))
        node[1] = max(day, node[1])
        done.append(Done(level, of, bucket, node))
        if level < TOP_LEVEL:
            self._put(level + 1, of, bucket >> _FAN_BITS, list(node), day, done)

    def _finish(self, through: int, day: int, done: list[Done]) -> None:
        level = 1
        while any(key[0] >= level for key in self._open):
            for of in [of for at, of in self._open if at == level]:
                if (self._open[level, of][0] + 1) * width(level) <= through:
                    self._close(level, of, day, done)
            level += 1


def open_buckets(through: int) -> Iterator[tuple[int, int, int, int]]:
    """What the unfinished nodes are made of when everything up to `through` is stored, from the coarsest level down.

    Each as level and bucket of the unfinished node, and the first and last of its finished children's buckets, which
    are of the level below; of level 1, the children are samples, and these are seqs.
    """
    highest = next((level for level in range(1, TOP_LEVEL + 1) if width(level) > through), TOP_LEVEL)
    for level in range(highest, 0, -1):
        bucket = through // width(level)
        child = width(level - 1)
        first, end = bucket * (width(level) // child), through // child
        if first < end:
            yield (level, bucket, first, end - 1) if level > 1 else (level, bucket, first + 1, end)


class Piece(NamedTuple):
    """Neighbouring buckets of one level, ends inclusive; of level 0, seqs."""

    level: int
    first: int
    last: int


def cover(first: int, last: int, level: int) -> list[Piece]:
    """The fewest pieces of at most this level that cover the seqs from `first` to `last`, no more, in order."""
    begin, end = first - 1, last  # half open, from 0
    left: list[Piece] = []
    right: list[Piece] = []
    at = 0
    while begin < end and at < level:
        wide = width(at + 1)
        inner_begin, inner_end = -(-begin // wide) * wide, end // wide * wide
        if inner_begin >= inner_end:
            break
        left += _piece(at, begin, inner_begin)
        right += _piece(at, inner_end, end)
        begin, end, at = inner_begin, inner_end, at + 1
    return [*left, *_piece(at, begin, end), *reversed(right)]


def _piece(level: int, begin: int, end: int) -> Iterable[Piece]:
    if begin >= end:
        return []
    wide = width(level)
    return [Piece(0, begin + 1, end) if level == 0 else Piece(level, begin // wide, end // wide - 1)]


def by_kind(samples: Sequence[Sample]) -> dict[int, Sequence[Sample]]:
    """Samples apart by their kind."""
    kinds = {sample.kind for sample in samples}
    if len(kinds) == 1:
        return {int(kinds.pop()): samples}
    return {int(kind): [sample for sample in samples if sample.kind == kind] for kind in sorted(kinds)}


def by_device(readings: Sequence[GpuReading], samples: Sequence[Sample]) -> dict[int, list[tuple[Any, ...]]]:
    """Readings apart by their device, each as `rollups.roll_readings` takes it; without those that have no sample."""
    owners = {sample[0]: sample for sample in samples} if readings else {}
    apart: dict[int, list[tuple[Any, ...]]] = {}
    for reading in sorted(readings, key=lambda reading: reading[0]):
        owner = owners.get(reading[0])
        if owner is not None:
            row = (owner[0], owner[_WALL], owner[_BATCH], *reading[_FIRST_FIGURE:])
            apart.setdefault(reading[1], []).append(row)
    return apart
