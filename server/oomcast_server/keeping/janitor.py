"""Removes, hour by hour, what retention no longer keeps and what deleted runs have left; in steps that nobody notices.

Of several servers on one database, the one that holds the lease does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from oomcast_server.errors import StoreUnavailable
from oomcast_server.keeping.deletion import next_purge, purge
from oomcast_server.keeping.old_weeks import droppable, move_leftovers
from oomcast_server.keeping.retention import Part, Policy, drop_rollups, drop_samples, parts
from oomcast_server.store import leases, partitions
from oomcast_server.store.base import Store

__all__ = ["Changing", "Janitor", "Progress"]

_log = logging.getLogger("oomcast_server")

_FIRST_S = 60.0  # a server that starts has agents to catch up with
_EVERY_S = 3600.0
_LEASE, _LEASE_NS, _RENEW_S = "janitor", 60_000_000_000, 20.0
_STEP_S = 0.02  # of the writer's time at once: samples wait for no longer
_REST, _LONGEST_REST_S = (
    2,
    1.0,
)  # after a step, this many times as long as it took: most of the writer's time is others'
_LEAST_ROWS, _MOST_ROWS = 250, 10_000

Result = TypeVar("Result")


class Changing(Protocol):
    """What writes: the pipeline."""

    def change(self, function: Callable[[Connection], Result], runs: Sequence[int] = ()) -> Awaitable[Result]:
        """What `function` made of a transaction of its own; `runs`: the pks of runs that it changes."""


class _Step(Protocol):
    def __call__(self, connection: Connection, *, most_rows: int) -> int | None: ...


@dataclasses.dataclass(frozen=True)
class Progress:
    """What the janitor does, and what it has done since the server began."""

    running: bool = False
    rows: int = 0  # removed
    finished_ns: int | None = None  # wall clock of the end of the last round
    error: str | None = None  # why that one was broken off


class Janitor:
    """One task on the event loop. It writes as little at once as it can, and rests longer than each step took."""

    def __init__(
        self,
        store: Store,
        pipeline: Changing,
        default: Policy,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
        first_s: float = _FIRST_S,
        every_s: float = _EVERY_S,
    ) -> None:
        """`default` is what projects keep that say nothing else."""
        self._store = store
        self._pipeline = pipeline
        self._default = default
        self._holder = secrets.token_hex(8)
        self._wall_ns = wall_ns
        self._monotonic = monotonic
        self._first_s = first_s
        self._every_s = every_s
        self._wanted = asyncio.Event()
        self._projects: set[str | None] = set()
        self._step_rows = 1_000
        self._leased_at: float | None = None
        self._task: asyncio.Task[None] | None = None
        self.progress = Progress()

    @property
    def default(self) -> Policy:
        """What projects keep that say nothing else."""
        return self._default

    def start(self) -> None:
        """Begin, on the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End, after the step that is under way."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._store.shared and self._leased_at is not None:
            with contextlib.suppress(StoreUnavailable):
                await self._pipeline.change(lambda connection: leases.release(connection, self._holder))

    def purge_soon(self) -> None:
        """A run was deleted: remove its rows."""
        self._wanted.set()

    def prune_soon(self, project: str | None = None) -> None:
        """Remove now what is too old, of every project or of one."""
        self._projects.add(project)
        self.progress = dataclasses.replace(self.progress, running=True)
        self._wanted.set()

    async def _run(self) -> None:
        wait_s = self._first_s
        while True:
            hourly = not await self._is_wanted(wait_s)
            wait_s = self._every_s
            projects, self._projects = self._projects, set()
            await self._round({None} if hourly else projects)

    async def _is_wanted(self, wait_s: float) -> bool:
        try:
            await asyncio.wait_for(self._wanted.wait(), wait_s)
        except asyncio.TimeoutError:
            return False
        finally:
            self._wanted.clear()
        return True

    async def _round(self, projects: set[str | None]) -> None:
        error = None
        self.progress = dataclasses.replace(self.progress, running=True)
        try:
            await self._pipeline.change(lambda connection: partitions.make_ahead(connection, self._wall_ns()))
            if await self._is_ours():
                await self._purge()
                for project in {None} if None in projects else projects:
                    await self._prune(project)
                if None in projects:
                    await self._drop_weeks()
                    # A chart looks into each partition that there is.
                    week = partitions.week_of(self._wall_ns())
                    await self._pipeline.change(lambda connection: partitions.drop_empty(connection, week))
            else:
                error = "another server on this database has the janitor's lease: it removes what is too old each hour"
        except StoreUnavailable as failed:
            error = str(failed)
        except Exception:
            _log.exception("the removal of old data failed; it is tried again in an hour")
            error = "it failed; the server's log says how"
        self.progress = dataclasses.replace(
            self.progress, running=bool(self._projects), finished_ns=self._wall_ns(), error=error
        )

    async def _is_ours(self) -> bool:
        now = self._monotonic()
        if self._leased_at is not None and now - self._leased_at < _RENEW_S:
            return True
        taken = not self._store.shared or await self._pipeline.change(self._take_lease)
        self._leased_at = now if taken else None
        return taken

    def _take_lease(self, connection: Connection) -> bool:
        return _LEASE in leases.acquire(connection, {_LEASE}, self._holder, self._wall_ns(), _LEASE_NS)

    async def _purge(self) -> None:
        while (place := await asyncio.to_thread(next_purge, self._store)) is not None:
            if not await self._in_steps(functools.partial(purge, place=place)):
                return

    async def _prune(self, project: str | None) -> None:
        found = parts(self._store, self._default, self._wall_ns(), project)
        while (part := await asyncio.to_thread(_next, found)) is not None:
            for drop in (drop_samples, drop_rollups):
                if not await self._in_steps(functools.partial(drop, part=part), [part.run_pk]):
                    return

    async def _drop_weeks(self) -> None:
        """Give back the disk of weeks of which next to nothing is left."""
        week = await self._pipeline.change(lambda connection: droppable(connection, self._default, self._wall_ns()))
        if week is None:
            return
        move = functools.partial(move_leftovers, before=week, to=partitions.week_of(self._wall_ns()))
        if await self._in_steps(move):
            await self._pipeline.change(lambda connection: partitions.drop_before(connection, week))

    async def _in_steps(self, step: _Step, runs: Sequence[int] = ()) -> bool:
        """Do it until nothing is left; False where the lease was lost meanwhile."""
        while await self._is_ours():
            rows, begun = await self._pipeline.change(functools.partial(self._begun, step), runs)
            took_s = self._monotonic() - begun  # with the commit, and the checkpoint that may follow it
            self._adapt(took_s)
            if rows is None:
                return True
            self.progress = dataclasses.replace(self.progress, rows=self.progress.rows + rows)
            await asyncio.sleep(min(_LONGEST_REST_S, took_s * _REST))
        return False

    def _begun(self, step: _Step, connection: Connection) -> tuple[int | None, float]:
        begun = self._monotonic()
        return step(connection, most_rows=self._step_rows), begun

    def _adapt(self, took_s: float) -> None:
        """How many rows go in a step depends on the engine, its disk and the indices: as many as fit the time."""
        if took_s > _STEP_S:
            self._step_rows = max(_LEAST_ROWS, self._step_rows // 2)
        elif took_s < _STEP_S / 3:
            self._step_rows = min(_MOST_ROWS, self._step_rows * 2)


def _next(found: Iterator[Part]) -> Part | None:
    return next(found, None)
