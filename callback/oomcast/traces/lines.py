"""Reads a run from JSON lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import msgspec

from oomcast.traces.entries import Entry, Head, Row
from oomcast.traces.format import (
    FORMAT,
    EndLine,
    EventLine,
    GpuLine,
    RunLine,
    SampleLine,
    SourceLine,
    TraceError,
    event_of,
    gpu_of,
    sample_of,
)

__all__ = ["read_lines"]

_MOST_BYTES = 2 << 20  # of one line: more than the server takes of one row
_ROWS: dict[Any, Callable[[Any], Row]] = {SampleLine: sample_of, GpuLine: gpu_of, EventLine: event_of}
_decoder = msgspec.json.Decoder(RunLine | SourceLine | EndLine | SampleLine | GpuLine | EventLine)


def read_lines(file: BinaryIO) -> Iterator[Entry]:
    """What is in `file`.

    Raises:
        TraceError: a line that can't be used, without the file's name.
    """
    number, rows, known, ended = 0, 0, set[str](), False
    while data := file.readline(_MOST_BYTES):
        number += 1
        line = _decoded(data, number)
        if (number == 1) != isinstance(line, RunLine):
            raise TraceError(f"line {number}: expected the line of the run first, and once")
        if ended:
            raise TraceError(f"line {number}: expected nothing behind the line of type end")
        if isinstance(line, RunLine):
            check_format(line.format, line.oomcast)
            yield Entry(number, "", line.run)
        elif isinstance(line, SourceLine):
            known.add(line.source.id)
            yield Entry(number, line.source.id, Head(line.source, line.kept_from, line.status))
        elif isinstance(line, EndLine):
            _check_count(line.rows, rows, number)
            ended = True
        else:
            if line.source not in known:
                raise TraceError(f"line {number}: source {line.source!r}: expected its own line before its rows")
            rows += 1
            yield Entry(number, line.source, _ROWS[type(line)](line))
    if not ended:
        raise TraceError(f"it breaks off after line {number}, before the line of type end: export or copy it again")


def _decoded(data: bytes, number: int) -> Any:
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if not data.endswith(b"\n") and len(data) < _MOST_BYTES:
            raise TraceError(f"it breaks off in line {number}: export or copy it again") from None
        raise TraceError(f"line {number}: {plain(error)}") from None


def plain(error: Exception) -> str:
    """What msgspec says, with the name of the field in front: "rss_bytes: expected `int` >= 0"."""
    said, _, where = str(error).partition(" - at ")
    name = where.strip("`").removeprefix("$").lstrip(".")
    return f"{name}: {said[:1].lower()}{said[1:]}" if name else f"{said[:1].lower()}{said[1:]}"


def check_format(given: int, version: str) -> None:
    """Refuse what was written by a newer oomcast.

    Raises:
        TraceError: it was.
    """
    if given > FORMAT:
        raise TraceError(
            f"it is of format {given}, written by oomcast {version[:40]}; this one reads up to {FORMAT}: "
            "`pip install -U oomcast`"
        )


def _check_count(said: int, rows: int, number: int) -> None:
    if said != rows:
        raise TraceError(f"line {number}: {said} rows were written, {rows} are here: export or copy it again")
