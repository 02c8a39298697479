"""The judge: what each kind of evidence proves, and what it does not."""

from __future__ import annotations

import dataclasses
import signal

import msgspec
import pytest

from oomcast.agent.report import Growth, Report
from oomcast.agent.verdict import DeadChild, Ending, Evidence, Grade, judge
from oomcast.assessment import Assessment, State
from oomcast.probes.death import ExitStatus, Kills, Victim
from oomcast.probes.limits import Limit
from oomcast.sample import Event, EventKind, Phase
from oomcast.wire import ProcessState

pytestmark = pytest.mark.fast

MIB = 1 << 20
FAR, HIGH, NEAR = (Limit("cgroup /a", 1000 * MIB, used * MIB) for used in (100, 850, 970))
RLIMIT = Limit("RLIMIT_AS", 1000 * MIB, 990 * MIB)
SIGKILL = ExitStatus(signal.SIGKILL, None)
VICTIM = Victim(7, "python", 1, "memcg", "/a", "/a", 900 * MIB)
S = 10**9


def killed(limit: Limit | None = FAR, before: int | None = 0, after: int | None = 0, **more: object) -> Evidence:
    evidence = Evidence(
        status=SIGKILL, limit=limit, kills_before=Kills(before, None), kills_after=Kills(after, None), mono_ns=100 * S
    )
    return dataclasses.replace(evidence, **more)  # type: ignore[arg-type]


def raised(kind: str, message: str = "", chain: str = "", **more: object) -> Evidence:
    evidence = Evidence(closed=True, exception=(kind, message, chain), mono_ns=100 * S)
    return dataclasses.replace(evidence, **more)  # type: ignore[arg-type]


def worker(number: int | None = signal.SIGKILL, counted: bool = False, ago_s: int = 2) -> DeadChild:
    return DeadChild(4211, "python", number, None, (100 - ago_s) * S, counted)


def exit_with(code: int, **more: object) -> Evidence:
    return dataclasses.replace(Evidence(status=ExitStatus(None, code), limit=FAR, mono_ns=100 * S), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("evidence", "ending", "grade", "outcome"),
    [
        (Evidence(closed=True), Ending.FINISHED, Grade.CONFIRMED, "finished"),
        (Evidence(closed=True, open_phase=True), Ending.EXCEPTION, Grade.UNKNOWN, "failed"),
        (raised("ValueError", "no"), Ending.EXCEPTION, Grade.CONFIRMED, "failed"),
        (raised("KeyboardInterrupt"), Ending.STOPPED, Grade.CONFIRMED, "stopped"),
        (raised("MemoryError"), Ending.ALLOCATION_FAILED, Grade.CONFIRMED, "failed"),
        (killed(after=1), Ending.OOM_KILLED, Grade.CONFIRMED, "died"),
        (killed(victim=VICTIM), Ending.OOM_KILLED, Grade.CONFIRMED, "died"),
        (killed(limit=NEAR), Ending.OOM_KILLED, Grade.PROBABLE, "died"),
        (killed(), Ending.KILLED, Grade.UNKNOWN, "died"),
        (killed(limit=None, before=None, after=None), Ending.KILLED, Grade.UNKNOWN, "died"),
        (killed(before=3, after=None), Ending.KILLED, Grade.UNKNOWN, "died"),
        (Evidence(status=ExitStatus(signal.SIGTERM, None), limit=NEAR), Ending.STOPPED, Grade.CONFIRMED, "stopped"),
        (Evidence(status=ExitStatus(signal.SIGHUP, None), limit=NEAR), Ending.STOPPED, Grade.CONFIRMED, "stopped"),
        (Evidence(status=ExitStatus(signal.SIGSEGV, None), limit=NEAR), Ending.CRASHED, Grade.CONFIRMED, "died"),
        (Evidence(status=ExitStatus(signal.SIGBUS, None)), Ending.CRASHED, Grade.CONFIRMED, "died"),
        (Evidence(status=ExitStatus(signal.SIGUSR1, None)), Ending.KILLED, Grade.CONFIRMED, "died"),
        (exit_with(0), Ending.FINISHED, Grade.PROBABLE, "finished"),
        (exit_with(137), Ending.EXCEPTION, Grade.UNKNOWN, "failed"),
        (Evidence(limit=FAR), Ending.VANISHED, Grade.UNKNOWN, "died"),
        (Evidence(limit=NEAR), Ending.VANISHED, Grade.UNKNOWN, "died"),
        (Evidence(kills_before=Kills(0, 0), kills_after=Kills(1, 1)), Ending.OOM_KILLED, Grade.PROBABLE, "died"),
        (Evidence(detached=True), Ending.DETACHED, Grade.CONFIRMED, "stopped"),
    ],
)
def test_each_end_has_its_name_and_its_grade(evidence: Evidence, ending: Ending, grade: Grade, outcome: str) -> None:
    verdict = judge(evidence)
    assert (verdict.ending, verdict.grade, verdict.outcome) == (ending, grade, outcome)
    assert verdict.text.endswith((".", "no", "MemoryError"))


