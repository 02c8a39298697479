"""With nothing set up: the first training starts the server, which outlives it, and says where to look."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import clean_environment, eventually, run_script

PORT = 6662


def _taken() -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", PORT), timeout=1):
        return True
    return False


# The default address can't be another one, or the test would say nothing.
pytestmark = [pytest.mark.xdist_group("default-port"), pytest.mark.skipif(_taken(), reason=f"port {PORT} is in use")]


@pytest.fixture
def stopped(home: Path) -> Iterator[None]:
    # There is one default port for all test processes.
    with (Path(tempfile.gettempdir()) / "oomcast-test-default-port").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield from _stopped(home)


def _stopped(home: Path) -> Iterator[None]:
    yield
    stop = [sys.executable, "-m", "oomcast_server", "stop"]
    subprocess.run(stop, env=clean_environment(home), capture_output=True, check=True)
    eventually(lambda: not _taken(), what="the server's end")


@pytest.mark.usefixtures("stopped")
def test_the_first_training_starts_a_server_that_outlives_it(home: Path) -> None:
    code = """
import time
from oomcast import watch
with watch(run_name="first") as run:
    run.step()
    time.sleep(4)
"""
    result = run_script(code, home)
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith(f"oomcast: watching first at http://127.0.0.1:{PORT}/login?token=")
    link = lines[0].rpartition(" ")[2]
    with httpx.Client() as browser:
        assert browser.get(link).status_code == 200
        eventually(
            lambda: (
                [run["state"] for run in browser.get(f"http://127.0.0.1:{PORT}/api/runs").json()["runs"]]
                == ["finished"]
            ),
            what="the run on the server",
        )
    token = (home / "config" / "token").read_text().strip()
    assert token not in (home / "state" / "server.log").read_text()
    # A second training finds it there.
    assert len(run_script(code.replace("first", "second").replace("4", "1"), home).stderr.splitlines()) == 1


@pytest.mark.usefixtures("stopped")
def test_a_training_that_is_over_before_its_server_is_up_is_delivered_all_the_same(home: Path) -> None:
    result = run_script('from oomcast import watch\nwith watch(run_name="short") as run:\n    run.step()', home)
    assert len(result.stderr.splitlines()) == 1, result.stderr
    token = (home / "config" / "token").read_text().strip()

    def delivered() -> bool:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.get(f"http://127.0.0.1:{PORT}/api/runs", headers={"Authorization": f"Bearer {token}"})
            return [run["state"] for run in answer.json()["runs"]] == ["finished"]
        return False

    eventually(delivered, 30, what="the run on the server")
