"""Hangs: what is called one, since when, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from oomcast.agent.hang import Hang, HangChange
from oomcast.sample import Phase

pytestmark = pytest.mark.fast

S = 10**9


def changes(
    seconds: range, *, cpu_share: float = 0.0, batches: int = 7, hang: Hang | None = None, **more: Any
) -> list[HangChange]:
    """What is said at one tick a second, where no batch ends."""
    hang = hang or Hang()
    said = [hang.tick(at * S, batches, Phase.TRAIN, **({"cpu_ns": int(at * S * cpu_share)} | more)) for at in seconds]
    return [change for change in said if change]


def test_no_batch_and_no_work_for_a_minute_is_a_hang_told_once_since_the_last_batch() -> None:
    hang = Hang()
    (change,) = changes(range(10, 200), hang=hang)
    assert (change.hung, change.since_ns, change.idle_s, change.by_memory) == (True, 10 * S, 60, False)
    assert change.text == "Hung: no batch has ended for 60 s, and nothing is computed."
    assert hang.since_ns == 10 * S


def test_it_goes_on_when_a_batch_ends() -> None:
    hang = Hang()
    changes(range(100), hang=hang)
    change = hang.tick(130 * S, 8, Phase.TRAIN, cpu_ns=0)
    assert change is not None
    assert (change.hung, change.idle_s, hang.since_ns) == (False, 130, None)
    assert len(changes(range(131, 300), batches=8, hang=hang)) == 1


def test_work_is_no_hang() -> None:
    assert changes(range(300), cpu_share=0.05) == []
    assert changes(range(300), gpu_percent=40) == []


def test_what_cannot_be_known_is_no_hang() -> None:
    assert changes(range(300), cpu_ns=None) == []


def test_a_compile_that_ends_in_a_hang_is_one_in_the_end() -> None:
    hang = Hang()
    assert changes(range(300), cpu_share=1.0, hang=hang) == []
    (change,) = changes(range(300, 400), cpu_ns=300 * S, hang=hang)
    assert (change.since_ns, change.idle_s) == (0, 359)


def test_children_that_end_take_their_time_with_them() -> None:
    hang = Hang()
    changes(range(50), cpu_ns=900 * S, hang=hang)
    assert changes(range(50, 100), cpu_ns=5 * S, hang=hang) == []


def test_slow_batches_get_twenty_times_their_time() -> None:
    (change,) = changes(range(300), batch_ns=10 * S)
    assert change.idle_s == 200


def test_between_fits_nothing_hangs() -> None:
    hang = Hang()
    assert not any(hang.tick(at * S, 7, Phase.IDLE, cpu_ns=0) for at in range(300))


def test_a_phase_that_begins_is_a_sign_of_life() -> None:
    hang = Hang()
    changes(range(50), hang=hang)
    assert not any(hang.tick(at * S, 7, Phase.VALIDATION, cpu_ns=0) for at in range(50, 105))


@pytest.mark.parametrize("more", [{"psi_full_us": 500_000}, {"major_faults": 100}])
def test_a_training_that_pages_is_stalled_by_memory(more: dict[str, Any]) -> None:
    (change,) = changes(range(100), **more)
    assert change.by_memory
    assert change.text.startswith("Stalled by memory: no batch has ended for 60 s")