def test_a_counter_that_moved_without_sigkill_is_somebody_elses_kill() -> None:
    evidence = Evidence(status=ExitStatus(signal.SIGTERM, None), kills_before=Kills(0, 0), kills_after=Kills(2, 2))
    assert judge(evidence).ending is Ending.STOPPED


@pytest.mark.parametrize(
    ("limit", "ending"), [(FAR, Ending.KILLED), (HIGH, Ending.OOM_KILLED)], ids=["far from it", "at 85 %"]
)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Kills(0, 5), Kills(0, 6)),
        (Kills(0, 5, (3, 9)), Kills(None, 5, (4, 10))),
        (Kills(0, 5, (3, 9)), Kills(None, 5, (None, 10))),
    ],
    ids=["the host's", "a cgroup's above", "its own is gone"],
)
def test_a_counter_that_counts_for_others_too_is_a_sign_only_where_memory_is_short(
    limit: Limit, ending: Ending, before: Kills, after: Kills
) -> None:
    verdict = judge(Evidence(status=SIGKILL, limit=limit, kills_before=before, kills_after=after))
    assert verdict.ending is ending
    assert verdict.grade is not Grade.CONFIRMED


def test_a_kill_that_may_have_been_a_childs_is_probable_only() -> None:
    verdict = judge(killed(after=1, kills_of_children=1))
    assert (verdict.ending, verdict.grade) == (Ending.OOM_KILLED, Grade.PROBABLE)
    assert "may have been for a child" in verdict.detail()["evidence"]  # type: ignore[operator]
    assert judge(killed(after=2, kills_of_children=1)).grade is Grade.CONFIRMED


def test_a_kill_that_the_log_says_was_anothers_is_no_sign() -> None:
    assert judge(killed(after=1, kills_named=1)).ending is Ending.KILLED
    assert judge(killed(after=2, kills_named=1)).grade is Grade.CONFIRMED


def test_kills_of_its_cgroup_before_its_death_are_told_and_prove_nothing() -> None:
    verdict = judge(killed(before=2, after=2, earlier_kills=2))
    assert verdict.ending is Ending.KILLED
    assert "2 other out-of-memory kills in its cgroup while it lived on" in verdict.reasons


@pytest.mark.parametrize(
    "limits",
    [
        (FAR, RLIMIT),
        (FAR, Limit("cgroup /a (memory.high)", 1000 * MIB, 999 * MIB, kills=False)),
        (NEAR, Limit("cgroup /a (with swap)", 2000 * MIB, 980 * MIB)),
    ],
    ids=["an allocation fails at it", "the kernel throttles at it", "it swaps at it"],
)
def test_at_a_limit_that_kills_nobody_a_sigkill_is_not_the_kernels(limits: tuple[Limit, ...]) -> None:
    assert judge(killed(limit=None, limits=limits)).ending is Ending.KILLED


