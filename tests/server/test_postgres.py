"""What only PostgreSQL has: connections that are lost, servers that share it, weeks of samples, passwords."""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.server.conftest import ServerProcess
from tests.server.parts import a_sample, wait_for
from tests.server.postgres import Cluster, Databases
from tests.server.stores import open_at

from oomcast.errors import OomcastError, SettingsError
from oomcast_server.errors import StoreRefused, StoreUnavailable
from oomcast_server.settings import load
from oomcast_server.store import partitions
from oomcast_server.store.base import Store
from oomcast_server.store.opening import open_store
from oomcast_server.store.partitions import WEEK_NS
from oomcast_server.store.schema import projects, runs, samples

PASSWORD = "s3cret/w@rd"
IN_URL = "s3cret%2Fw%40rd"


@pytest.fixture
def shared(postgres_url: str) -> Iterator[Store]:
    with contextlib.closing(open_at(postgres_url)) as store:
        yield store


@pytest.fixture
def other(postgres_url: str) -> Iterator[Store]:
    """A second server on the same database."""
    with contextlib.closing(open_at(postgres_url)) as store:
        yield store


def add_project(store: Store, name: str) -> None:
    with store.write() as connection:
        connection.execute(sa.insert(projects).values(name=name, created_ns=1))


def project_names(store: Store) -> list[str]:
    with store.read() as connection:
        return list(connection.execute(sa.select(projects.c.name).order_by(projects.c.name)).scalars())


def setting(connection: sa.Connection, name: str) -> object:
    return connection.scalar(sa.text(f"SHOW {name}"))


def end_connections(postgres: Databases, url: str) -> None:
    ended = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'oomcast'"
    postgres.execute(f"{ended} AND datname = '{sa.make_url(url).database}'")


def backend(connection: sa.Connection) -> object:
    return connection.scalar(sa.text("SELECT pg_backend_pid()"))


# How it is used.


def test_a_commit_is_on_the_disk_whatever_the_database_says(postgres: Databases, postgres_url: str) -> None:
    name = sa.make_url(postgres_url).database
    postgres.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    with contextlib.closing(open_at(postgres_url)) as store, store.write() as connection:
        assert setting(connection, "synchronous_commit") == "on"


def test_a_stronger_promise_stands(postgres: Databases, postgres_url: str) -> None:
    name = sa.make_url(postgres_url).database
    postgres.execute(f"ALTER DATABASE {name} SET synchronous_commit = remote_apply")
    with contextlib.closing(open_at(postgres_url)) as store, store.write() as connection:
        assert setting(connection, "synchronous_commit") == "remote_apply"


def test_half_of_a_character_pair_is_stored_as_a_mark(shared: Store) -> None:
    add_project(shared, "a\ud800b")
    assert project_names(shared) == ["a?b"]


def test_a_row_that_no_table_can_hold_is_a_mistake_not_an_outage(shared: Store) -> None:
    with pytest.raises(sa.exc.DataError), shared.write() as connection:
        connection.execute(sa.insert(projects).values(name="one", created_ns=2**64))


# Servers that share it.


def add_run(store: Store) -> int:
    texts = dict.fromkeys(("id", "project", "name", "host", "tags"), "x")
    counts = dict.fromkeys(("pid", "sources", "state", "created_ns", "last_ns", "samples"), 1)
    with store.write() as connection:
        made = connection.execute(sa.insert(runs).values(**texts, **counts)).inserted_primary_key
    assert made is not None
    return int(made[0])


def waits_for_a_lock(postgres: Databases, url: str) -> bool:
    waiting = (
        f"SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = '{sa.make_url(url).database}'"
    )
    return bool(postgres.execute(waiting))


def test_a_locked_run_is_changed_by_one_server_at_a_time(
    postgres: Databases, postgres_url: str, shared: Store, other: Store
) -> None:
    pk = add_run(shared)
    seen: list[dict[int, int]] = []

    def look() -> None:
        with other.write() as connection:
            seen.append(other.lock_runs(connection, [pk]))

    follower = threading.Thread(target=look)
    with shared.write() as connection:
        assert shared.lock_runs(connection, [pk]) == {pk: 0}
        follower.start()
        wait_for(lambda: waits_for_a_lock(postgres, postgres_url))
        connection.execute(sa.update(runs).values(version=1))
    follower.join()
    assert seen == [{pk: 1}]


