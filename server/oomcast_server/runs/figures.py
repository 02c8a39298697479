"""What a source came to, from buckets of its samples (pure)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

__all__ = ["Bucket", "Totals", "slope", "total"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bucket:
    """Samples of one kind that follow on each other, summed up; a single sample is one, too. Unknown is None."""

    rows: int
    wall_ns_min: int
    wall_ns_max: int
    batch_min: int | None
    batch_max: int | None
    rss_bytes_sum: int | None
    rss_bytes_max: int | None
    peak_bytes_max: int | None
    minor_faults_sum: int | None
    major_faults_sum: int | None
    psi_some_us_sum: int | None
    swap_in_bytes_sum: int | None
    swap_out_bytes_sum: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Totals:
    """The same of all buckets, and what follows from them."""

    rows: int
    span_ns: int  # from the first sample to the last
    wall_ns_max: int | None
    batches: int | None
    batches_per_s: float | None
    rss_mean_bytes: float | None
    rss_max_bytes: int | None
    peak_bytes: int | None
    growth_bytes_per_batch: float | None
    minor_faults: int | None
    major_faults: int | None
    swap_in_bytes: int | None
    swap_out_bytes: int | None
    stall_share: float | None


def total(buckets: Sequence[Bucket]) -> Totals:
    """What these buckets come to; there may be none."""
    first_ns = min((bucket.wall_ns_min for bucket in buckets), default=0)
    last_ns = max((bucket.wall_ns_max for bucket in buckets), default=None)
    span_ns = (last_ns or 0) - first_ns if last_ns is not None else 0
    begin = _least(bucket.batch_min for bucket in buckets)
    end = _largest(bucket.batch_max for bucket in buckets)
    stalled_us = _sum(bucket.psi_some_us_sum for bucket in buckets)
    return Totals(
        rows=sum(bucket.rows for bucket in buckets),
        span_ns=span_ns,
        wall_ns_max=last_ns,
        batches=end + 1 if end is not None else None,
        batches_per_s=(end - begin) * 1e9 / span_ns if span_ns > 0 and begin is not None and end is not None else None,
        rss_mean_bytes=_mean(buckets),
        rss_max_bytes=_largest(bucket.rss_bytes_max for bucket in buckets),
        peak_bytes=_largest(bucket.peak_bytes_max for bucket in buckets),
        growth_bytes_per_batch=slope(_points(buckets)),
        minor_faults=_sum(bucket.minor_faults_sum for bucket in buckets),
        major_faults=_sum(bucket.major_faults_sum for bucket in buckets),
        swap_in_bytes=_sum(bucket.swap_in_bytes_sum for bucket in buckets),
        swap_out_bytes=_sum(bucket.swap_out_bytes_sum for bucket in buckets),
        # The first sample counts from before the span, so that the quotient may come out above 1.
        stall_share=min(1.0, stalled_us * 1e3 / span_ns) if stalled_us is not None and span_ns > 0 else None,
    )


def _mean(buckets: Sequence[Bucket]) -> float | None:
    known = [(bucket.rss_bytes_sum, bucket.rows) for bucket in buckets if bucket.rss_bytes_sum is not None]
    return sum(size for size, _ in known) / sum(rows for _, rows in known) if known else None


def _points(buckets: Iterable[Bucket]) -> list[tuple[float, float, int]]:
    return [
        ((bucket.batch_min + bucket.batch_max) / 2, bucket.rss_bytes_sum / bucket.rows, bucket.rows)
        for bucket in buckets
        if bucket.batch_min is not None and bucket.batch_max is not None and bucket.rss_bytes_sum is not None
    ]


def slope(points: Sequence[tuple[float, float, int]]) -> float | None:
    """The slope of y over x by weighted least squares, from (x, y, weight); None where x never changes."""
    weight = sum(w for _, _, w in points)
    if not weight:
        return None
    mean_x = sum(w * x for x, _, w in points) / weight
    mean_y = sum(w * y for _, y, w in points) / weight
    spread = sum(w * (x - mean_x) ** 2 for x, _, w in points)
    if not spread:
        return None
    return sum(w * (x - mean_x) * (y - mean_y) for x, y, w in points) / spread


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _least(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _largest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)
