"""`oomcast doctor` says of each probe what it found, or why it found nothing, and never fails itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from oomcast.doctor import Finding, as_json, as_lines, examine, is_well
from oomcast.settings import TABLE, load
from tests.support import run_script

pytestmark = pytest.mark.fast

DOCTOR = "import sys; from oomcast.cli import main; sys.argv = ['oomcast', 'doctor']; main()"
AS_JSON = DOCTOR.replace("'doctor'", "'doctor', '--json'")
NOWHERE = "http://127.0.0.1:9"
EVERYWHERE = (
    "RSS from outside",
    "page faults",
    "shared pages divided (PSS)",
    "records in shared memory",
    "peak inside a batch",
    "stalls for want of memory",
    "swapping",
    "pages needed again (refaults)",
    "out-of-memory kills counted",
    "out-of-memory kills named",
    "children (data-loader workers)",
    "how a process ended",
    "GPU",
    "agent",
    "folder of the journal",
    "folder of the token",
    "server",
    "clock",
    "launcher's variables",
    "rank",
    "run",
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")


def findings(home: Path, **environment: Any) -> dict[str, Finding]:
    result = run_script(AS_JSON, home, OOMCAST_SERVER=NOWHERE, **environment)
    assert result.stderr == ""
    told = json.loads(result.stdout)
    assert result.returncode == (0 if told["well"] else 1)
    return {row["name"]: Finding(**row) for row in told["findings"]}


def test_every_probe_has_a_line_with_its_value_or_the_reason(home: Path) -> None:
    result = run_script(DOCTOR, home, OOMCAST_SERVER=NOWHERE)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    for name in EVERYWHERE:
        assert sum(line[2:].startswith(f"{name}  ") for line in lines) == 1, name
    assert all(line[0] in "✓–" and line[1] == " " and len(line.split("  ")) > 1 for line in lines)
    assert sum("(binds)" in line for line in lines) == 1


def test_the_same_for_programs(home: Path) -> None:
    told = findings(home)
    assert set(EVERYWHERE) <= set(told)
    assert all(finding.text for finding in told.values())


@linux
def test_what_works_here_is_said_to_work(home: Path) -> None:
    told = {finding.name: finding for finding in examine(load({}, home=str(home)))}
    for name in ("RSS from outside", "records in shared memory", "children (data-loader workers)", "agent", "clock"):
        assert told[name].good, told[name]
    assert told["RSS from outside"].text.endswith("MiB")
    assert is_well(list(told.values()))


def test_a_home_that_cannot_be_written_is_broken_and_said_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run_script(DOCTOR, tmp_path / "file", OOMCAST_SERVER=NOWHERE)
    assert result.returncode == 1
    line = next(line for line in result.stdout.splitlines() if "folder of the journal" in line)
    assert line[0] == "✗"
    assert "set OOMCAST_HOME" in line


def test_every_setting_stands_there_with_where_it_comes_from_and_a_token_never_itself(home: Path) -> None:
    told = findings(home, OOMCAST_TOKEN="very-secret", OOMCAST_PROJECT="mine", OOMCAST_TAGS="a,b", OOMCAST_MODE="x")
    assert {f"setting: {row.name}" for row in TABLE} <= set(told)
    assert told["setting: project"].text == "mine (OOMCAST_PROJECT)"
    assert told["setting: tags"].text == "a, b (OOMCAST_TAGS)"
    assert told["setting: token"].text == "set (OOMCAST_TOKEN)"
    assert told["setting: journal_max"].text == "256.0 MiB (default)"
    assert told["setting: mode"].text == "online (default)"
    assert "expected one of online" in told["setting"].text
    assert "very-secret" not in as_json(list(told.values()))


def test_the_launchers_variables_and_what_they_come_to_are_shown(home: Path) -> None:
    ranks = {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "abc"}
    told = findings(home, **ranks)
    assert told["launcher's variables"].text == "RANK=1 LOCAL_RANK=0 WORLD_SIZE=2 TORCHELASTIC_RUN_ID=abc"
    assert told["rank"].text == "1 of 2, 0 on this machine, by torchrun abc"
    assert told["run"].text == findings(home, **ranks | {"RANK": "0"})["run"].text
    assert findings(home)["run"].text == "a new one for each training"
    assert findings(home, OOMCAST_RUN_ID="abcdefgh")["run"].text.startswith("abcdefgh (")


def test_what_is_needed_and_does_not_work_is_marked() -> None:
    lines = list(as_lines([Finding("a", True, "1"), Finding("bb", False, "no"), Finding("c", False, "no", True)]))
    assert lines == ["✓ a   1", "– bb  no", "✗ c   no"]
