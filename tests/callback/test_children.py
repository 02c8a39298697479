"""Children of a training: found, summed up, and how each of them ended."""

from __future__ import annotations

import multiprocessing
import os
import platform
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oomcast.probes.children import Child, ChildEnd, ChildrenProbe, ChildrenReading, children_by_psutil
from oomcast.probes.death import ExitStatus
from oomcast.probes.process import PAGE_BYTES
from tests.support import eventually
from tests.trees import write

pytestmark = [pytest.mark.fast, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

MIB = 1 << 20
# Before that, Linux tells nobody but the parent how a process ended that the parent has waited for.
TOLD = tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2]) >= (6, 15)
WAITS = "import sys; print('here', flush=True); sys.stdin.read()"


def stat(pid: int, parent: int, *, name: str = "worker", rss: int = 10, started: int = 100, state: str = "S") -> str:
    tail = f"0 {'0 ' * 26}0" if state != "Z" else f"0 {'0 ' * 26}9"
    return f"{pid} ({name}) {state} {parent} {'0 ' * 15}1 0 {started} 0 {rss} {tail}\n"


def family(root: Path, parents: dict[int, int], *, listed: bool = True, **more: int) -> Path:
    """A /proc of sleeping processes: pid → parent; RSS is ten pages times the pid."""
    files = {}
    for pid, parent in parents.items():
        files[f"{pid}/stat"] = stat(pid, parent, rss=10 * pid)
        files[f"{pid}/status"] = f"Name:\tworker\nVmSwap:\t {pid} kB\n"
        below = " ".join(str(child) for child, its in parents.items() if its == pid)
        if listed:
            files[f"{pid}/task/{pid}/children"] = f"{below} " if below else ""
    return write(root, files)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Children to start, all ended afterwards."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        with process:  # which waits for it, and closes its pipes
            process.kill()


def start(started: list[subprocess.Popen[str]], code: str = WAITS) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    started.append(process)
    assert process.stdout
    assert process.stdout.readline() == "here\n"
    return process


def waits_for_end(probe: ChildrenProbe, pid: int) -> ChildEnd:
    ends: list[ChildEnd] = []

    def told() -> bool:
        ends.extend(end for end in probe.ended() if end.child.pid == pid)
        return bool(ends)

    eventually(told, what=f"the end of {pid}")
    return ends[0]


@pytest.mark.parametrize("listed", [True, False])
def test_descendants_are_found_and_summed_up_the_largest_first(tmp_path: Path, listed: bool) -> None:
    family(tmp_path, {7: 1, 8: 7, 9: 7, 12: 9, 20: 1, 21: 20}, listed=listed)
    reading = ChildrenProbe(7, tmp_path).read()
    assert [child.pid for child in reading.children] == [12, 9, 8]
    assert reading.children[0] == Child(12, "worker", 120 * PAGE_BYTES, 12 * 1024, 100, cpu_ns=0)
    assert reading[:3] == (3, 290 * PAGE_BYTES, 29 * 1024)


@pytest.mark.parametrize("listed", [True, False])
def test_what_is_ignored_is_so_with_all_below_it(tmp_path: Path, listed: bool) -> None:
    family(tmp_path, {7: 1, 8: 7, 9: 8, 10: 9, 11: 7}, listed=listed)
    probe = ChildrenProbe(7, tmp_path, ignore=frozenset({8}))
    assert [child.pid for child in probe.read().children] == [11]
    # What it had started is handed on to a container's first process, which may be the training.
    family(tmp_path, {7: 1, 8: 7, 10: 7, 11: 7}, listed=listed)
    assert [child.pid for child in probe.read().children] == [11]


def test_no_children_are_zero_and_a_process_that_is_gone_has_none_known(tmp_path: Path) -> None:
    family(tmp_path, {7: 1})
    probe = ChildrenProbe(7, tmp_path)
    assert probe.read() == ChildrenReading(0, 0, 0)
    write(tmp_path, {"7/stat": stat(7, 1, state="Z")})
    assert probe.read() == ChildrenReading()
    assert ChildrenProbe(99, tmp_path).read() == ChildrenReading()


