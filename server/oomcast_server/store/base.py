"""What the server needs of a database engine, whichever it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias

from sqlalchemy import Connection, Table

__all__ = ["Rows", "Store"]

Rows: TypeAlias = tuple[tuple[int, ...], Sequence[Sequence[Any]]]
"""Values of a table's first columns, the same for all of these rows, and the rest of each row in the table's order."""


class Store(Protocol):
    """An open database, at this code's schema. Only one thread writes; any thread reads."""

    engine: str
    """"sqlite" or "postgresql"."""

    shared: bool
    """Whether other servers may write to it, too: then what is known of a run holds only under its lock."""

    def write(self) -> AbstractContextManager[Connection]:
        """A transaction that is on the disk when the block ends, or not at all.

        Raises:
            StoreUnavailable: nothing of it was stored.
        """

    def read(self) -> AbstractContextManager[Connection]:
        """A connection to read with; each statement is a transaction of its own, of 2 s at most.

        Raises:
            StoreUnavailable: a statement failed or took too long.
        """

    def lock_runs(self, connection: Connection, run_pks: Sequence[int]) -> dict[int, int]:
        """Keep other servers from changing these runs until the transaction ends: the version of each that exists.

        Where no other server can be, nothing is locked and nothing read: the answer is empty.
        """

    def insert(self, connection: Connection, table: Table, rows: Iterable[Rows]) -> None:
        """Store rows, none of which is there already, by the engine's fastest way."""

    def size_bytes(self) -> int:
        """What the database takes on disk.

        Raises:
            StoreUnavailable: it can't be told.
        """

    def close(self) -> None:
        """Close every connection; may be called again."""
