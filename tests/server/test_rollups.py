"""Rollups: what a chart shows of any range, at any zoom, holds everything that was measured there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server.parts import WALL_NS, a_frame, a_sample, an_event
from tests.server.storing import read, store_frames

from oomcast.sample import EventKind, GpuReading, Kind, Sample
from oomcast.wire import Frame
from oomcast_server.charts.series import Range
from oomcast_server.intake.known import Known
from oomcast_server.rollups.nodes import SAMPLES, merged, of_samples
from oomcast_server.rollups.pyramids import cover, width
from oomcast_server.store import schema
from oomcast_server.store.schema import METRICS, SUMMED
from oomcast_server.store.sqlite import SqliteStore

pytestmark = pytest.mark.fast

HOUR_NS = 3600 * 10**9


@contextmanager
def a_store() -> Iterator[SqliteStore]:
    with tempfile.TemporaryDirectory() as folder, closing(SqliteStore(Path(folder) / "x.db")) as store:
        yield store


@given(first=st.integers(1, 5_000), length=st.integers(0, 5_000), level=st.integers(0, 8))
def test_a_cover_is_its_range_and_nothing_else(first: int, length: int, level: int) -> None:
    pieces = cover(first, first + length, level)
    at = first
    for piece in pieces:
        wide = width(piece.level)
        begin, end = (
            (piece.first, piece.last) if piece.level == 0 else (piece.first * wide + 1, (piece.last + 1) * wide)
        )
        assert begin == at
        at = end + 1
    assert at == first + length + 1
    assert max(piece.level for piece in pieces) <= level
    for piece in pieces[1:-1]:
        assert piece.level == level or piece.last - piece.first < 16


figures = st.none() | st.integers(0, 2**62)
ends = st.none() | st.integers(0, 700)
# What comes next: how many rows, of which kind, and how far the wall clock has jumped before them.
stretches = st.lists(
    st.tuples(
        st.integers(1, 70),
        st.sampled_from(["batch", "batch", "tick", "mixed", "event", "gap"]),
        st.sampled_from([0, 0, 0, 0, -2 * HOUR_NS, HOUR_NS]),
        figures,
    ),
    min_size=1,
    max_size=12,
)


def frames_of(made: Sequence[tuple[int, str, int, int | None]]) -> tuple[list[Frame], list[Sample]]:
    frames: list[Frame] = []
    rows: list[Sample] = []
    seq, batch, offset_ns = 0, -1, 10 * HOUR_NS
    for length, what, jump_ns, figure in made:
        offset_ns += jump_ns
        if what == "gap":
            first, seq = seq + 1, seq + length
            event = an_event(first, EventKind.GAP, reason="rejected", **{"from": first, "to": seq})
            frames.append(Frame(first_seq=first, last_seq=seq, events=[event]))
            continue
        samples, events, gpus = [], [], []
        for at in range(length):
            seq += 1
            if what == "event":
                events.append(an_event(seq, EventKind.NOTICE, text="x"))
                continue
            kind = Kind.TICK if what == "tick" or (what == "mixed" and at % 7 == 0) else Kind.BATCH
            batch += kind is Kind.BATCH
            value = None if figure is None else (figure + at * 977) % 2**62
            given = {"batch": batch if batch >= 0 else None, "rss": value, "minor_faults": value, "children": value}
            sample = a_sample(seq, kind, wall_ns=WALL_NS + offset_ns + seq, **given)
            samples.append(sample)
            if at % 3 == 0:
                gpus += [GpuReading(seq, device, value, None, None, None) for device in range(2)]
        rows += samples
        frames.append(a_frame(samples, events, gpus))
    return frames, rows


@settings(max_examples=60, deadline=None)
@given(made=stretches, restarts=st.booleans())
def test_the_nodes_are_those_of_the_samples_however_they_came(
    made: list[tuple[int, str, int, int | None]], restarts: bool
) -> None:
    frames, rows = frames_of(made)
    with a_store() as store:
        store_frames(store, frames, known=None if restarts else Known())
        table = schema.rollups
        with store.read() as connection:
            found = [tuple(row) for row in connection.execute(sa.select(table)).all()]
    through = frames[-1].last_seq
    expected: dict[tuple[int, int, int], list[Sample]] = {}
    for level in range(1, 6):
        for kind in Kind:
            for sample in (row for row in rows if row.kind is kind):
                bucket = (sample.seq - 1) // width(level)
                if (bucket + 1) * width(level) <= through:
                    expected.setdefault((level, int(kind), bucket), []).append(sample)
    assert {row[2:5] for row in found} == expected.keys()
    for row in found:
        samples = expected[row[2:5]]
        node = of_samples(samples)
        assert list(row[5:6]) + list(row[7:]) == node[:1] + node[2:]


@given(length=st.integers(2, 40), cut=st.integers(1, 39), values=st.lists(figures, min_size=40, max_size=40))
def test_two_nodes_merged_are_the_node_of_both(length: int, cut: int, values: list[int | None]) -> None:
    cut = min(cut, length - 1)
    rows = [a_sample(at + 1, rss=values[at] and values[at] // 2, swap_bytes=values[-at - 1]) for at in range(length)]  # type: ignore[operator]
    assert merged(SAMPLES, of_samples(rows[:cut]), of_samples(rows[cut:])) == of_samples(rows)


def test_a_node_says_what_its_samples_say() -> None:
    rows = [a_sample(seq, rss=seq * 10, swap_bytes=None if seq == 3 else seq) for seq in (1, 2, 3)]
    node = of_samples(rows)
    names = [column.name for column in schema.rollups.columns][5:]
    told = dict(zip(names, node, strict=True))
    assert (told["rows"], told["last_seq"], told["batch_min"], told["batch_max"]) == (3, 3, 0, 2)
    assert (told["rss_bytes_min"], told["rss_bytes_max"], told["rss_bytes_last"]) == (10, 30, 30)
    assert (told["swap_bytes_min"], told["swap_bytes_max"], told["swap_bytes_last"]) == (1, 2, 2)
    assert told["rss_bytes_sum"] == 60
    assert told["children_min"] is told["children_last"] is None
    assert len(METRICS) == 22
    assert set(SUMMED) < set(METRICS)


@settings(max_examples=80, deadline=None)
@given(made=stretches, points=st.integers(10, 30), by_batch=st.booleans(), edges=st.tuples(ends, ends))
def test_the_envelope_of_any_range_holds_every_sample(
    made: list[tuple[int, str, int, int | None]], points: int, by_batch: bool, edges: tuple[int | None, int | None]
) -> None:
    frames, rows = frames_of(made)
    offset, scale = (0, 1) if by_batch else (WALL_NS + 8 * HOUR_NS, HOUR_NS // 100)
    wanted = Range(by_batch, *(None if edge is None else offset + edge * scale for edge in edges))
    with a_store() as store:
        store_frames(store, frames, known=Known())
        if not rows:
            return
        series = read(store, wanted, points)

    def is_wanted(sample: Sample) -> bool:
        at = sample.batch if by_batch else sample.wall_ns
        if at is None or (by_batch and sample.kind is Kind.TICK):
            return False
        return (wanted.begin is None or at >= wanted.begin) and (wanted.end is None or at <= wanted.end)

    span, seqs = series.metrics["rss_bytes"], series.columns["seq"]
    assert len(seqs) <= points
    assert seqs == sorted(seqs)
    least, largest = (span.last, span.last) if span.min is None or span.max is None else (span.min, span.max)
    for sample in filter(is_wanted, rows):
        at = next((index for index, seq in enumerate(seqs) if seq >= sample.seq), None)
        assert at is not None, "a sample behind the last point"
        if sample.rss_bytes is not None:
            assert least[at] <= sample.rss_bytes <= largest[at]
    assert holds_all(series.ticks.metrics["children"], rows, by_batch, wanted)


def holds_all(span: Any, rows: Sequence[Sample], by_batch: bool, wanted: Range) -> bool:
    least, largest = (span.last, span.last) if span.min is None else (span.min, span.max)
    known = [value for value in (*least, *largest) if value is not None]
    for sample in rows:
        at = sample.batch if by_batch else sample.wall_ns
        if sample.kind is Kind.BATCH or sample.children is None or (at is None and (wanted.begin or wanted.end)):
            continue
        inside = at is None or (
            (wanted.begin is None or at >= wanted.begin) and (wanted.end is None or at <= wanted.end)
        )
        if inside and not (known and min(known) <= sample.children <= max(known)):
            return False
    return True
