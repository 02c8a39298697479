"""Reads a run from CSV, as `oomcast export` or a table program with the same columns writes it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any, BinaryIO

from oomcast.traces.entries import Entry
from oomcast.traces.format import TraceError, bare
from oomcast.traces.origins import head_of, run_of
from oomcast.traces.table import Columns

__all__ = ["read_cells"]

_TEXTS = frozenset({"project", "run", "name", "host", "source", "kind", "phase"})


def read_cells(file: BinaryIO) -> Iterator[Entry]:
    """What is in `file`.

    Raises:
        TraceError: a row that can't be used, without the file's name.
    """
    # A byte-order mark is what spreadsheets put there.
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, strict=True)
        try:
            yield from _read(reader)
        except csv.Error as error:
            raise TraceError(f"line {reader.line_num}: {error}: expected comma-separated values") from None
        except UnicodeDecodeError:
            raise TraceError(f"line {reader.line_num + 1}: expected text in UTF-8") from None
        except TraceError as error:
            raise TraceError(f"line {reader.line_num}: {error}") from None


def _read(reader: Any) -> Iterator[Entry]:
    names: list[str] = next(reader, [])
    columns = Columns(names)
    # What stands in a column that means nothing here is nobody's business.
    texts = [name in _TEXTS or name in columns.unknown for name in names]
    run, known = None, set[str]()
    for cells in reader:
        if not cells:
            continue
        if len(cells) != len(names):
            raise TraceError(f"{len(cells)} cells: expected {len(names)}, as in the header")
        row = [_value(*given) for given in zip(names, cells, texts, strict=True)]
        origin = columns.origin(row)
        sample = columns.sample(row)
        if run is None:
            run = origin["run"]
            yield Entry(reader.line_num, "", run_of(origin))
        elif origin["run"] != run:
            raise TraceError(f"run {str(origin['run'])[:40]!r}: expected {run}, as before: one file has one run")
        source = origin["source"]
        if source not in known:
            known.add(source)
            yield Entry(reader.line_num, source, head_of(origin, sample.wall_ns))
        yield Entry(reader.line_num, source, sample)
        for reading in columns.gpus(row, sample.seq):
            yield Entry(reader.line_num, source, reading)
    if run is None:
        raise TraceError("no rows: expected at least one sample")


def _value(name: str, cell: str, is_text: bool) -> Any:
    if cell == "":
        return None
    if is_text:
        return bare(cell)
    if cell.isascii() and cell.isdigit() and len(cell) <= 20:
        return int(cell)
    raise TraceError(f"{name[:40]} {cell[:40]!r}: expected a whole number, or nothing")
