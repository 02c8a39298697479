"""A SQLite database: one connection that writes (and does all checkpoints), a few that only read."""

from __future__ import annotations

import contextlib
import functools
import itertools
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, Table, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool, StaticPool

from oomcast.places import make_private
from oomcast.sample import SAMPLE_COLUMNS
from oomcast_server.errors import StoreUnavailable
from oomcast_server.store import migrate
from oomcast_server.store.base import Rows
from oomcast_server.store.lock import FileLock
from oomcast_server.store.schema import samples

__all__ = ["SqliteStore"]

_BUSY_MS = 5_000
_READ_LIMIT_S = 2.0  # a longer read transaction would keep the WAL from shrinking
_STEPS_PER_CHECK = 50_000  # virtual-machine steps between looks at the clock: about 1 ms
_READERS = 4
_MOST_BOUND = 999  # values in one statement that every build of SQLite takes
# The driver looks for an adapter of each value that isn't exactly an int: these, by position in the row, become ints.
_ENUMS = {samples: tuple(SAMPLE_COLUMNS.index(name) for name in ("kind", "phase"))}
_BUGS = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError)


def _connect(path: Path, *pragmas: str) -> sqlite3.Connection:
    # Autocommit: transactions are begun by our own word, never by the driver's guess.
    connection = sqlite3.connect(path, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
    for pragma in (f"busy_timeout = {_BUSY_MS}", "foreign_keys = ON", *pragmas):
        connection.execute(f"PRAGMA {pragma}")
    return connection


class SqliteStore:
    """The embedded engine. Open it once per process and file; `write` belongs to one thread."""

    engine = "sqlite"
    shared = False

    def __init__(self, path: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Lock, check, open and migrate the database at `path`; it is made where there is none.

        Raises:
            StoreRefused: not ours to open; it was not touched.
            StoreUnavailable: it can't be written (full disk, I/O error).
            SettingsError: its folder can't be made or written.
        """
        make_private(path.parent)
        self._monotonic = monotonic
        self._path = path
        self._lock = FileLock(path)
        try:
            migrate.check(path)
            self._writer = self._open_writer()
            with self.write() as connection:
                migrate.upgrade(connection)
        except BaseException:
            self._lock.release()
            raise
        self._readers = self._open_readers()

    def _open_writer(self) -> Engine:
        self._path.touch(mode=0o600)
        # The cache (KiB) holds what a large group changes, and a page that many commits change is brought home once for
        # all of them: measured, 6 % more rows a second than with SQLite's own 2 MiB and 1 000 pages.
        pragmas: tuple[str, ...] = ("journal_mode = WAL", "synchronous = FULL", "journal_size_limit = 67108864")
        pragmas += ("cache_size = -16384", "wal_autocheckpoint = 4000")
        engine = sqlalchemy.create_engine(
            "sqlite://",
            creator=lambda: _connect(self._path, *pragmas),
            poolclass=StaticPool,
            hide_parameters=True,  # a receiver's secret must not stand in a logged error
        )
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        return engine

    def _open_readers(self) -> Engine:
        engine = sqlalchemy.create_engine(
            "sqlite://",
            creator=self._connect_reader,
            poolclass=QueuePool,
            pool_size=_READERS,
            max_overflow=0,
            hide_parameters=True,
        )
        event.listen(engine, "before_cursor_execute", self._restart_clock)
        return engine

    def _connect_reader(self) -> sqlite3.Connection:
        return _connect(self._path, "query_only = ON")

    def _restart_clock(self, connection: Connection, *_: Any) -> None:
        until = self._monotonic() + _READ_LIMIT_S
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.set_progress_handler(lambda: self._monotonic() > until, _STEPS_PER_CHECK)

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is on the disk when the block ends, or not at all.

        Raises:
            StoreUnavailable: nothing of it was stored.
        """
        try:
            with self._writer.begin() as connection:
                yield connection
        except (DBAPIError, sqlite3.Error) as error:
            if isinstance(getattr(error, "orig", error), _BUGS):
                raise
            raise StoreUnavailable(f"can't write to {self._path}: {_reason(error)}") from error

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection to read with; each statement is a transaction of its own, of 2 s at most.

        Raises:
            StoreUnavailable: a statement failed or took too long.
        """
        try:
            with self._readers.connect() as connection:
                yield connection
        except (DBAPIError, sqlite3.Error, sqlalchemy.exc.TimeoutError) as error:
            raise StoreUnavailable(f"can't read {self._path}: {_reason(error)}") from error

    def lock_runs(self, connection: Connection, run_pks: Sequence[int]) -> dict[int, int]:
        """No other server can be: the file lock keeps them out."""
        return {}

    def insert(self, connection: Connection, table: Table, rows: Iterable[Rows]) -> None:
        """Straight through the driver, many rows to a statement: measured, half the time of one row to a statement.

        The driver gives the interpreter away for each statement and has to get it back from the event loop's thread.
        """
        driver = connection.connection.driver_connection
        assert driver is not None
        for prefix, given in rows:
            width = len(table.columns) - len(prefix)
            most = max(1, (_MOST_BOUND - len(prefix)) // width)
            for begin in range(0, len(given), most):
                chunk = given[begin : begin + most]
                values: list[Any] = list(itertools.chain.from_iterable(chunk))
                for at in _ENUMS.get(table, ()):
                    values[at::width] = map(int, values[at::width])
                driver.execute(_statement(table, len(prefix), len(chunk)), [*prefix, *values])

    def size_bytes(self) -> int:
        """The file, and the WAL beside it."""
        try:
            beside = self._path.with_name(self._path.name + "-wal")
            return self._path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)
        except OSError as error:
            raise StoreUnavailable(f"can't look at {self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Close every connection; the writer last, since the last one does the final checkpoint."""
        self._readers.dispose()
        self._writer.dispose()
        self._lock.release()


@functools.lru_cache(maxsize=256)
def _statement(table: Table, prefix: int, rows: int) -> str:
    # Columns by name, so that no migration has to keep the table's own order.
    names = ", ".join(column.name for column in table.columns)
    row = f"({','.join('?' * (len(table.columns) - prefix))})"
    given, keys = ",".join([row] * rows), ", ".join("?" * prefix)
    return f"INSERT INTO {table.name} ({names}) SELECT {keys}, * FROM (VALUES {given})"  # noqa: S608


def _reason(error: Exception) -> str:
    original = getattr(error, "orig", None) or error
    return "the query took longer than 2 s" if str(original) == "interrupted" else str(original)
