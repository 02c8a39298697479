"""Rows of one live frame reduced to what a screen can show of them (pure).

A tenth of a second of a fast training is hundreds of rows for a handful of pixels. What is left out is chosen so that
nothing seen changes: real rows stay, among them those with the least and the largest value of each figure.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

__all__ = ["MOST_ROWS", "thin"]

MOST_ROWS = 60
"""Rows of one kind in one frame beyond which it is thinned: ten such frames a second are more than there are pixels."""

_PIECES = 16  # to begin with; then fewer, until the rows are few enough

Row = TypeVar("Row", bound=Sequence[Any])


class _Piece:
    """A stretch of rows: the indices of its last one, and of the least and the largest of each figure."""

    def __init__(self, last: int, extremes: list[tuple[int, int] | None]) -> None:
        self.last = last
        self.extremes = extremes

    @property
    def kept(self) -> set[int]:
        return {self.last}.union(*(pair for pair in self.extremes if pair is not None))

    def joined(self, following: _Piece, columns: Sequence[Sequence[Any]]) -> _Piece:
        pairs = zip(self.extremes, following.extremes, columns, strict=True)
        return _Piece(following.last, [_joined(one, other, column) for one, other, column in pairs])


def thin(rows: Sequence[Row], figures: Sequence[int], most: int = MOST_ROWS) -> list[Row]:
    """At most `most` of the rows, in their order; all of them where they are no more than that.

    `figures` are the indices of the values whose least and largest stay, for each of as many stretches of the rows as
    `most` has room for, together with the last row of each stretch. There is one stretch at least, so `most` must be no
    less than 2 · len(figures) + 1.
    """
    if len(rows) <= most:
        return list(rows)
    every = list(zip(*rows, strict=True))
    columns = [every[at] for at in figures]
    pieces = [_piece(columns, begin, end) for begin, end in _cut(len(rows), _PIECES)]
    while True:
        kept = set().union(*(piece.kept for piece in pieces))
        if len(kept) <= most or len(pieces) == 1:
            return [rows[at] for at in sorted(kept)]
        pieces = list(_paired(pieces, columns))


def _cut(length: int, pieces: int) -> Iterator[tuple[int, int]]:
    edges = [length * at // pieces for at in range(pieces + 1)]
    return ((begin, end) for begin, end in itertools.pairwise(edges) if begin < end)


def _piece(columns: Sequence[Sequence[Any]], begin: int, end: int) -> _Piece:
    return _Piece(end - 1, [_extremes(column[begin:end], begin) for column in columns])


def _extremes(values: Sequence[Any], begin: int) -> tuple[int, int] | None:
    """Where the least and the largest stand, or None where nothing was measured."""
    try:
        least, largest = min(values), max(values)
    except TypeError:  # some were not measured
        known = [value for value in values if value is not None]
        if not known:
            return None
        least, largest = min(known), max(known)
    if least is None:  # a single row, of which it was not measured
        return None
    return begin + values.index(least), begin + values.index(largest)


def _paired(pieces: Sequence[_Piece], columns: Sequence[Sequence[Any]]) -> Iterator[_Piece]:
    for at in range(0, len(pieces), 2):
        pair = pieces[at : at + 2]
        yield pair[0].joined(pair[1], columns) if len(pair) == 2 else pair[0]


def _joined(
    one: tuple[int, int] | None, other: tuple[int, int] | None, column: Sequence[Any]
) -> tuple[int, int] | None:
    if one is None or other is None:
        return one or other
    least = one[0] if column[one[0]] <= column[other[0]] else other[0]
    largest = one[1] if column[one[1]] >= column[other[1]] else other[1]
    return least, largest
