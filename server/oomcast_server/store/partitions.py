"""Samples on PostgreSQL: one partition for each week of their arrival, so that old ones go without a DELETE.

The week is of the database's own clock (a client's may be anywhere), counted from 1970. A partition is made apart and
then attached, which lets writers and readers go on; dropping one waits for the queries that are running.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy import Connection

from oomcast_server.store import extensions

__all__ = ["ADVISORY_LOCK", "WEEK_NS", "drop_before", "drop_empty", "make_ahead", "week_of", "weeks"]

ADVISORY_LOCK = int.from_bytes(b"oomcast", "big")
"""What is held while tables or partitions are made, so that servers that start together wait for each other."""

WEEK_NS = 604_800 * 1_000_000_000
_AHEAD = 4  # weeks that the janitor may be away before rows find no place
_NOW = "SELECT floor(extract(epoch FROM now()) / 604800)::int"
_CHILDREN = (
    "SELECT child.relname, pg_get_expr(child.relpartbound, child.oid) FROM pg_inherits "
    "JOIN pg_class AS child ON child.oid = inhrelid WHERE inhparent = to_regclass(:parent)"
)
_BOUNDS = re.compile(r"FOR VALUES FROM \((\d+)\) TO \((\d+)\)")


def week_of(ns: int) -> int:
    """The week since 1970 in which `ns` is."""
    return ns // WEEK_NS


def weeks(connection: Connection, table: str = "samples") -> list[int]:
    """Those that `table` has a partition for, the oldest first; none on SQLite, nor where TimescaleDB keeps them."""
    if not _has_own(connection):
        return []
    return sorted(first for _, first, _ in _partitions(connection, table))


def make_ahead(connection: Connection, now_ns: int) -> list[str]:
    """Make what is missing of this week's and the next weeks' partitions: the names of what was made.

    In the caller's transaction. Safe with any number of servers, and does nothing on an engine without partitions.
    """
    if not _has_own(connection):
        return []
    here = connection.scalar(sa.text(_NOW))
    wanted = {week for start in (here, week_of(now_ns)) for week in range(start, start + _AHEAD + 1)}
    if all(_missing(connection, table, wanted) == [] for table in extensions.WEEKLY):
        return []
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(ADVISORY_LOCK)))
    return [
        _make(connection, table, week)
        for table in extensions.WEEKLY
        for week in _missing(connection, table, wanted)  # looked at anew: another server may have been first
    ]


def drop_before(connection: Connection, week: int) -> list[str]:
    """Drop the partitions that hold nothing of `week` or later, with all their rows: the names of what was dropped.

    In the caller's transaction, which should do nothing else: it keeps everyone else from these tables.
    """
    if connection.dialect.name != "postgresql":
        return []
    if extensions.TIMESCALE in extensions.installed(connection):
        return [name for table in extensions.WEEKLY for name in extensions.drop_chunks(connection, table, week)]
    return [_drop(connection, name) for name in _before(connection, week)]


def drop_empty(connection: Connection, week: int) -> list[str]:
    """Drop those partitions before `week` whose rows have all been deleted: the names of what was dropped.

    In the caller's transaction, as `drop_before`. A chart looks into each partition there is, so empty ones cost it.
    """
    if not _has_own(connection):
        return []
    empty = [
        name
        for name in _before(connection, week)
        if not connection.scalar(sa.text(f'SELECT EXISTS (SELECT FROM "{name}")'))  # noqa: S608
    ]
    return [_drop(connection, name) for name in empty]


def _before(connection: Connection, week: int) -> list[str]:
    found = [partition for table in extensions.WEEKLY for partition in _partitions(connection, table)]
    return [name for name, _, following in found if following <= week]


def _drop(connection: Connection, name: str) -> str:
    connection.execute(sa.text(f'DROP TABLE "{name}"'))
    return name


def _has_own(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql" and extensions.TIMESCALE not in extensions.installed(connection)


def _missing(connection: Connection, table: str, wanted: Iterable[int]) -> list[int]:
    there = [(first, following) for _, first, following in _partitions(connection, table)]
    return [week for week in sorted(wanted) if not any(first <= week < following for first, following in there)]


def _partitions(connection: Connection, table: str) -> list[tuple[str, int, int]]:
    """Name, first week and the week after the last."""
    found = []
    for name, bound in connection.execute(sa.text(_CHILDREN), {"parent": table}):
        if bounds := _BOUNDS.fullmatch(bound):
            found.append((name, int(bounds[1]), int(bounds[2])))
    return sorted(found, key=lambda partition: partition[1])


def _make(connection: Connection, table: str, week: int) -> str:
    name = f"{table}_w{week}"
    connection.execute(sa.text(f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL)"))
    connection.execute(sa.text(f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({week}) TO ({week + 1})"))
    return name
