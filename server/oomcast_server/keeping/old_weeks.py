"""Partitions of PostgreSQL whose samples retention has removed: only a dropped table gives its room to the system.

What is left in them is moved to this week first: the ends of sources whose last bucket was never finished.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from oomcast_server.keeping.retention import Policy
from oomcast_server.store import partitions, schema

__all__ = ["droppable", "move_leftovers"]

_DAY_NS = 86_400_000_000_000
_MOST_LEFT = 100_000  # more means that something is still kept there
_TABLES = ("gpu_samples", "samples")


def droppable(connection: Connection, default: Policy, now_ns: int) -> int | None:
    """The week before which no project keeps samples; None where there is no such partition, or much is left there.

    One more week is waited for, so that the rows that were removed are also vacuumed, and what is left is soon found.
    """
    table = schema.projects
    own = connection.execute(sa.select(table.c.full_days).where(table.c.full_days.is_not(None)).distinct()).scalars()
    days = [default.full_days, *own]
    weeks = partitions.weeks(connection)
    if 0 in days or not weeks:
        return None
    week = partitions.week_of(now_ns - (max(days) + 1) * _DAY_NS) - 1
    if weeks[0] >= week or any(_left(connection, name, week) > _MOST_LEFT for name in _TABLES):
        return None
    return week


def _left(connection: Connection, table: str, week: int) -> int:
    query = f"SELECT count(*) FROM (SELECT FROM {table} WHERE week < :week LIMIT {_MOST_LEFT + 1}) AS old"  # noqa: S608
    return int(connection.execute(sa.text(query), {"week": week}).scalar_one())


def move_leftovers(connection: Connection, *, before: int, to: int, most_rows: int) -> int | None:
    """Move some rows of weeks before `before` to the week `to`: how many; None when there were none."""
    for table in _TABLES:
        key = "run_pk, source_pk, seq, device" if table == "gpu_samples" else "run_pk, source_pk, seq"
        old = f"SELECT {key} FROM {table} WHERE week < :before LIMIT :most"  # noqa: S608
        query = f"UPDATE {table} SET week = :to WHERE week < :before AND ({key}) IN ({old})"  # noqa: S608
        rows = connection.execute(sa.text(query), {"to": to, "before": before, "most": most_rows}).rowcount
        if rows:
            return rows
    return None
