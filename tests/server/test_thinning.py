"""A thinned frame looks as the whole one would (pure)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomcast_server.live.thinning import MOST_ROWS, thin

pytestmark = pytest.mark.fast

FIGURES = 5
Value = int | None
Row = tuple[Value, ...]

value = st.none() | st.integers(0, 20) | st.integers(0, 2**62)
rows_of_figures = st.lists(st.tuples(*[value] * FIGURES), max_size=400)


def numbered(rows: Sequence[Row]) -> list[Row]:
    """With a seq before the figures, as samples have it."""
    return [(seq, *row) for seq, row in enumerate(rows, 1)]


def envelope(rows: Sequence[Row]) -> list[tuple[Any, Any]]:
    columns = [[value for row in rows if (value := row[at]) is not None] for at in range(1, FIGURES + 1)]
    return [(min(column, default=None), max(column, default=None)) for column in columns]


def thinned(rows: Sequence[Row], most: int = MOST_ROWS) -> list[Row]:
    return thin(rows, range(1, FIGURES + 1), most)


@given(rows_of_figures)
def test_least_and_largest_of_every_figure_stay(figures: list[Row]) -> None:
    rows = numbered(figures)
    assert envelope(thinned(rows)) == envelope(rows)


@given(rows_of_figures, st.integers(2 * FIGURES + 1, 60))
def test_no_more_rows_stay_than_are_wanted(figures: list[Row], most: int) -> None:
    assert len(thinned(numbered(figures), most)) <= most


@given(rows_of_figures)
def test_rows_that_stay_are_real_and_in_order_and_the_last_is_among_them(figures: list[Row]) -> None:
    rows = numbered(figures)
    kept = thinned(rows)
    assert set(kept) <= set(rows)
    assert kept == sorted(kept, key=lambda row: row[0] or 0)
    assert kept[-1:] == rows[-1:]


@given(rows_of_figures.filter(lambda rows: len(rows) <= MOST_ROWS))
def test_few_rows_are_left_as_they_are(figures: list[Row]) -> None:
    assert thinned(numbered(figures)) == numbered(figures)


def test_a_peak_of_one_batch_among_thousands_stays_and_the_rest_keeps_its_shape() -> None:
    peak = 2_345
    rows: list[Row] = [(seq, 10**9 if seq == peak else seq) for seq in range(5_000)]
    kept = thin(rows, [1])
    assert (peak, 10**9) in kept
    seqs = [row[0] or 0 for row in kept]
    assert max(after - before for before, after in itertools.pairwise(seqs)) <= 5_000 / 16
