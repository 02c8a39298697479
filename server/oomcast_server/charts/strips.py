"""Columns of neighbouring samples, or of rollups that stand for some: joined, put in order, and made fewer (pure)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from oomcast_server.store.schema import SUMMED

__all__ = ["PLACES", "Spread", "Strip", "joined"]

Column = list[Any]

PLACES: tuple[str, ...] = ("phase", "epoch", "step", "steps")
"""What is true of an entry's last row only; a GPU's readings have none of it."""


@dataclasses.dataclass
class Spread:
    """One metric of the entries: what is least, largest, last known, and (where it is kept) the sum."""

    least: Column
    largest: Column
    last: Column
    total: Column | None = None

    def joined(self, following: Sequence[Spread]) -> Spread:
        """This one, then the others."""
        parts = (self, *following)
        totals = [part.total for part in parts if part.total is not None]
        return Spread(
            _joined(part.least for part in parts),
            _joined(part.largest for part in parts),
            _joined(part.last for part in parts),
            _joined(totals) if len(totals) == len(parts) else None,
        )

    def picked(self, order: Sequence[int]) -> Spread:
        """The entries in another order."""
        total = None if self.total is None else _picked(self.total, order)
        least, largest = _picked(self.least, order), _picked(self.largest, order)
        return Spread(least, largest, _picked(self.last, order), total)

    def squeezed(self, groups: Sequence[slice]) -> Spread:
        """One entry for each group."""
        total = None if self.total is None else _reduced(self.total, groups, sum)
        least, largest = _reduced(self.least, groups, min), _reduced(self.largest, groups, max)
        return Spread(least, largest, _lasts(self.last, groups), total)


@dataclasses.dataclass
class Strip:
    """Entries in order of seq; each stands for so many `rows`, and where its last one is."""

    kinds: Column
    rows: Column
    firsts: Column  # the seq at which its bucket begins
    seqs: Column  # of the last row
    walls: Column
    batches: Column
    places: dict[str, Column]
    metrics: dict[str, Spread]

    @classmethod
    def of_samples(
        cls, kind: int, found: Sequence[Sequence[Any]], names: Sequence[str], places: Sequence[str] = PLACES
    ) -> Strip:
        """From rows of seq, wall_ns, batch, `places` and the metrics called `names`."""
        seqs, walls, batches, *rest = _columns(found, 3 + len(places) + len(names))
        figures = dict(zip(names, rest[len(places) :], strict=True))
        metrics = {
            name: Spread(column, column, column, column if name in SUMMED else None) for name, column in figures.items()
        }
        at_last = dict(zip(places, rest, strict=False))
        return cls([kind] * len(found), [1] * len(found), seqs, seqs, walls, batches, at_last, metrics)

    @classmethod
    def of_nodes(
        cls, kind: int, wide: int, found: Sequence[Sequence[Any]], names: Sequence[str], places: Sequence[str] = PLACES
    ) -> Strip:
        """From rows of bucket (`wide` seqs), rows, last_seq, wall_ns_max, batch_max, `places`.

        Then least, largest and last of the metrics called `names`, and the sums of those that have one.
        """
        many, summed = len(names), [name for name in names if name in SUMMED]
        columns = _columns(found, 5 + len(places) + 3 * many + len(summed))
        buckets, rows, seqs, walls, batches = columns[:5]
        rest = columns[5 + len(places) :]
        totals = dict(zip(summed, rest[3 * many :], strict=True))
        spans = zip(rest[:many], rest[many : 2 * many], rest[2 * many : 3 * many], strict=True)
        metrics = {name: Spread(*span, totals.get(name)) for name, span in zip(names, spans, strict=True)}
        at_last = dict(zip(places, columns[5:], strict=False))
        firsts = [bucket * wide + 1 for bucket in buckets]
        return cls([kind] * len(found), rows, firsts, seqs, walls, batches, at_last, metrics)

    def __len__(self) -> int:
        return len(self.seqs)

    def _mapped(self, change: Callable[[Column], Column], spread: Callable[[Spread], Spread]) -> Strip:
        return Strip(
            kinds=change(self.kinds),
            rows=change(self.rows),
            firsts=change(self.firsts),
            seqs=change(self.seqs),
            walls=change(self.walls),
            batches=change(self.batches),
            places={name: change(column) for name, column in self.places.items()},
            metrics={name: spread(metric) for name, metric in self.metrics.items()},
        )

    def in_order(self) -> Strip:
        """The entries in order of seq."""
        if all(a <= b for a, b in zip(self.seqs, self.seqs[1:], strict=False)):
            return self
        order = sorted(range(len(self)), key=self.seqs.__getitem__)
        return self._mapped(lambda column: _picked(column, order), lambda metric: metric.picked(order))

    def squeezed(self, most: int) -> Strip:
        """At most so many entries, each of about equally many of these; those whose buckets overlap become one.

        (A bucket's batches and its ticks: what was measured in it must stand at one place.)
        """
        apart = all(first > seq for seq, first in zip(self.seqs, self.firsts[1:], strict=False))
        if len(self) <= most and apart:
            return self
        groups = _groups(len(self), most) if apart else _clusters(self.firsts, self.seqs, most)
        squeezed = self._mapped(lambda column: _ends(column, groups), lambda metric: metric.squeezed(groups))
        squeezed.rows = [sum(self.rows[group]) for group in groups]
        squeezed.firsts = [min(self.firsts[group]) for group in groups]
        return squeezed

    def only(self, names: Sequence[str], blank: Iterable[str] = ()) -> Strip:
        """With these metrics only, of which those in `blank` say nothing."""
        nothing: Column = [None] * len(self)
        unsaid = dict.fromkeys(blank, Spread(nothing, nothing, nothing, nothing))
        return dataclasses.replace(self, metrics={name: unsaid.get(name) or self.metrics[name] for name in names})


def joined(strips: Sequence[Strip]) -> Strip:
    """One strip after the other; there is at least one."""
    first, *following = strips
    if not following:
        return first
    return Strip(
        kinds=_joined(strip.kinds for strip in strips),
        rows=_joined(strip.rows for strip in strips),
        firsts=_joined(strip.firsts for strip in strips),
        seqs=_joined(strip.seqs for strip in strips),
        walls=_joined(strip.walls for strip in strips),
        batches=_joined(strip.batches for strip in strips),
        places={name: _joined(strip.places[name] for strip in strips) for name in first.places},
        metrics={
            name: spread.joined([other.metrics[name] for other in following]) for name, spread in first.metrics.items()
        },
    )


def _columns(found: Sequence[Sequence[Any]], width: int) -> list[Column]:
    return [list(column) for column in zip(*found, strict=True)] if found else [[] for _ in range(width)]


def _joined(columns: Iterable[Column]) -> Column:
    whole: Column = []
    for column in columns:
        whole += column
    return whole


def _picked(column: Column, order: Sequence[int]) -> Column:
    return [column[at] for at in order]


def _groups(length: int, most: int) -> list[slice]:
    each = -(-length // most)
    return [slice(begin, begin + each) for begin in range(0, length, each)]


def _clusters(firsts: Column, seqs: Column, most: int) -> list[slice]:
    """Groups of which none overlaps another; `seqs` rise."""
    length = len(seqs)
    # The first seq of whatever comes from here on: a group may end before it if all its own seqs are smaller.
    following = list(itertools.accumulate(reversed(firsts), min))[::-1]
    each, groups, begin = -(-length // most), [], 0
    for end in range(1, length + 1):
        if end == length or (end - begin >= each and following[end] > seqs[end - 1]):
            groups.append(slice(begin, end))
            begin = end
    return groups


def _ends(column: Column, groups: Sequence[slice]) -> Column:
    return [column[min(group.stop, len(column)) - 1] for group in groups]


def _reduced(column: Column, groups: Sequence[slice], reduce: Callable[[Column], Any]) -> Column:
    if None not in column:
        return [reduce(column[group]) for group in groups]
    known = ([value for value in column[group] if value is not None] for group in groups)
    return [reduce(values) if values else None for values in known]


def _lasts(column: Column, groups: Sequence[slice]) -> Column:
    if None not in column:
        return _ends(column, groups)
    return [next((value for value in reversed(column[group]) if value is not None), None) for group in groups]
