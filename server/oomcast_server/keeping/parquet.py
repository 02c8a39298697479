"""Runs as Parquet, row group by row group; needs pyarrow, which `oomcast[parquet]` brings."""

from __future__ import annotations

import io
from typing import Any

import msgspec

from oomcast._version import __version__
from oomcast.traces.format import FORMAT, ORIGIN, PARQUET_KEY, Contents
from oomcast.traces.parquet import NEEDS_PYARROW
from oomcast_server.keeping.exporting import Chunk, Exported
from oomcast_server.keeping.formats import event_line, flat_rows, source_line, table_columns
from oomcast_server.rest.problems import Refused

__all__ = ["MOST_EVENTS", "ParquetFormat"]

MOST_EVENTS = 200_000
"""They stand in the file's metadata, which is written, and read, as a whole."""

_GROUP_ROWS = 20_000
_WORDS = frozenset(ORIGIN) - {"rank"} | {"kind", "phase"}


class ParquetFormat:
    """The flat table, with run, sources and events in the file's metadata."""

    media_type = "application/vnd.apache.parquet"

    def __init__(self) -> None:
        """Find pyarrow.

        Raises:
            Refused: 501, it is not installed.
        """
        try:
            import pyarrow  # large, and needed for nothing else
            from pyarrow import parquet
        except ImportError:
            raise Refused(501, f"{NEEDS_PYARROW}, on the server; or export as csv or jsonl") from None
        self._arrow: Any = pyarrow
        self._parquet: Any = parquet
        self._rows: list[list[Any]] = []
        self._events: list[Any] = []
        self._sink = _Sink()

    def begin(self, exported: Exported) -> bytes:
        """The first bytes.

        Raises:
            Refused: 422, there are too many events.
        """
        if exported.events > MOST_EVENTS:
            raise Refused(
                422, f"a Parquet file holds {MOST_EVENTS} events at most, the run has {exported.events}: use jsonl"
            )
        self._exported = exported
        arrow = self._arrow
        word = arrow.dictionary(arrow.int32(), arrow.string())
        self._schema = arrow.schema(
            [(name, word if name in _WORDS else arrow.int64()) for name in table_columns(exported.devices)]
        )
        self._writer = self._parquet.ParquetWriter(
            arrow.PythonFile(self._sink, mode="w"), self._schema, compression="zstd"
        )
        return self._sink.taken()

    def chunk(self, chunk: Chunk) -> bytes:
        """Row groups that are full with this chunk."""
        self._events += [event_line(chunk.source.info.id, row) for row in chunk.events]
        self._rows += flat_rows(self._exported, chunk)
        if len(self._rows) >= _GROUP_ROWS:
            self._write_group()
        return self._sink.taken()

    def _write_group(self) -> None:
        columns = zip(*self._rows, strict=True)
        arrays = [self._arrow.array(column, kind.type) for column, kind in zip(columns, self._schema, strict=True)]
        self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))
        self._rows = []

    def end(self) -> bytes:
        """The last row group and the metadata."""
        if self._rows:
            self._write_group()
        exported = self._exported
        contents = Contents(
            format=FORMAT,
            oomcast=__version__,
            run=exported.run,
            sources=[source_line(source) for source in exported.sources],
            events=self._events,
        )
        self._writer.add_key_value_metadata({PARQUET_KEY: msgspec.json.encode(contents)})
        self._writer.close()
        return self._sink.taken()


class _Sink(io.RawIOBase):
    """Keeps what is written until it is taken; pyarrow asks only where it stands."""

    def __init__(self) -> None:
        super().__init__()
        self._kept = bytearray()
        self._written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._kept += data
        self._written += len(data)
        return len(data)

    def tell(self) -> int:
        return self._written

    def taken(self) -> bytes:
        """What was written since the last time."""
        taken = bytes(self._kept)
        self._kept.clear()
        return taken
