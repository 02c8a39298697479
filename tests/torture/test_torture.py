"""The harness in its short form: a few kills, cuts and full disks, and nothing lost. `make torture` is the long one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("torture"),
    pytest.mark.skipif(sys.platform != "linux", reason="kills and finds processes by /proc"),
]

ROOT = Path(__file__).resolve().parents[2]
# Two seconds are what is asked for, on a machine of one's own; in a suite others have their share of it.
MOST_BACK_S = 10.0


def play(scenario: str, *arguments: str, n: int = 3) -> dict[str, Any]:
    """One scenario's report; it is in a process of its own, for a /dev/shm of its own."""
    command = [sys.executable, "-m", "tests.torture", "--scenario", scenario, "-n", str(n), "--json"]
    result = subprocess.run(
        [*command, "--rate", "600", "--trainings", "2", "--partition-s", "3", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert result.stdout, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)[0]
    if report["skipped"]:
        pytest.skip(report["skipped"])
    assert report["faults"] == [], report["notes"]
    assert result.returncode == 0
    return report


def nothing_is_lost(report: dict[str, Any]) -> None:
    assert (report["lost"], report["told"], report["duplicated"]) == (0, 0, 0)
    assert report["produced"] > 300
    assert report["kills"] >= 1
    assert max(report["back_s"]) < MOST_BACK_S


@pytest.mark.parametrize("scenario", ["server", "agent", "training", "both"])
def test_whatever_is_killed_nothing_is_lost(scenario: str) -> None:
    nothing_is_lost(play(scenario, n=2))


def test_a_line_that_is_cut_in_three_ways_loses_nothing() -> None:
    report = play("partition")
    nothing_is_lost(report)
    assert report["notes"]["a step while the line is cut, of one before"] < 3


@pytest.mark.parametrize("side", ["agent", "server", "killed"])
def test_a_full_disk_loses_nothing(side: str) -> None:
    nothing_is_lost(play(f"full_disk_{side}", n=1))


def test_a_journal_that_overflows_loses_what_its_gaps_say() -> None:
    report = play("overflow", n=1)
    assert report["told"] > 0
    assert (report["lost"], report["duplicated"]) == (0, 0)


def test_of_two_servers_on_one_database_any_may_be_killed() -> None:
    report = play("replicas", "--balancer", "proxy", "--trainings", "3", n=3)
    nothing_is_lost(report)
    assert report["notes"]["conditions raised, each of one episode"] >= 3