def test_a_child_whose_parent_ended_is_counted_still(tmp_path: Path) -> None:
    family(tmp_path, {7: 1, 8: 7, 9: 8})
    probe = ChildrenProbe(7, tmp_path)
    probe.read()
    (tmp_path / "8/stat").unlink()
    family(tmp_path, {7: 1, 9: 1})
    assert [child.pid for child in probe.read().children] == [9]
    assert [end.child.pid for end in probe.ended()] == [8]


def test_a_pid_that_is_given_anew_is_another_child(tmp_path: Path) -> None:
    family(tmp_path, {7: 1, 8: 7})
    probe = ChildrenProbe(7, tmp_path)
    first = probe.read().children[0]
    write(tmp_path, {"8/stat": stat(8, 7, started=200, state="Z")})
    assert probe.ended() == [ChildEnd(first, None)]
    write(tmp_path, {"8/stat": stat(8, 7, started=200)})
    assert [child.started for child in probe.read().children] == [200]
    assert probe.ended() == []


def test_a_zombie_is_no_child_and_says_how_it_ended(tmp_path: Path) -> None:
    family(tmp_path, {7: 1, 8: 7})
    probe = ChildrenProbe(7, tmp_path)
    probe.read()
    write(tmp_path, {"8/stat": stat(8, 7, state="Z")})
    assert probe.read().count == 0
    assert [(end.child.pid, end.status) for end in probe.ended()] == [(8, ExitStatus(9, None))]
    assert probe.read().count == 0
    assert probe.ended() == []


def test_a_zombie_that_says_nothing_is_told_of_after_a_second(tmp_path: Path) -> None:
    now = [100.0]
    family(tmp_path, {7: 1, 8: 7})
    probe = ChildrenProbe(7, tmp_path, clock=lambda: now[0])
    probe.read()
    write(tmp_path, {"8/stat": stat(8, 7, state="Z").rsplit(" ", 1)[0] + " 0\n"})
    assert probe.ended() == []
    now[0] += 1
    assert [(end.child.pid, end.status) for end in probe.ended()] == [(8, None)]


def test_a_thousand_are_the_most(tmp_path: Path) -> None:
    family(tmp_path, {7: 1} | dict.fromkeys(range(1000, 2100), 7), listed=False)
    probe = ChildrenProbe(7, tmp_path)
    assert probe.read().count == 1000
    assert probe.ended() == []


def test_a_killed_worker_is_told_of_with_its_pid(started: list[subprocess.Popen[str]]) -> None:
    probe = ChildrenProbe(os.getpid())
    worker, other = start(started), start(started)
    pids = {child.pid for child in probe.read().children}
    assert {worker.pid, other.pid} <= pids
    worker.kill()
    worker.wait()
    end = waits_for_end(probe, worker.pid)
    assert end.child.rss_bytes is not None
    assert end.child.rss_bytes > MIB
    assert end.status == (ExitStatus(signal.SIGKILL, None) if TOLD else None)
    assert other.pid in {child.pid for child in probe.read().children}
    assert probe.ended() == []
    probe.close()


def test_a_killed_worker_that_nobody_waited_for_is_told_of(started: list[subprocess.Popen[str]]) -> None:
    probe = ChildrenProbe(os.getpid())
    worker = start(started)
    probe.read()
    worker.kill()
    assert waits_for_end(probe, worker.pid).status == ExitStatus(signal.SIGKILL, None)
    assert worker.pid not in {child.pid for child in probe.read().children}
    probe.close()


