"""The ring: what goes in comes out once and in order, and what was lost is counted."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from oomcast.errors import RingError
from oomcast.ring import CONTEXT_BYTES, STATM_BYTES, Record, RingReader, RingWriter

pytestmark = pytest.mark.fast

CONTEXT = b"c" * CONTEXT_BYTES
STATM = b"10 20 30 0 0 0 0".ljust(STATM_BYTES, b"\0")


def put(writer: RingWriter, step: int) -> None:
    writer.append(step * 10, step * 20, -1, step, 7, 8, 9, CONTEXT, STATM)


def steps(records: list[Record]) -> list[int]:
    return [record.step for record in records]


def test_a_record_comes_out_as_it_went_in(tmp_path: Path) -> None:
    writer = RingWriter(tmp_path / "ring", slots=8)
    writer.append(1, 2, 3, 4, 5, 6, 7, CONTEXT, STATM)
    assert RingReader(tmp_path / "ring").read().records == [Record(1, 1, 2, 3, 4, 5, 6, 7, CONTEXT, STATM)]


def test_each_record_is_read_once_and_in_order(tmp_path: Path) -> None:
    writer, seen = RingWriter(tmp_path / "ring", slots=8), []
    reader = RingReader(tmp_path / "ring")
    for step in range(50):
        put(writer, step)
        if step % 3 == 0:
            seen += steps(reader.read().records)
    assert seen + steps(reader.read().records) == list(range(50))


def test_overwritten_records_are_counted_and_the_newest_survive(tmp_path: Path) -> None:
    writer, reader = RingWriter(tmp_path / "ring", slots=64), RingReader(tmp_path / "ring")
    for step in range(1000):
        put(writer, step)
    batch = reader.read()
    assert batch.lost + len(batch.records) == 1000
    assert steps(batch.records) == list(range(batch.lost, 1000))
    assert len(batch.records) > 32


def test_a_half_written_record_is_not_read_and_does_not_stop_the_final_drain(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    writer, reader = RingWriter(path, slots=8), RingReader(path)
    for step in range(3):
        put(writer, step)
    with path.open("r+b") as file:  # a writer that died within the second slot
        file.seek(64 + 128 + 40)
        file.write(b"\xff\xff")
    assert steps(reader.read().records) == [0]
    rest = reader.drain()
    assert steps(rest.records) == [2]
    assert rest.lost == 1


def test_a_record_that_is_never_finished_holds_the_reader_up_for_some_reads_only(tmp_path: Path) -> None:
    writer, reader = RingWriter(tmp_path / "ring", slots=64), RingReader(tmp_path / "ring")
    put(writer, 0)
    writer.hot.next_number()  # a hook that was interrupted behind its number
    seen: list[int] = []
    lost = 0
    for step in range(1, 40):
        put(writer, step)
        batch = reader.read()
        seen += steps(batch.records)
        lost += batch.lost
    assert lost == 1
    assert seen == list(range(40))


def test_a_record_being_written_is_waited_for(tmp_path: Path) -> None:
    writer, reader = RingWriter(tmp_path / "ring", slots=64), RingReader(tmp_path / "ring")
    writer.hot.next_number()
    for _ in range(100):
        assert reader.read() == ([], 0)


def test_threads_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    writer, reader = RingWriter(tmp_path / "ring", slots=8192), RingReader(tmp_path / "ring")

    def write() -> None:
        for step in range(1000):
            put(writer, step)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = reader.read().records
    assert [record.number for record in records] == list(range(1, 4001))
    assert sorted(steps(records)) == sorted(list(range(1000)) * 4)


def test_a_closed_ring_takes_nothing_more(tmp_path: Path) -> None:
    writer = RingWriter(tmp_path / "ring", slots=8)
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        put(writer, 0)


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 64 + b"y" * 1024])
def test_a_file_that_is_no_ring_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ring").write_bytes(content)
    with pytest.raises(RingError):
        RingReader(tmp_path / "ring")


def test_a_place_that_takes_no_file_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(RingError, match="can't make"):
        RingWriter(tmp_path / "none" / "ring")
