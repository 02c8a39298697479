"""`oomcast run`, and the ranks of one launch, before a real server."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tests.e2e.conftest import ServerProcess
from tests.support import clean_environment, eventually, run_script

pytestmark = pytest.mark.fast

OOMCAST = (sys.executable, "-c", "import sys; from oomcast.cli import main; sys.argv[0] = 'oomcast'; main()")
LOOP = """
import time
from oomcast import watch
with watch() as run:
    for _ in range(3):
        run.step()
        time.sleep(0.3)
"""


def oomcast(server: ServerProcess, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*OOMCAST, *arguments],
        env=clean_environment(server.home, OOMCAST_SERVER=server.base, **environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def runs(server: ServerProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.get("/api/runs").json()["runs"]
    return found


def detail(server: ServerProcess, run_id: str) -> dict[str, Any]:
    found: dict[str, Any] = server.get(f"/api/runs/{run_id}").json()
    return found


def test_a_command_and_the_loop_inside_are_one_run_with_two_sources(server: ServerProcess) -> None:
    result = oomcast(server, "run", "--name", "both", "--", sys.executable, "-c", LOOP)
    assert result.returncode == 0, result.stderr
    assert f"oomcast: watching both at {server.base}" in result.stderr
    run = server.wait_for("both", "finished")
    assert run["sources"] == 2
    assert len(runs(server)) == 1


def test_a_kill_is_told_and_is_on_the_server(server: ServerProcess) -> None:
    code = "import os, signal, time; time.sleep(1); os.kill(os.getpid(), signal.SIGKILL)"
    result = oomcast(server, "run", "--name", "shot", "--", sys.executable, "-c", code)
    assert result.returncode == 137
    assert "no sign that memory was why" in result.stderr
    run = server.wait_for("shot", "died")
    assert (run["verdict"]["ending"], run["verdict"]["grade"]) == ("killed", "unknown")


def test_the_ranks_of_one_launch_are_one_run(server: ServerProcess) -> None:
    # As torchrun starts them: the same variables but for the rank.
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", LOOP],
            env=clean_environment(
                server.home,
                OOMCAST_SERVER=server.base,
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE="2",
                LOCAL_WORLD_SIZE="2",
                MASTER_ADDR="localhost",
                MASTER_PORT="41000",
                TORCHELASTIC_RUN_ID="e2e",
                TORCHELASTIC_RESTART_COUNT="0",
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [rank.communicate(timeout=60)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    eventually(lambda: [run["state"] for run in runs(server)] == ["finished"], what="one run, finished")
    run = runs(server)[0]
    assert run["sources"] == 2
    sources = detail(server, run["id"])["sources_detail"]
    assert sorted((one["rank"], one["local_rank"], one["world_size"], one["launcher"]) for one in sources) == [
        (0, 0, 2, "torchrun e2e"),
        (1, 1, 2, "torchrun e2e"),
    ]


def test_two_trainings_without_a_launcher_are_two_runs(server: ServerProcess) -> None:
    for _ in range(2):
        assert run_script(LOOP, server.home, OOMCAST_SERVER=server.base).returncode == 0
    eventually(lambda: len(runs(server)) == 2, what="two runs")


def test_doctor_finds_the_server_and_its_clock(server: ServerProcess) -> None:
    lines = oomcast(server, "doctor").stdout.splitlines()
    assert any(line.startswith("✓ server") and "takes our token" in line for line in lines)
    assert any(line.startswith("✓ clock") and "from the server's" in line for line in lines)
    lines = oomcast(server, "doctor", OOMCAST_TOKEN="wrong").stdout.splitlines()
    assert any(line.startswith("– server") and "does not take our token" in line for line in lines)
