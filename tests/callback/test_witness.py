"""The witness: what moved at the death is told from what moved before, from recorded trees and in real cgroups."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from oomcast.agent.evidence import Evidence
from oomcast.agent.verdict import Ending, Grade, Verdict, judge
from oomcast.agent.witness import Witness
from oomcast.probes.children import Child, ChildEnd
from oomcast.probes.death import ExitStatus, KernelLog, KillCounters, Kills, Standing, is_dying, read_kills
from oomcast.probes.limits import Limit
from tests.support import eventually, memory_box, why_no_box

pytestmark = pytest.mark.fast

MIB = 1 << 20
MS, S = 10**6, 10**9
boxed = pytest.mark.skipif(why_no_box() is not None, reason=str(why_no_box()))
SIGKILL = ExitStatus(signal.SIGKILL, None)
FAR = Limit("cgroup /job", 1000 * MIB, 100 * MIB)
LIVING = "7 (python) S 1 7 7 0 -1 4194560 1 0 0 0 1 1 0 0 20 0 3 0 500 1000 10"
ENDED = "7 (python) Z 1 7 7 0 -1 4194560 1 0 0 0 1 1 0 0 20 0 1 0 500 0 0"
CALM = "Name:\tpython\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def tree_v2(root: Path) -> Path:
    events = "low 0\nhigh 0\nmax 3\noom 1\noom_kill {}\noom_group_kill 0\n"
    return write(
        root,
        {
            "proc/self/mounts": "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n",
            "proc/7/cgroup": "0::/job/inner\n",
            "proc/7/stat": LIVING,
            "proc/7/status": CALM,
            "proc/vmstat": "pgfault 1\noom_kill 4\n",
            "sys/fs/cgroup/job/memory.events": events.format(9),
            "sys/fs/cgroup/job/inner/memory.events": events.format(5),
            "sys/fs/cgroup/job/inner/memory.events.local": events.format(2),
        },
    )


INNER, JOB = "sys/fs/cgroup/job/inner/memory.events.local", "sys/fs/cgroup/job/memory.events"


def no_log(folder: Path) -> Callable[[bool], KernelLog]:
    return lambda past: KernelLog(folder / "none", past=past)


def dead(root: Path) -> None:
    write(root, {"proc/7/stat": ENDED})


def verdict(witness: Witness, at_ns: int, **said: object) -> Verdict:
    evidence = Evidence(status=SIGKILL, limit=FAR, **said)  # type: ignore[arg-type]
    try:
        return judge(witness.testify(evidence, at_ns))
    finally:
        witness.close()


def graded(told: Verdict) -> tuple[Ending, Grade]:
    return told.ending, told.grade


def test_counters_of_the_processs_own_cgroup_are_read_on_v2_and_outlive_it(tmp_path: Path) -> None:
    root = tree_v2(tmp_path)
    counters = KillCounters(7, root)
    assert (counters.read(), counters.cgroup) == (Kills(2, 4, (9, None)), root / "sys/fs/cgroup/job/inner")
    (root / "proc/7/cgroup").unlink()
    write(root, {INNER: "oom_kill 3\n", JOB: "oom_kill 10\n"})
    assert counters.read() == Kills(3, 4, (10, None))
    counters.close()


def test_counters_are_read_on_v1(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/mounts": "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n",
            "proc/7/cgroup": "4:memory:/box\n",
            "sys/fs/cgroup/memory/box/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        },
    )
    counters = KillCounters(7, root)
    assert counters.read() == Kills(1, None)
    counters.close()


def test_where_nothing_counts_nothing_is_known(tmp_path: Path) -> None:
    witness = Witness(7, write(tmp_path, {"proc/7/stat": LIVING}), no_log(tmp_path))
    witness.look(1 * S)
    assert graded(verdict(witness, 2 * S)) == (Ending.KILLED, Grade.UNKNOWN)


@pytest.mark.parametrize(
    ("stat", "status", "dying"),
    [
        (LIVING, CALM, False),
        (ENDED, CALM, True),
        (LIVING.replace(" S ", " Z "), CALM, False),  # its first thread has ended, others go on
        (LIVING.replace(" 4194560 ", " 4195588 "), CALM, True),  # PF_SIGNALED
        (LIVING, CALM.replace("ShdPnd:\t0000000000000000", "ShdPnd:\t0000000000000100"), True),
        (LIVING, CALM.replace("SigPnd:\t0000000000000000", "SigPnd:\t0000000000004000"), False),  # SIGTERM
        ("", "", True),
    ],
)
def test_who_is_dying(tmp_path: Path, stat: str, status: str, dying: bool) -> None:
    write(tmp_path, {"7/stat": stat, "7/status": status})
    assert is_dying(7, tmp_path) is dying


def test_a_kill_that_is_counted_after_the_last_look_is_its_own(tmp_path: Path) -> None:
    root = tree_v2(tmp_path)
    witness = Witness(7, root, no_log(tmp_path))
    witness.look(1 * S)
    write(root, {INNER: "oom_kill 3\n"})
    dead(root)
    assert graded(verdict(witness, 1 * S + 50 * MS)) == (Ending.OOM_KILLED, Grade.CONFIRMED)


def test_a_kill_that_is_counted_while_it_takes_its_time_to_die_is_its_own(tmp_path: Path) -> None:
    root = tree_v2(tmp_path)
    witness = Witness(7, root, no_log(tmp_path))
    witness.look(1 * S)
    # Counted, and the signal is not sent yet; then it is, and the process gives back its memory for two seconds.
    write(root, {INNER: "oom_kill 3\n"})
    witness.look(1 * S + 50 * MS)
    write(root, {"proc/7/status": CALM.replace("0000000000000000", "0000000000000100", 1)})
    for number in range(2, 40):
        witness.look(1 * S + number * 50 * MS)
    dead(root)
    witness.look(3 * S)
    assert graded(verdict(witness, 3 * S + 10 * MS)) == (Ending.OOM_KILLED, Grade.CONFIRMED)


def test_a_kill_that_it_outlived_is_not_its_own(tmp_path: Path) -> None:
    root = tree_v2(tmp_path)
    witness = Witness(7, root, no_log(tmp_path))
    witness.look(1 * S)
    write(root, {INNER: "oom_kill 3\n", JOB: "oom_kill 10\n", "proc/vmstat": "oom_kill 5\n"})
    witness.look(1 * S + 50 * MS)
    witness.look(1 * S + 100 * MS)
    dead(root)
    told = verdict(witness, 1 * S + 150 * MS)
    assert graded(told) == (Ending.KILLED, Grade.UNKNOWN)
    assert "1 other out-of-memory kill in its cgroup while it lived on" in told.reasons


@pytest.mark.parametrize(("used", "ending"), [(100, Ending.KILLED), (850, Ending.OOM_KILLED)])
def test_where_the_cgroup_is_removed_at_once_those_above_it_are_a_sign(
    tmp_path: Path, used: int, ending: Ending
) -> None:
    root = tree_v2(tmp_path)
    witness = Witness(7, root, no_log(tmp_path))
    witness.look(1 * S)
    write(root, {INNER: "", JOB: "oom_kill 10\n", "proc/vmstat": "oom_kill 5\n"})
    dead(root)
    evidence = Evidence(status=SIGKILL, limit=FAR._replace(used_bytes=used * MIB))
    told = judge(witness.testify(evidence, 1 * S + 50 * MS))
    witness.close()
    assert told.ending is ending
    assert told.grade is not Grade.CONFIRMED


def test_a_process_that_is_put_into_another_cgroup_is_followed(tmp_path: Path) -> None:
    root = tree_v2(tmp_path)
    write(root, {"sys/fs/cgroup/other/memory.events.local": "oom_kill 40\n"})
    witness = Witness(7, root, no_log(tmp_path))
    witness.look(1 * S)
    write(root, {"proc/7/cgroup": "0::/other\n"})
    witness.look(2 * S)
    witness.look(3 * S)
    write(root, {"sys/fs/cgroup/other/memory.events.local": "oom_kill 41\n"})
    dead(root)
    assert graded(verdict(witness, 3 * S + 50 * MS)) == (Ending.OOM_KILLED, Grade.CONFIRMED)


@pytest.mark.parametrize(("kills", "ending"), [(2, Ending.OOM_KILLED), (3, Ending.KILLED), (None, Ending.KILLED)])
def test_a_witness_that_comes_when_it_is_dead_compares_with_what_another_saw(
    tmp_path: Path, kills: int | None, ending: Ending
) -> None:
    root = tree_v2(tmp_path)
    before = Standing.of(7, 1 * S, root)
    assert tuple(before) == (1 * S, str(root / "sys/fs/cgroup/job/inner"), 2)
    write(root, {INNER: "oom_kill 3\n", "proc/7/cgroup": "0::/\n"})
    dead(root)
    witness = Witness(7, root, no_log(tmp_path), before._replace(kills=kills))
    witness.look(1 * S + 300 * MS)
    witness.look(1 * S + 350 * MS)
    told = verdict(witness, 1 * S + 400 * MS)
    assert told.ending is ending
    assert told.grade is not Grade.CONFIRMED


def test_what_another_saw_is_of_no_use_while_the_process_lives(tmp_path: Path) -> None:
    root = tree_v2(tmp_path)
    witness = Witness(7, root, no_log(tmp_path), Standing(1, str(root / "sys/fs/cgroup/job/inner"), 0))
    dead(root)
    assert graded(verdict(witness, 2 * S)) == (Ending.KILLED, Grade.UNKNOWN)


def worker(signal_number: int | None = signal.SIGKILL, code: int | None = None) -> ChildEnd:
    status = ExitStatus(signal_number, code) if signal_number or code else None
    return ChildEnd(Child(71, "python", 5 * MIB, 0, 600), status)


def test_a_child_that_was_counted_is_told_and_its_kill_is_not_its_parents(tmp_path: Path) -> None:
    root = tree_v2(tmp_path)
    witness = Witness(7, root, no_log(tmp_path))
    witness.look(1 * S)
    write(root, {INNER: "oom_kill 3\n"})
    child = witness.child(worker(), 1 * S + 50 * MS)
    assert (child.pid, child.name, child.signal, child.counted) == (71, "python", 9, True)
    dead(root)
    # The parent is killed at the same moment, before a look could find that it lived on.
    assert graded(verdict(witness, 1 * S + 60 * MS)) == (Ending.OOM_KILLED, Grade.PROBABLE)


def test_a_child_and_its_parent_that_are_both_counted_are_both_told(tmp_path: Path) -> None:
    root = tree_v2(tmp_path)
    witness = Witness(7, root, no_log(tmp_path))
    witness.look(1 * S)
    write(root, {INNER: "oom_kill 4\n"})
    dead(root)
    witness.look(1 * S + 50 * MS)
    assert witness.child(worker(), 1 * S + 50 * MS).counted
    assert graded(verdict(witness, 1 * S + 60 * MS)) == (Ending.OOM_KILLED, Grade.CONFIRMED)


def test_a_child_whose_kill_was_counted_before_takes_nothing_from_its_parents(tmp_path: Path) -> None:
    root = tree_v2(tmp_path)
    witness = Witness(7, root, no_log(tmp_path))
    witness.look(1 * S)
    write(root, {INNER: "oom_kill 3\n"})
    for number in range(1, 18):
        witness.look(1 * S + number * 50 * MS)
    # How it ended is known when its parent has waited for it, and then the parent is killed, too.
    write(root, {INNER: "oom_kill 4\n"})
    dead(root)
    witness.look(1 * S + 900 * MS)
    assert witness.child(worker(), 1 * S + 900 * MS).counted
    assert graded(verdict(witness, 1 * S + 950 * MS)) == (Ending.OOM_KILLED, Grade.CONFIRMED)


@pytest.mark.parametrize("end", [worker(), worker(signal.SIGTERM), worker(None, 1), worker(None)])
def test_a_child_that_no_counter_moved_for_is_not_counted(tmp_path: Path, end: ChildEnd) -> None:
    witness = Witness(7, tree_v2(tmp_path), no_log(tmp_path))
    witness.look(1 * S)
    assert not witness.child(end, 2 * S).counted
    witness.close()


LOG = (
    "4,81,384693575,-;python invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0\n"
    "6,82,384693999,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,"
    "oom_memcg=/job,task_memcg=/job/inner,task=python,pid={pid},uid=0\n"
    "3,83,384694048,-;Memory cgroup out of memory: Killed process {pid} (a) b (c) total-vm:2876676kB, "
    "anon-rss:489244kB, file-rss:453244kB, shmem-rss:12kB, UID:0 pgtables:2824kB oom_score_adj:0\n"
)


class RecordedLog(KernelLog):
    """A log that was recorded: a pipe, since each read of it gives one record."""

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"))
        self._source, self._sink = os.pipe2(os.O_NONBLOCK | os.O_DIRECT)
        self._fd = self._source

    def write(self, text: str) -> None:
        for line in text.splitlines(keepends=True):
            os.write(self._sink, line.encode())

    def close(self) -> None:
        super().close()
        os.close(self._sink)


linux = pytest.mark.skipif(sys.platform != "linux", reason="packets in a pipe, as /dev/kmsg has records")


@linux
def test_the_log_names_victims_with_what_ran_out_and_what_they_held() -> None:
    log = RecordedLog()
    log.write(LOG.format(pid=7))
    (victim,) = log.victims()
    assert victim == (
        7,
        "a) b (c",
        384_694_048_000,
        "memcg",
        "/job",
        "/job/inner",
        489_244 * 1024,
        453_244 * 1024,
        12 * 1024,
    )
    log.write("3,84,1,-;Out of memory: Killed process 8 (java) total-vm:1kB, anon-rss:2kB, file-rss:0kB\n")
    assert [(v.pid, v.constraint, v.anonymous_bytes) for v in log.victims()] == [(8, None, 2048)]
    assert log.victims() == []
    log.close()


@linux
def test_what_a_program_wrote_into_the_log_is_not_the_kernels_word() -> None:
    log = RecordedLog()
    log.write("11,84,1,-;Out of memory: Killed process 8 (java) total-vm:1kB, anon-rss:2kB\n")
    log.write("6,85,1,-;said Killed process 8 (java) total-vm:1kB\n SUBSYSTEM=memory\n")
    assert log.victims() == []
    log.close()


def test_a_log_of_another_namespace_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "kmsg").write_text("6,1,1,-;Out of memory: Killed process 7 (python) total-vm:1kB\n")
    log = KernelLog(tmp_path / "kmsg", namespace=tmp_path / "kmsg", past=True)
    assert not log.readable
    assert log.victims() == []
    log.close()


@linux
def test_a_log_that_names_the_process_is_proof(tmp_path: Path) -> None:
    root, log = tree_v2(tmp_path), RecordedLog()
    witness = Witness(7, root, lambda past: log)
    witness.look(1 * S)
    log.write(LOG.format(pid=7))
    dead(root)
    told = verdict(witness, 1 * S + 50 * MS)
    assert graded(told) == (Ending.OOM_KILLED, Grade.CONFIRMED)
    assert "it held 478 MiB of memory of its own, by the kernel's log" in told.reasons


@linux
@pytest.mark.parametrize(("began_s", "grade"), [(384, Grade.CONFIRMED), (395, Grade.UNKNOWN)])
def test_a_witness_that_comes_late_finds_the_death_in_the_log_but_not_one_of_before_its_birth(
    tmp_path: Path, began_s: int, grade: Grade
) -> None:
    root, log = tree_v2(tmp_path), RecordedLog()
    log.write(LOG.format(pid=7))
    dead(root)
    logs = {False: KernelLog(tmp_path / "none"), True: log}
    witness = Witness(7, root, logs.__getitem__, Standing(began_s * S, None, None))
    assert verdict(witness, 386 * S).grade is grade


@linux
def test_a_log_that_names_another_of_its_cgroup_clears_it(tmp_path: Path) -> None:
    root, log = tree_v2(tmp_path), RecordedLog()
    witness = Witness(7, root, lambda past: log)
    witness.look(1 * S)
    log.write(LOG.format(pid=99))
    write(root, {INNER: "oom_kill 3\n"})
    dead(root)
    assert graded(verdict(witness, 1 * S + 50 * MS)) == (Ending.KILLED, Grade.UNKNOWN)


@linux
def test_a_log_tells_a_child_that_was_killed_for_memory_from_one_killed_by_hand(tmp_path: Path) -> None:
    root, log = tree_v2(tmp_path), RecordedLog()
    witness = Witness(7, root, lambda past: log)
    witness.look(1 * S)
    log.write(LOG.format(pid=99))
    write(root, {INNER: "oom_kill 3\n"})
    assert not witness.child(worker(), 1 * S + 50 * MS).counted
    log.write(LOG.format(pid=71))
    write(root, {INNER: "oom_kill 4\n"})
    assert witness.child(worker(None), 1 * S + 100 * MS).counted
    witness.close()


def test_the_biggest_processes_of_the_cgroup_are_told_with_their_roles(tmp_path: Path) -> None:
    def process(pid: int, parent: int, pages: int) -> dict[str, str]:
        stat = f"{pid} (p{pid}) S {parent} 7 7 0 -1 4194560 1 0 0 0 1 1 0 0 20 0 1 0 500 1000 {pages}"
        return {f"proc/{pid}/stat": stat, f"proc/{pid}/status": f"Name:\tp{pid}\nVmSwap:\t{pid} kB\n"}

    root = tree_v2(tmp_path)
    write(
        root,
        {"sys/fs/cgroup/job/inner/cgroup.procs": "0\n7\n71\n72\n80\n81\n" + "".join(f"{n}\n" for n in range(200, 220))},
    )
    many = {name: text for n in range(200, 220) for name, text in process(n, 1, n).items()}
    write(root, process(7, 1, 5000) | process(71, 7, 9000) | process(72, 71, 7000) | process(80, 1, 6000) | many)
    witness = Witness(7, root, no_log(tmp_path))
    page = os.sysconf("SC_PAGE_SIZE")
    told = witness.processes(1 * S)
    assert [(p.pid, p.name, p.role, p.rss_bytes, p.swap_bytes) for p in told[:4]] == [
        (71, "p71", "child", 9000 * page, 71 * 1024),
        (72, "p72", "child", 7000 * page, 72 * 1024),
        (80, "p80", "other", 6000 * page, 80 * 1024),
        (7, "p7", "training", 5000 * page, 7 * 1024),
    ]
    assert len(told) == 10
    write(root, process(80, 1, 100_000))
    assert witness.processes(2 * S) == told
    assert witness.processes(2 * S + 1, 0.5) == told
    assert witness.processes(2 * S + 2, 0.05)[0].pid == 80
    write(root, process(72, 71, 200_000))
    assert witness.processes(8 * S)[0].pid == 72
    dead(root)
    assert witness.processes(20 * S)[0].pid == 72, "once it is gone, the last look stands"
    assert witness.testify(Evidence(), 21 * S).processes[0].pid == 72
    witness.close()


def test_without_a_cgroup_the_process_alone_is_told(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/7/stat": LIVING, "proc/7/status": CALM})
    witness = Witness(7, root, no_log(tmp_path))
    assert [state.role for state in witness.processes(1 * S)] == ["training"]
    witness.close()


@linux
def test_a_look_costs_a_few_microseconds() -> None:
    witness = Witness(os.getpid())
    best = []
    for _ in range(5):
        started = time.perf_counter_ns()
        for number in range(200):
            witness.look(number)
        best.append((time.perf_counter_ns() - started) / 200_000)
    witness.close()
    assert min(best) < 20, "microseconds"


HOG = """
import mmap, sys, time
print("up", flush=True)
sys.stdin.readline()
kept = []
while True:
    area = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(0, 1 << 20, 4096):
        area[page] = 1
    kept.append(area)
