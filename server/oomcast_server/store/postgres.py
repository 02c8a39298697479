"""A PostgreSQL database that any number of servers share: one connection that writes, a few that only read."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

import msgspec
import psycopg
import sqlalchemy as sa
from psycopg.types.string import StrDumperUnknown
from sqlalchemy import URL, Connection, Engine, Table, event
from sqlalchemy.exc import DBAPIError

from oomcast_server.errors import StoreRefused, StoreUnavailable
from oomcast_server.store import migrate, partitions
from oomcast_server.store.address import shown
from oomcast_server.store.base import Rows

__all__ = ["PostgresStore"]

_READERS = 8
_POOL_WAIT_S = 10.0
_OLDEST = (14, 0)
# A line that was cut without a word is noticed after some 10 s, whether we send or wait.
_CONNECTING = {
    "application_name": "oomcast",
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
_READING = (
    "SET default_transaction_read_only = on",
    "SET statement_timeout = '2s'",
    "SET jit = off",  # compiling a chart's query takes longer than running it
)
_WRITING = (
    # What is acknowledged is on the disk; a stronger setting of the database's owner stands.
    "SELECT set_config('synchronous_commit', 'on', false) "
    "WHERE current_setting('synchronous_commit') IN ('off', 'local')",
    # A server that was frozen or cut off must not keep the others from its runs for long.
    "SET lock_timeout = '10s'",
    "SET idle_in_transaction_session_timeout = '30s'",
)
_MIGRATING = ("SET LOCAL lock_timeout = 0", "SET LOCAL idle_in_transaction_session_timeout = 0")
# NO KEY: what refers to a run (a new episode) needn't wait until its samples are written.
_LOCK = sa.text("SELECT pk, version FROM runs WHERE pk = ANY(CAST(:pks AS bigint[])) ORDER BY pk FOR NO KEY UPDATE")
_BUGS = (psycopg.IntegrityError, psycopg.ProgrammingError, psycopg.InterfaceError, psycopg.DataError)
_NO_PARTITION = "23514"  # check_violation: what PostgreSQL says of a row that no partition takes


class _Text(StrDumperUnknown):
    """PostgreSQL's text holds no NUL, and UTF-8 no half of a pair: what can't be stored becomes a replacement mark."""

    def dump(self, obj: str) -> bytes:
        return obj.replace("\0", "\ufffd").encode("utf-8", "replace")


class PostgresStore:
    """The engine for many servers. `write` belongs to one thread.

    It takes a connection of its own for the writer and up to eight for readers, and sets up each of them, so a
    connection pooler between must keep sessions apart (PgBouncer: `pool_mode = session`).
    """

    engine = "postgresql"
    shared = True

    def __init__(self, url: str, wall_ns: Callable[[], int] = time.time_ns) -> None:
        """Connect to `url` (`postgresql://user:password@host:port/database`), check and migrate what is there.

        Raises:
            StoreRefused: not ours to open; it was not touched.
            StoreUnavailable: it can't be reached or written now.
        """
        self._shown = shown(url)
        self._wall_ns = wall_ns
        self._needs_partitions = False
        address = sa.make_url(url).set(drivername="postgresql+psycopg")
        self._writer = _engine(address, 1, _WRITING)
        self._readers = _engine(address, _READERS, _READING, isolation_level="AUTOCOMMIT")
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        try:
            with self._writer.begin() as connection:
                self._migrate(connection)
        except (DBAPIError, psycopg.Error) as error:
            if isinstance(_original(error), psycopg.errors.InsufficientPrivilege):
                raise StoreRefused(f"can't make tables in {self._shown}: {_reason(error)}") from error
            raise StoreUnavailable(f"can't open {self._shown}: {_reason(error)}") from error

    def _migrate(self, connection: Connection) -> None:
        version = connection.dialect.server_version_info or ()
        if version < _OLDEST:
            raise StoreRefused(f"{self._shown} is PostgreSQL {version[0]}, expected {_OLDEST[0]} or newer: upgrade it")
        for statement in _MIGRATING:
            connection.execute(sa.text(statement))
        # Of servers that start together one makes the tables, and the others wait here until it has.
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(partitions.ADVISORY_LOCK)))
        migrate.check_schema(connection, self._shown)
        migrate.upgrade(connection)
        partitions.make_ahead(connection, self._wall_ns())

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is on the disk when the block ends, or not at all.

        Raises:
            StoreUnavailable: nothing of it was stored, as far as can be known: a connection that is lost while it
                commits leaves that open, so what is sent again must be recognised.
        """
        try:
            with self._writer.begin() as connection:
                if self._needs_partitions:
                    partitions.make_ahead(connection, self._wall_ns())
                    self._needs_partitions = False
                yield connection
        except (DBAPIError, psycopg.Error, sa.exc.TimeoutError) as error:
            self._fail(error)

    def _fail(self, error: Exception) -> NoReturn:
        original = _original(error)
        if getattr(original, "sqlstate", None) == _NO_PARTITION:
            self._needs_partitions = True  # its clock went ahead, or nobody looked after it for weeks
        elif isinstance(original, _BUGS):
            raise error
        raise StoreUnavailable(f"can't write to {self._shown}: {_reason(error)}") from error

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection to read with; each statement is a transaction of its own, of 2 s at most.

        Raises:
            StoreUnavailable: a statement failed or took too long.
        """
        try:
            with self._readers.connect() as connection:
                yield connection
        except (DBAPIError, psycopg.Error, sa.exc.TimeoutError) as error:
            raise StoreUnavailable(f"can't read {self._shown}: {_reason(error)}") from error

    def lock_runs(self, connection: Connection, run_pks: Sequence[int]) -> dict[int, int]:
        """Keep other servers from changing these runs until the transaction ends: the version of each that exists."""
        # In one order for everybody, so that two servers never wait for each other.
        locked = connection.execute(_LOCK, {"pks": list(run_pks)})
        return {row.pk: row.version for row in locked}

    def insert(self, connection: Connection, table: Table, rows: Iterable[Rows]) -> None:
        """Store rows, none of which is there already, by one COPY.

        Rows of figures are turned into COPY's text as a whole, by the JSON encoder. Measured, that takes a third of the
        driver's own CPU time for row after row, and brings twice the rows a second of COPY into a staging table with
        INSERT ... ON CONFLICT after it. A row that is there is an error.
        """
        driver = connection.connection.driver_connection
        assert driver is not None
        write = _write_figures if _has_figures_only(table) else _write_rows
        try:
            with driver.cursor() as cursor, cursor.copy(_statement(table)) as copy:
                for prefix, given in rows:
                    write(copy, prefix, given)
        except psycopg.Error as error:
            if driver.closed:  # SQLAlchemy hasn't seen it
                connection.invalidate(error)
            raise

    def size_bytes(self) -> int:
        """The whole database, what others may have in it included."""
        with self.read() as connection:
            return int(connection.scalar(sa.text("SELECT pg_database_size(current_database())")) or 0)

    def close(self) -> None:
        """Close every connection; may be called again."""
        self._readers.dispose()
        self._writer.dispose()


def _engine(address: URL, connections: int, settings: Iterable[str], **options: Any) -> Engine:
    said = {name: value for name, value in _CONNECTING.items() if name not in address.query}
    engine = sa.create_engine(
        address,
        connect_args=said,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=_POOL_WAIT_S,
        pool_pre_ping=True,  # a connection that was lost while it was idle is replaced unnoticed
        hide_parameters=True,  # receivers' secrets are among them, and errors are logged
        **options,
    )
    event.listen(engine, "connect", lambda connection, _: _set_up(connection, settings))
    return engine


def _set_up(connection: psycopg.Connection[Any], settings: Iterable[str]) -> None:
    connection.adapters.register_dumper(str, _Text)
    before, connection.autocommit = connection.autocommit, True
    for statement in settings:
        connection.execute(statement.encode())
    connection.autocommit = before


@functools.cache
def _has_figures_only(table: Table) -> bool:
    return all(isinstance(column.type, sa.Integer) for column in table.columns)


@functools.cache
def _statement(table: Table) -> bytes:
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    form = "(FORMAT text, DELIMITER ',', NULL 'null')" if _has_figures_only(table) else ""
    return f"COPY {table.name} ({names}) FROM STDIN {form}".encode()


def _write_figures(copy: psycopg.Copy, prefix: tuple[int, ...], rows: Sequence[Sequence[Any]]) -> None:
    # JSON's [[1,null],[2,3]] is COPY's 1,null⏎2,3⏎ but for the brackets, and has the value of what is an enum.
    text = msgspec.json.encode(rows)[2:-2]
    if rows:
        head = b"".join(b"%d," % key for key in prefix)
        copy.write(b"%b%b\n" % (head, text.replace(b"],[", b"\n" + head)))


def _write_rows(copy: psycopg.Copy, prefix: tuple[int, ...], rows: Sequence[Sequence[Any]]) -> None:
    for row in rows:
        copy.write_row((*prefix, *row))


def _original(error: Exception) -> BaseException:
    return getattr(error, "orig", None) or error


def _reason(error: Exception) -> str:
    """What PostgreSQL or its driver said, in one line; neither ever says a password."""
    original = _original(error)
    if isinstance(original, psycopg.errors.QueryCanceled):
        return "the query took longer than 2 s"
    said = original.diag.message_primary if isinstance(original, psycopg.Error) else None
    lines = (said or str(original)).strip().splitlines()
    return lines[0].strip() if lines else type(original).__name__
