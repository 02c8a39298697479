"""Real deaths, and what is said of them: killed in a real cgroup, by hand, near and far from the limit."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from oomcast.probes.death import KernelLog
from oomcast.sample import EventKind
from tests.support import LIMIT, USAGE, Rows, clean_environment, events, memory_box, recorded, run_script, why_no_box

MIB = 1 << 20
fast = pytest.mark.fast


def why_no_log() -> str | None:
    """Why the kernel's log tells nothing here; None where it does."""
    log = KernelLog()
    try:
        return None if log.readable else "needs a kernel log that can be read, with this namespace's pids"
    finally:
        log.close()


boxed = pytest.mark.skipif(why_no_box() is not None, reason=str(why_no_box()))

START = """
import ctypes, glob, mmap, os, signal, sys, time
from oomcast import watch

def touched(mib):
    area = mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(0, mib << 20, 4096):
        area[page] = 1
    return area

run = watch(run_name="end").__enter__()
while not glob.glob(os.environ["OOMCAST_HOME"] + "/state/journals/*"):
    time.sleep(0.01)  # a training that ends sooner than its agent is up is a case of its own
for _ in range(5):
    run.step()
    time.sleep(0.05)
"""


# A worker that takes memory without end. The kernel takes it before its parent, as it takes the biggest.
WORKER = """
open("/proc/self/oom_score_adj", "w").write("1000")
import mmap, time
kept = []
time.sleep(1.5)  # to be seen by the agent, which looks for children once a second
while True:
    kept.append(mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    for page in range(0, 1 << 20, 4096):
        kept[-1][page] = 1
"""

LOSE_WORKER = f"""
import subprocess
worker = subprocess.Popen([sys.executable, "-c", {WORKER!r}])
assert worker.wait() == -9, worker.returncode
print("worker", worker.pid, flush=True)
"""


def enter(box: Path | None) -> str:
    """The line by which a script puts itself into a box."""
    return f"open({str(box / 'cgroup.procs')!r}, 'w').write(str(__import__('os').getpid()))\n" if box else ""


