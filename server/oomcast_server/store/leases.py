"""Who may do what only one server should: a lease runs out by itself, so nobody has to notice that its holder died.

The times are of the caller's clock. Servers whose clocks are apart by more than `for_ns` may both hold a lease for a
while; what is done under one must therefore be harmless twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from oomcast_server.store.schema import leases

__all__ = ["acquire", "release"]

_AT_ONCE = 300  # names in one statement: three values each, and any SQLite takes 999


def acquire(connection: Connection, names: Collection[str], holder: str, now_ns: int, for_ns: int) -> set[str]:
    """Take or renew the leases of `names` until `now_ns + for_ns`: those that `holder` has now.

    A lease that another one holds is left to it until it has run out. Takes two statements for each 300 names.
    """
    held: set[str] = set()
    for chunk in _chunks(sorted(set(names))):  # in one order, or two servers would wait for each other
        _take(connection, chunk, holder, now_ns, now_ns + for_ns)
        mine = sa.select(leases.c.name).where(leases.c.name.in_(chunk), leases.c.holder == holder)
        held.update(connection.execute(mine).scalars())
    return held


def _chunks(names: list[str]) -> Iterator[list[str]]:
    for begin in range(0, len(names), _AT_ONCE):
        yield names[begin : begin + _AT_ONCE]


def _take(connection: Connection, names: list[str], holder: str, now_ns: int, until_ns: int) -> None:
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    rows = [{"name": name, "holder": holder, "until_ns": until_ns} for name in names]
    given = insert(leases).values(rows)
    free = (leases.c.holder == holder) | (leases.c.until_ns <= now_ns)
    new = {"holder": given.excluded.holder, "until_ns": given.excluded.until_ns}
    connection.execute(given.on_conflict_do_update(index_elements=[leases.c.name], set_=new, where=free))


def release(connection: Connection, holder: str, names: Collection[str] | None = None) -> None:
    """Give back `holder`'s leases of `names`, or all of them."""
    mine = leases.c.holder == holder
    if names is None:
        connection.execute(sa.delete(leases).where(mine))
        return
    for chunk in _chunks(sorted(set(names))):
        connection.execute(sa.delete(leases).where(mine, leases.c.name.in_(chunk)))
