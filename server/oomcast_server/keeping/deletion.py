"""Removing runs: a run is gone at once, its rows in small steps behind."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Table

from oomcast_server.rest.problems import Refused
from oomcast_server.store import schema
from oomcast_server.store.base import Store
from oomcast_server.store.schema import State

__all__ = ["delete_run", "find_run", "next_purge", "next_run_pk", "purge"]

_LIVES_NS = 60_000_000_000  # a live run that was heard of since is not deleted under its agent
_NO_SOURCE = 0
_RANGES = {"seq", "first_seq", "bucket"}


def find_run(store: Store, run_id: str) -> tuple[int, list[int]] | None:
    """The pk of a run and of its sources; None where there is none.

    Raises:
        StoreUnavailable: the database can't be read.
    """
    runs, sources = schema.runs, schema.sources
    with store.read() as connection:
        pk = connection.execute(sa.select(runs.c.pk).where(runs.c.id == run_id)).scalar()
        if pk is None:
            return None
        of_run = sa.select(sources.c.pk).where(sources.c.run_pk == pk)
        return int(pk), list(connection.execute(of_run).scalars())


def delete_run(connection: Connection, run_pk: int, now_ns: int) -> bool:
    """Take a run away, with its sources, terms and alerts, and note its rows to be removed; whether it was there.

    Raises:
        Refused: 409, it lives.
    """
    runs, sources, purges = schema.runs, schema.sources, schema.purges
    query = sa.select(runs.c.id, runs.c.state, runs.c.last_ns).where(runs.c.pk == run_pk)
    row = connection.execute(query).one_or_none()
    if row is None:
        return False
    if row.state == State.LIVE and now_ns - row.last_ns < _LIVES_NS:
        raise Refused(409, f"run {row.id} lives: end the training, or wait until a minute has passed without samples")
    its = sa.select(sources.c.run_pk, sources.c.pk).where(sources.c.run_pk == run_pk)
    connection.execute(sa.insert(purges).from_select(["run_pk", "source_pk"], its))
    _remember(connection, run_pk)
    for table in schema.OF_RUNS:
        connection.execute(sa.delete(table).where(table.c.run_pk == run_pk))
    connection.execute(sa.delete(runs).where(runs.c.pk == run_pk))
    return True


def _remember(connection: Connection, run_pk: int) -> None:
    """Keep the largest pk that was deleted, as a source 0 to be purged: SQLite would give it to the next run."""
    purges = schema.purges
    largest = sa.select(sa.func.max(purges.c.run_pk)).where(purges.c.source_pk == _NO_SOURCE)
    before = connection.execute(largest).scalar() or 0
    if before < run_pk:
        connection.execute(sa.delete(purges).where(purges.c.source_pk == _NO_SOURCE))
        connection.execute(sa.insert(purges).values(run_pk=run_pk, source_pk=_NO_SOURCE))


def next_run_pk(connection: Connection) -> int:
    """A pk for a new run that no run has or had: there may still be rows of it, and answers that someone keeps."""
    largest = (sa.select(sa.func.max(column)) for column in (schema.runs.c.pk, schema.purges.c.run_pk))
    return 1 + max(connection.execute(query).scalar() or 0 for query in largest)


def next_purge(store: Store) -> tuple[int, int] | None:
    """A source of a deleted run that still has rows: its run's pk and its own.

    Raises:
        StoreUnavailable: the database can't be read.
    """
    purges = schema.purges
    query = sa.select(purges.c.run_pk, purges.c.source_pk).where(purges.c.source_pk != _NO_SOURCE).limit(1)
    with store.read() as connection:
        row = connection.execute(query).one_or_none()
    return (row[0], row[1]) if row is not None else None


def purge(connection: Connection, place: tuple[int, int], most_rows: int) -> int | None:
    """Remove some rows of a deleted source: how many; None when that was all, and it is forgotten."""
    for table in schema.ROWS:
        rows = _purge_table(connection, table, place, most_rows)
        if rows:
            return rows
    purges = schema.purges
    connection.execute(sa.delete(purges).where(*_here(purges, place)))
    return None


def _purge_table(connection: Connection, table: Table, place: tuple[int, int], most_rows: int) -> int:
    """Remove a stretch of the table's own order: some rows that share all of the key but its last part."""
    keys = [column for column in table.primary_key.columns if column.name not in ("run_pk", "source_pk", "week")]
    at = next((at for at, column in enumerate(keys) if column.name in _RANGES), None)
    if at is None:
        return connection.execute(sa.delete(table).where(*_here(table, place))).rowcount
    here, ahead, along = [*_here(table, place)], keys[:at], keys[at]
    if ahead:
        first = connection.execute(sa.select(*ahead).where(*here).order_by(*ahead).limit(1)).one_or_none()
        if first is None:
            return 0
        here += [column == value for column, value in zip(ahead, first, strict=True)]
    query = sa.select(along).where(*here).order_by(along).offset(most_rows - 1).limit(1)
    last = connection.execute(query).scalar()
    return connection.execute(sa.delete(table).where(*here, *([along <= last] if last is not None else []))).rowcount


def _here(table: Table, place: tuple[int, int]) -> tuple[Any, Any]:
    return table.c.run_pk == place[0], table.c.source_pk == place[1]
