"""`oomcast demo`, all but its trainings: the box, the swap file, the server, and the verdict's words."""

from __future__ import annotations

import contextlib
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from oomcast import settings
from oomcast.demo.box import GroupBox, choose_box
from oomcast.demo.cgroup import make_group, sweep
from oomcast.demo.dashboard import Dashboard, dashboard
from oomcast.demo.facts import BatchEnd, EpochEnd, Facts, FactsWriter, Tightened, read_facts
from oomcast.demo.scenarios import PLANS, DemoError, Ending, Scenario
from oomcast.demo.swapfile import free_swap_bytes, swap
from oomcast.demo.verdict import Outcome, classify, error_line, lines
from tests.support import clean_environment, eventually, run_script

pytestmark = pytest.mark.fast

MIB = 1 << 20
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's memory limits")

ENTER = "from oomcast.demo.box import enter; import sys; walls = enter(sys.argv[1]); "
ALLOCATE = (
    "print(walls.tighten(48 << 20, 0).limit_bytes, flush=True); kept = [b'x' * (4 << 20) for _ in range({count})]"
)


def child(code: str, ticket: str, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ENTER + code, ticket],
        env=clean_environment(home),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome_of(code: str, ticket: str, home: Path) -> tuple[int, str, str]:
    with child(code, ticket, home) as process:
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err


@pytest.fixture
def group_box() -> Iterator[GroupBox]:
    with choose_box(has_scopes=lambda: False) as box:
        if not isinstance(box, GroupBox):
            pytest.skip("this machine lets this user make no memory cgroup")
        yield box


@linux
def test_a_child_that_takes_more_than_its_box_allows_is_killed_and_counted(group_box: GroupBox, home: Path) -> None:
    code, out, err = outcome_of(ALLOCATE.format(count=64), group_box.ticket, home)
    assert code == -signal.SIGKILL, err
    assert int(out) < 200 * MIB
    assert group_box.kills(None) == 1


@linux
def test_a_child_that_keeps_to_its_headroom_lives(group_box: GroupBox, home: Path) -> None:
    code, _, err = outcome_of(ALLOCATE.format(count=8), group_box.ticket, home)
    assert (code, err) == (0, "")
    assert group_box.kills(None) == 0


@linux
def test_a_removed_box_leaves_those_who_are_still_in_it_alone(group_box: GroupBox, home: Path) -> None:
    with child("print('in', flush=True); input()", group_box.ticket, home) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        group_box.close()
        assert not group_box.folder.exists()
        assert process.poll() is None
        process.communicate("go on\n", timeout=30)
        assert process.returncode == 0


@linux
def test_the_box_is_gone_after_an_error() -> None:
    folder = None
    with contextlib.suppress(KeyboardInterrupt), choose_box(has_scopes=lambda: False) as box:
        folder = box.folder if isinstance(box, GroupBox) else None
        assert folder is None or folder.is_dir()
        raise KeyboardInterrupt
    assert folder is None or not folder.exists()


@linux
def test_the_box_of_a_demo_that_was_killed_is_removed_by_the_next_one() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    if (made := make_group(os.getpid())) is None:
        pytest.skip("this machine lets this user make no memory cgroup")
    group, refuge = made
    left = group.folder.with_name(f"oomcast-demo-{process.pid}")
    left.mkdir()
    try:
        sweep(os.getpid())
        assert not left.exists()
        assert group.folder.exists()  # its process lives
    finally:
        group.remove(refuge)


@linux
def test_where_there_is_no_cgroup_a_resource_limit_makes_allocations_fail(home: Path) -> None:
    code, out, err = outcome_of(ALLOCATE.format(count=64), "rlimit", home)
    assert code == 1
    assert int(out) > 48 * MIB
    assert error_line(err.splitlines()) == "MemoryError"
    assert classify(code, 0, err.splitlines(), interrupted=False) is Ending.ALLOCATION_FAILED


