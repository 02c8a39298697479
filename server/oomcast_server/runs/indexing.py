"""Keeps the search index: the rows of `terms`, made anew from a run and its sources."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from oomcast_server.runs.terms import MOST_WORDS, terms_of
from oomcast_server.store import schema
from oomcast_server.store.upsert import insert_if_new

__all__ = ["index_run", "unindexed"]


def unindexed(connection: Connection, after_pk: int, limit: int) -> Sequence[int]:
    """The next runs behind `after_pk` that can't be searched yet: a database of before schema 0003 has no terms."""
    runs, terms = schema.runs, schema.terms
    known = sa.exists().where(terms.c.run_pk == runs.c.pk)
    query = sa.select(runs.c.pk).where(runs.c.pk > after_pk, ~known).order_by(runs.c.pk).limit(limit)
    return connection.execute(query).scalars().all()


def index_run(connection: Connection, run_pk: int) -> None:
    """Make the run's terms anew; the caller holds the run's lock."""
    runs, terms = schema.runs, schema.terms
    query = sa.select(runs.c.name, runs.c.id, runs.c.project, runs.c.tags).where(runs.c.pk == run_pk)
    row = connection.execute(query).one_or_none()
    if row is None:
        return
    name, run_id, project, tags = row
    hosts, commands = _texts(connection, run_pk, "host"), _texts(connection, run_pk, "command")
    found = terms_of(name, run_id, project, msgspec.json.decode(tags, type=list[str]), hosts, commands)
    connection.execute(sa.delete(terms).where(terms.c.run_pk == run_pk))
    rows = [{"kind": int(kind), "term": term, "run_pk": run_pk} for kind, term in sorted(found)]
    insert_if_new(connection, terms, rows)  # another replica may be at the same run


def _texts(connection: Connection, run_pk: int, name: str) -> Sequence[str]:
    """What the first sources say there; as many as can bring words."""
    table = schema.sources
    column = table.c[name]
    query = sa.select(column).where(table.c.run_pk == run_pk, column.is_not(None)).order_by(table.c.pk)
    return connection.execute(query.limit(MOST_WORDS)).scalars().all()