@pytest.mark.parametrize(
    ("kind", "message", "chain", "gpus", "begins"),
    [
        (
            "tensorflow.errors.ResourceExhaustedError",
            "OOM when allocating on /device:GPU:0",
            "",
            True,
            "GPU memory could",
        ),
        (
            "tensorflow.errors.ResourceExhaustedError",
            "OOM when … on /device:CPU:0 by cpu",
            "",
            True,
            "Memory could not",
        ),
        (
            "tensorflow.errors.ResourceExhaustedError",
            "failed to allocate memory [Op:Add]",
            "",
            False,
            "Memory could not",
        ),
        (
            "tensorflow.errors.ResourceExhaustedError",
            "failed to allocate memory [Op:Add]",
            "",
            True,
            "Memory (the message",
        ),
        ("jaxlib._jax.XlaRuntimeError", "RESOURCE_EXHAUSTED: Out of memory", "", False, "Memory could not"),
        ("jax.errors.JaxRuntimeError", "RESOURCE_EXHAUSTED: … GPU_0_bfc", "", True, "GPU memory could not"),
        ("torch.OutOfMemoryError", "CUDA out of memory", "", True, "GPU memory could not"),
        ("torch.cuda.OutOfMemoryError", "Allocation on device", "", True, "GPU memory could not"),
        ("RuntimeError", "DefaultCPUAllocator: can't allocate memory: you tried", "", True, "Memory could not"),
        ("RuntimeError", "[enforce fail] DefaultCPUAllocator: not enough memory", "", True, "Memory could not"),
        ("numpy._core._exceptions._ArrayMemoryError", "Unable to allocate 1 TiB", "", True, "Memory could not"),
        ("RuntimeError", "(3, 4)", "numpy._core._exceptions._ArrayMemoryError;KeyError", True, "Memory could not"),
        ("OSError", "[Errno 12] Cannot allocate memory", "", True, "Memory could not"),
        ("RuntimeError", "unable to write to file </torch_71_4_0>", "", True, "Shared memory (/dev/shm) could not"),
    ],
)
def test_allocations_that_failed_are_named_as_such(
    kind: str, message: str, chain: str, gpus: bool, begins: str
) -> None:
    verdict = judge(raised(kind, message, chain, gpus=gpus))
    assert (verdict.ending, verdict.outcome) == (Ending.ALLOCATION_FAILED, "failed")
    assert verdict.text.startswith(begins)


@pytest.mark.parametrize(
    ("kind", "message", "chain"),
    [
        ("ValueError", "MemoryError is not what this is", ""),
        ("RuntimeError", "GPU:0 is not there", "KeyError;ValueError"),
        ("jax.errors.JaxRuntimeError", "INTERNAL: no", ""),
        ("OSError", "[Errno 28] No space left on device", ""),
    ],
)
def test_other_exceptions_are_not(kind: str, message: str, chain: str) -> None:
    assert judge(raised(kind, message, chain, gpus=True)).ending is Ending.EXCEPTION


def test_the_evidence_and_the_report_stand_in_the_end_event() -> None:
    report = Report(980 * MIB, Growth(3 * MIB, 400, True), 5, 500, Phase.TRAIN, 2, 499)
    verdict = judge(
        killed(
            limit=NEAR,
            after=1,
            victim=VICTIM,
            report=report,
            processes=(ProcessState(pid=7, name="python", role="training", rss_bytes=960 * MIB, swap_bytes=MIB),),
            assessment=Assessment(
                state=State.AT_RISK, wall_ns=1, limit_bytes=1000 * MIB, used_bytes=970 * MIB, headroom_bytes=30 * MIB
            ),
        )
    )
    detail = verdict.detail()
    assert verdict.text == "Killed by the kernel: out of memory, with 970 MiB of 1000 MiB in use."
    assert detail["evidence"] == "; ".join(verdict.reasons)
    assert verdict.reasons == (
        "it ended by SIGKILL",
        "the kernel's log says that it was killed for memory",
        "its cgroup's counter of out-of-memory kills went up by 1 at its death",
        "97 % of its limit (cgroup a) was in use when it was last looked at",
        "it held 900 MiB of memory of its own, by the kernel's log",
    )
    expected = {
        "used_bytes": 970 * MIB,
        "limit_bytes": 1000 * MIB,
        "limit_kind": "cgroup /a",
        "peak_bytes": 980 * MIB,
        "growth_bytes_per_batch": 3 * MIB,
        "phase": "train",
        "epoch": 2,
        "batch": 499,
        "processes": "python 7 (training) 960 MiB, 1 MiB in swap",
        "assessment": "at risk: 30 MiB of 1000 MiB left at a batch's peak",
    }
    assert {key: detail[key] for key in expected} == expected
    assert "Memory grew by 3 MiB per batch to the end" in str(detail["advice"])


def test_what_is_not_known_is_none_in_the_end_event() -> None:
    detail = judge(Evidence(closed=True)).detail()
    unknown = {"used_bytes", "limit_kind", "peak_bytes", "growth_bytes_per_batch", "phase", "epoch", "advice"}
    assert {detail[key] for key in unknown} == {None}


def test_no_end_event_is_too_long_for_the_server() -> None:
    state = ProcessState(pid=1, name="x" * 200, role="other", rss_bytes=1)
    children = tuple(worker(counted=True) for _ in range(50))
    evidence = raised("E", "m" * 9000, "c;" * 5000, processes=(state,) * 50, children=children)
    event = Event(1, EventKind.END, 1, 1, None, None, judge(evidence).detail())
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(event), type=Event) == event


