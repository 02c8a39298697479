"""Real deaths, and what is said of them: killed in a real cgroup, by hand, near and far from the limit."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from oomcast.sample import EventKind
from tests.support import clean_environment, events, memory_box, recorded, why_no_box

pytestmark = pytest.mark.fast

MIB = 1 << 20
boxed = pytest.mark.skipif(why_no_box() is not None, reason=str(why_no_box()))

START = """
import ctypes, mmap, os, signal, sys, time
from oomcast import watch

def touched(mib):
    area = mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(0, mib << 20, 4096):
        area[page] = 1
    return area

run = watch(run_name="end").__enter__()
for _ in range(5):
    run.step()
    time.sleep(0.05)
"""


def end_of(code: str, home: Path, box: Path | None = None, *, wait: float = 60) -> tuple[dict[str, Any], int]:
    """What the END event says of a script, and the script's exit status."""
    enter = f"open({str(box / 'cgroup.procs')!r}, 'w').write(str(__import__('os').getpid()))\n" if box else ""
    process = subprocess.run(
        [sys.executable, "-c", enter + START + textwrap.dedent(code)],
        env=clean_environment(home, OOMCAST_MODE="offline"),
        capture_output=True,
        timeout=wait,
        check=False,
    )
    return events(recorded(home, "end"), EventKind.END)[0].detail, process.returncode


def named(detail: dict[str, Any]) -> tuple[str, str]:
    return detail["ending"], detail["grade"]


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


@boxed
def test_just_below_the_limit_nothing_is_said(home: Path) -> None:
    with memory_box(160 * MIB) as box:
        detail, status = end_of(
            "kept = touched(90)\nrun.step()\ntime.sleep(1.2)\nrun.__exit__(None, None, None)", home, box
        )
    assert status == 0
    assert named(detail) == ("finished", "confirmed")


@pytest.mark.parametrize("_again", range(3))
def test_a_kill_by_hand_far_from_the_limit_is_never_called_oom(home: Path, _again: int) -> None:
    detail, status = end_of("os.kill(os.getpid(), signal.SIGKILL)", home)
    assert status == -signal.SIGKILL
    assert named(detail) == ("killed", "unknown")
    assert "no sign that memory was why" in detail["text"]


@boxed
def test_a_kill_by_hand_at_the_limit_is_probable_only(home: Path) -> None:
    # Filled from inside to 97 % of what the limit is then set to.
    code = """
    area = touched(100)
    box = {box!r}
    def number(name):
        return int(open(box + "/" + name).read())
    time.sleep(0.5)
    used = number("memory.usage_in_bytes")
    open(box + "/memory.limit_in_bytes", "w").write(str(int(used / 0.975)))
    run.step()
    time.sleep(1.5)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    with memory_box(256 * MIB) as box:
        detail, status = end_of(textwrap.dedent(code).format(box=str(box)), home, box)
    assert status == -signal.SIGKILL
    assert named(detail) == ("oom killed", "probable")


@pytest.mark.parametrize(
    ("code", "status", "ending", "text"),
    [
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, "stopped", "Stopped by SIGTERM."),
        ("ctypes.string_at(0)", -signal.SIGSEGV, "crashed", "Crashed with SIGSEGV."),
        ("os.abort()", -signal.SIGABRT, "crashed", "Crashed with SIGABRT."),
        ("raise ValueError('wrong shape')", 1, "exception", "ValueError: wrong shape"),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(5)", -signal.SIGINT, "stopped", "Stopped by Ctrl-C."),
        ("run.__exit__(None, None, None)", 0, "finished", "Finished."),
    ],
)
def test_other_ends_have_their_own_names(home: Path, code: str, status: int, ending: str, text: str) -> None:
    detail, returned = end_of(code, home)
    assert returned == status
    assert (named(detail), detail["text"]) == ((ending, "confirmed"), text)


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


def test_os_exit_is_told_by_its_code(home: Path) -> None:
    detail, _ = end_of("os._exit(3)", home)
    assert detail["text"] == "Ended with exit code 3."


def test_a_program_that_closes_all_files_is_watched_to_its_end(home: Path) -> None:
    code = """
    os.closerange(3, 1000)
    time.sleep(1.5)
    os._exit(0)
    """
    started = time.monotonic()
    detail, _ = end_of(code, home)
    assert detail["text"] == "Ended without saying so, with exit code 0."
    assert time.monotonic() - started > 1.5


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