@pytest.mark.xdist_group("swap")
@linux
def test_the_swap_file_is_added_and_taken_away_whatever_happens(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can add swap")
    before = free_swap_bytes()
    try:
        with swap(before + 64 * MIB, [tmp_path]) as free:
            assert free > before
            assert str(tmp_path) in Path("/proc/swaps").read_text()
            raise KeyboardInterrupt
    except DemoError as error:
        pytest.skip(str(error))
    except KeyboardInterrupt:
        pass
    assert str(tmp_path) not in Path("/proc/swaps").read_text()
    assert list(tmp_path.iterdir()) == []


def test_swap_that_fits_nowhere_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="swap") as caught, swap(1 << 60, [tmp_path]):
        pass
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def demo(home: Path, arguments: str) -> subprocess.CompletedProcess[str]:
    code = f"from oomcast.demo import run_demo; raise SystemExit(run_demo({arguments}))"
    return run_script(code, home)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("scenario='explode'", "no scenario is called 'explode': expected one of healthy, leak"),
        ("seconds=0", "must be more than 0"),
        ("headroom=-1", "must be more than 0"),
    ],
)
def test_what_cannot_be_shown_is_told_in_one_line(home: Path, arguments: str, told: str) -> None:
    done = demo(home, arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_without_tensorflow_it_says_what_to_install(home: Path) -> None:
    code = "import sys; sys.modules['tensorflow'] = None; from oomcast.demo import run_demo; sys.exit(run_demo())"
    done = run_script(code, home)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "oomcast: the demo trains with TensorFlow: `pip install 'oomcast[tensorflow,server]'` brings it"
    ]