"""


def hog(box: Path) -> subprocess.Popen[bytes]:
    """A process in `box` that takes memory without end, once it is told to."""
    process = subprocess.Popen([sys.executable, "-c", HOG], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    (box / "cgroup.procs").write_text(str(process.pid))
    assert process.stdout
    process.stdout.readline()
    return process


def leak(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin
    process.stdin.write(b"\n")
    process.stdin.flush()


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


@boxed
@pytest.mark.parametrize("with_log", [True, False], ids=["with the log", "by the counter alone"])
@pytest.mark.parametrize("_again", range(3))
def test_a_real_kill_by_the_kernel_is_its_own(tmp_path: Path, with_log: bool, _again: int) -> None:
    with memory_box(32 * MIB) as box:
        process = hog(box)
        witness = Witness(process.pid) if with_log else Witness(process.pid, log=no_log(tmp_path))
        leak(process)
        while process.poll() is None:
            witness.look(time.monotonic_ns())
            time.sleep(0.001)
        told = verdict(witness, time.monotonic_ns())
        end(process)
    assert graded(told) == (Ending.OOM_KILLED, Grade.CONFIRMED)


@boxed
def test_a_real_kill_in_its_cgroup_just_before_a_kill_by_hand_is_not_its_own(tmp_path: Path) -> None:
    with memory_box(32 * MIB) as box:
        process, other = hog(box), hog(box)
        witness = Witness(process.pid, log=no_log(tmp_path))
        leak(other)
        while other.poll() is None:
            witness.look(time.monotonic_ns())
            time.sleep(0.001)
        for _ in range(2):
            time.sleep(0.02)  # two looks of the agent
            witness.look(time.monotonic_ns())
        process.kill()
        process.wait()
        told = verdict(witness, time.monotonic_ns())
        end(process)
        end(other)
    assert graded(told) == (Ending.KILLED, Grade.UNKNOWN)


@boxed
def test_a_removed_cgroup_counts_no_more() -> None:
    with memory_box(32 * MIB) as box:
        process = hog(box)
        counters = KillCounters(process.pid)
        assert counters.own() == 0
        end(process)
        eventually(lambda: not (box / "cgroup.procs").read_text(), what="an empty cgroup")
    assert counters.own() is None
    assert read_kills(box) is None
    counters.close()
