"""A database of an older version is brought up to date with all its rows, or stays as it was; on both engines."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.pool import StaticPool
from tests.server.parts import WALL_NS
from tests.server.stores import ENGINES, fresh_address, open_at

from oomcast.sample import EventKind
from oomcast_server.runs.presence import Presence
from oomcast_server.runs.query import run_list, source_key, standing_of
from oomcast_server.store import migrate

pytestmark = pytest.mark.fast

NOW_NS = WALL_NS + 60_000_000_000
RUNS = {
    # id: (state, rss_bytes, outcome_type); states as they are stored
    "finishedrun": (1, 700, None),
    "diedrun0001": (3, 800, "oom killed"),
    "liverun0001": (0, 900, None),
}
VERDICT = {"outcome": "died", "ending": "oom killed", "grade": "confirmed", "text": "Killed by the kernel."}


@contextlib.contextmanager
def engine_on(address: str) -> Iterator[sa.Engine]:
    """The writer's own kind of connection to the database at a path or URL, which need not be migrated."""
    if address.startswith("postgresql://"):
        engine = sa.create_engine(address.replace("postgresql://", "postgresql+psycopg://"))
    else:
        Path(address).parent.mkdir(exist_ok=True)
        engine = sa.create_engine(
            "sqlite://", creator=lambda: sqlite3.connect(address, isolation_level=None), poolclass=StaticPool
        )
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        yield engine
    finally:
        engine.dispose()


def first_version(address: str, revision: str = "0001") -> None:
    """A database as 0001 made it, with three runs in it; the one that died had two sources. Then on to `revision`."""
    with engine_on(address) as engine:
        if engine.dialect.name == "sqlite":
            with engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        with engine.begin() as connection:
            migrate.upgrade(connection, "0001")
            for pk, (run, (state, rss, outcome)) in enumerate(RUNS.items(), 1):
                add_run(connection, pk, run, state, rss, outcome)
                add_source(connection, pk, pk, f"source{run}", state, batches=3)
            add_source(connection, 4, 2, "sourcewithoutbatches", 1, batches=0)
            migrate.upgrade(connection, revision)


def add(connection: sa.Connection, table: str, **values: Any) -> None:
    names = ", ".join(f'"{name}"' for name in values)
    connection.execute(
        sa.text(f"INSERT INTO {table} ({names}) VALUES ({', '.join(':' + name for name in values)})"), values
    )


def add_run(connection: sa.Connection, pk: int, run: str, state: int, rss: int, outcome: str | None) -> None:
    last = {"last_ns": NOW_NS, "ended_ns": NOW_NS if state else None, "samples": 3, "epoch": 2, "rss_bytes": rss}
    about: dict[str, Any] = {"project": "p", "name": "n", "tags": "[]", "host": "box", "pid": 1, "sources": 1}
    given = {"state": state, "created_ns": WALL_NS, "limit_kind": "host", "outcome_type": outcome}
    add(connection, "runs", pk=pk, id=run, **about, **given, **last)


def add_source(connection: sa.Connection, pk: int, run_pk: int, name: str, state: int, batches: int) -> None:
    about = {"host": "box", "pid": 1, "gpus": "[]", "started_ns": WALL_NS, "state": state, "watermark": 4}
    add(connection, "sources", pk=pk, run_pk=run_pk, id=name, batch_samples=batches, **about)
    for seq in range(1, 4):
        measured = {"batch": seq - 1, "rss_bytes": 700, "working_set_bytes": 5}
        marks = {"kind": int(seq == 3), "wall_ns": WALL_NS + seq, "mono_ns": 1, "phase": 1}
        add(connection, "samples", source_pk=pk, seq=seq, **marks, **measured)
        gpu = {"used_bytes": 11, "total_bytes": 12, "process_bytes": None, "utilization_percent": 14}
        add(connection, "gpu_samples", source_pk=pk, seq=seq, device=0, **gpu)
    if state:
        detail = json.dumps(VERDICT if state == 3 else {"outcome": "finished"})
        end: dict[str, Any] = {
            "kind": EventKind.END.value,
            "wall_ns": NOW_NS,
            "mono_ns": 1,
            "epoch": 0,
            "detail": detail,
        }
        add(connection, "events", source_pk=pk, seq=4, **end)


Content = dict[str, list[tuple[Any, ...]]]


def content(address: str) -> Content:
    """Every row, and every table, index and column."""
    with engine_on(address) as engine, engine.connect() as connection:
        inspected = sa.inspect(connection)
        names = sorted(inspected.get_table_names())
        schema: list[tuple[Any, ...]] = [
            *((name, column["name"], str(column["type"])) for name in names for column in inspected.get_columns(name)),
            *((name, index["name"], index["column_names"]) for name in names for index in inspected.get_indexes(name)),
        ]
        if engine.dialect.name == "sqlite":
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        return {"": schema} | {name: rows(connection, name) for name in names}


