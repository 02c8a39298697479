"""The journal: what was written is read again, whatever happened to the disk in between."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from oomcast.agent.journal import Destination, Journal, JournalFrame, journal_folders, read_destination
from oomcast.agent.outbox import Outbox
from oomcast.errors import JournalError
from oomcast.sample import EventKind
from oomcast.wire import Frame, decode_agent_message

pytestmark = pytest.mark.fast


def frame(first: int, last: int | None = None, size: int = 100) -> JournalFrame:
    return JournalFrame(first, last or first, os.urandom(size))


def read_all(journal: Journal, seq: int = 0) -> list[JournalFrame]:
    found = []
    while item := journal.next_after(seq):
        found.append(item)
        seq = item.last_seq
    return found


def open_journal(folder: Path, max_bytes: int = 1 << 20, segment_bytes: int = 4096) -> Journal:
    return Journal(folder, max_bytes=max_bytes, segment_bytes=segment_bytes)


def test_frames_come_out_in_order_also_for_the_next_process(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j")
    frames = [frame(n) for n in range(1, 200)]
    for item in frames:
        journal.append(item)
    assert read_all(journal) == frames
    journal.close()
    again = open_journal(tmp_path / "j")
    assert read_all(again, 50) == frames[50:]
    again.close()


def test_acknowledged_segments_go_and_an_empty_journal_removes_itself(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j")
    for n in range(1, 200):
        journal.append(frame(n))
    before = len(list((tmp_path / "j").glob("*.frames")))
    journal.acknowledge(150)
    assert 0 < len(list((tmp_path / "j").glob("*.frames"))) < before
    assert [item.first_seq for item in read_all(journal, 150)] == list(range(151, 200))
    journal.acknowledge(199)
    assert not journal.pending
    journal.close()
    assert not (tmp_path / "j").exists()


def test_frames_written_after_an_acknowledgement_are_kept(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j")
    journal.append(frame(1))
    journal.acknowledge(1)
    journal.append(frame(2))
    assert [item.first_seq for item in read_all(journal, 1)] == [2]
    journal.close()
    assert [path.name for path in tmp_path.iterdir()] == ["j"]


@hypothesis_settings(max_examples=60, deadline=None)
@given(cut=st.integers(min_value=0, max_value=5000), flip=st.none() | st.integers(min_value=0, max_value=4000))
def test_a_torn_or_flipped_file_gives_its_sound_frames_and_no_error(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int | None
) -> None:
    folder = tmp_path_factory.mktemp("journal") / "j"
    journal = open_journal(folder, segment_bytes=1 << 20)
    frames = [frame(n) for n in range(1, 41)]
    for item in frames:
        journal.append(item)
    journal.close()
    path = next(folder.glob("*.frames"))
    data = bytearray(path.read_bytes()[:cut])
    if flip is not None and flip < len(data):
        data[flip] ^= 0x40
    path.write_bytes(data)
    again = open_journal(folder)
    found = read_all(again)
    again.close()
    # A frame takes 128 bytes; only the one that was flipped, and the one that was torn, are given up.
    hit = None if flip is None or flip >= len(data) else flip // 128
    assert found == [item for n, item in enumerate(frames) if (n + 1) * 128 <= cut and n != hit]


def test_an_empty_and_a_torn_segment_are_no_hindrance(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    journal = open_journal(folder)
    journal.append(frame(1))
    journal.close()
    (folder / f"{2:020d}.frames").write_bytes(b"")
    (folder / f"{3:020d}.frames").write_bytes(b"oomf\1\2\3")
    again = open_journal(folder)
    for n in (2, 3):
        again.append(frame(n))
    assert [item.first_seq for item in read_all(again)] == [1, 2, 3]
    again.close()


def test_a_journal_says_where_it_is_to_go(tmp_path: Path) -> None:
    destination = Destination(server="http://127.0.0.1:6662", mode="online")
    journal = Journal(tmp_path / "j", max_bytes=1 << 20, hello=b"hello", destination=destination)
    assert read_destination(tmp_path / "j") is None, "written with the first frame, as the hello is"
    journal.append(frame(1))
    assert read_destination(tmp_path / "j") == destination
    journal.close()


def test_the_bound_drops_the_oldest_and_says_which(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j", max_bytes=20_000)
    dropped = [pair for n in range(1, 500) for pair in journal.append(frame(n))]
    kept = read_all(journal)
    size = sum(path.stat().st_size for path in (tmp_path / "j").glob("*.frames"))
    assert size <= 20_000
    assert dropped[0][0] == 1
    assert dropped[-1][1] + 1 == kept[0].first_seq
    assert kept[-1].last_seq == 499
    journal.close()


def test_a_journal_in_use_is_left_alone(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j")
    with pytest.raises(JournalError, match="in use"):
        open_journal(tmp_path / "j")
    journal.close()


def test_no_journals_is_no_error(tmp_path: Path) -> None:
    assert journal_folders(tmp_path / "none") == []


def test_what_the_journal_lost_is_made_good_by_a_gap(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j")
    journal.append(frame(1, 3))
    journal.append(frame(10, 12))
    outbox = Outbox(journal)
    given_out = [outbox.next_after(seq) for seq in (0, 3, 9)]
    assert [(item.first_seq, item.last_seq) for item in given_out if item] == [(1, 3), (4, 9), (10, 12)]
    assert given_out[1] is not None
    gap = decode_agent_message(given_out[1].payload)
    assert isinstance(gap, Frame)
    assert [(event.kind, event.detail["from"], event.detail["to"]) for event in gap.events] == [(EventKind.GAP, 4, 9)]
    outbox.close()


def test_without_a_disk_frames_wait_in_bounded_memory(tmp_path: Path) -> None:
    outbox = Outbox(None, memory_bytes=1000)
    for n in range(1, 100):
        outbox.append(frame(n))
    first = outbox.next_after(0)
    assert first is not None
    assert decode_agent_message(first.payload).events[0].kind is EventKind.GAP  # type: ignore[union-attr]
    kept = []
    seq = first.last_seq
    while item := outbox.next_after(seq):
        kept.append(item)
        seq = item.last_seq
    assert seq == 99
    assert sum(len(item.payload) for item in kept) <= 1000
    outbox.acknowledge(99)
    assert not outbox.pending


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_keeps_frames_in_memory_until_there_is_room(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j", segment_bytes=1 << 20)
    outbox = Outbox(journal)
    outbox.append(frame(1))
    real, journal._file = journal._file, os.open("/dev/full", os.O_WRONLY)
    outbox.append(frame(2))
    assert outbox.disk_error is not None
    assert "space" in outbox.disk_error
    assert not outbox.kept
    assert outbox.next_after(1) is not None
    os.close(journal._file)
    journal._file = real
    outbox.append(frame(3))
    assert outbox.kept
    assert outbox.disk_error is None
    assert [item.first_seq for item in read_all(journal)] == [1, 2, 3]
    outbox.close()