def test_servers_that_lock_the_same_runs_in_any_order_never_wait_for_each_other(shared: Store, other: Store) -> None:
    with shared.write() as connection:
        texts = dict.fromkeys(("project", "name", "host", "tags"), "x")
        counts = dict.fromkeys(("pid", "sources", "state", "created_ns", "last_ns", "samples"), 1)
        connection.execute(sa.insert(runs), [{"id": f"r{at}", **texts, **counts} for at in range(50)])
    with shared.read() as connection:
        pks = list(connection.execute(sa.select(runs.c.pk)).scalars())

    def write_many(store: Store, order: list[int]) -> None:
        for _ in range(50):
            with store.write() as connection:
                store.lock_runs(connection, order)
                connection.execute(sa.update(runs).values(version=runs.c.version + 1))

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(write_many, shared, pks), pool.submit(write_many, other, pks[::-1])]:
            done.result()
    with shared.read() as connection:
        assert set(connection.execute(sa.select(runs.c.version)).scalars()) == {100}


def test_servers_that_start_together_make_one_schema(empty_postgres_url: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        stores = list(pool.map(open_at, [empty_postgres_url] * 6))
    add_project(stores[0], "one")
    assert [project_names(store) for store in stores] == [["one"]] * 6
    for store in stores:
        store.close()


def test_a_server_that_was_frozen_in_a_transaction_does_not_stop_the_others(
    postgres: Databases, postgres_url: str, shared: Store, other: Store
) -> None:
    pk = add_run(shared)
    with pytest.raises(StoreUnavailable), shared.write() as connection:  # noqa: PT012
        # In a test nobody waits for half a minute.
        connection.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = '100ms'"))
        shared.lock_runs(connection, [pk])
        with other.write() as free:
            assert other.lock_runs(free, [pk]) == {pk: 0}
        connection.execute(sa.update(runs).values(version=1))
    add_project(shared, "one")


def test_servers_are_started_on_one_database(
    start_process: Callable[..., ServerProcess], empty_postgres_url: str, tmp_path: Path
) -> None:
    servers = [start_process(home=tmp_path / name, OOMCAST_STORE=empty_postgres_url) for name in ("one", "two")]
    for server in servers:
        server.wait_until_up()
    assert [server.end() for server in servers] == [(0, "", "")] * 2


def test_a_server_says_in_one_line_that_its_database_can_t_be_reached(
    start_process: Callable[..., ServerProcess],
) -> None:
    process = start_process(OOMCAST_STORE=f"postgresql://me:{IN_URL}@127.0.0.1:1/x").process
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("oomcast: can't open postgresql://me@127.0.0.1:1/x: ")
    assert err.count("\n") == 1
    assert PASSWORD not in err


# Connections that are lost.


def test_a_connection_that_was_lost_while_idle_is_replaced_unnoticed(
    postgres: Databases, postgres_url: str, shared: Store
) -> None:
    add_project(shared, "one")
    assert project_names(shared) == ["one"]
    end_connections(postgres, postgres_url)
    add_project(shared, "two")
    assert project_names(shared) == ["one", "two"]


@pytest.mark.parametrize("by_copy", [False, True], ids=["in a statement", "in a COPY"])
def test_a_connection_that_is_lost_in_a_transaction_leaves_nothing(
    postgres: Databases, postgres_url: str, shared: Store, by_copy: bool
) -> None:
    with pytest.raises(StoreUnavailable) as lost, shared.write() as connection:  # noqa: PT012
        connection.execute(sa.insert(projects).values(name="one", created_ns=1))
        end_connections(postgres, postgres_url)
        if by_copy:
            shared.insert(connection, samples, [((1, 1), [a_sample(1)])])
        else:
            connection.execute(sa.insert(projects).values(name="two", created_ns=1))
    assert "\n" not in str(lost.value)
    add_project(shared, "three")
    assert project_names(shared) == ["three"]


def test_a_connection_that_is_lost_before_the_commit_leaves_nothing(
    postgres: Databases, postgres_url: str, shared: Store
) -> None:
    with pytest.raises(StoreUnavailable), shared.write() as connection:  # noqa: PT012
        connection.execute(sa.insert(projects).values(name="one", created_ns=1))
        end_connections(postgres, postgres_url)
    assert project_names(shared) == []
    add_project(shared, "two")


def test_a_connection_that_is_lost_while_reading(postgres: Databases, postgres_url: str, shared: Store) -> None:
    with pytest.raises(StoreUnavailable) as lost, shared.read() as connection:  # noqa: PT012
        backend(connection)
        end_connections(postgres, postgres_url)
        backend(connection)
    assert "\n" not in str(lost.value)
    assert project_names(shared) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["in order", "by a crash"])