def at(port: int, home: Path, **more: str) -> settings.Settings:
    return settings.load({"OOMCAST_SERVER": f"http://127.0.0.1:{port}", "OOMCAST_HOME": str(home), **more})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def elsewhere() -> Iterator[int]:
    """The port of a web server that isn't ours."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def test_another_program_at_the_address_is_named_as_such(home: Path, elsewhere: int) -> None:
    with pytest.raises(DemoError, match="something other than an oomcast server"), dashboard(at(elsewhere, home)):
        pass


def test_a_server_is_started_where_there_is_none_and_ends_with_the_demo(home: Path) -> None:
    port = free_port()
    with dashboard(at(port, home)) as board:
        assert board.is_ours
        assert board.answers()
        assert board.link("abcdefgh12").startswith(f"http://127.0.0.1:{port}/login?token=")
        assert board.find_run("nobody", patience_s=0) is None
    assert not listens(port)


def test_a_server_that_runs_already_is_used_and_left_alone(home: Path) -> None:
    port = free_port()
    with dashboard(at(port, home)):
        with dashboard(at(port, home)) as second:
            assert not second.is_ours
        assert listens(port)


def test_a_server_with_another_token_is_told_in_one_line(home: Path, tmp_path: Path) -> None:
    port = free_port()
    with dashboard(at(port, home)) as board:
        assert not Dashboard(f"http://127.0.0.1:{free_port()}", "any").answers()
        with pytest.raises(DemoError, match="doesn't take this token"), dashboard(at(port, tmp_path / "another")):
            pass
        assert board.answers()


def test_no_server_is_started_for_another_machine(home: Path) -> None:
    wanted = settings.load({"OOMCAST_SERVER": f"http://127.0.0.2:{free_port()}", "OOMCAST_HOME": str(home)})
    with pytest.raises(DemoError, match="can only be started on this machine"), dashboard(wanted):
        pass


def test_a_server_that_can_not_start_says_why(home: Path) -> None:
    (home / "data" / "oomcast.db").mkdir(parents=True)
    port = free_port()
    with pytest.raises(DemoError, match="did not start"), dashboard(at(port, home)):
        pass
    eventually(lambda: not listens(port))


def test_facts_survive_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "facts"
    writer = FactsWriter(path)
    tight = Tightened(charged_bytes=300 * MIB, limit_bytes=400 * MIB, group=None, kills=None)
    for batch in range(48):
        if batch == 8:
            writer.write(tight)
        writer.write(BatchEnd(epoch=batch // 24, rss_bytes=500 * MIB + max(0, batch - 7) * MIB, swap_bytes=None))
        if batch % 24 == 23:
            writer.write(EpochEnd())
    with path.open("ab") as file:
        file.write(b'{"type":"bat')
    facts = read_facts(path)
    assert (facts.tightened, facts.batches, facts.epochs) == (tight, 48, 2)
    assert facts.peak_rss_bytes == 540 * MIB
    assert facts.growth_bytes == pytest.approx(MIB)
    assert facts.peak_swap_bytes == 0


def test_no_facts_are_no_figures(tmp_path: Path) -> None:
    assert read_facts(tmp_path / "none") == Facts()


@pytest.mark.parametrize(
    ("returncode", "kills", "said", "interrupted", "ending"),
    [
        (0, 0, "", False, Ending.FINISHED),
        (-9, 1, "", False, Ending.OOM_KILLED),
        (-9, 1, "", True, Ending.OOM_KILLED),  # the kernel was first
        (-9, 0, "", False, Ending.FAILED),  # someone else's kill is not called a lack of memory
        (-9, None, "", False, Ending.KILLED),
        (1, 0, "MemoryError: Unable to allocate 27.0 MiB", False, Ending.ALLOCATION_FAILED),
        (1, 0, "tensorflow.errors.ResourceExhaustedError: {{function_node}} OOM when", False, Ending.ALLOCATION_FAILED),
        (-6, 0, "terminate called after throwing an instance of 'std::bad_alloc'", False, Ending.ALLOCATION_FAILED),
        (1, 0, "ValueError: no such layer", False, Ending.FAILED),
        (-2, 0, "KeyboardInterrupt", True, Ending.INTERRUPTED),
    ],
)
def test_endings(returncode: int, kills: int | None, said: str, interrupted: bool, ending: Ending) -> None:
    assert classify(returncode, kills, ["Traceback", said], interrupted) is ending


def outcome(ending: Ending, **more: object) -> Outcome:
    tight = Tightened(charged_bytes=700 * MIB, limit_bytes=1045 * MIB, group=None, kills=0)
    facts = Facts(tightened=tight, batches=512, epochs=10, peak_rss_bytes=1200 * MIB, growth_bytes=0.6 * MIB)
    values = {"ending": ending, "returncode": -9, "seconds": 71.4, "facts": facts, "box": "cgroup v1"}
    return Outcome(**{**values, "headroom_bytes": 345 * MIB, **more})  # type: ignore[arg-type]


def test_the_verdict_of_a_killed_training() -> None:
    said = dict(lines(outcome(Ending.OOM_KILLED, run={"id": "abcdefgh", "peak_bytes": 1250 * MIB})))
    assert said["ended"] == "killed by the kernel: out of memory (its box allows 1.02 GiB)"
    assert said["trained"] == "512 batches, 10 epochs"
    assert said["peak"] == "1.22 GiB RSS, shared libraries included"  # the server's: it has seen inside the batches
    assert said["limit"] == "1.02 GiB charged to its cgroup v1 (700 MiB when warm + 345 MiB headroom)"
    assert said["growth"] == "+614 KiB RSS per batch, on average"
    assert said["time"] == "71 s"
    assert "swap" not in said


def test_the_verdict_names_an_error_and_leaves_out_what_is_not_known() -> None:
    said = dict(lines(outcome(Ending.FAILED, facts=Facts(), error="ValueError: no such layer", returncode=1)))
    assert said == {
        "ended": "failed: ValueError: no such layer",
        "trained": "0 batches, 0 epochs",
        "time": "71 s",
    }


def test_every_scenario_has_a_plan() -> None:
    assert set(PLANS) == set(Scenario)
    assert all(plan.endings and plan.headroom_bytes >= 64 * MIB for plan in PLANS.values())
