"""The judge: what each kind of evidence proves, and what it does not."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from oomcast.agent.verdict import Ending, Evidence, Grade, judge
from oomcast.probes.death import ExitStatus, KernelLog, KillCounters, Kills
from oomcast.probes.limits import Limit

pytestmark = pytest.mark.fast

FAR, NEAR = Limit("cgroup /a", 1000, 100), Limit("cgroup /a", 1000, 970)
SIGKILL = ExitStatus(signal.SIGKILL, None)


def killed(limit: Limit | None = FAR, before: int | None = 0, after: int | None = 0, logged: bool = False) -> Evidence:
    return Evidence(
        status=SIGKILL, limit=limit, kills_before=Kills(before, None), kills_after=Kills(after, None), logged=logged
    )


@pytest.mark.parametrize(
    ("evidence", "ending", "grade", "outcome"),
    [
        (Evidence(closed=True), Ending.FINISHED, Grade.CONFIRMED, "finished"),
        (Evidence(closed=True, open_phase=True), Ending.EXCEPTION, Grade.UNKNOWN, "failed"),
        (Evidence(closed=True, exception=("ValueError", "no")), Ending.EXCEPTION, Grade.CONFIRMED, "failed"),
        (Evidence(closed=True, exception=("KeyboardInterrupt", "")), Ending.STOPPED, Grade.CONFIRMED, "stopped"),
        (Evidence(closed=True, exception=("MemoryError", "")), Ending.ALLOCATION_FAILED, Grade.CONFIRMED, "failed"),
        (killed(after=1), Ending.OOM_KILLED, Grade.CONFIRMED, "died"),
        (killed(logged=True), Ending.OOM_KILLED, Grade.CONFIRMED, "died"),
        (killed(limit=NEAR), Ending.OOM_KILLED, Grade.PROBABLE, "died"),
        (killed(), Ending.KILLED, Grade.UNKNOWN, "died"),
        (killed(limit=None, before=None, after=None), Ending.KILLED, Grade.UNKNOWN, "died"),
        (killed(before=3, after=None), Ending.KILLED, Grade.UNKNOWN, "died"),
        (Evidence(status=ExitStatus(signal.SIGTERM, None), limit=NEAR), Ending.STOPPED, Grade.CONFIRMED, "stopped"),
        (Evidence(status=ExitStatus(signal.SIGSEGV, None), limit=NEAR), Ending.CRASHED, Grade.CONFIRMED, "died"),
        (Evidence(status=ExitStatus(None, 0)), Ending.FINISHED, Grade.PROBABLE, "finished"),
        (Evidence(status=ExitStatus(None, 137)), Ending.EXCEPTION, Grade.UNKNOWN, "failed"),
        (Evidence(limit=FAR), Ending.VANISHED, Grade.UNKNOWN, "died"),
        (Evidence(kills_before=Kills(0, 0), kills_after=Kills(1, 1)), Ending.OOM_KILLED, Grade.PROBABLE, "died"),
    ],
)
def test_each_end_has_its_name_and_its_grade(evidence: Evidence, ending: Ending, grade: Grade, outcome: str) -> None:
    verdict = judge(evidence)
    assert (verdict.ending, verdict.grade, verdict.outcome) == (ending, grade, outcome)
    assert verdict.text.endswith((".", "no", "MemoryError"))


def test_a_counter_that_moved_without_sigkill_is_somebody_elses_kill() -> None:
    evidence = Evidence(status=ExitStatus(signal.SIGTERM, None), kills_before=Kills(0, 0), kills_after=Kills(2, 2))
    assert judge(evidence).ending is Ending.STOPPED


def test_the_hosts_counter_alone_proves_nothing_about_this_process() -> None:
    evidence = Evidence(status=SIGKILL, limit=FAR, kills_before=Kills(0, 5), kills_after=Kills(0, 6))
    assert judge(evidence).ending is Ending.KILLED


@pytest.mark.parametrize(
    ("kind", "message", "begins"),
    [
        ("tensorflow.errors.ResourceExhaustedError", "OOM when allocating on /device:GPU:0", "GPU memory could not"),
        ("tensorflow.errors.ResourceExhaustedError", "OOM when allocating on /device:CPU:0 by cpu", "Memory could not"),
        ("jaxlib.XlaRuntimeError", "RESOURCE_EXHAUSTED: Out of memory", "Memory could not"),
        ("torch.OutOfMemoryError", "CUDA out of memory", "GPU memory could not"),
        ("RuntimeError", "DefaultCPUAllocator: can't allocate memory", "Memory could not"),
        ("numpy.core._exceptions._ArrayMemoryError", "Unable to allocate 1 TiB", "numpy.core._exceptions"),
    ],
)
def test_allocations_that_failed_are_named_as_such(kind: str, message: str, begins: str) -> None:
    verdict = judge(Evidence(closed=True, exception=(kind, message)))
    assert verdict.text.startswith(begins)
    assert verdict.outcome == "failed"


def test_evidence_stands_in_the_verdict() -> None:
    verdict = judge(killed(limit=NEAR, after=1))
    assert "went up by 1" in "; ".join(verdict.reasons)
    assert "97 % of its limit" in "; ".join(verdict.reasons)
    assert verdict.detail()["evidence"] == "; ".join(verdict.reasons)


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_counters_of_the_processs_own_cgroup_are_read_on_v2_and_outlive_it(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/mounts": "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n",
            "proc/7/cgroup": "0::/job\n",
            "proc/vmstat": "pgfault 1\noom_kill 4\n",
            "sys/fs/cgroup/memory.events": "oom_kill 9\n",
            "sys/fs/cgroup/job/memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 0\n",
        },
    )
    counters = KillCounters(7, root)
    (root / "proc/7/cgroup").unlink()
    (root / "sys/fs/cgroup/job/memory.events").write_text("oom_kill 3\n")
    assert (counters.before, counters.read()) == (Kills(2, 4), Kills(3, 4))


def test_counters_are_read_on_v1(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/mounts": "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n",
            "proc/7/cgroup": "4:memory:/box\n",
            "sys/fs/cgroup/memory/box/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        },
    )
    assert KillCounters(7, root).read() == Kills(1, None)


def test_a_log_of_another_namespace_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "kmsg").write_text("6,1,1,-;Killed process 7 (python)\n")
    log = KernelLog(tmp_path / "kmsg", namespace=tmp_path / "kmsg")
    assert log.killed() == set()
    log.close()
