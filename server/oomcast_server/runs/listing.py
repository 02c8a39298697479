"""The list of runs, filtered and page by page.

Live runs come first, then the others; within each, the newest first. A page begins behind the last run of the one
before (a key, not an offset), so runs that are added meanwhile shift nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Select

from oomcast_server.runs.cursors import decode, encode
from oomcast_server.runs.summary import SILENT_AFTER_NS
from oomcast_server.runs.terms import AFTER_ALL, words_of
from oomcast_server.store import schema
from oomcast_server.store.base import Store
from oomcast_server.store.schema import State, Term

__all__ = ["MOST_SEARCHED", "STATES", "Filters", "Page", "page_of", "statements"]

STATES: dict[str, State] = {"silent": State.LIVE, **{state.name.lower(): state for state in State}}
"""The state in words → as stored; which live runs are silent is known at reading."""

MOST_SEARCHED = 8
"""Words of a search that count."""

# A term of so few runs is followed from the index to the runs; with a commoner one, runs are looked at from the newest
# on until the page is full, which then is soon.
_FEW = 2_000

_CURSOR = "r"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filters:
    """What a run must be to be listed; None is anything."""

    project: str | None = None
    state: str | None = None
    host: str | None = None
    tag: str | None = None
    text: str | None = None

    @property
    def terms(self) -> list[ColumnElement[bool]]:
        """The condition on `terms` for each tag and word that the run must have."""
        columns = schema.terms.c
        tags = [sa.and_(columns.kind == int(Term.TAG), columns.term == self.tag)] if self.tag is not None else []
        words = list(words_of([self.text or ""]))[:MOST_SEARCHED]
        return tags + [
            sa.and_(columns.kind == int(Term.WORD), columns.term >= word, columns.term < word + AFTER_ALL)
            for word in words
        ]


@dataclasses.dataclass(frozen=True)
class Page:
    """Keys of runs in the list's order, and the cursor of the next page (None: that was all)."""

    pks: Sequence[int]
    next: str | None


def page_of(store: Store, filters: Filters, limit: int, cursor: str | None, now_ns: int) -> Page:
    """At most `limit` runs behind `cursor`.

    Raises:
        BadCursor: not a cursor of this list.
        StoreUnavailable: the database can't be read.
    """
    after = decode(_CURSOR, cursor, 3) if cursor is not None else None
    rows: list[tuple[int, int, int]] = []
    with store.read() as connection:
        few = _fewest(connection, filters.terms)
        for group, query in statements(filters, now_ns, few):
            if after is not None and group < after[0]:
                continue
            behind = after[1:] if after is not None and group == after[0] else None
            found = connection.execute(_behind(query, behind).limit(limit + 1 - len(rows)))
            rows += [(group, row.created_ns, row.pk) for row in found]
            if len(rows) > limit:
                break
    more = len(rows) > limit
    return Page([row[2] for row in rows[:limit]], encode(_CURSOR, *rows[limit - 1]) if more else None)


def _behind(query: Select[Any], position: Sequence[int] | None) -> Select[Any]:
    if position is None:
        return query
    created_ns, pk = schema.runs.c.created_ns, schema.runs.c.pk
    return query.where(sa.tuple_(created_ns, pk) < sa.tuple_(*(sa.literal(value) for value in position)))


def _fewest(connection: Connection, conditions: Sequence[ColumnElement[bool]]) -> int | None:
    """Which of the conditions fewest rows meet, if they are few; each is counted no further than that matters."""
    counts = []
    for at, condition in enumerate(conditions):
        some = sa.select(sa.literal(1)).select_from(schema.terms).where(condition).limit(_FEW + 1).subquery()
        counts.append((connection.execute(sa.select(sa.func.count()).select_from(some)).scalar_one(), at))
    count, at = min(counts, default=(_FEW + 1, 0))
    return at if count <= _FEW else None


def statements(filters: Filters, now_ns: int, few: int | None) -> Iterator[tuple[int, Select[Any]]]:
    """What to read, in order: for each group of the list (0 live, 1 the rest), the keys of its runs, newest first.

    `few`: which of `filters.terms` is rare enough to begin with.
    """
    runs = schema.runs
    conditions = filters.terms
    wanted = [_has_term(at == few, condition) for at, condition in enumerate(conditions)]
    query = sa.select(runs.c.created_ns, runs.c.pk).order_by(runs.c.created_ns.desc(), runs.c.pk.desc())
    state = STATES[filters.state] if filters.state is not None else None
    if state in (None, State.LIVE):
        # Of one project there are many runs, but live ones are few: their index is to be the one that is used.
        texts = [column + "" == value for column, value in _exact(filters)]
        silence = _silence(filters.state, now_ns)
        yield 0, query.where(runs.c.state == int(State.LIVE), *texts, *silence, *wanted)
    if state is None:
        texts = [column == value for column, value in _exact(filters)]
        yield 1, query.where(runs.c.state + 0 != int(State.LIVE), *texts, *wanted)
    elif state != State.LIVE:
        texts = [column == value for column, value in _exact(filters)]
        yield 1, query.where(runs.c.state == int(state), *texts, *wanted)


def _exact(filters: Filters) -> list[tuple[ColumnElement[str], str]]:
    columns = schema.runs.c
    pairs = [(columns.project, filters.project), (columns.host, filters.host)]
    return [(column, value) for column, value in pairs if value is not None]


def _silence(state: str | None, now_ns: int) -> list[ColumnElement[bool]]:
    last_ns, at_ns = schema.runs.c.last_ns, now_ns - SILENT_AFTER_NS
    return {"live": [last_ns > at_ns], "silent": [last_ns <= at_ns]}.get(state or "", [])


def _has_term(first: bool, condition: ColumnElement[bool]) -> ColumnElement[bool]:
    runs, terms = schema.runs, schema.terms
    if first:
        return runs.c.pk.in_(sa.select(terms.c.run_pk).where(condition))
    # Not EXISTS: PostgreSQL would join both tables whole where it takes the term for a rare one.
    one = sa.select(sa.literal(1)).select_from(terms).where(terms.c.run_pk == runs.c.pk, condition)
    return one.correlate(runs).limit(1).scalar_subquery().is_not(None)
