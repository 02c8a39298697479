"""`oomcast export`, `import`, `projects`, `retain`, `prune` and `delete`, as a user types them."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.server.conftest import RunningServer
from tests.server.parts import RUN, TOKEN, a_stretch
from tests.server.traces import fetch, fill

pytestmark = pytest.mark.fast

Oomcast = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
async def server(make_running: Callable[..., RunningServer]) -> RunningServer:
    running = make_running()
    await fill(running)
    return running


@pytest.fixture
def oomcast(server: RunningServer, tmp_path: Path) -> Oomcast:
    """Run the command with these arguments, for the server of the test or another one."""

    def run(*arguments: str, to: RunningServer = server) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OOMCAST_")}
        own = {"OOMCAST_SERVER": to.base, "OOMCAST_TOKEN": TOKEN, "OOMCAST_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-c", "from oomcast.cli import main; main()", *arguments]
        environment = {**kept, **own, "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run(
            command, check=False, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )

    return run


def test_a_run_goes_to_a_file_and_from_there_to_another_server(
    server: RunningServer, oomcast: Oomcast, make_running: Callable[..., RunningServer], tmp_path: Path
) -> None:
    done = oomcast("export", RUN[:9], "--format", "jsonl", "-o", "x.jsonl")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "x.jsonl").read_bytes() == fetch(server, "jsonl").content
    other = make_running(database=tmp_path / "other" / "oomcast.db")
    sent = oomcast("import", "x.jsonl", "--project", "theirs", to=other)
    assert sent.stdout == f"=HYPERLINK(1): 313 rows sent of 2 sources: {other.base}/runs/{RUN}\n"
    assert other.get(f"/api/runs/{RUN}").json()["project"] == "theirs"
    again = oomcast("import", "x.jsonl", "--name", "another", to=other)
    assert "all of it was there already, and its name and project stay (--as-new makes another run)" in again.stdout


def test_standard_output_has_nothing_but_the_file(server: RunningServer, oomcast: Oomcast) -> None:
    done = oomcast("export", RUN, "--format", "csv")
    assert (done.stdout.encode(), done.stderr) == (fetch(server, "csv").content, "")


def test_a_file_called_gz_is_compressed(server: RunningServer, oomcast: Oomcast, tmp_path: Path) -> None:
    oomcast("export", RUN, "--format", "csv", "-o", "x.csv.gz")
    assert gzip.decompress((tmp_path / "x.csv.gz").read_bytes()) == fetch(server, "csv").content


def test_a_failed_export_leaves_the_file_as_it_was(oomcast: Oomcast, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("before")
    done = oomcast("export", "nonononono", "--format", "csv", "-o", "x.csv")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("oomcast: no run of http://")
    assert (tmp_path / "x.csv").read_text() == "before"
    assert oomcast("export", RUN, "--format", "csv", "-o", "none/x.csv").stderr == (
        "oomcast: can't write none/x.csv: No such file or directory\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["x.csv"]


def test_a_bad_file_is_one_line(oomcast: Oomcast, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("a,b\n1,2\n")
    done = oomcast("import", "x")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("oomcast: x: line 1: no column 'run'")
    assert done.stderr.count("\n") == 1


def test_projects_are_listed_with_what_they_take(oomcast: Oomcast) -> None:
    head, row, total = oomcast("projects").stdout.splitlines()
    assert head.split() == ["PROJECT", "RUNS", "LIVE", "SAMPLES", "DISK", "FULL", "RATE", "ROLLUPS"]
    assert row.split()[:4] == ["default", "1", "0", "305"]
    assert row.endswith("30 days (default)  400 days (default)")
    assert total.startswith("database: ")
    assert json.loads(oomcast("projects", "--json").stdout)["projects"][0]["samples"] == 305


def test_a_project_s_retention_is_set(oomcast: Oomcast) -> None:
    done = oomcast("retain", "default", "--full-days", "7", "--rollup-days", "0")
    assert done.stdout == "default: every sample 7 days, rollups for ever\n"
    assert oomcast("retain", "default", "--full-days", "default").stdout == (
        "default: every sample as the server says, rollups for ever\n"
    )
    assert "no project 'nobody'" in oomcast("retain", "nobody", "--full-days", "7").stderr
    assert (
        "expected a number of days, 0 (for ever) or default" in oomcast("retain", "default", "--full-days", "x").stderr
    )
    assert "nothing to change is given" in oomcast("retain", "default").stderr


async def test_what_is_too_old_is_pruned(
    make_running: Callable[..., RunningServer], oomcast: Oomcast, tmp_path: Path
) -> None:
    clock = [time.time_ns()]
    other = make_running(database=tmp_path / "other" / "oomcast.db", wall_ns=lambda: clock[0])
    await other.store_frames(a_stretch(1, 160))
    assert oomcast("prune", to=other).stdout.splitlines()[0] == "nothing is too old"
    clock[0] += 31 * 86_400_000_000_000
    assert "160 samples at full rate, of 1 runs, would go: about " in oomcast("prune", "--dry-run", to=other).stdout
    said = oomcast("prune", to=other).stdout.splitlines()
    assert said[0].startswith("160 samples at full rate, of 1 runs, go: about ")
    assert said[1] == "done; the database uses the room again before its file grows"
    assert json.loads(oomcast("prune", "--json", to=other).stdout)["samples"] == 0


def test_a_run_is_deleted_when_one_says_yes(server: RunningServer, oomcast: Oomcast) -> None:
    asked = oomcast("delete", RUN)
    assert asked.returncode == 1
    assert "delete =HYPERLINK(1) of default (runrunrun1, 305 samples) for good?" in asked.stdout
    assert server.get(f"/api/runs/{RUN}").status_code == 200
    assert oomcast("delete", RUN, "--yes").stdout == f"{RUN} is deleted\n"
    assert server.get(f"/api/runs/{RUN}").status_code == 404