def test_a_limit_that_was_last_seen_far_from_full_is_said_to_be_an_old_look() -> None:
    assert judge(killed(limit=FAR, after=1)).text.endswith("100 MiB of 1000 MiB in use when it was last looked at.")


def test_the_log_says_which_kind_of_limit_it_was() -> None:
    host = Limit("host memory", 4000 * MIB, 3000 * MIB)
    victim = VICTIM._replace(constraint="none")
    detail = judge(killed(limit=NEAR, limits=(NEAR, host), victim=victim)).detail()
    assert detail["limit_kind"] == "host memory"


def test_a_child_that_was_killed_for_memory_is_told_beside_the_exception_it_led_to() -> None:
    verdict = judge(raised("RuntimeError", "worker exited", children=(worker(counted=True),)))
    assert verdict.ending is Ending.EXCEPTION
    assert verdict.text == (
        "RuntimeError: worker exited. A child (python 4211) had been killed by the kernel: out of memory."
    )
    assert "its child python 4211 was killed by the kernel: out of memory 2 s before" in verdict.reasons
    assert "fewer workers" in (verdict.advice or "")


def test_a_child_killed_by_hand_is_told_as_that() -> None:
    verdict = judge(raised("RuntimeError", "worker exited", children=(worker(),)))
    assert verdict.text == "RuntimeError: worker exited"
    assert "its child python 4211 was killed by SIGKILL 2 s before" in verdict.reasons
    assert verdict.advice is None


def test_a_child_that_was_killed_long_ago_is_in_the_evidence_only() -> None:
    evidence = killed(children=(worker(counted=True, ago_s=90),), earlier_kills=1)
    verdict = judge(evidence)
    assert "child" not in verdict.text
    assert any("its child python 4211 was killed by the kernel" in reason for reason in verdict.reasons)
    assert not any("other out-of-memory kill" in reason for reason in verdict.reasons)
    finished = judge(Evidence(closed=True, children=evidence.children, mono_ns=100 * S))
    assert finished.text == "Finished."
    assert any("4211" in reason for reason in finished.reasons)


def test_a_training_that_hung_since_a_child_was_killed_is_told_so() -> None:
    hung = Evidence(status=ExitStatus(signal.SIGTERM, None), hung_s=1200, mono_ns=100 * S, limit=FAR)
    assert judge(hung).text == "Stopped by SIGTERM. It had hung for 20 min."
    assert "py-spy" in (judge(hung).advice or "")
    after = judge(dataclasses.replace(hung, children=(worker(counted=True, ago_s=95),)))
    assert "A child (python 4211) had been killed by the kernel" in after.text
    by_memory = judge(dataclasses.replace(killed(), hung_s=80, hung_by_memory=True))
    assert by_memory.text.endswith("It had stalled by memory for 80 s.")


def test_a_shell_whose_command_was_killed_for_memory_says_so_by_its_exit_code() -> None:
    sure = judge(exit_with(137, children=(worker(counted=True),)))
    assert (sure.ending, sure.grade) == (Ending.OOM_KILLED, Grade.CONFIRMED)
    assert sure.text.startswith("A child was killed by the kernel: out of memory")
    maybe = judge(exit_with(137, late_kills=1))
    assert (maybe.ending, maybe.grade) == (Ending.OOM_KILLED, Grade.PROBABLE)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (1, "Ended with exit code 1."),
        (137, "Ended with exit code 137, by which a shell says that SIGKILL ended its command."),
        (139, "Ended with exit code 139, by which a shell says that SIGSEGV ended its command."),
        (143, "Ended with exit code 143, by which a shell says that SIGTERM ended its command."),
        (255, "Ended with exit code 255."),
    ],
)
def test_exit_codes_in_words(code: int, text: str) -> None:
    assert judge(exit_with(code)).text == text


@pytest.mark.parametrize(
    ("evidence", "ending", "grade"),
    [
        (Evidence(agent_died=True, limit=FAR), Ending.VANISHED, Grade.UNKNOWN),
        (Evidence(agent_died=True, limit=NEAR), Ending.VANISHED, Grade.UNKNOWN),
        (Evidence(agent_died=True, limit=NEAR, victim=VICTIM), Ending.OOM_KILLED, Grade.CONFIRMED),
        (
            Evidence(agent_died=True, kills_before=Kills(0, 0), kills_after=Kills(1, 1)),
            Ending.OOM_KILLED,
            Grade.PROBABLE,
        ),
    ],
)
def test_an_end_that_nobody_watched_is_inferred(evidence: Evidence, ending: Ending, grade: Grade) -> None:
    verdict = judge(evidence)
    assert (verdict.ending, verdict.grade, verdict.inferred) == (ending, grade, True)
    assert verdict.detail()["inferred"] == 1
    assert "nobody watched when it ended" in verdict.reasons


