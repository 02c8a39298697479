"""Whose the rows of a flat table are (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from oomcast.traces.entries import Head
from oomcast.traces.format import TraceError
from oomcast.wire import RunInfo, SourceInfo

__all__ = ["head_of", "run_of"]


def run_of(origin: Mapping[str, Any]) -> RunInfo:
    """The run that a row says it is of.

    Raises:
        TraceError: not an id, or too long a name.
    """
    run = origin["run"]
    given = {"id": run, "project": origin["project"] or "default", "name": origin["name"] or run}
    info: RunInfo = _converted(given, RunInfo, {"id": "run"})
    return info


def head_of(origin: Mapping[str, Any], started_ns: int) -> Head:
    """The source that a row says it is of; it began no later than its first row.

    Raises:
        TraceError: not an id, or too long a name.
    """
    given = {
        "id": origin["source"],
        "host": origin["host"] or "unknown",
        "pid": 0,
        "started_ns": started_ns,
        "rank": origin["rank"],
        "kind": "import",
    }
    return Head(_converted(given, SourceInfo, {"id": "source"}), has_events=False)


def _converted(given: Mapping[str, Any], kind: Any, columns: Mapping[str, str]) -> Any:
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        said, _, where = str(error).partition(" - at ")
        name = where.strip("`").removeprefix("$.")
        raise TraceError(f"{columns.get(name, name)}: {said[:1].lower()}{said[1:]}") from None
