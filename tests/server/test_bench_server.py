"""The benchmark in its short form: that it counts right, and that nothing grows with what it should not."""

from __future__ import annotations

import os
from typing import Any

import pytest
from tests.server import bench_server
from tests.server.bench_server import arguments, measure, quantile

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("bench")]


def short(*given: str) -> dict[str, Any]:
    cores = os.sched_getaffinity(0)
    try:
        return measure(arguments(["--engines", "sqlite", "--json", *given]))["sqlite"]
    finally:
        os.sched_setaffinity(0, cores)


def test_every_row_is_acknowledged_and_every_figure_is_there() -> None:
    figures = short("--only", "ingest", "--rows", "8000")["ingest"]
    assert figures["acknowledged_rows"] == 8_000
    assert figures["rows_per_s"] > 0
    assert figures["commits_measured"] >= 10
    assert figures["commit_ms_p50"] <= figures["commit_ms_p99"]
    assert 50 < figures["bytes_per_row"] < 2_000


def test_a_chart_of_ten_times_as_many_samples_takes_no_ten_times_as_long() -> None:
    figures = short("--only", "chart", "--most", "100000", "--requests", "5")["chart"]
    small, large = figures["10,000"], figures["100,000"]
    assert large["first_chart_ms"] < 8 * small["first_chart_ms"]
    assert large["deep_zoom_ms"] < 8 * small["deep_zoom_ms"]


def test_viewers_miss_nothing_while_one_of_them_is_stalled() -> None:
    figures = short("--only", "live", "--viewers", "40", "--runs", "8", "--seconds", "4")["live"]
    assert figures["holes"] == figures["one_stalled_holes"] == 0
    # Each viewer hears of its run as often as when nobody was stalled.
    assert figures["one_stalled_delays_measured"] > 0.5 * figures["delays_measured"] > 0


def test_the_wal_stays_bounded_under_a_dashboard() -> None:
    figures = short("--only", "wal", "--minutes", "0.1")["wal"]
    assert figures["polls"] > 0
    assert figures["largest_wal_mib"] <= 64


def test_an_unknown_section_is_refused() -> None:
    with pytest.raises(SystemExit):
        arguments(["--only", "ingest,nothing"])


def test_quantiles_are_of_the_values_there() -> None:
    assert (quantile([3, 1, 2], 0.5), quantile([3, 1, 2], 0.99), quantile([1], 0.5)) == (2, 3, 1)
    assert set(bench_server.BENCHES) == set(bench_server.SECTIONS)
