"""Samples rolled up into nodes: how many, and least, largest, last and sum of what they measured (pure)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, TypeAlias

from oomcast.sample import SAMPLE_COLUMNS
from oomcast_server.store.schema import GPU_METRICS, METRICS, SUMMED

__all__ = ["GPUS", "SAMPLES", "Layout", "Node", "merged", "of_samples", "roll_readings", "roll_samples"]

_LARGEST = 2**62  # what every engine can store, with room for a sum

Node: TypeAlias = list[Any]
"""A row of `rollups` or `gpu_rollups` behind its key: see `Layout`."""

Column: TypeAlias = Sequence[Any]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a node's values stand.

    Rows, day, last_seq, least and largest wall_ns and batch; then what is true of its last row; then the least, the
    largest and the last known of each metric; then sums of some of them (`summed`, by index).
    """

    places: int
    metrics: int
    summed: tuple[int, ...]

    @functools.cached_property
    def least(self) -> slice:
        """Where the least of each metric stand."""
        return slice(7 + self.places, 7 + self.places + self.metrics)

    @functools.cached_property
    def largest(self) -> slice:
        """Where the largest stand."""
        return slice(self.least.stop, self.least.stop + self.metrics)

    @functools.cached_property
    def last(self) -> slice:
        """Where the last known stand."""
        return slice(self.largest.stop, self.largest.stop + self.metrics)


SAMPLES = Layout(4, len(METRICS), tuple(METRICS.index(name) for name in SUMMED))
GPUS = Layout(0, len(GPU_METRICS), ())

_AT = {name: index for index, name in enumerate(SAMPLE_COLUMNS)}
_WALL, _BATCH, _PHASE = (_AT[name] for name in ("wall_ns", "batch", "phase"))
_more_places = itemgetter(*(_AT[name] for name in ("epoch", "step", "steps")))
_measured = itemgetter(*(_AT[name] for name in METRICS))


def of_samples(rows: Sequence[Column]) -> Node:
    """The node of these samples, in order of seq; there is at least one."""
    return roll_samples(rows, [(0, len(rows))])[0]


def roll_samples(rows: Sequence[Column], buckets: Sequence[tuple[int, int]]) -> list[Node]:
    """One node for each of `buckets`: where its samples begin and end among `rows`, which are in order of seq."""
    columns = list(zip(*rows, strict=True))
    ends = [rows[end - 1] for _, end in buckets]
    places = [[int(row[_PHASE]), *_more_places(row)] for row in ends]
    return _rolled(SAMPLES, (columns[0], columns[_WALL], columns[_BATCH]), places, _measured(columns), buckets)


def roll_readings(rows: Sequence[Column], buckets: Sequence[tuple[int, int]]) -> list[Node]:
    """The same of one device's readings: seq, wall_ns and batch of its sample, then its figures."""
    seqs, walls, batches, *measured = zip(*rows, strict=True)
    return _rolled(GPUS, (seqs, walls, batches), [[] for _ in buckets], measured, buckets)


def _rolled(
    layout: Layout,
    stand: tuple[Column, Column, Column],
    places: Sequence[Column],
    measured: Sequence[Column],
    buckets: Sequence[tuple[int, int]],
) -> list[Node]:
    seqs, walls, batches = stand
    spans = [_spans(column, buckets) for column in measured]
    # From columns of buckets to buckets of columns.
    least, largest, last = (list(zip(*(span[at] for span in spans), strict=True)) for at in range(3))
    sums = [_sums(measured[at], buckets) for at in layout.summed]
    totals: Sequence[Column] = list(zip(*sums, strict=True)) if sums else [()] * len(buckets)
    first_walls, last_walls, _ = _spans(walls, buckets)
    first_batches, last_batches, _ = _spans(batches, buckets)
    nodes = []
    for at, (begin, end) in enumerate(buckets):
        extent = (end - begin, 0, seqs[end - 1], first_walls[at], last_walls[at], first_batches[at], last_batches[at])
        nodes.append([*extent, *places[at], *least[at], *largest[at], *last[at], *totals[at]])
    return nodes


def _spans(values: Column, buckets: Sequence[tuple[int, int]]) -> tuple[Column, Column, Column]:
    """Least, largest and last known of each bucket."""
    one = values[0]
    if values.count(one) == len(values):  # limits, swap, what isn't measured: one look is enough
        same = [one] * len(buckets)
        return same, same, same
    return tuple(zip(*(_span(values[begin:end]) for begin, end in buckets), strict=True))  # type: ignore[return-value]


def _span(values: Column) -> tuple[int | None, int | None, int | None]:
    try:
        return min(values), max(values), values[-1]
    except TypeError:  # None among them
        known = [value for value in values if value is not None]
        return (min(known), max(known), known[-1]) if known else (None, None, None)


def _sums(values: Column, buckets: Sequence[tuple[int, int]]) -> Column:
    try:
        return [min(sum(values[begin:end]), _LARGEST) for begin, end in buckets]
    except TypeError:
        known = ([value for value in values[begin:end] if value is not None] for begin, end in buckets)
        return [min(sum(some), _LARGEST) if some else None for some in known]


def merged(layout: Layout, first: Node, second: Node) -> Node:
    """The node of both; `second` is of later seqs."""
    least, largest, last = layout.least, layout.largest, layout.last
    node = [
        first[0] + second[0],
        max(first[1], second[1]),
        second[2],
        min(first[3], second[3]),
        max(first[4], second[4]),
        _lesser(first[5], second[5]),
        _larger(first[6], second[6]),
        *second[7 : least.start],
    ]
    # Written out rather than mapped over functions, which takes twice the time.
    pairs = zip(first[least], second[least], strict=True)
    node += [b if a is None else a if b is None or a < b else b for a, b in pairs]
    pairs = zip(first[largest], second[largest], strict=True)
    node += [b if a is None else a if b is None or a > b else b for a, b in pairs]
    node += [a if b is None else b for a, b in zip(first[last], second[last], strict=True)]
    node += map(_total, first[last.stop :], second[last.stop :])
    return node


def _lesser(a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return b if a is None else a
    return a if a < b else b


def _larger(a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return b if a is None else a
    return a if a > b else b


def _total(a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return b if a is None else a
    return min(a + b, _LARGEST)
