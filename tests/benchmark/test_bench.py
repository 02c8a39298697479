"""A short form of `make bench`: ratios within one run, since absolute times are the machine's."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import clean_environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow"),
]


def test_watching_costs_a_small_part_of_what_people_write_by_hand(home: Path) -> None:
    script = Path(__file__).with_name("bench_callback.py")
    result = subprocess.run(
        [sys.executable, str(script), "--calls", "4000", "--seconds", "3", "--json"],
        env=clean_environment(home),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    ours, by_hand = figures["hooks"]["oomcast, steady memory"], figures["hooks"]["psutil by hand"]
    moving = figures["hooks"]["oomcast, RSS moves at each batch"]
    # Measured: a thirtieth and a twenty-fifth.
    assert ours["median_us"] < by_hand["median_us"] / 15
    assert moving["median_us"] < by_hand["median_us"] / 12
    assert ours["calls"] == 4000
    assert figures["agent"]["batches_per_s"] > 50
    # What the agent's whole second costs, against as many psutil looks as it had batches.
    assert figures["agent"]["cpu_percent_of_a_core"] / 100 < 100 * by_hand["median_us"] / 1e6 * 6
