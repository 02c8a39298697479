"""Watching a loop of one's own: no framework, no server, and nothing of ours ever reaches the loop."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from oomcast.sample import Event, EventKind, Phase
from tests.support import batches, clean_environment, events, eventually, journals, recorded, run_script

pytestmark = pytest.mark.fast


def offline(code: str, home: Path, **environment: Any) -> subprocess.CompletedProcess[str]:
    return run_script(textwrap.dedent(code), home, OOMCAST_MODE="offline", **environment)


def test_epochs_and_steps_of_a_loop_are_recorded(home: Path) -> None:
    result = offline(
        """
        from oomcast import watch
        with watch(run_name="loop", project="mine", tags=["a", "b"], epochs=2, steps=3) as run:
            for epoch in range(2):
                run.epoch(epoch)
                for batch in range(3):
                    run.step(batch)
        """,
        home,
    )
    assert result.returncode == 0, result.stderr
    rows = recorded(home, "loop")
    hello = journals(home)["loop"][0]
    assert (hello.run.project, hello.run.tags) == ("mine", ["a", "b"])
    assert hello.source.gpu_note
    assert [(row.epoch, row.step, row.batch) for row in batches(rows)] == [
        (0, 0, 0),
        (0, 1, 1),
        (0, 2, 2),
        (1, 0, 3),
        (1, 1, 4),
        (1, 2, 5),
    ]
    assert {row.phase for row in batches(rows)} == {Phase.TRAIN}
    assert events(rows, EventKind.TRAIN_BEGIN)[0].detail == {"epochs": 2, "steps": 3}
    assert [row.seq for row in rows] == list(range(1, len(rows) + 1))


def test_steps_are_counted_where_no_number_is_given(home: Path) -> None:
    offline('from oomcast import watch\nwith watch(run_name="n") as run:\n    for _ in range(4): run.step()', home)
    assert [row.step for row in batches(recorded(home, "n"))] == [0, 1, 2, 3]


def test_an_exception_goes_on_its_way_and_is_recorded(home: Path) -> None:
    result = offline(
        """
        from oomcast import watch
        with watch(run_name="broken") as run:
            run.step()
            raise MemoryError("no more")
        """,
        home,
    )
    assert "MemoryError: no more" in result.stderr
    rows = recorded(home, "broken")
    assert events(rows, EventKind.EXCEPTION)[0].detail == {"type": "MemoryError", "message": "no more"}
    assert events(rows, EventKind.END)[0].detail["outcome"] == "failed"


def test_a_process_that_is_killed_is_told_as_died_with_all_it_had_recorded(home: Path) -> None:
    code = """
    import os, signal
    from oomcast import watch
    run = watch(run_name="killed").__enter__()
    for batch in range(50):
        run.step(batch)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    assert offline(code, home).returncode == -9
    rows = recorded(home, "killed")
    assert [row.batch for row in batches(rows)] == list(range(50))
    assert events(rows, EventKind.END)[0].detail["outcome"] == "died"


def test_sample_every_covers_all_batches_in_between(home: Path) -> None:
    offline(
        'from oomcast import watch\nwith watch(run_name="sparse") as run:\n    for _ in range(30): run.step()',
        home,
        OOMCAST_SAMPLE_EVERY="10",
    )
    assert [(row.batch, row.steps) for row in batches(recorded(home, "sparse"))] == [(9, 10), (19, 10), (29, 10)]


