"""What buckets of other widths would cost: time and room when rows come in, and time to read a chart of them.

    python -m tests.server.bench_fan [--rows 300000]

Rows are a training's (see `bench_rows`); SQLite, one process, no network. Figures of one run are to be compared with
each other only.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

from tests.server.bench_rows import a_row
from tests.server.parts import RUN
from tests.server.storing import key_of, store_frames

from oomcast.sample import Sample
from oomcast.wire import Frame
from oomcast_server.charts.series import Range, read_series
from oomcast_server.intake.known import Known
from oomcast_server.rollups import pyramids
from oomcast_server.store.sqlite import SqliteStore

WIDTHS = ((4, 4), (8, 4), (16, 4), (64, 4), (16, 2), (16, 16))
"""Of the finest bucket, and how much wider each level is than the one below."""

FRAME, POINTS, TIMES = 5_000, 1_500, 5


def measure(rows: list[Sample], base: int, fan: int) -> str:
    pyramids._BASE_BITS, pyramids._FAN_BITS = base.bit_length() - 1, fan.bit_length() - 1
    with tempfile.TemporaryDirectory() as folder, closing(SqliteStore(Path(folder) / "x.db")) as store:
        known, begun = Known(), time.process_time()
        for at in range(0, len(rows), FRAME):
            part = rows[at : at + FRAME]
            store_frames(store, [Frame(first_seq=part[0].seq, last_seq=part[-1].seq, samples=part)], known=known)
        stored_us = 1e6 * (time.process_time() - begun) / len(rows)
        ends = [(0, len(rows)), (1_000, len(rows) // 2), (5_000, 15_000), (5_000, 35_000)]
        charts = [timed(store, Range(True, first, last)) for first, last in ends]
        size = store.size_bytes() / len(rows)
    shown = ", ".join(f"{ms:.0f} ms for {points} points" for ms, points in charts)
    return f"{base:3} and {fan:2}: {stored_us:5.1f} µs and {size:4.0f} B a row; charts: {shown}"


def timed(store: SqliteStore, wanted: Range) -> tuple[float, int]:
    took, points = [], 0
    for _ in range(TIMES):
        begun = time.perf_counter()
        points = len(read_series(store, RUN, key_of(store), wanted, POINTS).columns["seq"])
        took.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(took), points


def main() -> None:
    parser = argparse.ArgumentParser(description="what buckets of other widths would cost")
    parser.add_argument("--rows", type=int, default=300_000)
    rows = [a_row(seq, full=False) for seq in range(1, parser.parse_args().rows + 1)]
    for base, fan in WIDTHS:
        print(measure(rows, base, fan), flush=True)


if __name__ == "__main__":
    main()
