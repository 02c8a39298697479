"""Deliveries that are due, each handed to one of any number of senders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from oomcast_server.store.schema import deliveries

__all__ = ["WAITING", "claim_deliveries", "holds"]

WAITING = "waiting"
"""The state of a delivery that is still to be sent."""


def claim_deliveries(connection: Connection, holder: str, now_ns: int, for_ns: int, limit: int) -> Sequence[Row[Any]]:
    """Claim at most `limit` deliveries that are due, the longest due first: their rows, as they were claimed.

    The claim is its `due_ns`, moved ahead to `now_ns + for_ns`: until then no other sender gets it, and after that any
    one does, so that a sender may die. `for_ns` must be longer than an attempt can take. Before an outcome is written,
    ask `holds`.
    """
    columns = deliveries.c
    due = (
        sa.select(columns.pk)
        .where(columns.state == WAITING, columns.due_ns <= now_ns)
        .order_by(columns.due_ns, columns.pk)
        .limit(limit)
        .with_for_update(skip_locked=True)  # SQLite has one writer, and is told nothing of it
    )
    pks = list(connection.execute(due).scalars())
    if not pks:
        return []
    mine = {"claimed_by": holder, "due_ns": now_ns + for_ns}
    connection.execute(sa.update(deliveries).where(columns.pk.in_(pks)).values(mine))
    claimed = {row.pk: row for row in connection.execute(sa.select(deliveries).where(columns.pk.in_(pks)))}
    return [claimed[pk] for pk in pks]


def holds(connection: Connection, claimed: Row[Any]) -> bool:
    """Whether a claim still stands, and keep it so until the transaction ends; another may have taken what ran out."""
    columns = deliveries.c
    same = (columns.pk == claimed.pk, columns.claimed_by == claimed.claimed_by, columns.due_ns == claimed.due_ns)
    standing = sa.select(columns.pk).where(columns.state == WAITING, *same).with_for_update()
    return connection.scalar(standing) is not None
