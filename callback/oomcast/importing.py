"""`oomcast import`: a run from a file to a server, in the words that an agent speaks.

The file is read twice: once to the end to check all of it, so that a bad file sends nothing, and once to send. Run and
sources keep their ids, unless they are to be new ones, so the server takes each row once, however often it is sent.
Formats without events get the marks that their samples tell of. Where the file doesn't say how a source ended, an event
says so at its end: when more of the same source is imported later, one row has its place.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from oomcast._version import __version__
from oomcast.errors import OomcastError
from oomcast.names import random_id
from oomcast.sample import Event, GpuReading, Sample
from oomcast.traces.entries import Entry, Head
from oomcast.traces.format import TraceError
from oomcast.traces.framing import Framer
from oomcast.traces.opening import read_trace
from oomcast.upload import SourceUpload, UploadError
from oomcast.wire import PROTOCOL, Frame, Hello, RunInfo

__all__ = ["Changes", "Imported", "check_trace", "import_trace"]


@dataclasses.dataclass(frozen=True)
class Changes:
    """What is to be another thing on the server than in the file."""

    project: str | None = None
    name: str | None = None
    as_new: bool = False
    """New ids for the run and its sources: a run of its own, whatever the server has."""


@dataclasses.dataclass(frozen=True)
class Imported:
    """What became of a file."""

    run_id: str
    name: str
    sources: int
    rows: int  # samples and events in the file
    sent: int  # of these and of the marks and gaps that were made: what the server hadn't got yet
    known: bool  # the server had some of it: what it was told first stands


def check_trace(path: Path) -> int:
    """Read the whole file as if it were sent; its number of rows.

    Raises:
        TraceError: it can't be imported; the text has the place and what was expected.
    """
    framers: dict[str, Framer] = {}
    count = 0
    for entry in read_trace(path):
        if isinstance(entry.item, Head):
            if entry.source in framers:
                raise TraceError(f"{path}: line {entry.place}: source {entry.source!r} again: expected each once")
            framers[entry.source] = Framer(entry.item, path.name)
        elif not isinstance(entry.item, RunInfo):
            count += not isinstance(entry.item, GpuReading)
            for _ in _taken(framers[entry.source], entry, path):
                pass
    if not framers:
        raise TraceError(f"{path}: no source: expected one at least")
    return count


def _taken(framer: Framer, entry: Entry, path: Path) -> Iterator[Frame]:
    assert isinstance(entry.item, (Sample, GpuReading, Event))
    try:
        yield from framer.take(entry.item)
    except TraceError as error:
        what = "row" if path.suffix == ".parquet" else "line"
        raise TraceError(f"{path}: {what} {entry.place}: {error}") from None


def import_trace(
    path: Path, server: str, token: str, changes: Changes, on_notice: Callable[[str], None] = lambda _: None
) -> Imported:
    """Check the file, then send it.

    Args:
        path: of the file.
        server: where to.
        token: its token.
        changes: what is to be another thing there.
        on_notice: told in one line what holds the sending up.

    Raises:
        TraceError: it can't be imported; nothing was sent.
        UploadError: the server is away or refuses it; the text says how many rows it has taken.
    """
    rows = check_trace(path)
    return asyncio.run(_Import(path, server, token, changes, on_notice).send(rows))


class _Import:
    """One sending of one file."""

    def __init__(self, path: Path, server: str, token: str, changes: Changes, on_notice: Callable[[str], None]) -> None:
        self._path = path
        self._server = server
        self._token = token
        self._changes = changes
        self._on_notice = on_notice
        self._framers: dict[str, Framer] = {}
        self._uploads: dict[str, SourceUpload] = {}
        self._run: RunInfo | None = None

    async def send(self, rows: int) -> Imported:
        try:
            for entry in read_trace(self._path):
                await self._take(entry)
            for source in self._framers:
                await self._finish(source)
        except OomcastError as error:
            sent = sum(upload.stored for upload in self._uploads.values())
            if isinstance(error, UploadError) or sent:
                raise UploadError(f"{error}; {_counted(sent)} sent: import it again to send the rest") from None
            raise
        finally:
            for upload in self._uploads.values():
                await upload.close()
        assert self._run is not None
        return Imported(
            self._run.id,
            self._run.name,
            len(self._uploads),
            rows,
            sum(upload.stored for upload in self._uploads.values()),
            any(upload.known for upload in self._uploads.values()),
        )

    async def _take(self, entry: Entry) -> None:
        if isinstance(entry.item, RunInfo):
            self._run = self._renamed(entry.item)
        elif isinstance(entry.item, Head):
            await self._begin(entry.source, entry.item)
        else:
            for frame in _taken(self._framers[entry.source], entry, self._path):
                await self._uploads[entry.source].send(frame)

    def _renamed(self, run: RunInfo) -> RunInfo:
        changes = self._changes
        return msgspec.structs.replace(
            run,
            id=random_id() if changes.as_new else run.id,
            project=changes.project or run.project,
            name=changes.name or run.name,
        )

    async def _begin(self, source: str, head: Head) -> None:
        assert self._run is not None
        info = msgspec.structs.replace(head.info, id=random_id()) if self._changes.as_new else head.info
        hello = Hello(protocol=PROTOCOL, oomcast=__version__, run=self._run, source=info)
        upload = SourceUpload(self._server, self._token, hello, self._on_notice)
        self._framers[source] = Framer(head, self._path.name)
        self._uploads[source] = upload
        await upload.open()

    async def _finish(self, source: str) -> None:
        for frame in self._framers[source].close():
            await self._uploads[source].send(frame)
        await self._uploads[source].finish()


def _counted(rows: int) -> str:
    return "1 row was" if rows == 1 else f"{rows} rows were"
