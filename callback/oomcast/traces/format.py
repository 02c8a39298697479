"""How a run stands in a file, as JSON lines or as a flat table (pure).

JSON lines: a `run`, its `source`s, then the rows of one source after the other, each in order of seq, and an `end`.
Keys are the names of `sample.py`, with kinds and phases as words. The flat table, as CSV or Parquet, has one row for
each sample, with the run and the source in front and the readings of each GPU behind.
"""

from __future__ import annotations

import re
import typing
from typing import Annotated, Any, Literal

import msgspec

from oomcast.errors import OomcastError
from oomcast.sample import (
    EVENT_COLUMNS,
    GPU_COLUMNS,
    SAMPLE_COLUMNS,
    Count,
    Event,
    EventKind,
    GpuReading,
    Kind,
    Phase,
    Sample,
    Text,
)
from oomcast.wire import RunInfo, SourceInfo, Status

__all__ = [
    "EVENT_KINDS",
    "FORMAT",
    "GPU_FIGURES",
    "KINDS",
    "ORIGIN",
    "PARQUET_KEY",
    "PHASES",
    "TABLE_COLUMNS",
    "Contents",
    "EndLine",
    "EventLine",
    "GpuLine",
    "RunLine",
    "SampleLine",
    "SourceLine",
    "TraceError",
    "bare",
    "defused",
    "event_of",
    "gpu_column",
    "gpu_of",
    "sample_of",
]

FORMAT = 1
"""Raised when an older `oomcast import` would misread what is written."""

PARQUET_KEY = b"oomcast"
"""Where a Parquet file's metadata has its `Contents`."""

ORIGIN: tuple[str, ...] = ("project", "run", "name", "host", "source", "rank")
"""What the flat table says in each row of where it comes from."""

TABLE_COLUMNS: tuple[str, ...] = (*ORIGIN, *SAMPLE_COLUMNS)
"""The flat table without its GPUs."""

GPU_FIGURES: tuple[str, ...] = GPU_COLUMNS[2:]

KINDS: dict[int, str] = {kind.value: kind.name.lower() for kind in Kind}
PHASES: dict[int, str] = {phase.value: phase.name.lower() for phase in Phase}
EVENT_KINDS: dict[int, str] = {kind.value: kind.name.lower() for kind in EventKind}

_KINDS = {kind.name.lower(): kind for kind in Kind}
_PHASES = {phase.name.lower(): phase for phase in Phase}
_EVENT_KINDS = {kind.name.lower(): kind for kind in EventKind}

# A spreadsheet takes a cell that begins so for a formula (CWE-1236); the last four are what some of them make of =+-@.
_FORMULA = re.compile(r"'*[=+\-@\t\r＝＋－＠]")


class TraceError(OomcastError):
    """A file that can't be imported, or a row of it."""


def gpu_column(device: int, figure: str) -> str:
    """The flat table's column of one figure of a device."""
    return f"gpu{device}_{figure}"


def defused(text: str) -> str:
    """`text` as a cell of CSV that no spreadsheet runs: an apostrophe stands before what looks like a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def bare(cell: str) -> str:
    """The text that `defused` made the cell of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


class RunLine(msgspec.Struct, frozen=True, kw_only=True, tag="run", tag_field="type"):
    """The file's first line."""

    format: int
    oomcast: Text  # the version that wrote it
    run: RunInfo


class SourceLine(msgspec.Struct, frozen=True, kw_only=True, tag="source", tag_field="type"):
    """One source; before its rows."""

    source: SourceInfo
    kept_from: Count = 1  # samples before this seq were removed by retention
    status: Status | None = None  # the newest


class EndLine(msgspec.Struct, frozen=True, kw_only=True, tag="end", tag_field="type"):
    """The file's last line: a file without it has lost its end."""

    rows: Count  # lines of rows


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What a Parquet file says of its run beside the table."""

    format: int
    oomcast: Text
    run: RunInfo
    sources: list[SourceLine]
    events: list[Any] = []  # event lines, of one source after the other, each in order of seq


def _words(words: dict[str, Any]) -> Any:
    return Literal.__getitem__(tuple(words))


_Source = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]{8,40}\Z")]


def _line(tag: str, row: Any, names: tuple[str, ...], **words: Any) -> Any:
    """A struct for a line that has the fields of `row`; a figure that a line leaves out is missing, as null is."""
    hints = {**typing.get_type_hints(row, include_extras=True), **words}
    fields: list[Any] = [("source", _Source)]
    for name in names:
        optional = type(None) in typing.get_args(hints[name])
        fields.append((name, hints[name], None) if optional else (name, hints[name]))
    return msgspec.defstruct(f"{tag.title()}Line", fields, tag=tag, tag_field="type", kw_only=True, frozen=True)


SampleLine: Any = _line("sample", Sample, SAMPLE_COLUMNS, kind=_words(_KINDS), phase=_words(_PHASES))
GpuLine: Any = _line("gpu", GpuReading, GPU_COLUMNS)
EventLine: Any = _line("event", Event, EVENT_COLUMNS, kind=_words(_EVENT_KINDS))


def sample_of(line: Any) -> Sample:
    """The sample of a `SampleLine`."""
    values = [getattr(line, name) for name in SAMPLE_COLUMNS]
    values[1], values[4] = _KINDS[line.kind], _PHASES[line.phase]
    return Sample._make(values)


def gpu_of(line: Any) -> GpuReading:
    """The reading of a `GpuLine`."""
    return GpuReading._make(getattr(line, name) for name in GPU_COLUMNS)


def event_of(line: Any) -> Event:
    """The event of an `EventLine`."""
    values = [getattr(line, name) for name in EVENT_COLUMNS]
    values[1] = _EVENT_KINDS[line.kind]
    return Event._make(values)
