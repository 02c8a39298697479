"""The last minute of a training: how memory grew, how far it had come, whether it waited for memory (pure).

Growth is Theil and Sen's slope, the median of the slopes between all pairs of points, which neither one spike nor one
step moves: Sen, "Estimates of the Regression Coefficient Based on Kendall's Tau", JASA 63 (1968).
"""

from __future__ import annotations

import itertools
import statistics
from collections import Counter, deque
from collections.abc import Sequence
from typing import NamedTuple

from oomcast.sample import Event, EventKind, Kind, Phase, Sample

__all__ = ["Growth", "LastMinute", "Report"]

WINDOW_NS = 60 * 10**9
# Batches that end closer to each other than this are one point with the highest peak of them: 6 000 points at most.
_SPACING_NS = 10**7
# Slow batches are kept beyond the window, or there would be no slope at all.
_POINTS_KEPT = 60
_FEWEST_BATCHES, _FEWEST_POINTS = 20, 8
_POINTS_COMPARED = 60  # 1 770 pairs, a millisecond
# A rise over the window that is less than this share of the level is noise: an arena, a garbage collection to come.
_RISE = 0.01
# Of all pairs of points, this share more must rise than fall (Kendall's tau): one step has a half at most, a sawtooth
# next to nothing.
_AGREEMENT = 0.5


class Growth(NamedTuple):
    """How memory went from batch to batch."""

    bytes_per_batch: int  # RSS and swap, with the children's; below zero where it fell
    batches: int  # over how many
    steady: bool  # it rose all the time, and to the end


class Report(NamedTuple):
    """What is known of the last minute; None where it is not."""

    peak_bytes: int | None = None
    growth: Growth | None = None
    batch_ns: int | None = None  # of one batch, the median
    batches: int = 0  # that ended since the training began
    phase: Phase | None = None
    epoch: int | None = None
    batch: int | None = None
    at_epoch_end: bool = False  # the epoch's last training batch had ended, no validation ran, no epoch had begun
    stalled_share: float | None = None  # of its time, in which every task waited for memory (PSI "full")


class _Point(NamedTuple):
    mono_ns: int
    phase: Phase
    batch: int
    held_bytes: int | None
    peak_bytes: int | None
    duration_ns: int | None