def test_disabled_starts_nothing_and_says_nothing(home: Path) -> None:
    result = run_script(
        "from oomcast import watch\nwith watch() as run:\n    run.epoch(0)\n    run.step()",
        home,
        OOMCAST_MODE="disabled",
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert not home.exists()


def test_a_forked_child_neither_records_nor_ends_its_parents_run(home: Path) -> None:
    result = offline(
        """
        import os, sys
        from oomcast import watch
        with watch(run_name="parent") as run:
            run.step(0)
            pid = os.fork()
            if pid == 0:
                for batch in range(100, 110):
                    run.step(batch)
                sys.exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            run.step(1)
        """,
        home,
    )
    assert result.returncode == 0, result.stderr
    rows = recorded(home, "parent")
    assert [row.step for row in batches(rows)] == [0, 1]
    assert events(rows, EventKind.END)[0].detail["outcome"] == "finished"
    assert list(journals(home)) == ["parent"]


def test_the_agent_holds_no_pipe_of_the_training_open(home: Path) -> None:
    # `python train.py | tee log` ends when the training ends, even while the agent still delivers.
    code = """
    import os, signal, sys
    from oomcast import watch
    run = watch(run_name="piped").__enter__()
    run.step()
    print(run._session.agent_pid, flush=True)
    os.kill(run._session.agent_pid, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=clean_environment(home, OOMCAST_MODE="offline"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, _ = process.communicate(timeout=30)  # returns at the end of both pipes
    agent = int(out)
    os.kill(agent, 18)  # SIGCONT
    assert batches(recorded(home, "piped"))


def test_a_read_only_home_is_one_line_and_the_loop_goes_on(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    code = 'from oomcast import watch\nwith watch(run_name="r") as run:\n    run.step()\nprint("went on")'
    result = run_script(code, blocked, OOMCAST_MODE="offline")
    assert result.stdout == "went on\n"
    lines = result.stderr.splitlines()
    assert all(line.startswith("oomcast: ") for line in lines), result.stderr
    assert any("set OOMCAST_HOME" in line for line in lines)


def test_no_session_folder_is_left_behind(home: Path) -> None:
    code = 'from oomcast import watch\nwith watch(run_name="tidy") as run:\n    print(run._session._folder)'
    folder = Path(offline(code, home).stdout.strip())
    recorded(home, "tidy")
    eventually(lambda: not folder.exists(), what="removal of the session's folder")


def test_an_agent_that_cannot_live_is_told_once_and_the_loop_goes_on(home: Path) -> None:
    code = """
    import os, signal
    from oomcast import watch
    with watch(run_name="orphan") as run:
        run.step()
        session = run._session
        (session._folder / "handover.json").write_bytes(b"{")
        os.kill(session.agent_pid, signal.SIGKILL)
        session._sidecar._done.wait(20)
        for _ in range(20_000):
            run.step()
    print("went on")
    """
    result = offline(code, home)
    assert result.stdout == "went on\n"
    said = [line for line in result.stderr.splitlines() if "no more samples are taken" in line]
    assert len(said) == 1


def test_the_end_is_the_last_row(home: Path) -> None:
    offline('from oomcast import watch\nwith watch(run_name="end") as run:\n    run.step()', home)
    last = recorded(home, "end")[-1]
    assert isinstance(last, Event)
    assert last.kind is EventKind.END


def test_a_loop_that_counts_from_0_again_without_saying_so_still_counts_on(home: Path) -> None:
    offline(
        """
        from oomcast import watch
        with watch(run_name="again") as run:
            for epoch in range(3):
                for batch, _ in enumerate("abc"):
                    run.step(batch)
        """,
        home,
    )
    assert [(row.step, row.batch) for row in batches(recorded(home, "again"))] == [
        (batch % 3, batch) for batch in range(9)
    ]


def test_arguments_and_errors_with_bytes_that_are_no_text_are_recorded_all_the_same(home: Path) -> None:
    result = subprocess.run(
        [
            os.fsencode(sys.executable),
            b"-c",
            b"import sys\nfrom oomcast import watch\n"
            b"with watch(run_name='bytes') as run:\n    run.step()\n    raise ValueError(sys.argv[1])",
            b"caf\xe9.npz",
        ],
        env=clean_environment(home, OOMCAST_MODE="offline"),
        capture_output=True,
        check=False,
    )
    assert result.returncode == 1
    rows = recorded(home, "bytes")
    assert events(rows, EventKind.EXCEPTION)[0].detail == {"type": "ValueError", "message": "caf?.npz"}
    assert journals(home)["bytes"][0].source.command == "-c caf?.npz"


def test_a_process_with_thousands_of_open_files_is_watched(home: Path) -> None:
    code = """
    import os, resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1500)]
    from oomcast import watch
    with watch(run_name="many files") as run:
        run.step()
    """
    result = offline(code, home)
    assert "failed" not in result.stderr
    assert len(batches(recorded(home, "many files"))) == 1


def test_a_child_forked_after_the_agent_died_closes_no_file_of_the_users(home: Path) -> None:
    code = """
    import os, signal, sys
    from oomcast import watch
    with watch(run_name="fork") as run:
        os.kill(run._session.agent_pid, signal.SIGKILL)
        run._session._sidecar._listener.join(10)
        files = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]
        pid = os.fork()
        if pid == 0:
            os._exit(sum(1 for file in files if not os.path.exists(f"/proc/self/fd/{file}")))
        print("closed in the child:", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    assert offline(code, home).stdout == "closed in the child: 0\n"


def test_agents_that_have_ended_are_no_zombies(home: Path) -> None:
    code = """
    import psutil
    from oomcast import watch
    for _ in range(3):
        with watch() as run:
            run.step()
        listener = run  # the session is over
    me = psutil.Process()
    for _ in range(500):
        if not me.children():
            break
        psutil.wait_procs(me.children(), timeout=0.02)
    print([child.status() for child in me.children()])
    """
    assert offline(code, home).stdout == "[]\n"


def test_a_signal_to_the_whole_job_does_not_silence_the_agent(home: Path) -> None:
    code = """
    import os, signal, time
    from oomcast import watch
    run = watch(run_name="job").__enter__()
    for _ in range(10):
        run.step()
    time.sleep(0.5)
    os.kill(run._session.agent_pid, signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    """
    assert offline(code, home).returncode == -15
    rows = recorded(home, "job")
    assert len(batches(rows)) == 10
    assert events(rows, EventKind.END)[0].detail["outcome"] == "stopped"


def test_what_a_kill_of_both_left_behind_is_swept_by_the_next_agent(home: Path) -> None:
    code = """
    import os, signal
    from oomcast import watch
    run = watch(run_name="both").__enter__()
    run.step()
    print(run._session._folder, flush=True)
    os.kill(run._session.agent_pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    left = Path(offline(code, home).stdout.strip())
    assert left.exists()
    offline('from oomcast import watch\nwith watch(run_name="next") as run:\n    run.step()', home)
    eventually(lambda: not left.exists(), what="its removal")
