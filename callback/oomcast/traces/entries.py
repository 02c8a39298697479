"""What a file of a run comes down to, whatever its format: who it is, then rows, each with its place in the file."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, TypeAlias

from oomcast.sample import Event, GpuReading, Sample
from oomcast.wire import RunInfo, SourceInfo, Status

__all__ = ["Entry", "Head", "Row"]

Row: TypeAlias = Sample | GpuReading | Event


@dataclasses.dataclass(frozen=True)
class Head:
    """A source, before its rows."""

    info: SourceInfo
    kept_from: int = 1
    """Samples before this seq were removed by retention."""
    status: Status | None = None
    has_events: bool = True
    """Whether the format holds events at all."""


class Entry(NamedTuple):
    """The run (once, first), a source's head, or a row of the source whose id it has."""

    place: int  # line of the file; of Parquet, the row
    source: str
    item: RunInfo | Head | Row