def test_a_database_that_is_down_is_unavailable_until_it_is_up(
    own_postgres: Cluster, shared: Store, number: int
) -> None:
    add_project(shared, "one")
    own_postgres.stop(number)
    try:
        with pytest.raises(StoreUnavailable, match="can't write to postgresql://postgres@") as down:
            add_project(shared, "two")
        assert "\n" not in str(down.value)
        with pytest.raises(StoreUnavailable, match="can't read postgresql://postgres@"):
            project_names(shared)
        with pytest.raises(StoreUnavailable):
            shared.size_bytes()
    finally:
        own_postgres.start()
    add_project(shared, "three")
    assert project_names(shared) == ["one", "three"]


def test_a_reader_too_many_waits_for_its_turn(shared: Store) -> None:
    def read_slowly() -> object:
        with shared.read() as connection:
            return connection.scalar(sa.text("SELECT 1 FROM pg_sleep(0.05)"))

    with ThreadPoolExecutor(30) as pool:
        assert list(pool.map(lambda _: read_slowly(), range(30))) == [1] * 30


# Weeks.


def test_samples_lie_in_the_week_of_their_arrival(shared: Store) -> None:
    with shared.write() as connection:
        shared.insert(connection, samples, [((1, 1), [a_sample(1)])])
    with shared.read() as connection:
        now = connection.scalar(sa.text("SELECT floor(extract(epoch FROM now()) / 604800)::int"))
        assert connection.scalar(sa.text(f"SELECT count(*) FROM samples_w{now}")) == 1


def test_partitions_are_made_ahead_once(shared: Store) -> None:
    with shared.write() as connection:
        there = partitions.weeks(connection)
        later = (there[-1] + 10) * WEEK_NS
        made = partitions.make_ahead(connection, later)
        assert partitions.make_ahead(connection, later) == []
        assert len(partitions.weeks(connection)) == len(there) + 5
    assert made[0] == f"samples_w{there[-1] + 10}"
    assert len(made) == 10


def test_servers_make_partitions_at_the_same_time(shared: Store, other: Store) -> None:
    def make(store: Store) -> int:
        with store.write() as connection:
            return len(partitions.make_ahead(connection, 5000 * WEEK_NS))

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(make, (shared, other))) == [0, 10]


def test_partitions_are_made_while_others_write(shared: Store, other: Store) -> None:
    with shared.write() as connection:
        shared.insert(connection, samples, [((1, 1), [a_sample(1)])])
        with other.write() as maker:
            assert len(partitions.make_ahead(maker, 5000 * WEEK_NS)) == 10
        shared.insert(connection, samples, [((1, 1), [a_sample(2)])])
    with other.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(samples)) == 2


