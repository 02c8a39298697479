"""The only place that writes to the store: frames in, commits and receipts out."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy import Connection

from oomcast.sample import Event, GpuReading, Sample
from oomcast.wire import Frame, Hello, Status
from oomcast_server.errors import StoreUnavailable
from oomcast_server.intake.batch import Batch, load_run
from oomcast_server.intake.known import Known, KnownRun
from oomcast_server.runs.standing import RunState, SourceState
from oomcast_server.store.base import Store
from oomcast_server.store.schema import runs
from oomcast_server.store.writer import GroupWriter

__all__ = ["Answer", "Commit", "Gone", "Hole", "Pipeline", "Receipt", "Registered", "Unavailable"]

_log = logging.getLogger("oomcast_server")

# Messages inside at once, over all connections; beyond it, connections aren't read from, and TCP holds agents back.
# A commit takes about as long for many small frames as for one, so there must be room for those of many agents. A frame
# of 1 MiB is some 3 MiB of objects: of large ones there are fewer, and all of them stay below about 300 MiB.
_MOST_INSIDE = 1_024
_MOST_LARGE = 64
_LARGE_ROWS = 64
_EVENT_ROWS = 16  # an event's text may take as much as so many samples


@dataclasses.dataclass(frozen=True)
class Registered:
    """A hello was stored: what to call its source by, and where to go on after."""

    run_pk: int
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
class Gone:
    """Nothing was stored: the run was deleted since the hello."""


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


Answer: TypeAlias = Registered | Receipt | Hole | Gone | Unavailable
Result = TypeVar("Result")


@dataclasses.dataclass
class _Item:
    """One message on its way through the writer."""

    message: Hello | Frame
    run_pk: int
    source_pk: int
    future: asyncio.Future[Answer]
    answer: Answer | None = None
    stored: Frame | None = None  # what of it was new
    commit: Commit | None = None

    @property
    def weight(self) -> int:
        return 1 if isinstance(self.message, Hello) else 1 + len(self.message.samples)


@dataclasses.dataclass
class _Change:
    """Something else to be written, in a transaction of its own."""

    function: Callable[[Connection], Any]
    run_pks: Sequence[int]
    future: asyncio.Future[Any]
    weight: int = 1


class Pipeline:
    """Takes decoded messages from any number of connections and commits them in groups."""

    def __init__(
        self,
        store: Store,
        on_commit: Callable[[Sequence[Commit]], None],
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`on_commit` is called on the event loop, after each group is on the disk."""
        self._store = store
        self._on_commit = on_commit
        self._wall_ns = wall_ns
        self._known = Known()
        self._inside = asyncio.Semaphore(_MOST_INSIDE)
        self._large = asyncio.Semaphore(_MOST_LARGE)
        self._writer: GroupWriter[_Item | _Change] = GroupWriter(self._commit_group, lambda item: item.weight)
        self._failing = False

    @property
    def failing(self) -> bool:
        """Whether the last attempt to write failed."""
        return self._failing

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
        answer = await (await self._submit(hello, 0, 0))
        if isinstance(answer, Unavailable):
            raise StoreUnavailable(answer.reason)
        assert isinstance(answer, Registered)
        return answer

    async def frame(self, run_pk: int, source_pk: int, frame: Frame) -> asyncio.Future[Answer]:
        """Queue a frame (rows in order of seq), waiting while the pipeline is full.

        The future brings a `Receipt`, a `Hole`, `Gone` or `Unavailable`; it never raises.
        """
        return await self._submit(frame, run_pk, source_pk)

    async def _submit(self, message: Hello | Frame, run_pk: int, source_pk: int) -> asyncio.Future[Answer]:
        await self._room(message).acquire()
        item = _Item(message, run_pk, source_pk, self._loop.create_future())
        self._writer.put(item)
        return item.future

    def _room(self, message: Hello | Frame) -> asyncio.Semaphore:
        if isinstance(message, Hello):
            return self._inside
        rows = len(message.samples) + len(message.gpus) + _EVENT_ROWS * len(message.events)
        return self._large if rows > _LARGE_ROWS else self._inside

    async def change(self, function: Callable[[Connection], Result], runs: Sequence[int] = ()) -> Result:
        """Write something else: what `function` made of a transaction of its own, which must be short.

        It runs on the writer's thread, between groups of messages, so everything else waits for it. `runs` are the pks
        of those whose rows in `runs` or `sources` it changes; their version goes up.

        Raises:
            StoreUnavailable: nothing of it was stored. Whatever else `function` raises, with the same result.
        """
        change = _Change(function, runs, self._loop.create_future())
        self._writer.put(change)
        return cast(Result, await change.future)

    # On the writer's thread from here on.

    def _commit_group(self, given: Iterator[_Item | _Change]) -> None:
        taken = list(given)
        items = [item for item in taken if isinstance(item, _Item)]
        if items:
            self._commit_items(items)
        for change in taken:
            if isinstance(change, _Change):
                self._commit_change(change)

    def _commit_items(self, items: Sequence[_Item]) -> None:
        try:
            self._store_items(items)
        except StoreUnavailable as error:
            self._fail(items, error)
        except Exception:
            # One message that can't be stored must not take the others of its group with it.
            self._store_alone(items)
        else:
            self._recover()
        self._loop.call_soon_threadsafe(self._settle, items)

    def _store_items(self, items: Sequence[_Item]) -> None:
        staged: Batch | None = None
        try:
            with self._store.write() as connection:
                staged = Batch(self._store, connection, self._known, self._wall_ns())
                staged.hold(
                    {item.run_pk for item in items if isinstance(item.message, Frame)},
                    [item.message for item in items if isinstance(item.message, Hello)],
                )
                for item in items:
                    self._store_one(staged, item)
                staged.write()
        except BaseException:
            for held in staged.touched if staged else ():
                self._known.forget(held.run.pk)
            raise
        stored = {held.run.pk: held for held in staged.touched}
        self._known.keep(stored.values())
        for item in items:
            item.commit = _commit_of(item, stored)

    def _store_one(self, staged: Batch, item: _Item) -> None:
        item.commit = item.stored = None
        if isinstance(item.message, Hello):
            source = staged.register(item.message)
            item.run_pk, item.source_pk = source.run_pk, source.pk
            item.answer = Registered(source.run_pk, source.pk, source.watermark)
            return
        held = staged.run(item.run_pk)
        if held is None or item.source_pk not in held.sources:
            item.answer = Gone()
            return
        source = held.sources[item.source_pk]
        frame = staged.new_rows(source, item.message)
        if frame is None:
            hole = item.message.first_seq > source.watermark + 1
            item.answer = Hole(source.watermark) if hole else Receipt(source.watermark)
            return
        staged.add(held, source, frame)
        item.answer, item.stored = Receipt(source.watermark), frame

    def _store_alone(self, items: Sequence[_Item]) -> None:
        for item in items:
            try:
                self._store_items([item])
            except StoreUnavailable as error:
                self._fail([item], error)
            except Exception as error:
                _log.exception("a message could not be stored")
                item.commit, item.answer = None, Unavailable(f"the message could not be stored: {error}")

    def _commit_change(self, change: _Change) -> None:
        try:
            with self._store.write() as connection:
                self._store.lock_runs(connection, sorted(change.run_pks))
                result = change.function(connection)
                for pk in change.run_pks:
                    version = {"version": runs.c.version + 1}
                    connection.execute(sa.update(runs).where(runs.c.pk == pk).values(version))
                changed = [load_run(connection, pk) for pk in change.run_pks]
        except Exception as error:
            self._loop.call_soon_threadsafe(_bring, change.future, None, error)
        else:
            commits = [_commit_without_rows(held) for held in changed if held is not None and held.sources]
            self._loop.call_soon_threadsafe(self._settle_change, change.future, result, commits)
        for pk in change.run_pks:
            self._known.forget(pk)

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
            self._room(item.message).release()
            if item.answer is not None and not item.future.done():  # done: its connection is gone
                item.future.set_result(item.answer)
        commits = [item.commit for item in items if item.commit is not None]
        if commits:
            self._on_commit(commits)

    def _settle_change(self, future: asyncio.Future[Any], result: Any, commits: Sequence[Commit]) -> None:
        _bring(future, result, None)
        if commits:
            self._on_commit(commits)


def _bring(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():  # whoever asked is gone
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def _commit_without_rows(held: KnownRun) -> Commit:
    sources = list(held.sources.values())
    return Commit(held.run, sources, sources[0], (), (), (), None)


def _commit_of(item: _Item, runs: Mapping[int, KnownRun]) -> Commit | None:
    # What is committed is not changed any more: the next batch works on copies.
    frame = item.stored
    held = runs.get(item.run_pk)
    if held is None or item.source_pk not in held.sources or (frame is None and isinstance(item.message, Frame)):
        return None
    rows = (frame.samples, frame.gpus, frame.events, frame.status) if frame else ((), (), (), None)
    return Commit(held.run, list(held.sources.values()), held.sources[item.source_pk], *rows)
