"""Runs as bytes of the formats that `oomcast.traces` describes, chunk by chunk."""

from __future__ import annotations

import csv
import io
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import msgspec

from oomcast._version import __version__
from oomcast.sample import EVENT_COLUMNS, GPU_COLUMNS, SAMPLE_COLUMNS
from oomcast.traces.format import (
    EVENT_KINDS,
    FORMAT,
    GPU_FIGURES,
    KINDS,
    PHASES,
    TABLE_COLUMNS,
    EndLine,
    RunLine,
    SourceLine,
    defused,
    gpu_column,
)
from oomcast_server.keeping.exporting import Chunk, Exported, ExportedSource

__all__ = ["CsvFormat", "Format", "Gzipped", "LinesFormat", "event_line", "flat_rows", "source_line", "table_columns"]

_KIND, _PHASE = SAMPLE_COLUMNS.index("kind"), SAMPLE_COLUMNS.index("phase")
_FIGURES = len(GPU_FIGURES)


class Format(Protocol):
    """Makes a file of a run: its beginning, each chunk, its end; not to be used for two."""

    media_type: str

    def begin(self, exported: Exported) -> bytes:
        """The first bytes."""

    def chunk(self, chunk: Chunk) -> bytes:
        """Those of the next chunk; they may come later."""

    def end(self) -> bytes:
        """The last bytes."""


def source_line(source: ExportedSource) -> SourceLine:
    """What a file says of a source."""
    return SourceLine(source=source.info, kept_from=source.kept_from, status=source.status)


def event_line(source: str, row: Sequence[Any]) -> dict[str, Any]:
    """What a file says of an event."""
    line = {"type": "event", "source": source, **dict(zip(EVENT_COLUMNS, row, strict=True))}
    line["kind"] = EVENT_KINDS[row[1]]
    line["detail"] = msgspec.Raw(row[-1].encode())
    return line


class LinesFormat:
    """JSON lines: everything that is known of the run."""

    media_type = "application/x-ndjson"

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder()
        self._rows = 0

    def begin(self, exported: Exported) -> bytes:
        """The run and its sources."""
        lines = [RunLine(format=FORMAT, oomcast=__version__, run=exported.run), *map(source_line, exported.sources)]
        return self._encoder.encode_lines(lines)

    def chunk(self, chunk: Chunk) -> bytes:
        """Its rows in order of seq."""
        source = chunk.source.info.id
        lines = [(row[0], 0, _sample_line(source, row)) for row in chunk.samples]
        lines += [(row[0], 0, event_line(source, row)) for row in chunk.events]
        lines += [(row[0], 1 + row[1], _gpu_line(source, row)) for row in chunk.gpus]
        lines.sort(key=lambda line: line[:2])
        self._rows += len(lines)
        return self._encoder.encode_lines([line for _, _, line in lines])

    def end(self) -> bytes:
        """How many rows there were, which also says that nothing is missing."""
        return self._encoder.encode_lines([EndLine(rows=self._rows)])


def _sample_line(source: str, row: Sequence[Any]) -> dict[str, Any]:
    line = {"type": "sample", "source": source, **dict(zip(SAMPLE_COLUMNS, row, strict=True))}
    line["kind"], line["phase"] = KINDS[row[_KIND]], PHASES[row[_PHASE]]
    return line


def _gpu_line(source: str, row: Sequence[Any]) -> dict[str, Any]:
    return {"type": "gpu", "source": source, **dict(zip(GPU_COLUMNS, row, strict=True))}


def table_columns(devices: Sequence[int]) -> list[str]:
    """The flat table's columns, with those of these GPUs."""
    return [*TABLE_COLUMNS, *(gpu_column(device, name) for device in devices for name in GPU_FIGURES)]


def flat_rows(exported: Exported, chunk: Chunk) -> Iterator[list[Any]]:
    """The flat table's rows of a chunk, in the order of `table_columns`."""
    run, source = exported.run, chunk.source.info
    origin = [run.project, run.id, run.name, source.host, source.id, source.rank]
    readings: defaultdict[int, dict[int, Sequence[Any]]] = defaultdict(dict)
    for reading in chunk.gpus:
        readings[reading[0]][reading[1]] = reading[2:]
    nothing: Sequence[Any] = [None] * _FIGURES
    for sample in chunk.samples:
        row = [*origin, *sample]
        row[len(origin) + _KIND], row[len(origin) + _PHASE] = KINDS[sample[_KIND]], PHASES[sample[_PHASE]]
        if exported.devices:
            found = readings.get(sample[0], {})
            for device in exported.devices:
                row += found.get(device, nothing)
        yield row


class CsvFormat:
    """Comma-separated values: one row for each sample; what is missing is empty."""

    media_type = "text/csv; charset=utf-8"

    def begin(self, exported: Exported) -> bytes:
        """The header."""
        run = exported.run
        safe = msgspec.structs.replace(run, project=defused(run.project), name=defused(run.name))
        self._exported = Exported(exported.pk, safe, exported.sources, exported.events, exported.devices)
        return _csv([table_columns(exported.devices)])

    def chunk(self, chunk: Chunk) -> bytes:
        """Its samples."""
        source = chunk.source
        info = msgspec.structs.replace(source.info, host=defused(source.info.host))
        safe = ExportedSource(source.pk, info, source.status, source.watermark, source.kept_from)
        return _csv(flat_rows(self._exported, Chunk(safe, chunk.samples, chunk.gpus, [])))

    def end(self) -> bytes:
        """Nothing."""
        return b""


def _csv(rows: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


class Gzipped:
    """Another format, compressed on the way."""

    def __init__(self, inner: Format) -> None:
        self._inner = inner
        self.media_type = inner.media_type
        self._packer = zlib.compressobj(level=3, wbits=16 + zlib.MAX_WBITS)

    def begin(self, exported: Exported) -> bytes:
        """The first bytes."""
        return self._packer.compress(self._inner.begin(exported))

    def chunk(self, chunk: Chunk) -> bytes:
        """Those of a chunk, or of some before."""
        return self._packer.compress(self._inner.chunk(chunk))

    def end(self) -> bytes:
        """The last bytes."""
        return self._packer.compress(self._inner.end()) + self._packer.flush()