class LastMinute:
    """Keeps what a report needs, bounded, however fast the batches are."""

    def __init__(self) -> None:
        self._points: deque[_Point] = deque()
        self._ticks: deque[tuple[int, int | None]] = (
            deque()
        )  # when, and how long everything stalled since the one before
        self._tick_peaks: deque[tuple[int, int]] = deque()
        self._phase: Phase | None = None
        self._epoch: int | None = None
        self._batch: int | None = None
        self._steps: int | None = None
        self._epoch_done = False

    def add(self, sample: Sample) -> None:
        """Take the next sample; a microsecond or two."""
        self._phase = sample.phase
        if sample.epoch is not None:
            self._epoch = sample.epoch
        if sample.batch is not None and sample.batch >= (self._batch or 0):
            self._batch = sample.batch
        if sample.kind is Kind.TICK:
            self._add_tick(sample)
        elif sample.batch is not None:
            self._add_batch(sample, sample.batch)

    def _add_tick(self, sample: Sample) -> None:
        self._ticks.append((sample.mono_ns, sample.psi_full_us))
        if sample.rss_bytes is not None:
            self._tick_peaks.append((sample.mono_ns, sample.rss_bytes))
        oldest = sample.mono_ns - WINDOW_NS
        for kept in (self._ticks, self._tick_peaks):
            while kept and kept[0][0] < oldest:
                kept.popleft()

    def _add_batch(self, sample: Sample, batch: int) -> None:
        if sample.phase is Phase.TRAIN and sample.step is not None:
            self._epoch_done = self._steps is not None and sample.step + 1 >= self._steps
        held, peak = _held(sample), sample.peak_bytes if sample.peak_bytes is not None else sample.rss_bytes
        points = self._points
        if points and points[-1].phase is sample.phase and sample.mono_ns - points[-1].mono_ns < _SPACING_NS:
            # The point keeps its time, so that a row of near ones can't grow without end.
            last = points.pop()
            peak = max((size for size in (peak, last.peak_bytes) if size is not None), default=None)
            points.append(_Point(last.mono_ns, sample.phase, batch, held, peak, sample.duration_ns))
        else:
            points.append(_Point(sample.mono_ns, sample.phase, batch, held, peak, sample.duration_ns))
        oldest = sample.mono_ns - WINDOW_NS
        while len(points) > _POINTS_KEPT and points[0].mono_ns < oldest:
            points.popleft()

    def follow(self, event: Event) -> None:
        """Take the next event, for where the training stands between its batches."""
        if event.kind is EventKind.TRAIN_BEGIN:
            steps = event.detail.get("steps")
            self._steps = steps if isinstance(steps, int) else None
            self._phase = Phase.TRAIN
        elif event.kind in (EventKind.EPOCH_BEGIN, EventKind.EPOCH_END, EventKind.TRAIN_END):
            self._epoch_done = False
            if event.kind is EventKind.TRAIN_END:
                self._phase = Phase.IDLE
            elif event.epoch is not None:
                self._epoch = event.epoch
        elif event.kind is EventKind.PHASE_BEGIN:
            name = str(event.detail.get("phase")).upper()
            self._phase = Phase.__members__.get(name, self._phase)
        elif event.kind is EventKind.PHASE_END:
            self._phase = Phase.TRAIN if self._phase is Phase.VALIDATION else Phase.IDLE

    @property
    def batch_ns(self) -> int | None:
        """How long a batch takes, the median of the last ones; None where it is not known. Some 20 µs."""
        latest = itertools.islice(reversed(self._points), _POINTS_KEPT)
        durations = [point.duration_ns for point in latest if point.duration_ns is not None]
        return int(statistics.median(durations)) if durations else None

    def report(self) -> Report:
        """What it comes to; some milliseconds."""
        return Report(
            peak_bytes=self._peak(),
            growth=_growth(_of_main_phase(self._points)),
            batch_ns=self.batch_ns,
            batches=0 if self._batch is None else self._batch + 1,
            phase=self._phase,
            epoch=self._epoch,
            batch=self._batch,
            at_epoch_end=self._epoch_done and self._phase is Phase.TRAIN,
            stalled_share=self._stalled(),
        )

    def _peak(self) -> int | None:
        newest = max((kept[-1].mono_ns for kept in (self._points,) if kept), default=0)
        newest = max(newest, self._ticks[-1][0] if self._ticks else 0)
        peaks = [p.peak_bytes for p in self._points if p.peak_bytes is not None and p.mono_ns >= newest - WINDOW_NS]
        peaks += [size for _, size in self._tick_peaks]
        return max(peaks, default=None)

    def _stalled(self) -> float | None:
        later = list(self._ticks)[1:]  # what stalled before the first tick is another minute's
        stalled = [us for _, us in later if us is not None]
        if len(later) < 3 or not stalled:
            return None
        return min(1.0, 1000 * sum(stalled) / max(1, later[-1][0] - self._ticks[0][0]))


def _held(sample: Sample) -> int | None:
    # What is swapped out is held as well, and so is what the data loader's workers have.
    if sample.rss_bytes is None:
        return None
    more = (sample.swap_bytes, sample.children_rss_bytes, sample.children_swap_bytes)
    return sample.rss_bytes + sum(size for size in more if size is not None)


def _of_main_phase(points: Sequence[_Point]) -> list[_Point]:
    # Validation stands at another level than training: one of them only.
    known = [point for point in points if point.held_bytes is not None]
    phases = Counter(point.phase for point in known).most_common(1)
    return [point for point in known if point.phase is phases[0][0]] if phases else []


def _growth(points: list[_Point]) -> Growth | None:
    if len(points) < _FEWEST_POINTS:
        return None
    batches = points[-1].batch - points[0].batch + 1
    if batches < _FEWEST_BATCHES:
        return None
    step = (len(points) - 1) / (min(len(points), _POINTS_COMPARED) - 1)
    chosen = [points[round(step * number)] for number in range(min(len(points), _POINTS_COMPARED))]
    pairs = list(itertools.combinations([(point.batch, point.held_bytes or 0) for point in chosen], 2))
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs if b[0] > a[0]]
    if not slopes:
        return None
    slope = statistics.median(slopes)
    agree = sum((rise > 0) - (rise < 0) for rise in slopes) / len(slopes)
    held = [point.held_bytes or 0 for point in chosen]
    return Growth(round(slope), batches, agree >= _AGREEMENT and _rises_to_the_end(held, slope * batches))


def _rises_to_the_end(held: list[int], rise: float) -> bool:
    quarter = max(1, len(held) // 4)
    before, last = statistics.median(held[-2 * quarter : -quarter]), statistics.median(held[-quarter:])
    return last > before and rise >= _RISE * last
