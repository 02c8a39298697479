"""Frames are made whole (pure)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.parts import a_frame, a_hello, a_sample, a_stretch, an_event

from oomcast.errors import WireError
from oomcast.sample import EventKind, GpuReading
from oomcast.wire import LimitState, ProcessState, Status, encode
from oomcast_server.intake.salvage import is_whole, read_frame

pytestmark = pytest.mark.fast


def packed(first: int, last: int, *samples: Any, **more: Any) -> bytes:
    return msgspec.msgpack.encode(
        {"type": "frame", "first_seq": first, "last_seq": last, "samples": list(samples), **more}
    )


def gaps(data: bytes) -> list[tuple[int, int, int]]:
    frame, wrong = read_frame(data, 7)
    assert wrong is not None
    assert is_whole(frame) or frame.last_seq - frame.first_seq + 1 > len(frame.samples) + len(frame.events)
    found = [event for event in frame.events if event.kind is EventKind.GAP]
    return [(event.seq, int(event.detail["from"] or 0), int(event.detail["to"] or 0)) for event in found]


def test_a_whole_frame_is_taken_as_it_is() -> None:
    frame = a_frame([a_sample(1), a_sample(2)], [an_event(3, EventKind.NOTICE, text="x")])
    assert read_frame(encode(frame), 7) == (frame, None)


def test_rows_come_in_order() -> None:
    frame, wrong = read_frame(encode(a_frame([a_sample(2), a_sample(1)])), 7)
    assert wrong is None
    assert [sample.seq for sample in frame.samples] == [1, 2]


@pytest.mark.parametrize(
    "bad",
    [
        None,
        5,
        "x",
        [],
        [2],
        list(a_sample(2))[:17],  # shorter than any version ever sent
        [2, 9, *a_sample(2)[2:]],
        [2.5, *a_sample(2)[1:]],
        [2, 0, 2**63, *a_sample(2)[3:]],
        [float("nan"), *a_sample(2)[1:]],
    ],
)
def test_a_bad_row_becomes_a_gap(bad: Any) -> None:
    assert gaps(packed(1, 3, list(a_sample(1)), bad, list(a_sample(3)))) == [(2, 2, 2)]


def test_neighbouring_bad_rows_are_one_gap() -> None:
    rows: list[list[Any]] = [list(a_sample(seq)) for seq in range(1, 8)]
    for at in (1, 2, 5):
        rows[at][10] = "much"
    assert gaps(packed(1, 7, *rows)) == [(2, 2, 3), (6, 6, 6)]


def test_a_row_twice_and_a_row_missing() -> None:
    assert gaps(encode(a_frame([a_sample(1), a_sample(1), a_sample(3)]))) == [(2, 2, 2)]


def test_a_row_outside_of_the_frame_is_dropped() -> None:
    frame, wrong = read_frame(packed(1, 2, list(a_sample(1)), list(a_sample(2)), list(a_sample(9))), 7)
    assert wrong is not None
    assert [sample.seq for sample in frame.samples] == [1, 2]


def test_a_bad_gpu_reading_is_dropped_alone() -> None:
    good = list(GpuReading(1, 0, 1, 2, None, 3))
    frame, wrong = read_frame(packed(1, 1, list(a_sample(1)), gpus=[good, [1, 0, -1, 2, None, 300]]), 7)
    assert wrong is not None
    assert frame.gpus == [GpuReading(1, 0, 1, 2, None, 3)]
    assert [sample.seq for sample in frame.samples] == [1]


def test_texts_of_a_status_are_cleaned_and_cut() -> None:
    limit = LimitState(kind="cgroup /\x1b[31m" + "a" * 4000, limit_bytes=1, used_bytes=2)
    process = ProcessState(pid=1, name="py\u202ethon", role="child")
    status = Status(wall_ns=5, limits=[limit], processes=[process], pressure="sys\ntem")
    frame, wrong = read_frame(encode(a_frame([a_sample(1)], status=status)), 7)
    assert wrong is None
    assert frame.status is not None
    assert frame.status.limits[0].kind == "cgroup /[31m" + "a" * 488
    assert (frame.status.processes[0].name, frame.status.pressure) == ("python", "sys tem")


def test_a_bad_status_is_dropped_alone() -> None:
    frame, wrong = read_frame(packed(1, 1, list(a_sample(1)), status={"wall_ns": -1}), 7)
    assert wrong is not None
    assert (frame.status, len(frame.samples), frame.events) == (None, 1, [])
    good, _ = read_frame(packed(1, 2, list(a_sample(1)), [2], status={"wall_ns": 5}), 7)
    assert good.status == Status(wall_ns=5)


def test_a_hello_is_no_frame() -> None:
    with pytest.raises(WireError):
        read_frame(encode(a_hello()), 7)


@pytest.mark.parametrize(("first", "last"), [(0, 1), (-1, 3), (5, 4), (1, 2**62), (2**62, 2**62 + 1)])
def test_a_span_that_no_frame_can_have(first: int, last: int) -> None:
    with pytest.raises(WireError):
        read_frame(packed(first, last), 7)


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_a_wire_error(data: bytes) -> None:
    try:
        read_frame(data, 7)
    except WireError:
        return


@given(at=st.integers(0, 2_000), byte=st.integers(0, 255))
def test_a_frame_with_one_byte_changed_is_whole_or_a_wire_error(at: int, byte: int) -> None:
    data = bytearray(encode(a_stretch(1, 5)))
    data[at % len(data)] = byte
    try:
        frame, wrong = read_frame(bytes(data), 7)
    except WireError:
        return
    covered = {sample.seq for sample in frame.samples}
    for event in frame.events:
        covered |= set(range(int(event.detail["from"] or 0), int(event.detail["to"] or 0) + 1))
    assert covered == set(range(frame.first_seq, frame.last_seq + 1))
    assert wrong is not None or is_whole(frame)
