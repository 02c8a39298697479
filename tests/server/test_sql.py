"""README's queries bring what they say, and its table names every table."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tests.server.parts import a_frame, a_hello, a_sample, an_end
from tests.server.storing import store_frames

from oomcast_server.store.schema import metadata
from oomcast_server.store.sqlite import SqliteStore

pytestmark = pytest.mark.fast

README = (Path(__file__).parents[2] / "README.md").read_text()
SECTION = README.partition("**SQL.**")[2].partition("\n## ")[0]
QUERIES = re.findall(r"```sql\n(.*?)```", SECTION, re.DOTALL) + re.findall(r'"""(.*?)"""', SECTION, re.DOTALL)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A run of 40 batches whose peak was 6 000 of 8 000 bytes, killed for memory."""
    path = tmp_path / "oomcast.db"
    with contextlib.closing(SqliteStore(path)) as store:
        samples = [a_sample(seq, peak_bytes=6_000 if seq == 7 else 100, major_faults=2) for seq in range(1, 41)]
        end = an_end(41, "died", ending="oom killed", grade="confirmed", text="Killed by the kernel.")
        store_frames(store, [a_frame(samples, [end])], a_hello(name="brave-otter-12"))
    return path


def answers(database: Path, query: str) -> list[Any]:
    parameters = ["brave-otter-12"] if "?" in query else []
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return connection.execute(query, parameters).fetchall()


def test_there_are_three_queries() -> None:
    assert len(QUERIES) == 3


def test_readme_s_queries_bring_what_they_say(database: Path) -> None:
    killed, shares, epochs = (answers(database, query) for query in QUERIES)
    assert killed == [("default", "brave-otter-12", "confirmed", "Killed by the kernel.")]
    assert shares == [("brave-otter-12", 0.75)]
    assert epochs == [(0, 6_000 / 2**20, 80, None)]


def test_every_table_of_interest_stands_in_readme() -> None:
    named = set(re.findall(r"`(\w+)`", SECTION))
    inner = {"terms", "leases", "purges"}
    assert set(metadata.tables) - inner <= named
