"""`python -m oomcast_server`: what a user sees of it."""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from tests.server.conftest import ServerProcess
from tests.server.parts import TOKEN

from oomcast._version import __version__

pytestmark = pytest.mark.fast

Start = Callable[..., ServerProcess]


@pytest.fixture
def foreign_port() -> Iterator[int]:
    """A port that something listens on which is no oomcast server."""
    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def outcome(process: ServerProcess) -> tuple[int, str, str]:
    out, err = process.process.communicate(timeout=30)
    return process.process.returncode, out, err


def test_the_first_line_is_the_dashboard_s_link(start_process: Start, tmp_path: Path) -> None:
    process = start_process()
    port, token = process.wait_until_up()
    assert token == (tmp_path / "config" / "token").read_text().strip()
    page = httpx.get(f"http://127.0.0.1:{port}/login?token={token}", trust_env=False)
    assert page.status_code == 200


def test_a_terminated_server_ends_well_and_says_nothing_secret(start_process: Start, tmp_path: Path) -> None:
    process = start_process()
    port, token = process.wait_until_up()
    pid_file = tmp_path / "state" / f"server-{port}.pid"
    assert pid_file.read_text().split()[0] == str(process.process.pid)
    httpx.get(f"http://127.0.0.1:{port}/login?token={token}", trust_env=False)
    httpx.get(f"http://127.0.0.1:{port}/login?token={token}x", trust_env=False)
    begun = time.monotonic()
    assert process.end(signal.SIGTERM) == (0, "", "")
    assert time.monotonic() - begun < 3
    assert not pid_file.exists()


def test_ctrl_c_ends_it_quietly(start_process: Start) -> None:
    process = start_process()
    process.wait_until_up()
    assert process.end(signal.SIGINT) == (0, "", "")


def test_on_ssh_it_says_how_to_reach_it(start_process: Start) -> None:
    process = start_process(SSH_CONNECTION="10.0.0.9 50000 10.0.0.5 22")
    port = process.first_line().split(":")[3].split("/")[0]
    assert process.process.stdout is not None
    line = process.process.stdout.readline()
    assert f"ssh -L {port}:127.0.0.1:{port} {getpass.getuser()}@10.0.0.5" in line


def test_a_port_that_another_program_has_is_one_clear_line(start_process: Start, foreign_port: int) -> None:
    code, out, err = outcome(start_process("serve", "--port", str(foreign_port), "--quiet-if-running"))
    assert (code, out) == (2, "")
    assert err == f"oomcast: another program listens on 127.0.0.1:{foreign_port} already: give another --port\n"


def test_a_port_that_an_oomcast_server_has_is_said_so(start_process: Start) -> None:
    port, _ = start_process().wait_until_up()
    code, out, err = outcome(start_process("serve", "--port", str(port), "--store", "other.db"))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"an oomcast server (version {__version__}) listens on 127.0.0.1:{port} already" in err


def test_an_autostart_finds_a_running_server_without_a_word(start_process: Start) -> None:
    port, _ = start_process().wait_until_up()
    assert outcome(start_process("serve", "--port", str(port), "--quiet-if-running")) == (0, "", "")


def test_a_second_server_on_the_same_database_is_one_clear_line(start_process: Start) -> None:
    start_process().wait_until_up()
    code, out, err = outcome(start_process())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "another oomcast server uses" in err


@pytest.mark.parametrize("token", [{}, {"OOMCAST_TOKEN": "x" * 31}])
def test_other_machines_are_not_let_in_by_a_weak_token_ray_cve_2023_48022(
    start_process: Start, token: dict[str, str]
) -> None:
    code, out, err = outcome(start_process("serve", "--host", "0.0.0.0", "--port", "0", **token))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "set OOMCAST_TOKEN to a secret of 32 characters or more" in err


def test_other_machines_are_let_in_by_a_strong_token(start_process: Start) -> None:
    port, token = start_process("serve", "--host", "0.0.0.0", "--port", "0", OOMCAST_TOKEN=TOKEN).wait_until_up()
    assert token == TOKEN
    assert port > 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--port", "70000"], "port="),
        (["--host", "no host"], "host="),
        (["--store", "postgres://x"], "store="),
        (["--host", "192.0.2.1"], "--host 192.0.2.1"),
    ],
)
def test_a_setting_that_can_t_be_used_is_one_clear_line(start_process: Start, arguments: list[str], named: str) -> None:
    code, out, err = outcome(start_process("serve", *arguments))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert named in err


def test_stop_ends_the_server_on_that_port(start_process: Start, tmp_path: Path) -> None:
    process = start_process()
    port, _ = process.wait_until_up()
    code, out, err = outcome(start_process("stop", "--port", str(port)))
    assert (code, err) == (0, "")
    assert f"process {process.process.pid}" in out
    assert process.process.wait(5) == 0


def test_stop_leaves_a_process_alone_that_only_has_the_number(start_process: Start, tmp_path: Path) -> None:
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        (tmp_path / "state").mkdir(mode=0o700)
        (tmp_path / "state" / "server-1234.pid").write_text(f"{bystander.pid}\n{time.time() - 1000}\n")
        code, _, err = outcome(start_process("stop", "--port", "1234"))
        assert (code, err.count("\n")) == (2, 1)
        assert "no oomcast server of yours runs on port 1234" in err
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.skipif(os.name != "posix", reason="folders have no such permissions there")
def test_a_home_that_can_t_be_written_is_one_clear_line(start_process: Start, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, out, err = outcome(start_process(home=tmp_path / "file" / "home"))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "set OOMCAST_HOME to a folder that can be written" in err