def test_an_exit_code_is_told(started: list[subprocess.Popen[str]]) -> None:
    probe = ChildrenProbe(os.getpid())
    worker = start(started, WAITS + "; sys.exit(3)")
    probe.read()
    worker.communicate("")
    assert waits_for_end(probe, worker.pid).status == (ExitStatus(None, 3) if TOLD else None)
    probe.close()


def test_grandchildren_are_found_and_outlive_their_parent(started: list[subprocess.Popen[str]]) -> None:
    code = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {WAITS!r}])\nsys.stdin.readline()\n"
    probe = ChildrenProbe(os.getpid())
    before = {child.pid for child in probe.read().children}
    parent = start(started, code)
    new = {child.pid for child in probe.read().children} - before
    assert len(new) == 2
    (grandchild,) = new - {parent.pid}
    parent.kill()
    parent.wait()
    assert waits_for_end(probe, parent.pid)
    assert grandchild in {child.pid for child in probe.read().children}
    assert parent.stdin
    parent.stdin.close()  # which ends it
    assert waits_for_end(probe, grandchild)
    probe.close()


def test_threads_are_no_children_and_what_they_start_is(started: list[subprocess.Popen[str]]) -> None:
    probe = ChildrenProbe(os.getpid())
    count = probe.read().count
    done = threading.Event()
    threads = [threading.Thread(target=done.wait) for _ in range(8)]
    threads.append(threading.Thread(target=lambda: (start(started), done.wait())))
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: started)
        assert probe.read().count == (count or 0) + 1
    finally:
        done.set()
        for thread in threads:
            thread.join()
    probe.close()


def test_the_workers_of_a_pool_are_counted() -> None:
    probe = ChildrenProbe(os.getpid())
    count = probe.read().count or 0
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert pool.map(abs, range(-3, 0)) == [3, 2, 1]
        reading = probe.read()
        assert reading.count is not None
        # With the pool comes a resource tracker, which stays.
        assert reading.count - count in (3, 4)
        assert reading.rss_bytes is not None
        assert reading.rss_bytes > 3 * 5 * MIB
    probe.close()


def test_closing_gives_all_files_back(started: list[subprocess.Popen[str]]) -> None:
    start(started)
    before = len(os.listdir("/proc/self/fd"))
    probe = ChildrenProbe(os.getpid())
    probe.read()
    assert len(os.listdir("/proc/self/fd")) > before
    probe.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_by_psutil_the_same_children_are_found(started: list[subprocess.Popen[str]]) -> None:
    worker, other = start(started), start(started)
    found = children_by_psutil(os.getpid(), frozenset({other.pid})) or []
    assert worker.pid in {child.pid for child in found}
    assert other.pid not in {child.pid for child in found}
    assert children_by_psutil(2**31 - 2) is None


def test_where_only_psutil_is_a_worker_that_ends_is_told_of_too(started: list[subprocess.Popen[str]]) -> None:
    probe = ChildrenProbe(os.getpid(), portable=True)
    worker = start(started)
    reading = probe.read()
    assert reading.rss_bytes
    assert reading.rss_bytes > MIB
    assert reading.swap_bytes is None
    assert probe.ended() == []
    worker.kill()
    assert waits_for_end(probe, worker.pid).status is None
    assert worker.pid not in {child.pid for child in probe.read().children}
    probe.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(data=st.data())
def test_garbage_in_any_file_never_raises(tmp_path: Path, data: st.DataObject) -> None:
    parents = {7: 1, 8: 7, 9: 8}
    family(tmp_path, parents)
    probe = ChildrenProbe(7, tmp_path)
    probe.read()
    names = [f"{pid}/{name}" for pid in parents for name in ("stat", "status", f"task/{pid}/children")]
    for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=4)):
        text = (tmp_path / name).read_bytes()
        cut = data.draw(st.integers(0, len(text)))
        (tmp_path / name).write_bytes(text[:cut] + data.draw(st.binary(max_size=40)) + text[cut:])
    reading = probe.read()
    assert all(value is None or value >= 0 for value in reading[:3])
    probe.ended()
