"""Killed agents: another goes on exactly where one was killed, each row once; what nobody holds is brought home."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from oomcast._version import __version__
from oomcast.agent.assembler import AssemblerState, Outside
from oomcast.agent.left_behind import Closed, close_orphans, journals_left
from oomcast.agent.recording import Recording
from oomcast.agent.resume import Resume, read_resume, write_resume
from oomcast.handover import Handover, folder_parents, hold, is_held, make_folder, orphans, write_handover
from oomcast.names import random_id
from oomcast.probes.death import Standing, boot_id
from oomcast.probes.limits import Limit
from oomcast.recorder import Context, Mark
from oomcast.ring import RingWriter
from oomcast.sample import EventKind, Phase, Sample
from oomcast.wire import Frame, RunInfo, SourceInfo, decode_agent_message
from tests.support import batches, clean_environment, events, eventually, journals, recorded

pytestmark = pytest.mark.fast

STATM = b"1000 500 100 1 0 300 0\n"
TRAIN = Context(Mark.BATCH, Phase.TRAIN, 1, 0, 1, -1, peaks_rearmed=True)


def a_handover(home: Path, pid: int = 2**22 - 1) -> Handover:
    return Handover(
        run=RunInfo(id="r" * 16, project="p", name="end"),
        source=SourceInfo(id="s" * 16, host="h", pid=pid, started_ns=1),
        server="http://127.0.0.1:1",
        mode="offline",
        token=None,
        home=str(home),
        journal_max=1 << 24,
        autostart=False,
    )


def a_session(parent: Path, home: Path) -> tuple[Path, RingWriter, Handover]:
    """A session's folder as a training leaves it."""
    parent.mkdir(exist_ok=True)
    folder = make_folder(parent)
    os.close(hold(folder) or 0)
    ring = RingWriter(folder / "ring", slots=4096)
    (folder / "notes").touch()
    handover = a_handover(home)
    write_handover(folder, handover)
    return folder, ring, handover


def record(ring: RingWriter, step: int) -> None:
    ring.append(1000 + step, 10**18 + step, 900 + step, step, 2000, step, 0, TRAIN.pack(), STATM)


def a_recording(folder: Path, handover: Handover) -> Recording:
    return Recording(folder, handover, b"hello", lambda text: None)


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(st.integers(0, 30), min_size=1, max_size=12),
    deaths=st.lists(st.sampled_from(["before", "between", "after", "none"]), min_size=12, max_size=12),
)
def test_wherever_an_agent_is_killed_each_record_becomes_one_row(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], deaths: list[str]
) -> None:
    tmp_path = tmp_path_factory.mktemp("resume")
    folder, ring, handover = a_session(tmp_path / "shm", tmp_path / "home")
    written = 0
    recording = a_recording(folder, handover)
    for count, death in zip(steps, deaths, strict=False):
        for _ in range(count):
            record(ring, written)
            written += 1
        rows = recording.rows(recording.read(), Outside())
        if death == "between":
            # Written down, and not yet in the journal: the rename was its last act.
            journal, recording.outbox.journal = recording.outbox.journal, None
            recording.keep(rows, [], Resume())
            recording.outbox.journal = journal
        elif death != "before":
            recording.keep(rows, [], Resume())
        if death != "none":
            _killed(recording)
            recording = a_recording(folder, handover)
    recording.keep(recording.rows(recording.drain(), Outside(), final=True), [], Resume())
    found = []
    seq = 0
    while frame := recording.outbox.next_after(seq):
        message = decode_agent_message(frame.payload)
        assert isinstance(message, Frame)
        assert frame.first_seq == seq + 1
        found += message.samples
        assert not message.events
        seq = frame.last_seq
    assert [sample.batch for sample in found] == list(range(written))
    assert [sample.minor_faults for sample in found[1:]] == [1] * (len(found) - 1)
    recording.close()
    ring.close()


def _killed(recording: Recording) -> None:
    """What is left of an agent after SIGKILL: nothing but its files, and no lock on them."""
    assert recording.outbox.journal is not None
    os.close(recording.outbox.journal._lock)
    recording._ring.close()
    recording._notes.close()


def test_a_full_shared_memory_makes_no_later_agent_begin_from_an_old_standing(tmp_path: Path) -> None:
    folder, ring, handover = a_session(tmp_path / "shm", tmp_path / "home")
    recording = a_recording(folder, handover)
    record(ring, 0)
    recording.keep(recording.rows(recording.read(), Outside()), [], Resume())
    (folder / "resume.new").mkdir()  # from here on nothing can be written there
    for step in range(1, 6):
        record(ring, step)
        recording.keep(recording.rows(recording.read(), Outside()), [], Resume())
    _killed(recording)
    after = a_recording(folder, handover)
    record(ring, 6)
    after.keep(after.rows(after.drain(), Outside(), final=True), [], Resume())
    found = []
    seq = 0
    while frame := after.outbox.next_after(seq):
        message = decode_agent_message(frame.payload)
        assert isinstance(message, Frame)
        found += [(sample.seq, sample.batch) for sample in message.samples]
        seq = frame.last_seq
    assert found == [(step + 1, step) for step in range(7)]
    after.close()
    ring.close()


def test_a_standing_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    assert read_resume(tmp_path) is None
    first = Resume(ring_number=7, assembler=AssemblerState(seq=3, exception=("A", "b", "c")), frames=[(1, 3, b"x")])
    write_resume(tmp_path, first)
    assert read_resume(tmp_path) == first
    (tmp_path / "resume.new").write_bytes(b"torn")
    assert read_resume(tmp_path) == first
    (tmp_path / "resume").write_bytes(b"\x93\x01")
    assert read_resume(tmp_path) is None


