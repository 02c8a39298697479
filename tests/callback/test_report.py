"""The last minute: growth that noise and spikes don't move, and where the training stood."""

from __future__ import annotations

import random
from typing import Any

import pytest

from oomcast.agent.report import LastMinute, Report
from oomcast.sample import Event, EventKind, Kind, Phase, Sample

pytestmark = pytest.mark.fast

MIB = 1 << 20
S = 10**9


def batch(number: int, rss: int | None, *, at_s: float | None = None, **more: Any) -> Sample:
    sample = Sample(
        seq=number + 1,
        kind=Kind.BATCH,
        wall_ns=0,
        mono_ns=int((number * 0.1 if at_s is None else at_s) * S),
        phase=Phase.TRAIN,
        epoch=0,
        batch=number,
        step=number,
        steps=1,
        duration_ns=100_000_000,
        rss_bytes=rss,
        peak_bytes=None,
        shared_bytes=None,
        swap_bytes=None,
        minor_faults=None,
        major_faults=None,
        limit_bytes=None,
        working_set_bytes=None,
    )
    return sample._replace(**more)


def tick(at_s: float, rss: int | None = None, psi_full_us: int | None = None, phase: Phase = Phase.TRAIN) -> Sample:
    at = batch(0, rss, at_s=at_s)
    return at._replace(kind=Kind.TICK, batch=None, step=None, steps=None, psi_full_us=psi_full_us, phase=phase)


def event(kind: EventKind, epoch: int | None = None, **detail: str | int | None) -> Event:
    return Event(1, kind, 0, 0, epoch, None, detail)


def told(*rows: Sample | Event) -> Report:
    minute = LastMinute()
    for row in rows:
        if isinstance(row, Sample):
            minute.add(row)
        else:
            minute.follow(row)
    return minute.report()


def test_a_leak_is_measured_through_noise_and_spikes() -> None:
    noise = random.Random(3)
    rows = [batch(n, 500 * MIB + n * 3 * MIB + noise.randrange(8 * MIB)) for n in range(400)]
    rows[50] = rows[50]._replace(rss_bytes=4000 * MIB)
    growth = told(*rows).growth
    assert growth is not None
    assert growth.bytes_per_batch == pytest.approx(3 * MIB, rel=0.03)
    assert (growth.batches, growth.steady) == (400, True)


@pytest.mark.parametrize(
    "level",
    [
        lambda n: 500 * MIB,
        lambda n: 500 * MIB if n < 200 else 900 * MIB,
        lambda n: 500 * MIB + (n % 40) * 5 * MIB,
        lambda n: 900 * MIB - n * MIB,
        lambda n: 500 * MIB + min(n, 250) * MIB,
    ],
    ids=["level", "one step", "sawtooth", "falling", "it has stopped rising"],
)
def test_what_does_not_rise_to_the_end_is_no_steady_growth(level: object) -> None:
    growth = told(*[batch(n, level(n)) for n in range(400)]).growth  # type: ignore[operator]
    assert growth is not None
    assert not growth.steady


def test_under_twenty_batches_there_is_no_slope() -> None:
    assert told(*[batch(n, n * MIB) for n in range(19)]).growth is None
    assert told(*[batch(n, n * MIB) for n in range(20)]).growth is not None
    assert told(*[batch(n, None) for n in range(50)]).growth is None


def test_what_goes_into_swap_or_to_the_workers_grows_as_well() -> None:
    rows = [batch(n, 500 * MIB, swap_bytes=n * MIB, children_rss_bytes=2 * n * MIB) for n in range(100)]
    growth = told(*rows).growth
    assert growth is not None
    assert growth.bytes_per_batch == 3 * MIB


def test_validation_stands_at_another_level_and_is_left_out() -> None:
    rows = [batch(n, 500 * MIB) for n in range(80)]
    rows += [batch(n, 900 * MIB, phase=Phase.VALIDATION) for n in range(80, 110)]
    report = told(*rows)
    assert report.growth is not None
    assert report.growth.bytes_per_batch == 0
    assert (report.phase, report.batch, report.batches) == (Phase.VALIDATION, 109, 110)


def test_only_the_last_minute_counts() -> None:
    rows = [batch(n, 900 * MIB - n * MIB, peak_bytes=2000 * MIB) for n in range(300)]
    rows += [batch(n, 600 * MIB + (n - 300) * MIB) for n in range(300, 1000)]
    report = told(*rows)
    assert report.growth is not None
    assert report.growth.bytes_per_batch == MIB
    assert report.peak_bytes == (600 + 699) * MIB


def test_slow_batches_are_compared_beyond_the_minute() -> None:
    report = told(*[batch(n, n * MIB, at_s=30 * n) for n in range(40)])
    assert report.growth is not None
    assert report.peak_bytes == 39 * MIB


def test_fast_batches_are_bounded_and_keep_their_peaks() -> None:
    minute = LastMinute()
    for n in range(200_000):
        minute.add(batch(n, 500 * MIB + n, at_s=n * 0.0004, peak_bytes=(900 if n == 150_001 else 600) * MIB))
    report = minute.report()
    assert report.peak_bytes == 900 * MIB
    assert report.growth is not None
    assert report.growth.bytes_per_batch == 1
    assert len(minute._points) <= 6001


def test_ticks_tell_peaks_and_how_long_everything_waited() -> None:
    report = told(*[tick(n, (500 + n) * MIB, psi_full_us=250_000) for n in range(20)])
    assert report.peak_bytes == 519 * MIB
    assert report.stalled_share == pytest.approx(0.25)
    assert told(*[tick(n) for n in range(20)]).stalled_share is None


def test_the_median_batch_time() -> None:
    assert told(*[batch(n, None, duration_ns=(n % 3 + 1) * S) for n in range(30)]).batch_ns == 2 * S


def test_the_end_of_an_epoch_is_known_from_its_number_of_steps() -> None:
    begin, epoch = event(EventKind.TRAIN_BEGIN, epochs=3, steps=10), event(EventKind.EPOCH_BEGIN, epoch=0)
    batches = [batch(n, MIB) for n in range(10)]
    assert told(begin, epoch, *batches).at_epoch_end
    assert told(begin, epoch, *batches, tick(2)).at_epoch_end
    assert not told(begin, epoch, *batches[:-1]).at_epoch_end
    assert not told(begin, epoch, *batches, event(EventKind.PHASE_BEGIN, phase="validation")).at_epoch_end
    assert told(
        begin,
        epoch,
        *batches,
        event(EventKind.PHASE_BEGIN, phase="validation"),
        event(EventKind.PHASE_END, phase="validation"),
    ).at_epoch_end
    assert not told(begin, epoch, *batches, event(EventKind.EPOCH_BEGIN, epoch=1)).at_epoch_end
    assert not told(event(EventKind.TRAIN_BEGIN, epochs=3, steps=None), epoch, *batches).at_epoch_end


def test_a_phase_that_has_begun_is_known_before_its_first_batch() -> None:
    begin = event(EventKind.TRAIN_BEGIN, epochs=3, steps=10)
    assert told(begin, event(EventKind.PHASE_BEGIN, phase="validation")).phase is Phase.VALIDATION
    assert told(begin, event(EventKind.TRAIN_END)).phase is Phase.IDLE


def test_nothing_is_known_of_nothing() -> None:
    assert told() == Report()
