"""What runs came to, and their events, read from each engine; and the arithmetic behind it."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies
from tests.server.parts import RUN, WALL_NS, a_frame, a_hello, a_sample, an_end, an_event
from tests.server.storing import store_frames

from oomcast.sample import EventKind
from oomcast_server.intake.known import Known
from oomcast_server.runs.changing import change_run
from oomcast_server.runs.comparing import run_figures
from oomcast_server.runs.events import EventFilters, event_page
from oomcast_server.runs.figures import slope, total
from oomcast_server.runs.listing import Filters, page_of
from oomcast_server.runs.presence import Presence
from oomcast_server.runs.query import standing_of
from oomcast_server.store.base import Store

pytestmark = pytest.mark.fast

PRESENCE = Presence(WALL_NS)


def test_figures_are_the_same_over_rollups_as_over_samples(store: Store) -> None:
    """GIVEN a run so long that most of it is read from rollups."""
    count = 30_000
    rows = [a_sample(seq, rss=1_000_000 + 7 * seq + seq % 13) for seq in range(1, count + 1)]
    frames = [a_frame(rows[begin : begin + 3_000]) for begin in range(0, count, 3_000)]
    store_frames(store, frames, known=Known())
    found = run_figures(store, PRESENCE, RUN, WALL_NS)
    assert found is not None
    (figures,) = found.sources
    sizes = [row.rss_bytes or 0 for row in rows]
    assert (figures.samples, figures.batches, figures.rss_max_bytes) == (count, count, max(sizes))
    assert figures.rss_mean_bytes == pytest.approx(sum(sizes) / count)
    assert figures.growth_bytes_per_batch == pytest.approx(7, rel=1e-3)
    assert figures.minor_faults == sum(row.minor_faults or 0 for row in rows)


def test_events_are_read_page_by_page(store: Store) -> None:
    store_frames(store, [a_frame(events=[an_event(seq, EventKind.NOTICE, text="x") for seq in range(1, 6)])])
    first = event_page(store, RUN, EventFilters(kind=EventKind.NOTICE), 3, None)
    assert first is not None
    second = event_page(store, RUN, EventFilters(), 3, first.next)
    assert second is not None
    assert [event.seq for event in first.events + second.events] == [1, 2, 3, 4, 5]
    assert second.next is None
    assert event_page(store, "nosuchrun1", EventFilters(), 3, None) is None
    assert event_page(store, RUN, EventFilters(source="nosuchsource"), 3, None) is None


def test_a_change_is_found_by_its_new_words_alone(store: Store) -> None:
    store_frames(store, [a_frame([a_sample(1)], [an_end(2, "finished")])], hello=a_hello(name="old"))
    standing = standing_of(store, PRESENCE, RUN, WALL_NS)
    assert standing is not None
    with store.write() as connection:
        assert change_run(store, connection, standing.pk, {"name": "new", "tags": '["t"]'})
        assert not change_run(store, connection, standing.pk + 1, {"name": "new"})
    found = {word: page_of(store, Filters(text=word), 9, None, WALL_NS).pks for word in ("old", "new", "box", "train")}
    assert found == {"old": [], "new": [standing.pk], "box": [standing.pk], "train": [standing.pk]}
    assert page_of(store, Filters(tag="t"), 9, None, WALL_NS).pks == [standing.pk]


points = strategies.tuples(strategies.integers(0, 1000), strategies.integers(0, 10**12), strategies.integers(1, 100))


@given(strategies.lists(points, min_size=2, max_size=30), strategies.integers(-1000, 1000))
def test_a_line_has_its_own_slope(given_points: list[tuple[int, int, int]], rise: int) -> None:
    line = [(float(x), float(5 + rise * x), weight) for x, _, weight in given_points]
    found = slope(line)
    if len({x for x, _, _ in line}) == 1:
        assert found is None
    else:
        assert found == pytest.approx(rise, abs=1e-6)


def test_nothing_comes_to_nothing() -> None:
    totals = total([])
    assert (totals.rows, totals.span_ns, totals.batches, totals.growth_bytes_per_batch) == (0, 0, None, None)