def test_a_folder_is_an_orphans_once_nobody_holds_it(tmp_path: Path) -> None:
    folder, ring, _ = a_session(tmp_path / "shm", tmp_path / "home")
    ring.close()
    held = hold(folder)
    assert held is not None
    assert is_held(folder)
    assert list(orphans(folder.parent)) == []
    os.close(held)
    assert not is_held(folder)
    assert list(orphans(folder.parent)) == [folder]
    assert not is_held(tmp_path / "gone")


def test_the_end_of_a_session_that_nobody_holds_is_told_into_its_journal(tmp_path: Path, home: Path) -> None:
    folder, ring, handover = a_session(tmp_path / "shm", home)
    recording = a_recording(folder, handover)
    for step in range(3):
        record(ring, step)
    recording.keep(recording.rows(recording.read(), Outside()), [], Resume(limit=Limit("cgroup /a", 100, 99)))
    _killed(recording)
    for step in range(3, 10):
        record(ring, step)
    assert close_orphans(folder.parent, __version__) == Closed(1, left=False)
    assert not folder.exists()
    rows = journals(home)["end"][1]
    assert [sample.batch for sample in batches(rows)] == list(range(10))
    end = events(rows, EventKind.END)
    assert len(end) == 1
    assert end[0].detail["ending"] == "vanished"
    assert end[0] == rows[-1]
    assert close_orphans(folder.parent, __version__) == Closed(0, left=False)
    assert len(list(journals_left(home / "state"))) == 1


def test_what_the_kernel_counted_meanwhile_is_evidence_also_where_no_agent_ever_came_to_life(
    tmp_path: Path, home: Path
) -> None:
    cgroup = tmp_path / "cgroup"
    cgroup.mkdir()
    (cgroup / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    endings = []
    for boot, kills in ((boot_id(), 2), (boot_id(), 3), ("another boot", 2)):
        folder, ring, handover = a_session(tmp_path / "shm", home)
        (folder / "handover.json").unlink()
        standing = Standing(time.monotonic_ns(), str(cgroup), kills)
        source = msgspec.structs.replace(handover.source, id=random_id())
        write_handover(folder, msgspec.structs.replace(handover, source=source, standing=standing, boot=boot))
        record(ring, 0)
        ring.close()
        close_orphans(folder.parent, __version__)
        rows = journals(home)["end"][1]
        endings.append(
            (events(rows, EventKind.END)[0].detail["ending"], events(rows, EventKind.END)[0].detail["grade"])
        )
        shutil.rmtree(home / "state")
    assert endings == [("oom killed", "probable"), ("vanished", "unknown"), ("vanished", "unknown")]


def test_a_folder_that_is_no_session_is_removed_and_no_hindrance(tmp_path: Path, home: Path) -> None:
    folder, ring, _ = a_session(tmp_path / "shm", home)
    ring.close()
    (folder / "handover.json").write_bytes(b"{")
    close_orphans(folder.parent, __version__)
    assert not folder.exists()


AGENT_KILLED = """
import os, signal, sys, time
from oomcast import watch

def at_work(session):
    # Whether the agent that lives now has done a step.
    before = os.stat(session._folder / "resume").st_mtime_ns if (session._folder / "resume").exists() else 0
    return lambda: (session._folder / "resume").exists() and os.stat(session._folder / "resume").st_mtime_ns > before

with watch(run_name="end") as run:
    session, batch = run._session, 0
    for kills in range(4):
        done = at_work(session)
        while not done() or session._sidecar.restarts < kills or batch < 100 * kills:
            run.step(batch)
            batch += 1
            time.sleep(0.005)
        if kills < 3:
            os.kill(session.agent_pid, signal.SIGKILL)
    print(batch)
"""


def test_an_agent_that_is_killed_is_followed_by_another_and_nothing_is_lost(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AGENT_KILLED],
        env=clean_environment(home, OOMCAST_MODE="offline"),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    rows = recorded(home, "end")
    assert [sample.batch for sample in batches(rows)] == list(range(int(done.stdout)))
    assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
    assert events(rows, EventKind.END)[0].detail["ending"] == "finished"
    assert len(events(rows, EventKind.AGENT)) == 3
    assert not events(rows, EventKind.GAP)
    said = [line for line in done.stderr.splitlines() if line.startswith("oomcast:")]
    assert sum("the agent was killed; another goes on" in line for line in said) == 1


BOTH_KILLED = """
import os, signal, sys, time
from oomcast import watch

run = watch(run_name="end").__enter__()
for batch in range(200):
    run.step(batch)
    time.sleep(0.002)
os.kill(run._session.agent_pid, signal.SIGSTOP)
for batch in range(200, 300):
    run.step(batch)
os.kill(run._session.agent_pid, signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_training_and_agent_leave_that_are_killed_at_once_is_brought_home(home: Path) -> None:
    environment = clean_environment(home, OOMCAST_MODE="offline")
    status = subprocess.run(
        [sys.executable, "-c", BOTH_KILLED], env=environment, capture_output=True, timeout=60, check=False
    )
    assert status.returncode == -signal.SIGKILL
    eventually(lambda: sum(close_orphans(parent, __version__).sessions for parent in folder_parents()) or _ended(home))
    rows = recorded(home, "end")
    assert [sample.batch for sample in batches(rows)] == list(range(300))
    assert events(rows, EventKind.END)[0].detail["outcome"] == "died"
    assert isinstance(rows[0], object)
    assert all(isinstance(row, Sample) or row.kind is not EventKind.GAP for row in rows)


def _ended(home: Path) -> bool:
    try:
        return bool(events(journals(home)["end"][1], EventKind.END))
    except Exception:
        return False
