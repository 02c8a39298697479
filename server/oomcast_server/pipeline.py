"""The only place that writes to the store: frames in, commits and receipts out."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from oomcast.sample import Event, GpuReading, Sample
from oomcast.wire import Frame, Hello, Status
from oomcast_server.batch import Batch, Known
from oomcast_server.errors import StoreUnavailable
from oomcast_server.standing import RunState, SourceState
from oomcast_server.store.sqlite import SqliteStore
from oomcast_server.store.writer import GroupWriter

__all__ = ["Answer", "Commit", "Hole", "Pipeline", "Receipt", "Registered", "Unavailable"]

_log = logging.getLogger("oomcast_server")

# Messages inside at once, over all connections. A frame of 1 MiB is some 3 MiB of objects, so this bounds the memory at
# about 200 MiB; beyond it, connections aren't read from, and TCP holds their agents back.
_MOST_INSIDE = 64


@dataclasses.dataclass(frozen=True)
class Registered:
    """A hello was stored: what to call its source by, and where to go on after."""

    source_pk: int
    watermark: int


@dataclasses.dataclass(frozen=True)
class Receipt:
    """Everything up to and including `watermark` is committed."""

    watermark: int


@dataclasses.dataclass(frozen=True)
class Hole:
    """Nothing was stored: the frame doesn't follow on `watermark`."""

    watermark: int


@dataclasses.dataclass(frozen=True)
class Commit:
    """What is new in the store, for those who watch. The rows are in order of seq; a hello has none."""

    run: RunState
    sources: Sequence[SourceState]  # all of the run's
    source: SourceState
    samples: Sequence[Sample]
    gpus: Sequence[GpuReading]
    events: Sequence[Event]
    status: Status | None


@dataclasses.dataclass(frozen=True)
class Unavailable:
    """Nothing was stored, since the database can't be written now."""

    reason: str


Answer: TypeAlias = Registered | Receipt | Hole | Unavailable


@dataclasses.dataclass
class _Item:
    """One message on its way through the writer."""

    message: Hello | Frame
    source_pk: int
    future: asyncio.Future[Answer]
    answer: Answer | None = None
    stored: Frame | None = None  # what of it was new
    commit: Commit | None = None

    @property
    def weight(self) -> int:
        return 1 if isinstance(self.message, Hello) else 1 + len(self.message.samples)


class Pipeline:
    """Takes decoded messages from any number of connections and commits them in groups."""

    def __init__(
        self,
        store: SqliteStore,
        on_commit: Callable[[Sequence[Commit]], None],
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`on_commit` is called on the event loop, after each group is on the disk."""
        self._store = store
        self._on_commit = on_commit
        self._wall_ns = wall_ns
        self._known = Known()
        self._inside = asyncio.Semaphore(_MOST_INSIDE)
        self._writer: GroupWriter[_Item] = GroupWriter(self._commit_group, lambda item: item.weight)
        self._failing = False

    def start(self) -> None:
        """Start the writer thread; on the event loop that answers will come to."""
        self._loop = asyncio.get_running_loop()
        self._writer.start()

    async def close(self) -> None:
        """Commit what is inside, then end."""
        await asyncio.to_thread(self._writer.close)

    async def hello(self, hello: Hello) -> Registered:
        """Store who will send.

        Raises:
            StoreUnavailable: not stored; it can be said again.
        """
        answer = await (await self._submit(hello, 0))
        if isinstance(answer, Unavailable):
            raise StoreUnavailable(answer.reason)
        assert isinstance(answer, Registered)
        return answer

    async def frame(self, source_pk: int, frame: Frame) -> asyncio.Future[Answer]:
        """Queue a frame (rows in order of seq), waiting while the pipeline is full.

        The future brings a `Receipt`, a `Hole` or `Unavailable`; it never raises.
        """
        return await self._submit(frame, source_pk)

    async def _submit(self, message: Hello | Frame, source_pk: int) -> asyncio.Future[Answer]:
        await self._inside.acquire()
        item = _Item(message, source_pk, self._loop.create_future())
        self._writer.put(item)
        return item.future

    # On the writer's thread from here on.

    def _commit_group(self, items: Iterator[_Item]) -> None:
        taken: list[_Item] = []
        try:
            self._store_items(items, taken)
        except StoreUnavailable as error:
            taken.extend(items)
            self._fail(taken, error)
        except Exception:
            # One message that can't be stored must not take the others of its group with it.
            taken.extend(items)
            self._store_alone(taken)
        else:
            self._recover()
        self._loop.call_soon_threadsafe(self._settle, taken)

    def _store_items(self, items: Iterator[_Item], taken: list[_Item]) -> None:
        staged: Batch
        with self._store.write() as connection:
            staged = Batch(self._store, connection, self._known, self._wall_ns())
            for item in items:
                taken.append(item)
                self._store_one(staged, item)
            staged.write_standings()
        self._known.keep(staged)
        for item in taken:
            item.commit = _commit_of(item, staged)

    def _store_one(self, staged: Batch, item: _Item) -> None:
        item.commit = item.stored = None
        if isinstance(item.message, Hello):
            source = staged.register(item.message)
            item.source_pk, item.answer = source.pk, Registered(source.pk, source.watermark)
            return
        frame = staged.new_rows(item.source_pk, item.message)
        source = staged.source(item.source_pk)
        if frame is None:
            hole = item.message.first_seq > source.watermark + 1
            item.answer = Hole(source.watermark) if hole else Receipt(source.watermark)
            return
        staged.add(source, frame)
        item.answer, item.stored = Receipt(source.watermark), frame

    def _store_alone(self, items: Sequence[_Item]) -> None:
        for item in items:
            try:
                self._store_items(iter([item]), [])
            except StoreUnavailable as error:
                self._fail([item], error)
            except Exception as error:
                _log.exception("a message could not be stored")
                item.commit, item.answer = None, Unavailable(f"the message could not be stored: {error}")

    def _fail(self, items: Sequence[_Item], error: StoreUnavailable) -> None:
        for item in items:
            item.commit, item.answer = None, Unavailable(str(error))
        if not self._failing:
            _log.error("%s; agents keep their samples and try again", error)
        self._failing = True

    def _recover(self) -> None:
        if self._failing:
            _log.error("the database can be written again")
        self._failing = False

    # Back on the event loop.

    def _settle(self, items: Sequence[_Item]) -> None:
        for item in items:
            self._inside.release()
            if item.answer is not None and not item.future.done():  # done: its connection is gone
                item.future.set_result(item.answer)
        commits = [item.commit for item in items if item.commit is not None]
        if commits:
            self._on_commit(commits)


def _commit_of(item: _Item, staged: Batch) -> Commit | None:
    # What is committed is not changed any more: the next batch works on copies.
    frame = item.stored
    if frame is None and isinstance(item.message, Frame):
        return None
    source = staged.source(item.source_pk)
    run = staged.run(source.run_pk)
    rows = (frame.samples, frame.gpus, frame.events, frame.status) if frame else ((), (), (), None)
    return Commit(run, staged.sources_of(run), source, *rows)
