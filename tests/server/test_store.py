"""Which databases are opened, and that a refused one is left as it was."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from oomcast_server.errors import StoreRefused, StoreUnavailable
from oomcast_server.store.schema import metadata
from oomcast_server.store.sqlite import SqliteStore

pytestmark = pytest.mark.fast


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "data" / "oomcast.db"


@pytest.fixture
def store(database: Path) -> Iterator[SqliteStore]:
    with contextlib.closing(SqliteStore(database)) as opened:
        yield opened


def pragma(connection: sa.Connection, name: str) -> object:
    return connection.exec_driver_sql(f"PRAGMA {name}").scalar()


def change(database: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_migrations_make_the_schema_that_the_code_uses(store: SqliteStore) -> None:
    with store.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_rows_are_kept_in_the_order_of_their_keys(store: SqliteStore) -> None:
    with store.read() as connection:
        texts = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE sql LIKE '%WITHOUT ROWID%'").scalars()
        assert set(texts) == {"samples", "gpu_samples", "events"}


def test_a_commit_is_on_the_disk(store: SqliteStore) -> None:
    with store.write() as connection:
        assert pragma(connection, "journal_mode") == "wal"
        assert pragma(connection, "synchronous") == 2  # FULL


def test_readers_can_t_write(store: SqliteStore) -> None:
    with pytest.raises(StoreUnavailable), store.read() as connection:
        connection.exec_driver_sql("DELETE FROM runs")


def test_a_read_that_takes_too_long_is_ended(database: Path) -> None:
    ticks = iter(range(0, 10**9, 3))
    with contextlib.closing(SqliteStore(database, monotonic=lambda: float(next(ticks)))) as store:
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
        with pytest.raises(StoreUnavailable, match="longer than 2 s"), store.read() as connection:
            connection.exec_driver_sql(endless)
        with store.read() as connection:
            assert pragma(connection, "query_only") == 1


def test_a_failed_transaction_leaves_nothing(store: SqliteStore) -> None:
    def fail_halfway() -> None:
        with store.write() as connection:
            connection.exec_driver_sql("CREATE TABLE halfway (x)")
            connection.exec_driver_sql("no sql at all")

    with pytest.raises(StoreUnavailable):
        fail_halfway()
    with store.read() as connection:
        assert "halfway" not in sa.inspect(connection).get_table_names()


def test_a_second_server_on_the_same_file_is_refused(store: SqliteStore, database: Path) -> None:
    with pytest.raises(StoreRefused, match="another oomcast server uses"):
        SqliteStore(database)


def test_a_closed_database_can_be_opened_again(database: Path) -> None:
    SqliteStore(database).close()
    SqliteStore(database).close()
    assert sorted(path.name for path in database.parent.iterdir()) == ["oomcast.db", "oomcast.db.lock"]


def test_the_database_is_for_its_user_s_eyes_only(store: SqliteStore, database: Path) -> None:
    assert database.stat().st_mode & 0o077 == 0
    assert database.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("killed", [False, True])
def test_a_newer_database_is_refused_untouched(database: Path, killed: bool) -> None:
    SqliteStore(database).close()
    change(database, "UPDATE alembic_version SET version_num = '9999'")
    keeper = sqlite3.connect(database) if killed else None
    if keeper is not None:  # a server that was killed leaves its WAL behind
        keeper.execute("CREATE TABLE newer (x)")
        keeper.commit()
    before = database.read_bytes()
    with pytest.raises(StoreRefused, match=r"newer oomcast \(schema 9999\): upgrade"):
        SqliteStore(database)
    assert database.read_bytes() == before
    if keeper is not None:
        keeper.close()


def test_another_program_s_database_is_refused_untouched(database: Path) -> None:
    database.parent.mkdir()
    change(database, "CREATE TABLE photos (x)")
    before = database.read_bytes()
    with pytest.raises(StoreRefused, match="another program's SQLite database"):
        SqliteStore(database)
    assert database.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_untouched(database: Path) -> None:
    database.parent.mkdir()
    database.write_bytes(b"my thesis, chapter 1\n" * 100)
    with pytest.raises(StoreRefused, match="can't be read as an oomcast database"):
        SqliteStore(database)
    assert database.read_bytes() == b"my thesis, chapter 1\n" * 100


def test_each_refusal_is_one_line(database: Path) -> None:
    database.parent.mkdir()
    database.write_bytes(b"x" * 100)
    with pytest.raises(StoreRefused) as refused:
        SqliteStore(database)
    assert "\n" not in str(refused.value)
