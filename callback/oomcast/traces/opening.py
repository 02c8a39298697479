"""Opens a file of a run, whatever its format: by what is in it, not by its name."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from oomcast.traces.cells import read_cells
from oomcast.traces.entries import Entry
from oomcast.traces.format import TraceError
from oomcast.traces.lines import read_lines
from oomcast.traces.parquet import read_parquet

__all__ = ["read_trace"]

_LOOKED_AT = 512
_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"


def read_trace(path: Path) -> Iterator[Entry]:
    """What is in the file, from its first line to its last: the run, then each source's head before its rows.

    Raises:
        TraceError: it can't be opened or used; the text has the file, the place in it, and what was expected.
    """
    try:
        with contextlib.closing(_opened(path)) as file:
            yield from _reader(file)(file)
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise TraceError(f"{path}: its compressed data break off or are damaged: export or copy it again") from None
    except OSError as error:
        raise TraceError(f"{path} can't be read: {error.strerror or error}") from None


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        is_packed = file.read(2) == _GZIP
    return gzip.open(path, "rb") if is_packed else path.open("rb")  # type: ignore[return-value]


def _reader(file: BinaryIO) -> Callable[[BinaryIO], Iterator[Entry]]:
    begin = file.read(_LOOKED_AT)
    file.seek(0)
    if begin.startswith(_PARQUET):
        return read_parquet
    if begin.lstrip()[:1] == b"{":
        return read_lines
    if not begin:
        raise TraceError("it is empty: expected what `oomcast export` writes")
    if b"\0" in begin or not (begin[0] < 0x80 or begin.startswith(codecs.BOM_UTF8)):
        raise TraceError("no trace: expected what `oomcast export` writes, as CSV, Parquet or JSON lines")
    return read_cells
