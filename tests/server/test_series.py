"""A chart's data: nothing that was measured is lost between its lines."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server.conftest import RunningServer
from tests.server.parts import RUN, WALL_NS, a_frame, a_sample, a_stretch
from tests.server.storing import key_of, read, store_frames

from oomcast.sample import GpuReading, Kind, Sample
from oomcast_server.charts.reading import Reader
from oomcast_server.charts.series import Range, chart
from oomcast_server.intake.known import Known
from oomcast_server.rest.shapes import Series
from oomcast_server.store.sqlite import SqliteStore

pytestmark = pytest.mark.fast


@pytest.fixture
def server(shared_server: RunningServer) -> RunningServer:
    """On either engine."""
    return shared_server


figures = st.none() | st.integers(0, 2**62)
rows = st.lists(st.tuples(st.sampled_from(Kind), figures, figures), min_size=1, max_size=150)


def made_samples(made: Sequence[tuple[Kind, int | None, int | None]]) -> list[Sample]:
    samples, batch = [], None
    for at, (kind, rss, faults) in enumerate(made):
        if kind is Kind.BATCH:
            batch = 0 if batch is None else batch + 1
        samples.append(a_sample(at + 1, kind, rss=rss and rss // 2, minor_faults=faults, batch=batch))
    return samples


def read_back(samples: Sequence[Sample], wanted: Range, points: int) -> Series:
    with tempfile.TemporaryDirectory() as folder, closing(SqliteStore(Path(folder) / "x.db")) as store:
        store_frames(store, [a_frame(samples)])
        return read(store, wanted, points)


def envelope(series: Series, name: str, at: int) -> tuple[Any, Any]:
    span = series.metrics[name]
    if span.min is None or span.max is None:
        return span.last[at], span.last[at]
    return span.min[at], span.max[at]


@settings(max_examples=60, deadline=None)
@given(made=rows, points=st.integers(10, 40), by_batch=st.booleans(), data=st.data())
def test_least_and_largest_of_the_buckets_are_those_of_the_samples(
    made: list[tuple[Kind, int | None, int | None]], points: int, by_batch: bool, data: st.DataObject
) -> None:
    samples = made_samples(made)
    begin = data.draw(st.none() | st.integers(0, 150))
    end = data.draw(st.none() | st.integers(0, 150))
    offset, scale = (0, 1) if by_batch else (WALL_NS, 10_000_000)
    wanted = Range(by_batch, *(None if edge is None else offset + edge * scale for edge in (begin, end)))
    series = read_back(samples, wanted, points)

    def x(sample: Sample) -> int | None:
        return sample.batch if by_batch else sample.wall_ns

    def is_wanted(sample: Sample) -> bool:
        at = x(sample)
        inside = at is not None and (wanted.begin is None or at >= wanted.begin)
        return inside and (wanted.end is None or at <= wanted.end) and (not by_batch or sample.kind is Kind.BATCH)  # type: ignore[operator]

    raw = [sample for sample in samples if is_wanted(sample)]
    seqs = series.columns["seq"]
    assert series.rows == len(raw)
    assert len(seqs) <= points
    assert series.watermark == (raw[-1].seq if raw else 0)
    edges = [0, *seqs]
    for at, seq in enumerate(seqs):
        bucket = [sample for sample in raw if edges[at] < sample.seq <= seq]
        for name in ("rss_bytes", "minor_faults"):
            blank = name == "minor_faults" and any(sample.kind is Kind.BATCH for sample in samples)
            values = [
                value
                for sample in bucket
                if (value := getattr(sample, name)) is not None and not (blank and sample.kind is Kind.TICK)
            ]
            assert envelope(series, name, at) == ((min(values), max(values)) if values else (None, None))
    assert seqs == sorted(seqs)
    assert not raw or seqs[-1] == raw[-1].seq


@settings(max_examples=40, deadline=None)
@given(made=rows, points=st.integers(10, 40), by_batch=st.booleans())
def test_ticks_are_shown_apart_with_least_and_largest(
    made: list[tuple[Kind, int | None, int | None]], points: int, by_batch: bool
) -> None:
    samples = [sample._replace(children=sample.minor_faults) for sample in made_samples(made)]
    ticks = [sample for sample in samples if sample.kind is Kind.TICK]
    shown = read_back(samples, Range(by_batch), points).ticks
    seqs = shown.columns["seq"]
    assert len(seqs) <= points
    assert seqs[-1:] == [tick.seq for tick in ticks][-1:]
    assert shown.columns["batch"] == [samples[seq - 1].batch for seq in seqs]
    span = shown.metrics["children"]
    edges = [0, *seqs]
    for at, seq in enumerate(seqs):
        values = [t.children for t in ticks if edges[at] < t.seq <= seq and t.children is not None]
        low, high = (span.last, span.last) if span.min is None or span.max is None else (span.min, span.max)
        assert (low[at], high[at]) == ((min(values), max(values)) if values else (None, None))


def test_a_one_batch_peak_among_many_survives() -> None:
    samples = [a_sample(seq, peak_bytes=10**9 if seq == 7_777 else 500) for seq in range(1, 20_001)]
    series = read_back(samples, Range(by_batch=True), 100)
    assert series.bucket > 1
    assert max(series.metrics["peak_bytes"].max or []) == 10**9


def test_a_burst_of_batches_in_a_long_idle_keeps_its_shape() -> None:
    ticks = [a_sample(seq, Kind.TICK) for seq in range(1, 20_001)]
    burst = [a_sample(seq) for seq in range(20_001, 20_301)]
    series = read_back(ticks + burst, Range(by_batch=True), 150)
    assert len(series.columns["seq"]) >= 75


async def test_a_short_run_is_shown_whole(server: RunningServer) -> None:
    await server.store_frames(a_stretch(1, 20))
    series = server.get(f"/api/runs/{RUN}/series").json()
    assert (series["bucket"], series["rows"], series["watermark"], series["x"]) == (1, 20, 20, "batch")
    assert series["columns"]["batch"] == list(range(20))
    assert series["columns"]["phase"] == ["train"] * 20
    assert series["columns"]["time_ms"][0] == (WALL_NS + 10_000_000) / 1e6
    assert set(series["metrics"]["rss_bytes"]) == {"last"}


async def test_batches_are_shown_by_batch_and_all_samples_by_time(server: RunningServer) -> None:
    ticks = [a_sample(seq, Kind.TICK) for seq in (2, 4)]
    await server.store_frames(a_frame([a_sample(1), a_sample(3), *ticks]))
    by_batch = server.get(f"/api/runs/{RUN}/series", x="batch").json()
    by_time = server.get(f"/api/runs/{RUN}/series", x="time").json()
    assert by_batch["columns"]["seq"] == [1, 3]
    assert by_time["columns"]["seq"] == [1, 2, 3, 4]
    assert by_time["metrics"]["minor_faults"]["last"] == [1, None, 3, None]


async def test_what_only_ticks_measure_is_there_for_either_axis(server: RunningServer) -> None:
    tick = a_sample(3, Kind.TICK, batch=1, tree_pss_bytes=77, psi_some_us=1_000)
    await server.store_frames(a_frame([a_sample(1, psi_some_us=5), a_sample(2), tick, a_sample(4)]))
    for x, stalled in (("batch", [5, None, None]), ("time", [5, None, None, None])):
        series = server.get(f"/api/runs/{RUN}/series", x=x).json()
        assert series["ticks"]["columns"] == {"batch": [1], "time_ms": [(WALL_NS + 30_000_000) / 1e6], "seq": [3]}
        assert series["ticks"]["metrics"]["tree_pss_bytes"] == {"last": [77]}
        assert series["ticks"]["metrics"]["psi_some_us"] == {"last": [1_000]}
        assert series["metrics"]["psi_some_us"]["last"] == stalled


def test_a_chart_reads_few_rows_whatever_the_run_s_length(tmp_path: Path) -> None:
    with closing(SqliteStore(tmp_path / "x.db")) as store:
        known = Known()
        for first, last in ((1, 3_000), (3_001, 12_000), (12_001, 48_000), (48_001, 192_000)):
            ticks = range(first, last + 1, 50)
            samples = [a_sample(seq, Kind.TICK if seq in ticks else Kind.BATCH) for seq in range(first, last + 1)]
            store_frames(store, [a_frame(samples)], known=known)
            assert rows_read(store, Range(by_batch=False), 100) < 1_600
        assert rows_read(store, Range(True, 100_000, 100_120), 100) < 800
        assert rows_read(store, Range(False, WALL_NS + 10**12, WALL_NS + 11 * 10**11), 100) < 1_600


def rows_read(store: SqliteStore, wanted: Range, points: int) -> int:
    key = key_of(store)
    with store.read() as connection:
        reader = Reader(connection, key.run_pk, key.pk)
        shown = chart(reader, RUN, key, wanted, points)
    assert len(shown.columns["seq"]) > points // 4
    return reader.rows_read


async def test_without_any_batch_ticks_show_their_own_faults(server: RunningServer) -> None:
    await server.store_frames(a_frame([a_sample(1, Kind.TICK), a_sample(2, Kind.TICK)]))
    series = server.get(f"/api/runs/{RUN}/series", x="time").json()
    assert series["metrics"]["minor_faults"]["last"] == [1, 2]


async def test_a_range_is_inclusive(server: RunningServer) -> None:
    await server.store_frames(a_stretch(1, 20))
    by_batch = server.get(f"/api/runs/{RUN}/series", **{"from": 3, "to": 5}).json()
    assert by_batch["columns"]["batch"] == [3, 4, 5]
    edges = {"from": WALL_NS / 1e6 + 30, "to": WALL_NS / 1e6 + 50}
    by_time = server.get(f"/api/runs/{RUN}/series", x="time", **edges).json()
    assert by_time["columns"]["seq"] == [3, 4, 5]


def test_gpu_readings_come_by_device_and_their_peak_survives() -> None:
    ticks = [a_sample(seq, Kind.TICK) for seq in range(1, 501)]
    gpus = [
        GpuReading(seq, device, 10**9 if (seq, device) == (333, 1) else seq, 2 * 10**9, None, 50)
        for seq in range(1, 501)
        for device in (0, 1)
    ]
    with tempfile.TemporaryDirectory() as folder, closing(SqliteStore(Path(folder) / "x.db")) as store:
        store_frames(store, [a_frame(ticks, gpus=gpus)])
        for points, expected in ((1000, 500), (50, 50)):
            first, second = read(store, Range(by_batch=False), points).gpus
            assert (first.device, second.device) == (0, 1)
            assert expected // 2 <= len(first.time_ms) <= expected
            assert max(first.used_bytes) == 500
            assert max(second.used_bytes) == 10**9
            assert set(first.process_bytes) == {None}


def test_the_allocator_s_batch_readings_stand_among_the_ticks_and_each_largest_survives() -> None:
    samples = [a_sample(seq, Kind.TICK if seq % 10 == 0 else Kind.BATCH) for seq in range(1, 1001)]
    blank = GpuReading(0, 0, None, None, None, None)
    gpus = [
        blank._replace(seq=sample.seq, used_bytes=10**9 if sample.seq == 330 else 5, ecc_errors=0)
        if sample.kind is Kind.TICK
        else blank._replace(seq=sample.seq, allocated_bytes=7, allocated_peak_bytes=10**8 if sample.seq == 777 else 8)
        for sample in samples
    ]
    with tempfile.TemporaryDirectory() as folder, closing(SqliteStore(Path(folder) / "x.db")) as store:
        store_frames(store, [a_frame(samples, gpus=gpus)])
        for by_batch in (True, False):
            (whole,) = read(store, Range(by_batch), 1000).gpus
            (bucketed,) = read(store, Range(by_batch), 50).gpus
            assert len(whole.time_ms) == 1000
            assert 25 <= len(bucketed.time_ms) <= 50
            assert whole.used_bytes[:10] == [None] * 9 + [5]
            assert whole.allocated_bytes[:10] == [7] * 9 + [None]
            for shown in (whole, bucketed):
                assert shown.time_ms == sorted(shown.time_ms)
                assert max(value for value in shown.used_bytes if value is not None) == 10**9
                assert max(value for value in shown.allocated_peak_bytes if value is not None) == 10**8
                assert set(shown.pool_bytes) == {None}
