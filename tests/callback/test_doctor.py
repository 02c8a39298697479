"""`oomcast doctor` says of each probe what it found, or why it found nothing, and never fails itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from oomcast.doctor import examine
from oomcast.settings import load
from tests.support import run_script

pytestmark = pytest.mark.fast

DOCTOR = "import sys; from oomcast.cli import main; sys.argv = ['oomcast', 'doctor']; main()"


def test_every_probe_has_a_line_with_its_value_or_the_reason(home: Path) -> None:
    result = run_script(DOCTOR, home, OOMCAST_SERVER="http://127.0.0.1:9")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    for name in ("RSS from outside", "page faults", "peak inside a batch", "GPU", "server", "folder of the journal"):
        assert sum(line[2:].startswith(name) for line in lines) == 1, name
    assert all(line[0] in "✓–" and len(line) > 33 for line in lines)
    assert sum("(binds)" in line for line in lines) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")
def test_what_works_here_is_said_to_work(home: Path) -> None:
    findings = {finding.name: finding for finding in examine(load({}, home=str(home)))}
    assert findings["RSS from outside"].good
    assert findings["RSS from outside"].text.endswith("MiB")


def test_a_home_that_cannot_be_written_is_said_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    findings = {finding.name: finding for finding in examine(load({}, home=str(tmp_path / "file")))}
    assert not findings["folder of the journal"].good
    assert "set OOMCAST_HOME" in findings["folder of the journal"].text
