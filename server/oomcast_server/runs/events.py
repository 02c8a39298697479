"""The events of a run, page by page."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Select

from oomcast.sample import EVENT_COLUMNS, EventKind
from oomcast_server.charts.tables import event_json
from oomcast_server.rest.shapes import EventPage
from oomcast_server.runs.cursors import decode, encode
from oomcast_server.store import schema
from oomcast_server.store.base import Store

__all__ = ["EventFilters", "event_page"]

_CURSOR = "e"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EventFilters:
    """Which events of a run; None is any."""

    source: str | None = None
    kind: EventKind | None = None
    after_ns: int | None = None


def event_page(store: Store, run_id: str, filters: EventFilters, limit: int, cursor: str | None) -> EventPage | None:
    """At most `limit` events behind `cursor`, in order of source and seq; None where there is no such run or source.

    Raises:
        BadCursor: not a cursor of this list.
        StoreUnavailable: the database can't be read.
    """
    after = decode(_CURSOR, cursor, 2) if cursor is not None else None
    runs, sources = schema.runs, schema.sources
    with store.read() as connection:
        run_pk = connection.execute(sa.select(runs.c.pk).where(runs.c.id == run_id)).scalar()
        pairs = connection.execute(sa.select(sources.c.pk, sources.c.id).where(sources.c.run_pk == run_pk))
        ids = {row[0]: row[1] for row in pairs}
        pks = [pk for pk, source_id in ids.items() if filters.source in (None, source_id)]
        if run_pk is None or (filters.source is not None and not pks):
            return None
        query = _events(run_pk, filters, pks, after).limit(limit + 1)
        rows = [row for row in connection.execute(query).all() if row[0] in ids]
    shown = rows[:limit]
    events = [event_json(ids[row[0]], row[1:], msgspec.json.decode(row[-1])) for row in shown]
    return EventPage(events=events, next=encode(_CURSOR, *shown[-1][:2]) if len(rows) > limit else None)


def _events(run_pk: int, filters: EventFilters, pks: list[int], after: tuple[int, ...] | None) -> Select[Any]:
    events = schema.events.c
    query = sa.select(events.source_pk, *(events[name] for name in EVENT_COLUMNS)).where(events.run_pk == run_pk)
    if filters.source is not None:
        query = query.where(events.source_pk == pks[0])
    if filters.kind is not None:
        query = query.where(events.kind == int(filters.kind))
    if filters.after_ns is not None:
        query = query.where(events.wall_ns > filters.after_ns)
    if after is not None:
        query = query.where(sa.tuple_(events.source_pk, events.seq) > sa.tuple_(*map(sa.literal, after)))
    return query.order_by(events.source_pk, events.seq)
