"""Where pages connect to be told what is new: `/api/live`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, TypeAlias

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from oomcast_server.errors import StoreUnavailable
from oomcast_server.live.hub import Hub
from oomcast_server.live.mailbox import Mailbox
from oomcast_server.rest.shapes import to_json
from oomcast_server.runs.presence import Presence
from oomcast_server.runs.query import run_list
from oomcast_server.store.base import Store

__all__ = ["SharedList", "Viewers"]

_SEND_TIMEOUT_S = 5.0
_MOST_REQUEST_LETTERS = 4_096
_MOST_WATCHED = 50  # runs by one viewer
_MOST_LISTED = 1_000
_TRY_AGAIN_LATER = 1013

RunId = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]{8,40}\Z")]


class _WatchRuns(msgspec.Struct, frozen=True, tag="watch_runs", tag_field="type"):
    pass


class _Watch(msgspec.Struct, frozen=True, tag="watch", tag_field="type"):
    run: RunId


class _Unwatch(msgspec.Struct, frozen=True, tag="unwatch", tag_field="type"):
    run: RunId


_Request: TypeAlias = _WatchRuns | _Watch | _Unwatch
_decoder: msgspec.json.Decoder[_Request] = msgspec.json.Decoder(_Request)


class Viewers:
    """The ASGI endpoint of `/api/live`."""

    def __init__(
        self,
        store: Store,
        hub: Hub,
        presence: Presence,
        wall_ns: Callable[[], int] = time.time_ns,
        follow: Callable[[str], Awaitable[None]] | None = None,
        most: int = 2_000,
    ) -> None:
        """`follow` is awaited with a run's id before it is watched; beyond `most` viewers, others are turned away."""
        self._hub = hub
        self._follow = follow
        self._most = most
        self._count = 0
        self._list = SharedList(lambda: _list_message(store, presence, wall_ns()))

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one viewer until it goes, or doesn't take what it asked for."""
        await websocket.accept()
        if self._count >= self._most:
            await websocket.close(_TRY_AGAIN_LATER)
            return
        self._count += 1
        mailbox = Mailbox()
        try:
            await _until_either_ends(self._listen(websocket, mailbox), _send(websocket, mailbox))
        finally:
            self._count -= 1
            self._hub.leave(mailbox)

    async def _listen(self, websocket: WebSocket, mailbox: Mailbox) -> None:
        watched: set[str] = set()
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            problem = await self._obey(message.get("text") or "", mailbox, watched)
            if problem is not None:
                mailbox.put_note(to_json({"type": "problem", "message": problem}).decode())

    async def _obey(self, text: str, mailbox: Mailbox, watched: set[str]) -> str | None:
        if len(text) > _MOST_REQUEST_LETTERS:
            return "a request is 4 KiB at most"
        try:
            request = _decoder.decode(text)
        except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
            return 'expected {"type":"watch_runs"}, {"type":"watch","run":ID} or {"type":"unwatch","run":ID}'
        if isinstance(request, _WatchRuns):
            return await self._watch_runs(mailbox)
        if isinstance(request, _Unwatch):
            watched.discard(request.run)
            self._hub.unwatch(mailbox, request.run)
            return None
        if len(watched | {request.run}) > _MOST_WATCHED:
            return f"one viewer watches {_MOST_WATCHED} runs at most: unwatch one first"
        return await self._watch(request.run, mailbox, watched)

    async def _watch(self, run_id: str, mailbox: Mailbox, watched: set[str]) -> str | None:
        problem = None
        if self._follow is not None:
            try:
                await self._follow(run_id)
            except StoreUnavailable as error:  # it is followed as soon as the store can be read
                problem = str(error)
        watched.add(run_id)
        self._hub.watch(mailbox, run_id)
        return problem

    async def _watch_runs(self, mailbox: Mailbox) -> str | None:
        mailbox.await_list()
        self._hub.watch_runs(mailbox)
        try:
            mailbox.put_list(await self._list.get())
        except StoreUnavailable as error:
            mailbox.put_list(None)
            return str(error)
        return None


class SharedList:
    """The list of runs, read and encoded once for all who ask while it is read.

    A reading that has begun already might miss what was committed since, so who asks gets the one after it.
    """

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read
        self._reading: asyncio.Task[str] | None = None
        self._following: asyncio.Task[str] | None = None

    async def get(self) -> str:
        """The list as a message, no older than this call.

        Raises:
            StoreUnavailable: the database can't be read.
        """
        if self._following is None:
            self._following = asyncio.create_task(self._after(self._reading))
        return await asyncio.shield(self._following)

    async def _after(self, reading: asyncio.Task[str] | None) -> str:
        if reading is not None:
            await asyncio.wait({reading})
        self._reading, self._following = self._following, None
        return await asyncio.to_thread(self._read)


def _list_message(store: Store, presence: Presence, now_ns: int) -> str:
    return to_json({"type": "runs", "runs": run_list(store, presence, now_ns, _MOST_LISTED)}).decode()


async def _until_either_ends(*parts: Coroutine[None, None, None]) -> None:
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, WebSocketDisconnect):
            raise result


async def _send(websocket: WebSocket, mailbox: Mailbox) -> None:
    """Send what comes until it isn't taken in time.

    The deadline is a timer and not `wait_for`, which would make a task of each message.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    while True:
        for message in await mailbox.take():
            deadline = loop.call_later(_SEND_TIMEOUT_S, task.cancel)
            try:
                await websocket.send_text(message)
            finally:
                deadline.cancel()
