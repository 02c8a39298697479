"""The projects, with their runs counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from oomcast_server.rest.shapes import ProjectJson, ProjectList, Retention, milliseconds
from oomcast_server.store import schema
from oomcast_server.store.base import Store
from oomcast_server.store.schema import State

__all__ = ["project_list"]


def project_list(store: Store) -> ProjectList:
    """Every project that has runs, or settings of its own; the one with the newest activity first.

    Raises:
        StoreUnavailable: the database can't be read.
    """
    runs, projects = schema.runs.c, schema.projects.c
    live = sa.func.count(sa.case((runs.state == int(State.LIVE), 1)))
    counts = sa.select(runs.project, sa.func.count(), live, sa.func.max(runs.last_ns)).group_by(runs.project)
    settings = sa.select(projects.name, projects.full_days, projects.rollup_days)
    with store.read() as connection:
        counted = {row[0]: row[1:] for row in connection.execute(counts)}
        kept = {row[0]: row[1:] for row in connection.execute(settings)}
    found = [_project(name, counted.get(name, (0, 0, None)), kept.get(name, (None, None))) for name in counted | kept]
    return ProjectList(projects=sorted(found, key=lambda project: (-(project.last_ms or 0), project.name)))


def _project(name: str, counts: Sequence[Any], days: Sequence[Any]) -> ProjectJson:
    runs, live, last_ns = counts
    return ProjectJson(
        name=name,
        runs=runs,
        live=live,
        last_ms=milliseconds(last_ns) if last_ns is not None else None,
        retention=Retention(full_days=days[0], rollup_days=days[1]),
    )
