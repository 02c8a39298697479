"""When memory is called critical, and when no longer."""

from __future__ import annotations

from typing import Any

import pytest

from oomcast.agent.alarm import Alarm, Spike
from oomcast.assessment import Assessment, State
from oomcast.probes.limits import Limit
from oomcast.sample import Phase

pytestmark = pytest.mark.fast

MIB = 1 << 20
SECOND = 10**9


class Looks:
    """Looks at one limit of 1000 MiB, a second apart unless said otherwise."""

    def __init__(self, share: float = 0.05) -> None:
        self.alarm = Alarm(share)
        self.now = 1_700_000_000 * SECOND

    def take(self, used_mib: int, *, spike_mib: int = 0, after_ns: int = SECOND, **more: Any) -> Assessment | None:
        self.now += after_ns
        limit = Limit("cgroup /job", 1000 * MIB, used_mib * MIB, **more)
        return self.alarm.take(limit, spike_mib * MIB, self.now, 2, 7)


def states(looks: Looks, used_mib: list[int], **more: Any) -> list[State | None]:
    found = [looks.take(used, **more) for used in used_mib]
    return [None if assessment is None else assessment.state for assessment in found]


def test_a_steady_training_is_never_spoken_of() -> None:
    assert states(Looks(), [100, 500, 949, 950]) == [None] * 4


def test_critical_is_told_once_with_all_that_it_rests_on() -> None:
    looks = Looks()
    first = looks.take(951)
    assert first == Assessment(
        state=State.CRITICAL,
        wall_ns=looks.now,
        limit_kind="cgroup /job",
        limit_bytes=1000 * MIB,
        used_bytes=951 * MIB,
        spike_bytes=0,
        headroom_bytes=49 * MIB,
        epoch=2,
        batch=7,
    )
    assert states(looks, [955, 999, 1001]) == [None] * 3


def test_a_batchs_peak_counts_as_used() -> None:
    looks = Looks()
    assert looks.take(800, spike_mib=150) is None
    found = looks.take(800, spike_mib=151)
    assert found is not None
    assert found.headroom_bytes == 49 * MIB


def test_steady_again_needs_half_as_much_again() -> None:
    assert states(Looks(), [960, 940, 926, 925, 924]) == [State.CRITICAL, None, None, None, State.STEADY]


def test_the_state_changes_once_a_second_at_most() -> None:
    found = states(Looks(), [960, 100] * 75, after_ns=SECOND // 20)  # 7.5 s
    assert 2 <= sum(state is not None for state in found) <= 8


def test_a_clock_that_is_set_back_does_not_silence_the_alarm() -> None:
    looks = Looks()
    assert states(looks, [960]) == [State.CRITICAL]
    assert states(looks, [100], after_ns=-3600 * SECOND) == [State.STEADY]


def test_an_unknown_limit_changes_nothing() -> None:
    looks = Looks()
    looks.take(960)
    assert looks.alarm.take(None, 0, looks.now + 5 * SECOND, None, None) is None
    assert looks.alarm.state is State.CRITICAL


def test_a_limit_that_was_raised_ends_it() -> None:
    looks = Looks()
    looks.take(990)
    found = looks.alarm.take(Limit("cgroup /job", 2000 * MIB, 990 * MIB), 0, looks.now + 2 * SECOND, None, None)
    assert found is not None
    assert found.state is State.STEADY


def test_the_share_is_the_users() -> None:
    assert states(Looks(0.2), [801]) == [State.CRITICAL]


@pytest.mark.skipif("kills" not in Limit._fields, reason="limits do not say yet whether they kill")
def test_a_limit_that_only_slows_is_no_reason_for_alarm() -> None:
    assert Looks().take(999, kills=False) is None


def test_the_spike_is_the_largest_of_the_last_64_batches_of_the_phase() -> None:
    spike = Spike()
    assert spike.largest_bytes(Phase.TRAIN) == 0
    spike.take(Phase.TRAIN, 100, 900)
    spike.take(Phase.VALIDATION, 100, 150)
    assert (spike.largest_bytes(Phase.TRAIN), spike.largest_bytes(Phase.VALIDATION)) == (800, 50)
    for _ in range(63):
        spike.take(Phase.TRAIN, 100, 110)
    assert spike.largest_bytes(Phase.TRAIN) == 800
    spike.take(Phase.TRAIN, 100, 110)
    assert spike.largest_bytes(Phase.TRAIN) == 10


def test_a_peak_that_was_not_measured_counts_for_nothing() -> None:
    spike = Spike()
    spike.take(Phase.TRAIN, None, 100)
    spike.take(Phase.TRAIN, 100, None)
    spike.take(Phase.TRAIN, 100, 90)  # the kernel's counters lag by some pages
    assert spike.largest_bytes(Phase.TRAIN) == 0
