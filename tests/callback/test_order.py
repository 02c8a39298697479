"""Batch ends that several threads wrote come out in the order of their batches."""

from __future__ import annotations

import pytest

from oomcast.agent.order import Order
from oomcast.recorder import Context, Mark
from oomcast.ring import Record
from oomcast.sample import Phase

pytestmark = pytest.mark.fast

MS = 1_000_000


def record(step: int, at_ms: int, serial: int = 1, mark: Mark = Mark.BATCH) -> Record:
    context = Context(mark, Phase.TRAIN, 1, 0, serial, -1)
    return Record(1, at_ms * MS, 0, -1, step, 0, 0, 0, context.pack(), b"")


def steps(records: list[Record]) -> list[int]:
    return [item.step for item in records]


def test_in_order_they_pass_at_once() -> None:
    order = Order()
    assert steps(order.take([record(0, 1), record(1, 2)], 2 * MS)) == [0, 1]
    assert steps(order.take([record(0, 3, serial=2)], 3 * MS)) == [0]
    assert not order.threaded


def test_once_they_jump_back_they_are_held_and_sorted_also_across_polls() -> None:
    order = Order()
    first = order.take([record(1, 1), record(0, 2), record(4, 60)], 62 * MS)
    second = order.take([record(2, 61), record(3, 62)], 120 * MS)
    assert steps(first) == [0, 1]
    assert steps(second) == [2, 3, 4]


def test_the_end_holds_nothing_back() -> None:
    order = Order()
    assert steps(order.take([record(1, 1), record(0, 1)], 1 * MS, final=True)) == [0, 1]
    assert steps(order.take([record(3, 1), record(2, 1)], 1 * MS, final=True)) == [2, 3]


def test_a_mark_is_not_crossed() -> None:
    records = [record(1, 1), record(0, 1), record(-1, 1, 2, Mark.EPOCH_BEGIN), record(1, 1, 2), record(0, 1, 2)]
    assert steps(Order().take(records, 1 * MS, final=True)) == [0, 1, -1, 0, 1]
