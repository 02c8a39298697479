"""What a user may change of a run: its name and its tags."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from oomcast_server.rest.problems import Refused
from oomcast_server.rest.shapes import RunChange
from oomcast_server.runs.indexing import index_run
from oomcast_server.store import schema
from oomcast_server.store.base import Store
from oomcast_server.text import clean

__all__ = ["change_run", "values_of"]


def values_of(change: RunChange) -> dict[str, Any]:
    """The columns of `runs` that change, cleaned as at ingest.

    Raises:
        Refused: a text of which nothing is left.
    """
    values: dict[str, Any] = {}
    if change.name is not msgspec.UNSET:
        values["name"] = _label("name", change.name)
    if change.tags is not msgspec.UNSET:
        tags = dict.fromkeys(_label("tags", tag) for tag in change.tags)
        values["tags"] = msgspec.json.encode(list(tags)).decode()
    return values


def _label(field: str, text: str) -> str:
    cleaned = clean(text).strip()
    if not cleaned:
        raise Refused(422, f"{field}: expected letters, not only spaces or control characters", field)
    return cleaned


def change_run(store: Store, connection: Connection, run_pk: int, values: dict[str, Any]) -> bool:
    """Change the run's row, and find it by its new words; false if it is gone. For `Pipeline.change`."""
    store.lock_runs(connection, [run_pk])
    runs = schema.runs
    if not connection.execute(sa.update(runs).where(runs.c.pk == run_pk).values(values)).rowcount:
        return False
    index_run(connection, run_pk)
    return True