def test_old_weeks_are_dropped_with_their_rows(shared: Store) -> None:
    with shared.write() as connection:
        this = partitions.weeks(connection)[0]
        for week in (this - 3, this - 2):
            partitions.make_ahead(connection, week * WEEK_NS)
        connection.execute(sa.text(_ROW), [{"seq": seq, "week": this - 3 + seq} for seq in range(4)])
    with shared.write() as connection:
        dropped = partitions.drop_before(connection, this - 1)
        assert partitions.weeks(connection)[0] == this - 1
    assert dropped == [
        *(f"{table}_w{week}" for table in ("samples", "gpu_samples") for week in (this - 3, this - 2)),
    ]
    with shared.read() as connection:
        assert list(connection.execute(sa.select(samples.c.seq).order_by(samples.c.seq)).scalars()) == [2, 3]
        assert partitions.drop_before(connection, this - 1) == []


def test_old_weeks_go_once_all_their_rows_are_deleted(shared: Store) -> None:
    with shared.write() as connection:
        this = partitions.weeks(connection)[0]
        partitions.make_ahead(connection, (this - 2) * WEEK_NS)
        connection.execute(sa.text(_ROW), [{"seq": 1, "week": this - 2}])
    with shared.write() as connection:
        assert partitions.drop_empty(connection, this) == [
            *(f"samples_w{this - 1}", f"gpu_samples_w{this - 2}", f"gpu_samples_w{this - 1}")
        ]
        connection.execute(sa.delete(samples))
        assert partitions.drop_empty(connection, this) == [f"samples_w{this - 2}"]
        assert partitions.drop_empty(connection, this) == []
        assert partitions.weeks(connection)[0] == this


_ROW = (
    "INSERT INTO samples (run_pk, source_pk, seq, kind, wall_ns, mono_ns, phase, week) "
    "VALUES (1, 1, :seq, 0, 1, 1, 1, :week)"
)


def test_a_week_that_nobody_made_is_made_once_it_is_missed(shared: Store) -> None:
    with shared.write() as connection:
        partitions.drop_before(connection, 10**6)
        assert partitions.weeks(connection) == []
    with pytest.raises(StoreUnavailable, match="no partition"), shared.write() as connection:
        shared.insert(connection, samples, [((1, 1), [a_sample(1)])])
    with shared.write() as connection:
        shared.insert(connection, samples, [((1, 1), [a_sample(1)])])
        assert len(partitions.weeks(connection)) == 5


def test_an_engine_without_partitions_has_none_to_look_after(tmp_path: Path) -> None:
    with contextlib.closing(open_at(str(tmp_path / "x.db"))) as store, store.write() as connection:
        assert partitions.make_ahead(connection, 1) == []
        assert partitions.drop_before(connection, 10**6) == []
        assert partitions.drop_empty(connection, 10**6) == []
        assert partitions.weeks(connection) == []


# What is refused, and what is said.


def test_a_database_of_another_encoding_is_refused(postgres: Databases) -> None:
    url = postgres.make(migrated=False, ENCODING="'LATIN1'", LOCALE="'C'")
    with pytest.raises(StoreRefused, match="encoded in LATIN1, expected UTF8"):
        open_at(url)
    postgres.remove(url)


def test_a_database_without_a_schema_to_work_in_is_refused(postgres: Databases, empty_postgres_url: str) -> None:
    postgres.execute("DROP SCHEMA public", empty_postgres_url)
    with pytest.raises(StoreRefused, match="no schema to work in"):
        open_at(empty_postgres_url)


def test_our_tables_may_have_a_schema_of_their_own(postgres: Databases, empty_postgres_url: str) -> None:
    postgres.execute("CREATE TABLE photos (x int); CREATE SCHEMA oomcast", empty_postgres_url)
    name = sa.make_url(empty_postgres_url).database
    postgres.execute(f"ALTER DATABASE {name} SET search_path = oomcast")
    with contextlib.closing(open_at(empty_postgres_url)) as store:
        add_project(store, "one")
        with store.write() as connection:
            assert len(partitions.weeks(connection)) == 5


def test_tables_of_an_extension_are_nobody_s(postgres: Databases, empty_postgres_url: str) -> None:
    # No extension here has a table of its own; one that is said to belong to an extension is the same.
    postgres.execute("CREATE TABLE spatial (x int); ALTER EXTENSION plpgsql ADD TABLE spatial", empty_postgres_url)
    open_at(empty_postgres_url).close()


