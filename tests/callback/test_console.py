"""What the user of a training reads in the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from oomcast.console import ssh_line
from tests.support import run_script

pytestmark = pytest.mark.fast

STEP = 'from oomcast import watch\nwith watch(run_name="seen", server="http://127.0.0.1:9") as run:\n    run.step()'


def test_the_address_is_printed_at_once_with_the_token_in_it(home: Path) -> None:
    result = run_script(STEP, home)
    token = (home / "config" / "token").read_text().strip()
    first = result.stderr.splitlines()[0]
    assert first.startswith(f"oomcast: watching seen at http://127.0.0.1:9/login?token={token}&run=")
    assert result.stdout == ""


def test_on_ssh_the_tunnel_is_printed_too(home: Path) -> None:
    result = run_script(STEP, home, SSH_CONNECTION="10.0.0.2 50000 10.0.0.1 22")
    assert "ssh -L 9:127.0.0.1:9 " in result.stderr.splitlines()[1]


def test_without_ssh_there_is_no_tunnel(home: Path) -> None:
    assert "ssh -L" not in run_script(STEP, home, SSH_CONNECTION="").stderr


def test_a_remote_server_needs_no_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "1 2 3 4")
    assert ssh_line("https://oomcast.example:443") is None
    assert ssh_line("http://localhost:7000") is not None


def test_this_machines_token_is_not_shown_to_another(home: Path) -> None:
    code = STEP.replace("http://127.0.0.1:9", "http://oomcast.invalid:9")
    result = run_script(code, home)
    assert "watching seen at http://oomcast.invalid:9/runs/" in result.stderr
    mine = run_script(code, home, OOMCAST_TOKEN="theirs")
    assert "http://oomcast.invalid:9/login?token=theirs&run=" in mine.stderr


def test_a_closed_terminal_is_no_error(home: Path) -> None:
    code = f"import sys; sys.stderr.close()\n{STEP}\nprint('went on')"
    assert run_script(code, home).stdout == "went on\n"
