"""Where pages connect to be told what is new: `/api/live`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Annotated, TypeAlias

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from oomcast_server.errors import StoreUnavailable
from oomcast_server.live import Hub
from oomcast_server.mailbox import Mailbox
from oomcast_server.presence import Presence
from oomcast_server.query import run_list
from oomcast_server.shapes import to_json
from oomcast_server.store.sqlite import SqliteStore

__all__ = ["Viewers"]

_SEND_TIMEOUT_S = 5.0
_MOST_REQUEST_BYTES = 4_096
_MOST_VIEWERS = 200
_MOST_WATCHED = 50  # runs by one viewer
_MOST_LISTED = 1_000

RunId = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]{8,40}$")]


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
        self, store: SqliteStore, hub: Hub, presence: Presence, wall_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._store = store
        self._presence = presence
        self._hub = hub
        self._wall_ns = wall_ns
        self._count = 0

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one viewer until it goes, or doesn't take what it asked for."""
        if self._count >= _MOST_VIEWERS:
            await websocket.close(1013)
            return
        self._count += 1
        mailbox = Mailbox()
        try:
            await websocket.accept()
            await self._until_either_ends(self._listen(websocket, mailbox), _send(websocket, mailbox))
        finally:
            self._count -= 1
            self._hub.leave(mailbox)

    async def _until_either_ends(self, *parts: Coroutine[None, None, None]) -> None:
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, (WebSocketDisconnect, asyncio.TimeoutError)):
                raise result

    async def _listen(self, websocket: WebSocket, mailbox: Mailbox) -> None:
        watched: set[str] = set()
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            problem = await self._obey(message.get("text") or "", mailbox, watched)
            if problem is not None:
                mailbox.put_note(to_json({"type": "problem", "message": problem}))

    async def _obey(self, text: str, mailbox: Mailbox, watched: set[str]) -> str | None:
        if len(text) > _MOST_REQUEST_BYTES:
            return "a request is 4 KiB at most"
        try:
            request = _decoder.decode(text)
        except (msgspec.MsgspecError, RecursionError):
            return 'expected {"type":"watch_runs"}, {"type":"watch","run":ID} or {"type":"unwatch","run":ID}'
        if isinstance(request, _WatchRuns):
            return await self._watch_runs(mailbox)
        if isinstance(request, _Unwatch):
            watched.discard(request.run)
            self._hub.unwatch(mailbox, request.run)
            return None
        if len(watched | {request.run}) > _MOST_WATCHED:
            return f"one viewer watches {_MOST_WATCHED} runs at most: unwatch one first"
        watched.add(request.run)
        self._hub.watch(mailbox, request.run)
        return None

    async def _watch_runs(self, mailbox: Mailbox) -> str | None:
        self._hub.watch_runs(mailbox)
        try:
            runs = await asyncio.to_thread(run_list, self._store, self._presence, self._wall_ns(), _MOST_LISTED)
        except StoreUnavailable as error:
            return str(error)
        mailbox.put_note(to_json({"type": "runs", "runs": runs}))
        return None


async def _send(websocket: WebSocket, mailbox: Mailbox) -> None:
    while True:
        for message in await mailbox.take():
            await asyncio.wait_for(websocket.send_text(message.decode()), _SEND_TIMEOUT_S)
