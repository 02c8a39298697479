"""How long a connection may take, and how many there may be: uvicorn's protocols with deadlines.

uvicorn closes a connection that is idle after an answer, but waits for ever for the first request, for the rest of its
head, and for a WebSocket's handshake; whoever reaches the port could hold thousands of connections without a token.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import struct
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

__all__ = ["BACKLOG", "Http", "Socket", "allow_connections"]

BACKLOG = 128
"""Connections that the kernel holds ready. asyncio accepts all of them in one turn of its loop."""

_HEAD_S = 10.0  # for the whole head of a request, from the connection's start or the end of the answer before
_BODY_S = 60.0  # for the rest of it
_HANDSHAKE_S = 10.0
_LINGER_S = 5.0  # for what was said last to be taken
_MOST_FRAGMENTS = 4_096  # of one message; empty ones cost memory, too
_SMALL_BYTES = 16 << 10
_MOST_WAITING = 8  # messages of one connection; what one read brings (256 KiB at most) comes on top
_WANTED_FILES = 65_536
# It takes some turns to turn a connection away, and each may accept as many more. The rest is for the database, the
# listener and whatever else.
_KEPT_FILES = 4 * BACKLOG + 64


def allow_connections(limits: tuple[int, int] | None = None) -> int:
    """Raise the limit of open files as far as this user may, and take no more connections than that leaves room for.

    A process that has no file left can't open its database's either. `limits` are the soft and the hard limit now.
    """
    soft, hard = limits or resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, _WANTED_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    Http.most = max(1, (_WANTED_FILES if soft == resource.RLIM_INFINITY else soft) - _KEPT_FILES)
    return Http.most


class Http(H11Protocol):
    """HTTP with a deadline for each request's head and body."""

    most = 1 << 20
    """Connections of any kind at once. Of the class, since uvicorn makes its objects."""

    _deadline: asyncio.TimerHandle | None = None
    _waits_for = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or drop it where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.abort()
            return
        self._expect("head")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._expect("")
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Read what has come."""
        super().handle_events()
        self._expect(self._missing())

    def handle_websocket_upgrade(self, event: Any) -> None:
        """Hand the connection on."""
        self._expect("")
        super().handle_websocket_upgrade(event)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._expect(self._missing())

    def _missing(self) -> str:
        cycle = self.cycle
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return ""
        if cycle is None or cycle.response_complete:
            return "head"
        return "body" if cycle.more_body else ""

    def _expect(self, part: str) -> None:
        """The deadline runs on while the same part is missing, however much of it has come."""
        if part == self._waits_for:
            return
        self._waits_for = part
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if part:
            seconds = _HEAD_S if part == "head" else _BODY_S
            self._deadline = self.loop.call_later(seconds, self.transport.abort)


class Socket(WebSocketsSansIOProtocol):
    """A WebSocket with a deadline for its handshake, and an end for messages that have none."""

    _handshake: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection over from `Http`."""
        super().connection_made(transport)
        self._handshake = self.loop.call_later(_HANDSHAKE_S, self._give_up)

    def _give_up(self) -> None:
        if not self.handshake_complete:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        if self._handshake is not None:
            self._handshake.cancel()
        super().connection_lost(exc)

    def handle_cont(self, event: Any) -> None:
        """Take a fragment."""
        if len(self.frames) >= _MOST_FRAGMENTS:
            self._fail(1009)
            return
        super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        """Take a whole message.

        As uvicorn does, but for two things. It stops reading after each message until that is taken, which costs two
        system calls and more than the rest of a small frame: here only after some of them, or a large one. And it logs
        text that is no UTF-8 with a traceback, which any client could fill a disk with.
        """
        data, self.frames = b"".join(self.frames), []
        if self.close_sent:
            return
        if self.curr_msg_data_type == "bytes":
            self.queue.put_nowait({"type": "websocket.receive", "bytes": data})
        else:
            try:
                self.queue.put_nowait({"type": "websocket.receive", "text": data.decode()})
            except UnicodeDecodeError:
                self._fail(1007)
                return
        if not self.read_paused and (len(data) > _SMALL_BYTES or self.queue.qsize() > _MOST_WAITING):
            self.read_paused = True
            self.transport.pause_reading()

    def _fail(self, code: int) -> None:
        self.frames = []
        if self.close_sent:
            return
        self.conn.fail(code)
        self.handle_parser_exception()

    async def run_asgi(self) -> None:
        """Serve it. One whose other side takes nothing would stay until TCP gives up, with all that was to be sent."""
        await super().run_asgi()
        self.loop.call_later(_LINGER_S, self._reset)

    def _reset(self) -> None:
        if self.transport.get_write_buffer_size() == 0:
            return  # closed in good order
        with contextlib.suppress(OSError):
            # Else the kernel would keep what it holds of it, and go on offering it.
            linger = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()

    async def send(self, message: Any) -> None:
        """Send, unless the connection has failed meanwhile: uvicorn takes that for the application's fault."""
        await self.writable.wait()
        if self.close_sent and message["type"] in ("websocket.send", "websocket.close"):
            raise ClientDisconnected
        await super().send(message)