def run(code: str, home: Path, box: Path | None = None, *, wait: float = 60) -> tuple[Rows, int, str]:
    """What was recorded of a script, its exit status, and what it said."""
    process = subprocess.run(
        [sys.executable, "-c", enter(box) + START + textwrap.dedent(code)],
        env=clean_environment(home, OOMCAST_MODE="offline"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=wait,
        check=False,
    )
    return recorded(home, "end"), process.returncode, process.stdout


def end_of(code: str, home: Path, box: Path | None = None, *, wait: float = 60) -> tuple[dict[str, Any], int]:
    """What the END event says of a script, and the script's exit status."""
    rows, status, _ = run(code, home, box, wait=wait)
    return verdict_in(rows), status


def verdict_in(rows: Rows) -> dict[str, Any]:
    return events(rows, EventKind.END)[0].detail


def named(detail: dict[str, Any]) -> tuple[str, str]:
    return detail["ending"], detail["grade"]


@fast
@boxed
@pytest.mark.parametrize("_again", range(3))
def test_a_leak_that_the_kernel_ends_is_a_confirmed_oom_kill(home: Path, _again: int) -> None:
    leak = """
    kept = []
    while True:
        kept.append(touched(2))
        run.step()
        time.sleep(0.002)
    """
    with memory_box(128 * MIB) as box:
        detail, status = end_of(leak, home, box)
    assert status == -signal.SIGKILL
    assert named(detail) == ("oom killed", "confirmed")
    assert "of 128 MiB in use" in detail["text"]
    assert (detail["limit_bytes"], detail["phase"]) == (128 * MIB, "train")
    assert detail["growth_bytes_per_batch"] == pytest.approx(2 * MIB, rel=0.2)
    assert "(training)" in detail["processes"]
    assert "per batch to the end" in detail["advice"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow")
@boxed
@pytest.mark.parametrize("_again", range(2))
def test_a_leaking_keras_training_is_a_confirmed_oom_kill(home: Path, tmp_path: Path, _again: int) -> None:
    # Its own code stays in memory (MCL_CURRENT | MCL_ONFAULT): else, without swap, the kernel may take the pages of
    # TensorFlow's code back and read them again, for minutes, before it sees that this is no progress.
    script = """
    import ctypes
    import keras, numpy as np
    from oomcast import MemoryMonitor

    class Keeps(keras.callbacks.Callback):
        kept = []
        def on_train_batch_end(self, batch, logs=None):
            if batch == 50:
                assert ctypes.CDLL(None, use_errno=True).mlockall(1 | 4) == 0, ctypes.get_errno()
            self.kept.append(np.ones((2 << 20) // 8))

    model = keras.Sequential([keras.layers.Input((64,)), keras.layers.Dense(64), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    x, y = np.zeros((64 * 1000, 64), "float32"), np.zeros((64 * 1000, 1), "float32")
    model.fit(x, y, batch_size=64, epochs=10, verbose=0, callbacks=[Keeps(), MemoryMonitor(run_name="end")])
    """
    with memory_box(1400 * MIB) as box:
        process = subprocess.run(
            [sys.executable, "-c", enter(box) + textwrap.dedent(script)],
            env=clean_environment(home, OOMCAST_MODE="offline"),
            capture_output=True,
            timeout=150,
            check=False,
        )
    detail = verdict_in(recorded(home, "end"))
    assert process.returncode == -signal.SIGKILL
    assert named(detail) == ("oom killed", "confirmed")
    assert detail["growth_bytes_per_batch"] == pytest.approx(2 * MIB, rel=0.2)
    assert "per batch to the end" in detail["advice"]


@fast
@boxed
def test_just_below_the_limit_nothing_is_said(home: Path) -> None:
    with memory_box(160 * MIB) as box:
        detail, status = end_of(
            "kept = touched(90)\nrun.step()\ntime.sleep(1.2)\nrun.__exit__(None, None, None)", home, box
        )
    assert status == 0
    assert named(detail) == ("finished", "confirmed")


@fast
@pytest.mark.parametrize("_again", range(3))
def test_a_kill_by_hand_far_from_the_limit_is_never_called_oom(home: Path, _again: int) -> None:
    detail, status = end_of("os.kill(os.getpid(), signal.SIGKILL)", home)
    assert status == -signal.SIGKILL
    assert named(detail) == ("killed", "unknown")
    assert "no sign that memory was why" in detail["text"]


@fast
@boxed
@pytest.mark.parametrize("_again", range(2))
def test_a_kill_by_hand_in_a_box_far_from_its_limit_is_never_called_oom(home: Path, _again: int) -> None:
    with memory_box(512 * MIB) as box:
        detail, _ = end_of("kept = touched(50)\nrun.step()\nos.kill(os.getpid(), signal.SIGKILL)", home, box)
    assert named(detail) == ("killed", "unknown")
    assert "did not move at its death" in detail["evidence"]


@fast
@boxed
@pytest.mark.parametrize("_again", range(2))
def test_a_kill_by_hand_after_a_workers_oom_kill_is_not_confirmed(home: Path, _again: int) -> None:
    code = LOSE_WORKER + "time.sleep(2.5)\nos.kill(os.getpid(), signal.SIGKILL)"
    with memory_box(160 * MIB) as box:
        rows, status, said = run(code, home, box)
    detail = verdict_in(rows)
    assert status == -signal.SIGKILL
    assert named(detail) == ("killed", "unknown")
    assert f"child python {said.split()[1]} was killed by the kernel" in detail["evidence"]


@fast
@boxed
@pytest.mark.parametrize("_again", range(3))
def test_a_kill_by_hand_at_the_moment_of_a_workers_oom_kill_is_not_confirmed(home: Path, _again: int) -> None:
    with memory_box(160 * MIB) as box:
        detail, status = end_of(LOSE_WORKER + "os.kill(os.getpid(), signal.SIGKILL)", home, box)
    assert status == -signal.SIGKILL
    assert detail["grade"] != "confirmed"


@fast
@boxed
@pytest.mark.parametrize("_again", range(2))
def test_a_worker_that_is_killed_for_memory_is_told_and_the_training_goes_on(home: Path, _again: int) -> None:
    code = LOSE_WORKER + "time.sleep(2.5)\nrun.step()\nrun.__exit__(None, None, None)"
    with memory_box(160 * MIB) as box:
        rows, status, said = run(code, home, box)
    pid = int(said.split()[1])
    detail = verdict_in(rows)
    assert (status, named(detail), detail["text"]) == (0, ("finished", "confirmed"), "Finished.")
    assert f"child python {pid} was killed by the kernel: out of memory" in detail["evidence"]
    (child,) = events(rows, EventKind.CHILD)
    assert (child.detail["pid"], child.detail["ending"]) == (pid, "oom killed")


@fast
@boxed
@pytest.mark.parametrize("_again", range(2))
def test_a_training_that_dies_of_its_workers_oom_kill_says_so(home: Path, _again: int) -> None:
    with memory_box(160 * MIB) as box:
        rows, status, said = run(LOSE_WORKER + "raise RuntimeError('a worker is gone')", home, box)
    detail = verdict_in(rows)
    assert (status, named(detail)) == (1, ("exception", "confirmed"))
    child = f"A child (python {said.split()[1]}) had been killed by the kernel: out of memory."
    assert detail["text"] == f"RuntimeError: a worker is gone. {child}"
    assert "fewer workers" in detail["advice"]


@fast
def test_a_worker_that_is_killed_by_hand_is_not_called_oom(home: Path) -> None:
    code = """
    import subprocess
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    time.sleep(1.5)
    worker.kill()
    worker.wait()
    raise RuntimeError("a worker is gone")
    """
    detail, _ = end_of(code, home)
    assert detail["text"] == "RuntimeError: a worker is gone"
    assert "was killed by SIGKILL" in detail["evidence"]


@fast
@boxed
@pytest.mark.parametrize("_again", range(2))
def test_a_shell_whose_command_is_killed_for_memory_is_told_by_its_exit_code(home: Path, _again: int) -> None:
    with memory_box(160 * MIB) as box:
        code = enter(box) + textwrap.dedent(f"""
        import sys
        from oomcast.cli import main
        command = sys.executable + ' -c "$1"; exit $?'
        sys.argv = ["oomcast", "run", "--name", "end", "--", "sh", "-c", command, "sh", {WORKER!r}]
        main()
        """)
        process = run_script(code, home, OOMCAST_MODE="offline")
        detail = verdict_in(recorded(home, "end"))
    assert process.returncode == 137
    assert named(detail) == ("oom killed", "confirmed")
    assert detail["text"].startswith("A child was killed by the kernel: out of memory")


KILL_BOTH = """
os.kill(run._session.agent_pid, signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
"""


def end_told_by_the_next(code: str, home: Path, box: Path | None = None) -> dict[str, Any]:
    """What the next agent says of a script that was killed together with its own."""
    script = enter(box) + START + textwrap.dedent(code)
    run_script(script, home, OOMCAST_MODE="offline")
    run_script(
        "from oomcast import watch; import time\nwith watch(run_name='next') as run: run.step(); time.sleep(0.5)",
        home,
        OOMCAST_MODE="offline",
    )
    return verdict_in(recorded(home, "end"))


@fast
@pytest.mark.parametrize("_again", range(2))
def test_a_kill_together_with_the_agent_is_inferred_and_never_called_oom(home: Path, _again: int) -> None:
    detail = end_told_by_the_next(KILL_BOTH, home)
    assert (named(detail), detail["inferred"]) == (("vanished", "unknown"), 1)
    assert "nobody watched when it ended" in detail["evidence"]


@fast
@boxed
@pytest.mark.parametrize("_again", range(2))
def test_a_leak_without_an_agent_is_told_by_what_the_kernel_keeps(home: Path, _again: int) -> None:
    code = """
    os.kill(run._session.agent_pid, signal.SIGKILL)
    kept = []
    while True:
        kept.append(touched(2))
    """
    with memory_box(128 * MIB) as box:
        detail = end_told_by_the_next(code, home, box)
    assert detail["ending"] == "oom killed"


@fast
@boxed
@pytest.mark.skipif(why_no_log() is not None, reason=str(why_no_log()))
@pytest.mark.parametrize("_again", range(2))
def test_a_leak_that_ends_sooner_than_the_agent_is_up_is_told_by_the_log(home: Path, _again: int) -> None:
    code = """
    import mmap
    from oomcast import watch

    run = watch(run_name="end").__enter__()
    kept = []
    while True:
        kept.append(mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        kept[-1].write(bytes(1 << 20))
    """
    with memory_box(128 * MIB) as box:
        process = run_script(enter(box) + textwrap.dedent(code), home, OOMCAST_MODE="offline")
        detail = verdict_in(recorded(home, "end"))
    assert process.returncode == -signal.SIGKILL
    assert named(detail) == ("oom killed", "confirmed")


@fast
@boxed
@pytest.mark.parametrize("_again", range(2))
def test_a_kill_by_hand_at_the_limit_is_probable_only(home: Path, _again: int) -> None:
    # Filled from inside to 97 % of what the limit is then set to.
    code = """
    area = touched(100)
    box = {box!r}
    def number(name):
        return int(open(box + "/" + name).read())
    time.sleep(0.5)
    used = number({usage!r})
    open(box + "/" + {limit!r}, "w").write(str(int(used / 0.975)))
    run.step()
    time.sleep(1.5)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    with memory_box(256 * MIB) as box:
        detail, status = end_of(textwrap.dedent(code).format(box=str(box), usage=USAGE, limit=LIMIT), home, box)
    assert status == -signal.SIGKILL
    assert named(detail) == ("oom killed", "probable")


@fast
@pytest.mark.parametrize(
    ("code", "status", "ending", "text"),
    [
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, "stopped", "Stopped by SIGTERM."),
        ("ctypes.string_at(0)", -signal.SIGSEGV, "crashed", "Crashed with SIGSEGV."),
        ("os.abort()", -signal.SIGABRT, "crashed", "Crashed with SIGABRT."),
        ("os.kill(os.getpid(), signal.SIGBUS)", -signal.SIGBUS, "crashed", "Crashed with SIGBUS."),
        ("os.kill(os.getpid(), signal.SIGHUP)", -signal.SIGHUP, "stopped", "Stopped by SIGHUP (a closed terminal)."),
        ("raise ValueError('wrong shape')", 1, "exception", "ValueError: wrong shape"),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(5)", -signal.SIGINT, "stopped", "Stopped by Ctrl-C."),
        ("run.__exit__(None, None, None)", 0, "finished", "Finished."),
    ],
)
def test_other_ends_have_their_own_names(home: Path, code: str, status: int, ending: str, text: str) -> None:
    detail, returned = end_of(code, home)
    assert returned == status
    assert (named(detail), detail["text"]) == ((ending, "confirmed"), text)


@fast
def test_an_allocation_that_failed_is_named(home: Path) -> None:
    code = """
    import resource
    used = int(open("/proc/self/statm").read().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
    bytearray(1 << 30)
    """
    detail, status = end_of(code, home)
    assert status == 1
    assert named(detail) == ("allocation failed", "confirmed")
    assert detail["outcome"] == "failed"


@fast
def test_os_exit_is_told_by_its_code(home: Path) -> None:
    detail, _ = end_of("os._exit(3)", home)
    assert detail["text"] == "Ended with exit code 3."


@fast
def test_a_program_that_closes_all_files_is_watched_to_its_end(home: Path) -> None:
    code = """
    os.closerange(3, 65536)
    files = [open(f"{os.environ['OOMCAST_HOME']}/mine{n}", "w+b", buffering=0) for n in range(20)]
    for file in files:
        file.write(b"data")
    for _ in range(50):
        run.step()
    time.sleep(1.5)
    run.__exit__(None, None, None)
    os._exit(7 if all(open(file.name, "rb").read() == b"data" for file in files) else 8)
    """
    started = time.monotonic()
    detail, status = end_of(code, home)
    assert status == 7, "what is opened afterwards is the program's own"
    assert detail["text"] == "Ended with exit code 7."
    assert time.monotonic() - started > 1.5


@fast
def test_a_parent_that_does_not_wait_leaves_a_zombie_that_tells(home: Path) -> None:
    child = START + "os.kill(os.getpid(), signal.SIGSEGV)"
    code = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(6)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=clean_environment(home, OOMCAST_MODE="offline"), stderr=subprocess.DEVNULL
    )
    try:
        detail = events(recorded(home, "end"), EventKind.END)[0].detail
        assert detail["text"] == "Crashed with SIGSEGV."
        assert process.poll() is None, "the parent must still be there, or this says nothing"
    finally:
        process.kill()
        process.wait()