@pytest.fixture
def guarded(postgres: Databases, postgres_url: str) -> Iterator[Callable[[str], str]]:
    """The test's database for a user with a password."""
    if postgres.cluster is None:
        pytest.skip("needs a PostgreSQL of its own")
    name = sa.make_url(postgres_url).database or ""
    postgres.execute(f"CREATE USER guarded PASSWORD '{PASSWORD}'")
    cluster = postgres.cluster
    yield lambda password: cluster.url(name, "guarded", password)
    postgres.execute("DROP USER guarded")


def test_a_password_is_used(guarded: Callable[[str], str], postgres: Databases, postgres_url: str) -> None:
    granted = "GRANT ALL ON ALL TABLES IN SCHEMA public TO guarded; GRANT ALL ON SCHEMA public TO guarded"
    postgres.execute(granted, postgres_url)
    with contextlib.closing(open_at(guarded(PASSWORD))) as store:
        add_project(store, "one")
    postgres.execute("DROP OWNED BY guarded", postgres_url)


def test_a_user_who_may_not_make_tables_is_refused(postgres: Databases, empty_postgres_url: str) -> None:
    postgres.execute("CREATE USER visitor")
    url = sa.make_url(empty_postgres_url).set(username="visitor").render_as_string(hide_password=False)
    with pytest.raises(StoreRefused, match=r"can't make tables in postgresql://visitor@.*permission denied"):
        open_at(url)
    postgres.execute("DROP USER visitor")


def test_a_wrong_password_is_told_without_showing_it(
    guarded: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(StoreUnavailable, match="password authentication failed") as refused:
        open_at(guarded("wr0ng-one"))
    told = f"{refused.value} {refused.value.__cause__!r} {caplog.text}"
    assert "wr0ng-one" not in told
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{IN_URL}@127.0.0.1:1/x",
        f"postgres://me:{IN_URL}@/x?host=/nowhere",
        f"postgresql://127.0.0.1:1/x?user=me&password={IN_URL}",
        f"postgresql://me:{IN_URL}@127.0.0.1:1/x?sslmode=nonsense",
        f"postgresql://me:{IN_URL}@127.0.0.1:1/x?nonsense=1",
        f"postgresql://me:{IN_URL}@127.0.0.1:port/x",
        f"postgresql://me:{IN_URL}@127.0.0.1",
        f"mysql://me:{IN_URL}@127.0.0.1/x",
    ],
)
def test_a_password_is_never_shown(url: str) -> None:
    with pytest.raises(OomcastError) as refused:
        open_store(load({"OOMCAST_STORE": url}))
    for told in (str(refused.value), repr(refused.value.__cause__)):
        assert PASSWORD not in told
        assert IN_URL not in told
    assert "\n" not in str(refused.value)


def test_settings_don_t_show_a_password() -> None:
    settings = load({}, store=f"postgres://me:{IN_URL}@box:5433/x?sslmode=require")
    assert settings.store_shown == "postgresql://me@box:5433/x"
    assert IN_URL not in repr(settings)


NO_DRIVER = """
import sys
sys.modules["psycopg"] = None
from oomcast.errors import SettingsError
from oomcast_server.settings import load
from oomcast_server.store.opening import open_store
try:
    open_store(load({}, store="postgresql://me:s3cret@box/x"))
except SettingsError as error:
    print(error)
"""


def test_a_missing_driver_is_named_with_what_to_install() -> None:
    said = subprocess.run([sys.executable, "-c", NO_DRIVER], capture_output=True, text=True, check=True).stdout
    assert said.startswith("postgresql://me@box/x needs PostgreSQL's driver")
    assert said.endswith("pip install 'oomcast[postgres]'\n")
    assert "s3cret" not in said


def test_a_driver_s_error_is_no_settings_error() -> None:
    with pytest.raises(SettingsError, match="expected postgresql://"):
        load({}, store="postgresql://")