def test_an_end_that_nobody_watched_but_the_process_told_of_is_not_inferred() -> None:
    assert judge(Evidence(agent_died=True, closed=True)) == judge(Evidence(closed=True))


GROWTH = Growth(3 * MIB, 400, True)


@pytest.mark.parametrize(
    ("evidence", "says"),
    [
        (killed(after=1, report=Report(growth=GROWTH, batches=500, phase=Phase.TRAIN)), "grew by 3 MiB per batch"),
        (killed(after=1, report=Report(batches=1, phase=Phase.TRAIN)), "It ran out after 1 batch:"),
        (killed(after=1, report=Report(batches=500, phase=Phase.VALIDATION)), "validation_batch_size"),
        (killed(after=1, report=Report(batches=500, phase=Phase.TRAIN, at_epoch_end=True)), "checkpoints are saved"),
        (killed(after=1, report=Report(batches=500, stalled_share=0.6)), "For 60 % of its last minute"),
        (raised("torch.OutOfMemoryError", "CUDA out of memory"), "mixed_float16"),
        (killed(), "systemd-oomd"),
        (killed(launcher="slurm 4711"), "`sacct -j 4711"),
        (
            Evidence(status=ExitStatus(signal.SIGBUS, None), shm_free_bytes=0, shm_total_bytes=64 * MIB),
            "--shm-size",
        ),
        (
            killed(
                after=1,
                processes=(
                    ProcessState(pid=9, name="java", role="other", rss_bytes=800 * MIB),
                    ProcessState(pid=7, name="python", role="training", rss_bytes=100 * MIB),
                ),
            ),
            "another process holds more than the training: java 9 (other) 800 MiB",
        ),
        (
            killed(
                after=1,
                processes=(
                    ProcessState(pid=9, name="python", role="child", rss_bytes=500 * MIB),
                    ProcessState(pid=7, name="python", role="training", rss_bytes=100 * MIB),
                ),
            ),
            "Its children hold more",
        ),
    ],
)
def test_advice_follows_from_the_evidence(evidence: Evidence, says: str) -> None:
    assert says in (judge(evidence).advice or "")


@pytest.mark.parametrize(
    "evidence",
    [
        Evidence(closed=True, report=Report(growth=GROWTH)),
        raised("ValueError", "no", report=Report(growth=GROWTH, stalled_share=0.9)),
        Evidence(status=ExitStatus(signal.SIGTERM, None), limit=NEAR),
        Evidence(status=ExitStatus(signal.SIGBUS, None), shm_free_bytes=60 * MIB, shm_total_bytes=64 * MIB),
        Evidence(detached=True, hung_s=90),
    ],
)
def test_there_is_no_advice_where_the_evidence_speaks_for_none(evidence: Evidence) -> None:
    assert judge(evidence).advice is None


def test_where_nothing_says_why_memory_ran_out_there_is_still_what_always_helps() -> None:
    advice = judge(killed(after=1, report=Report(growth=Growth(3, 400, False), batches=500, phase=Phase.TRAIN))).advice
    assert advice is not None
    assert advice.startswith("A smaller batch, or a higher limit")


def test_a_training_that_was_stopped_for_want_of_memory_is_no_plain_success() -> None:
    verdict = judge(Evidence(closed=True, stopped_for_memory="saved /a/b.npz and stopped at epoch 2"))
    assert (verdict.ending, verdict.outcome) == (Ending.STOPPED, "stopped")
    assert verdict.text == "Stopped before memory ran out: saved /a/b.npz and stopped at epoch 2."


def test_a_command_that_was_never_asked_to_say_so_finishes_by_its_exit_code() -> None:
    evidence = Evidence(status=ExitStatus(None, 0))
    assert judge(evidence).text == "Ended without saying so, with exit code 0."
    outside = judge(dataclasses.replace(evidence, outside=True))
    assert (outside.ending, outside.grade, outside.text) == (
        Ending.FINISHED,
        Grade.CONFIRMED,
        "Finished, with exit code 0.",
    )
