"""What holds of a store, whichever engine it is, and which databases are opened."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.exc import IntegrityError
from tests.server.parts import a_sample
from tests.server.stores import ENGINES, fresh_address, open_at

from oomcast.sample import GpuReading, Kind
from oomcast_server.errors import StoreRefused, StoreUnavailable
from oomcast_server.store.base import Store
from oomcast_server.store.schema import (
    ROWS,
    assessments,
    events,
    gaps,
    gpu_samples,
    metadata,
    projects,
    runs,
    samples,
    verdicts,
)
from oomcast_server.store.sqlite import SqliteStore
from oomcast_server.store.writer import GroupWriter

pytestmark = pytest.mark.fast

A_RUN: dict[str, Any] = {
    **dict.fromkeys(("id", "project", "name", "host"), "x"),
    **dict.fromkeys(("pid", "sources", "state", "created_ns", "last_ns", "samples"), 1),
    "tags": "[]",
}
NASTY = 'a,b\t"c"\\N\n\\.\n{"d": null} é 𝄞'


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "data" / "oomcast.db"


@pytest.fixture
def sqlite_store(database: Path) -> Iterator[SqliteStore]:
    with contextlib.closing(SqliteStore(database)) as opened:
        yield opened


def pragma(connection: sa.Connection, name: str) -> object:
    return connection.exec_driver_sql(f"PRAGMA {name}").scalar()


def change(database: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def add_project(store: Store, name: str) -> None:
    with store.write() as connection:
        connection.execute(sa.insert(projects).values(name=name, created_ns=1))


def project_names(store: Store) -> list[str]:
    with store.read() as connection:
        return list(connection.execute(sa.select(projects.c.name).order_by(projects.c.name)).scalars())


def add_run(store: Store, **given: Any) -> int:
    with store.write() as connection:
        made = connection.execute(sa.insert(runs).values({**A_RUN, **given})).inserted_primary_key
    assert made is not None
    return int(made[0])


def stored(store: Store, table: sa.Table) -> list[tuple[Any, ...]]:
    with store.read() as connection:
        return [tuple(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key))]


def is_ours(name: str | None, kind: str, parents: Any) -> bool:
    """Not one of the partitions, nor the column that they are made by."""
    table = name if kind == "table" else parents.get("table_name")
    return "samples_w" not in (table or "") and (kind, name) != ("column", "week")


# What every store does.


def test_migrations_make_the_schema_that_the_code_uses(store: Store) -> None:
    with store.read() as connection:
        context = MigrationContext.configure(connection, opts={"include_name": is_ours, "compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_what_is_written_is_read(store: Store) -> None:
    add_project(store, "one")
    assert project_names(store) == ["one"]


def test_readers_see_nothing_of_a_transaction_before_its_end(store: Store) -> None:
    with store.write() as connection:
        connection.execute(sa.insert(projects).values(name="one", created_ns=1))
        assert project_names(store) == []
    assert project_names(store) == ["one"]


def test_readers_can_t_write(store: Store) -> None:
    add_project(store, "one")
    with pytest.raises(StoreUnavailable), store.read() as connection:
        connection.execute(sa.delete(projects))
    assert project_names(store) == ["one"]


def test_a_failed_transaction_leaves_nothing(store: Store) -> None:
    with pytest.raises((StoreUnavailable, sa.exc.ProgrammingError)), store.write() as connection:  # noqa: PT012
        connection.execute(sa.insert(projects).values(name="one", created_ns=1))
        connection.execute(sa.text("no sql at all"))
    assert project_names(store) == []
    add_project(store, "two")
    assert project_names(store) == ["two"]


def test_what_the_caller_raises_ends_the_transaction_and_comes_through(store: Store) -> None:
    with pytest.raises(LookupError), store.write() as connection:  # noqa: PT012
        connection.execute(sa.insert(projects).values(name="one", created_ns=1))
        raise LookupError
    assert project_names(store) == []


def test_a_read_that_takes_too_long_is_ended(store: Store) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    with pytest.raises(StoreUnavailable, match="longer than 2 s") as ended, store.read() as connection:
        connection.execute(sa.text(endless))
    assert "\n" not in str(ended.value)
    assert project_names(store) == []


def test_many_read_while_one_writes(store: Store) -> None:
    ending = threading.Event()

    def read_until_the_end() -> bool:
        counts = [0]
        while not ending.is_set():
            counts.append(len(project_names(store)))
        return counts == sorted(counts)

    with ThreadPoolExecutor(6) as pool:
        readers = [pool.submit(read_until_the_end) for _ in range(6)]
        try:
            for number in range(30):
                add_project(store, f"p{number}")
        finally:
            ending.set()
    assert all(reader.result() for reader in readers)
    assert len(project_names(store)) == 30


def test_a_group_is_one_transaction(store: Store) -> None:
    transactions: list[int] = []

    def commit(items: Iterator[int]) -> None:
        with store.write() as connection:
            names = [{"name": f"p{item:03}", "created_ns": 1} for item in items]
            connection.execute(sa.insert(projects), names)
        transactions.append(len(names))

    writer: GroupWriter[int] = GroupWriter(commit, lambda _: 1)
    for item in range(100):
        writer.put(item)
    writer.start()
    writer.close()
    assert project_names(store) == [f"p{item:03}" for item in range(100)]
    assert sum(transactions) == 100
    assert len(transactions) < 100


def test_a_key_is_made_for_each_run(store: Store) -> None:
    assert 0 < add_run(store, id="one") < add_run(store, id="two")


def test_rows_come_back_as_they_were(store: Store) -> None:
    rows = [
        a_sample(1),
        a_sample(2, Kind.TICK, rss=None, host_swap_bytes=2**62),
        a_sample(3, children=0, refaults=None),
    ]
    with store.write() as connection:
        store.insert(connection, samples, [((7, 8), rows)])
    assert stored(store, samples) == [(7, 8, *map(_plain, row)) for row in rows]


def _plain(value: int | None) -> int | None:
    return None if value is None else int(value)


def test_rows_of_many_sources_go_in_at_once(store: Store) -> None:
    batches: list[tuple[tuple[int, ...], list[Any]]] = [
        ((1, 1), [a_sample(1)]),
        ((1, 2), []),
        ((2, 3), [a_sample(seq) for seq in range(1, 200)]),
    ]
    with store.write() as connection:
        store.insert(connection, samples, batches)
        store.insert(connection, gpu_samples, [((1, 1), [GpuReading(1, device, 5, None, 0, 100) for device in (0, 1)])])
        store.insert(connection, gaps, [])
    assert [row[:3] for row in stored(store, samples)] == [(1, 1, 1), *((2, 3, seq) for seq in range(1, 200))]
    assert [row[:6] for row in stored(store, gpu_samples)] == [(1, 1, 1, 0, 5, None), (1, 1, 1, 1, 5, None)]


def test_texts_and_fractions_come_back_as_they_were(store: Store) -> None:
    an_event, a_gap = (1, 3, 10, 10, None, 5, NASTY), (4, 5, 10, None, NASTY)
    an_assessment = (2, 10, 1, 1, "growing", None, NASTY, 0.1, 3, 4, 5, 1e-9, None, 1e300, "{}")
    a_verdict = (10, "died", "unknown", NASTY, "")
    with store.write() as connection:
        for table, row in ((events, an_event), (gaps, a_gap), (assessments, an_assessment), (verdicts, a_verdict)):
            store.insert(connection, table, [((1, 2), [row])])
    assert stored(store, events) == [(1, 2, *an_event)]
    assert stored(store, gaps) == [(1, 2, *a_gap)]
    assert stored(store, assessments) == [(1, 2, *an_assessment)]
    assert stored(store, verdicts) == [(1, 2, *a_verdict)]


def test_every_table_of_rows_takes_rows(store: Store) -> None:
    with store.write() as connection:
        for table in ROWS:
            row = ["x" if isinstance(column.type, sa.Text) else 1 for column in table.columns]
            store.insert(connection, table, [((1, 2), [row[2:]])])
    assert [len(stored(store, table)) for table in ROWS] == [1] * len(ROWS)


def test_a_repeated_row_is_refused_with_all_that_came_with_it(store: Store) -> None:
    with store.write() as connection:
        store.insert(connection, samples, [((1, 1), [a_sample(1)])])
    with pytest.raises(Exception, match=r"(?i)unique"), store.write() as connection:
        store.insert(connection, samples, [((1, 1), [a_sample(2), a_sample(1)])])
    assert [row[2] for row in stored(store, samples)] == [1]


def test_a_repeated_key_is_a_mistake_not_an_outage(store: Store) -> None:
    add_project(store, "one")
    with pytest.raises(IntegrityError):
        add_project(store, "one")


def test_a_text_may_hold_any_character(store: Store) -> None:
    add_project(store, "a\0b")
    assert [name.replace("\ufffd", "\0") for name in project_names(store)] == ["a\0b"]
    with store.read() as connection:
        assert connection.scalar(sa.select(projects.c.name).where(projects.c.name == "a")) is None


def test_only_runs_that_are_there_are_locked(store: Store) -> None:
    first, second = add_run(store, id="one", version=5), add_run(store, id="two")
    with store.write() as connection:
        locked = store.lock_runs(connection, [second, first, second + 100])
    assert locked == ({first: 5, second: 0} if store.shared else {})


def test_the_size_grows_with_what_is_stored(store: Store) -> None:
    before = store.size_bytes()
    with store.write() as connection:
        store.insert(connection, samples, [((1, 1), [a_sample(seq) for seq in range(5_000)])])
    assert store.size_bytes() > before > 0


def test_a_closed_store_can_be_closed_again_and_opened_again(store_address: str) -> None:
    first = open_at(store_address)
    add_project(first, "one")
    first.close()
    first.close()
    with contextlib.closing(open_at(store_address)) as second:
        assert project_names(second) == ["one"]


def test_only_a_shared_store_is_opened_by_a_second_server(store: Store, store_address: str) -> None:
    if not store.shared:
        with pytest.raises(StoreRefused, match="another oomcast server uses"):
            open_at(store_address)
        return
    with contextlib.closing(open_at(store_address)) as second:
        add_project(second, "one")
        assert project_names(store) == ["one"]


# Which databases are opened.


def run_sql(address: str, *statements: str) -> None:
    """Not through our own code, which would migrate it."""
    url = address.replace("postgresql://", "postgresql+psycopg://") if "://" in address else f"sqlite:///{address}"
    if "://" not in address:
        Path(address).parent.mkdir(exist_ok=True)
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def table_names(address: str) -> list[str]:
    url = address.replace("postgresql://", "postgresql+psycopg://") if "://" in address else f"sqlite:///{address}"
    engine = sa.create_engine(url)
    try:
        return sorted(sa.inspect(engine).get_table_names())
    finally:
        engine.dispose()


def test_an_empty_database_is_made_ours(empty_address: str) -> None:
    with contextlib.closing(open_at(empty_address)) as store:
        add_project(store, "one")
    assert {table.name for table in metadata.tables.values()} < set(table_names(empty_address))


def test_a_newer_schema_is_refused_untouched(store_address: str) -> None:
    open_at(store_address).close()
    run_sql(store_address, "UPDATE alembic_version SET version_num = '9999'", "DROP TABLE terms")
    before = table_names(store_address)
    with pytest.raises(StoreRefused, match=r"newer oomcast \(schema 9999\): upgrade") as refused:
        open_at(store_address)
    assert table_names(store_address) == before
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "made",
    [
        ["CREATE TABLE photos (x int)"],
        ["CREATE TABLE alembic_version (version_num text)", "INSERT INTO alembic_version VALUES ('0001')"],
        ["CREATE TABLE alembic_version (version_num text)", "CREATE TABLE runs (x int)"],
    ],
    ids=["without versions", "with versions of its own", "with a table of one name"],
)
def test_another_program_s_database_is_refused_untouched(empty_address: str, made: list[str]) -> None:
    run_sql(empty_address, *made)
    before = table_names(empty_address)
    with pytest.raises(StoreRefused, match="another program's") as refused:
        open_at(empty_address)
    assert table_names(empty_address) == before
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_refused_database_is_let_go(engine: str, request: pytest.FixtureRequest) -> None:
    address = fresh_address(engine, request, migrated=False)
    run_sql(address, "CREATE TABLE photos (x int)")
    with pytest.raises(StoreRefused):
        open_at(address)
    run_sql(address, "DROP TABLE photos")
    open_at(address).close()


# What only a SQLite file has.


def test_rows_are_kept_in_the_order_of_their_keys(sqlite_store: SqliteStore) -> None:
    with sqlite_store.read() as connection:
        texts = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE sql LIKE '%WITHOUT ROWID%'").scalars()
        assert set(texts) >= {table.name for table in ROWS}


def test_a_commit_is_on_the_disk(sqlite_store: SqliteStore) -> None:
    with sqlite_store.write() as connection:
        assert pragma(connection, "journal_mode") == "wal"
        assert pragma(connection, "synchronous") == 2  # FULL


def test_the_limit_of_a_read_is_a_time(database: Path) -> None:
    ticks = iter(range(0, 10**9, 3))
    with contextlib.closing(SqliteStore(database, monotonic=lambda: float(next(ticks)))) as store:
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
        with pytest.raises(StoreUnavailable, match="longer than 2 s"), store.read() as connection:
            connection.exec_driver_sql(endless)
        with store.read() as connection:
            assert pragma(connection, "query_only") == 1


def test_a_closed_database_leaves_no_wal(database: Path) -> None:
    SqliteStore(database).close()
    SqliteStore(database).close()
    assert sorted(path.name for path in database.parent.iterdir()) == ["oomcast.db", "oomcast.db.lock"]


def test_the_database_is_for_its_user_s_eyes_only(sqlite_store: SqliteStore, database: Path) -> None:
    assert database.stat().st_mode & 0o077 == 0
    assert database.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("killed", [False, True])
def test_a_newer_file_is_left_byte_by_byte(database: Path, killed: bool) -> None:
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


def test_a_file_that_is_no_database_is_refused_untouched(database: Path) -> None:
    database.parent.mkdir()
    database.write_bytes(b"my thesis, chapter 1\n" * 100)
    with pytest.raises(StoreRefused, match="can't be read as an oomcast database") as refused:
        SqliteStore(database)
    assert database.read_bytes() == b"my thesis, chapter 1\n" * 100
    assert "\n" not in str(refused.value)


def test_a_server_that_has_the_lock_keeps_it_when_another_is_refused(sqlite_store: SqliteStore, database: Path) -> None:
    for _ in range(2):
        with pytest.raises(StoreRefused, match="another oomcast server uses"):
            SqliteStore(database)
    assert project_names(sqlite_store) == []
