"""Reads a run from Parquet; needs pyarrow, which `oomcast[parquet]` brings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import msgspec

from oomcast.sample import Event, Sample
from oomcast.traces.entries import Entry, Head
from oomcast.traces.format import PARQUET_KEY, Contents, EventLine, TraceError, event_of
from oomcast.traces.lines import check_format, plain
from oomcast.traces.table import Columns

__all__ = ["NEEDS_PYARROW", "read_parquet"]

NEEDS_PYARROW = "Parquet needs pyarrow: `pip install 'oomcast[parquet]'` brings it"

_ROWS_AT_ONCE = 4_000


def read_parquet(file: BinaryIO) -> Iterator[Entry]:
    """What is in `file`.

    Raises:
        TraceError: pyarrow is missing, or a row that can't be used, without the file's name.
    """
    try:
        import pyarrow as arrow  # large, and needed for nothing else
        from pyarrow import parquet
    except ImportError:
        raise TraceError(NEEDS_PYARROW) from None
    try:
        table = parquet.ParquetFile(file)
        yield from _read(table)
    except (arrow.ArrowException, OSError) as error:
        raise TraceError(f"it can't be read as Parquet: {' '.join(str(error).split())[:200]}") from None


def _read(table: Any) -> Iterator[Entry]:
    contents = _contents(table)
    yield Entry(0, "", contents.run)
    events = _events(contents)
    heads = {line.source.id: Head(line.source, line.kept_from, line.status) for line in contents.sources}
    begun: str | None = None
    left = dict(heads)
    for place, source, items in _rows(table):
        if source != begun:
            if begun is not None:
                yield from _rest(events, begun)
            if source not in left:
                raise TraceError(f"row {place}: source {source!r}: expected the rows of each known source together")
            begun = source
            yield Entry(place, source, left.pop(source))
        waiting = events.get(source, [])
        while waiting and waiting[-1].seq < items[0].seq:
            yield Entry(place, source, waiting.pop())
        for item in items:
            yield Entry(place, source, item)
    if begun is not None:
        yield from _rest(events, begun)
    for source, head in left.items():
        yield Entry(table.metadata.num_rows, source, head)
        yield from _rest(events, source)


def _rest(events: dict[str, list[Event]], source: str) -> Iterator[Entry]:
    waiting = events.get(source, [])
    while waiting:
        yield Entry(0, source, waiting.pop())


def _contents(table: Any) -> Contents:
    said = (table.metadata.metadata or {}).get(PARQUET_KEY)
    if said is None:
        raise TraceError("a Parquet file of another program: expected what `oomcast export` writes")
    try:
        contents = msgspec.json.decode(said, type=Contents)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TraceError(f"metadata: {plain(error)}") from None
    check_format(contents.format, contents.oomcast)
    return contents


def _events(contents: Contents) -> dict[str, list[Event]]:
    """The events of each source, the first of them last."""
    events: dict[str, list[Event]] = {}
    for number, given in enumerate(contents.events, 1):
        try:
            line = msgspec.convert(given, EventLine)
        except msgspec.ValidationError as error:
            raise TraceError(f"event {number} of the metadata: {plain(error)}") from None
        events.setdefault(line.source, []).append(event_of(line))
    for of_source in events.values():
        of_source.reverse()
    return events


def _rows(table: Any) -> Iterator[tuple[int, str, Sequence[Any]]]:
    """Each row as its number (from 1), its source, and its sample with the readings."""
    columns = Columns(table.schema_arrow.names)
    number = 0
    for batch in table.iter_batches(_ROWS_AT_ONCE):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            number += 1
            try:
                sample: Sample = columns.sample(row)
                items = (sample, *columns.gpus(row, sample.seq))
            except TraceError as error:
                raise TraceError(f"row {number}: {error}") from None
            yield number, str(columns.origin(row)["source"]), items