def rows(connection: sa.Connection, table: str) -> list[tuple[Any, ...]]:
    return sorted((tuple(row) for row in connection.execute(sa.text(f"SELECT * FROM {table}"))), key=repr)


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_an_older_file_is_brought_up_to_date_with_all_its_rows(tmp_path: Path, revision: str) -> None:
    path = str(tmp_path / "x.db")
    first_version(path, revision)
    before = content(path)
    with contextlib.closing(open_at(path)) as store:
        presence = Presence(NOW_NS)
        runs = {run.id: run for run in run_list(store, presence, NOW_NS, 10)}
        standing = standing_of(store, presence, "diedrun0001", NOW_NS)
        assert standing is not None
        died = standing.detail(store)
        key = source_key(store, "diedrun0001", None)
    after = content(path)
    for table in ("samples", "gpu_samples", "events"):
        narrow = len(before[table][0])
        assert sorted((row[1 : narrow + 1] for row in after[table]), key=repr) == before[table]
        assert all(set(row[narrow + 1 :]) <= {None} for row in after[table])
        assert {row[:2] for row in after[table]} <= {(1, 1), (2, 2), (2, 4), (3, 3)}
    assert [row[0] for row in after["projects"]] == ["p"]
    assert [row[:2] for row in after["verdicts"]] == [(1, 1), (2, 2), (2, 4)]
    assert {run: (found.state, found.rss_bytes, found.main_source) for run, found in runs.items()} == {
        "finishedrun": ("finished", 700, "sourcefinishedrun"),
        "diedrun0001": ("died", 800, "sourcediedrun0001"),
        "liverun0001": ("live", 900, "sourceliverun0001"),
    }
    assert runs["liverun0001"].verdict is None
    assert runs["finishedrun"].verdict is not None
    assert runs["finishedrun"].verdict.text == "Finished."
    assert died.verdict is not None
    assert (died.verdict.detail, died.verdict.source) == (VERDICT, "sourcediedrun0001")
    assert [(source.kind, source.main, source.rss_bytes) for source in died.sources_detail] == [
        ("callback", True, 800),
        ("callback", False, None),
    ]
    assert key is not None
    assert key.id == "sourcediedrun0001"


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_an_older_postgresql_keeps_its_runs(empty_postgres_url: str, revision: str) -> None:
    # No version before 0003 was released for it: what there is of samples can only be a test's, and is not kept.
    first_version(empty_postgres_url, revision)
    with contextlib.closing(open_at(empty_postgres_url)) as store:
        assert {run.id for run in run_list(store, Presence(NOW_NS), NOW_NS, 10)} == set(RUNS)
    assert content(empty_postgres_url)["samples"] == []


KILLED_MIGRATIONS = """
import os, signal, sys
import sqlalchemy as sa
from tests.server.stores import open_at

def migrate_until(address, statements):
    done = 0
    def count(*_):
        nonlocal done
        done += 1
        if done == statements:
            os.kill(os.getpid(), signal.SIGKILL)
    sa.event.listen(sa.Engine, "after_cursor_execute", count)
    open_at(address)
    os._exit(0)

for statements in range(1, 1000, int(sys.argv[2])):
    pid = os.fork()
    if pid == 0:
        migrate_until(sys.argv[1], statements)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
        break
    print("killed", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("revision", [None, "0001", "0002"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_migration_that_is_killed_leaves_the_database_as_it_was(
    engine: str, revision: str | None, request: pytest.FixtureRequest
) -> None:
    address = fresh_address(engine, request, migrated=False)
    if revision is not None:
        first_version(address, revision)
    before = content(address)
    # Each child is killed some statements later than the one before, until one gets through.
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_MIGRATIONS, address, "11"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    killed = 0
    while process.stdout.readline() == "killed\n":
        killed += 1
        assert content(address) == before
        process.stdin.write("\n")
        process.stdin.flush()
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert killed > 3
    assert content(address) != before
    open_at(address).close()


def test_a_server_killed_after_a_migration_finds_it_done(empty_address: str) -> None:
    first_version(empty_address)
    script = (
        "import os, signal, sys; from tests.server.stores import open_at; "
        "open_at(sys.argv[1]); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", script, empty_address], check=False, env=environment)
    assert ended.returncode == -signal.SIGKILL
    with contextlib.closing(open_at(empty_address)) as store:
        assert len(run_list(store, Presence(NOW_NS), NOW_NS, 10)) == len(RUNS)
