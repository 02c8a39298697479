"""A database of an older version is brought up to date with all its rows, or stays as it was."""

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

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.pool import StaticPool
from tests.server.parts import WALL_NS

from oomcast.sample import EventKind
from oomcast_server.presence import Presence
from oomcast_server.query import run_detail, run_list, source_key
from oomcast_server.store import migrate
from oomcast_server.store.sqlite import SqliteStore

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
def engine_on(path: Path) -> Iterator[sa.Engine]:
    """The writer's own kind of connection."""
    engine = sa.create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(path, isolation_level=None), poolclass=StaticPool
    )
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        yield engine
    finally:
        engine.dispose()


def first_version(path: Path) -> None:
    """A database as 0001 made it, with three runs in it; the one that died had two sources."""
    with engine_on(path) as engine:
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        with engine.begin() as connection:
            migrate.upgrade(connection, "0001")
            for pk, (run, (state, rss, outcome)) in enumerate(RUNS.items(), 1):
                connection.exec_driver_sql(
                    "INSERT INTO runs (pk, id, project, name, tags, host, pid, sources, state, created_ns, last_ns, "
                    "ended_ns, samples, epoch, rss_bytes, limit_kind, outcome_type) "
                    "VALUES (?, ?, 'p', 'n', '[]', 'box', 1, 1, ?, ?, ?, ?, 3, 2, ?, 'host', ?)",
                    (pk, run, state, WALL_NS, NOW_NS, NOW_NS if state else None, rss, outcome),
                )
                add_source(connection, pk, f"source{run}", state, batches=3)
            add_source(connection, 2, "sourcewithoutbatches", 1, batches=0)


def add_source(connection: sa.Connection, run_pk: int, name: str, state: int, batches: int) -> None:
    made = connection.exec_driver_sql(
        "INSERT INTO sources (run_pk, id, host, pid, gpus, started_ns, state, watermark, batch_samples) "
        "VALUES (?, ?, 'box', 1, '[]', ?, ?, 4, ?)",
        (run_pk, name, WALL_NS, state, batches),
    )
    for seq in range(1, 4):
        connection.exec_driver_sql(
            "INSERT INTO samples (source_pk, seq, kind, wall_ns, mono_ns, phase, batch, rss_bytes, working_set_bytes) "
            "VALUES (?, ?, ?, ?, 1, 1, ?, 700, 5)",
            (made.lastrowid, seq, int(seq == 3), WALL_NS + seq, seq - 1),
        )
        connection.exec_driver_sql("INSERT INTO gpu_samples VALUES (?, ?, 0, 11, 12, NULL, 14)", (made.lastrowid, seq))
    if state:
        detail = VERDICT if state == 3 else {"outcome": "finished"}
        connection.exec_driver_sql(
            "INSERT INTO events VALUES (?, 4, ?, ?, 1, 0, NULL, ?)",
            (made.lastrowid, EventKind.END.value, NOW_NS, json.dumps(detail)),
        )


def content(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        schema = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {"": schema} | {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in names}


def test_an_older_database_is_brought_up_to_date_with_all_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    first_version(path)
    before = content(path)
    with contextlib.closing(SqliteStore(path)) as store:
        presence = Presence(NOW_NS)
        runs = {run.id: run for run in run_list(store, presence, NOW_NS, 10)}
        died = run_detail(store, presence, "diedrun0001", NOW_NS)
        key = source_key(store, "diedrun0001", None)
        with store.read() as connection:
            tick_seqs = connection.exec_driver_sql(
                "SELECT seq FROM samples INDEXED BY samples_ticks WHERE kind = 1 AND source_pk = 1"
            ).all()
    after = content(path)
    for table in ("samples", "gpu_samples", "events"):
        narrow = len(before[table][0])
        assert [row[:narrow] for row in after[table]] == before[table]
        assert all(set(row[narrow:]) <= {None} for row in after[table])
    assert {run: (found.state, found.rss_bytes, found.main_source) for run, found in runs.items()} == {
        "finishedrun": ("finished", 700, "sourcefinishedrun"),
        "diedrun0001": ("died", 800, "sourcediedrun0001"),
        "liverun0001": ("live", 900, "sourceliverun0001"),
    }
    assert runs["liverun0001"].verdict is None
    assert runs["finishedrun"].verdict is not None
    assert runs["finishedrun"].verdict.text == "Finished."
    assert died is not None
    assert died.verdict is not None
    assert (died.verdict.detail, died.verdict.source) == (VERDICT, "sourcediedrun0001")
    assert [(source.kind, source.main, source.rss_bytes) for source in died.sources_detail] == [
        ("callback", True, 800),
        ("callback", False, None),
    ]
    assert key is not None
    assert key.id == "sourcediedrun0001"
    assert tick_seqs == [(3,)]


KILLED_MIGRATIONS = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import event
from tests.server.test_migration import engine_on
from oomcast_server.store import migrate

def migrate_until(path, statements):
    with engine_on(path) as engine:
        done = 0
        def count(*_):
            nonlocal done
            done += 1
            if done == statements:
                os.kill(os.getpid(), signal.SIGKILL)
        event.listen(engine, "after_cursor_execute", count)
        with engine.begin() as connection:
            migrate.upgrade(connection)
    os._exit(0)

killed = 0
for statements in range(1, 200, int(sys.argv[2])):
    pid = os.fork()
    if pid == 0:
        migrate_until(Path(sys.argv[1]), statements)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
        break
    killed += 1
    print("killed", flush=True)
    sys.stdin.readline()
"""


def test_a_migration_that_is_killed_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    first_version(path)
    before = content(path)
    # Each child is killed a few statements later than the one before, until one gets through.
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_MIGRATIONS, str(path), "7"],
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
        assert content(path) == before
        process.stdin.write("\n")
        process.stdin.flush()
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert killed > 5
    assert content(path) != before
    SqliteStore(path).close()


def test_a_server_killed_after_a_migration_finds_it_done(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    first_version(path)
    script = (
        "import os, signal, sys; from pathlib import Path; from oomcast_server.store.sqlite import SqliteStore; "
        "SqliteStore(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", script, str(path)], check=False, env=environment)
    assert ended.returncode == -signal.SIGKILL
    with contextlib.closing(SqliteStore(path)) as store:
        assert len(run_list(store, Presence(NOW_NS), NOW_NS, 10)) == len(RUNS)
