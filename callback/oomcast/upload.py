"""Sends one source's frames to a server that is there, and waits until they are stored.

As the agent's `Sender`, but of frames that come as they are asked for, and for a user who waits: a server that stays
away is an error.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import urllib.parse
from collections.abc import Callable

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from oomcast._version import __version__
from oomcast.errors import OomcastError, WireError
from oomcast.settings import LOOPBACK
from oomcast.wire import MAX_MESSAGE_BYTES, Ack, Frame, Hello, Problem, Welcome, decode_server_message, encode

__all__ = ["SourceUpload", "UploadError"]

_WINDOW = 8  # frames under way, which are kept until they are stored
_ANSWER_S = 30.0
_PAUSES_S = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # between attempts; nothing stored meanwhile: given up after the last
_BROKEN = (OSError, ConnectionClosed, InvalidHandshake, asyncio.TimeoutError)


class UploadError(OomcastError):
    """What was to be sent was not all stored."""


class _Again(Exception):  # noqa: N818
    """The server can't take it now."""


class SourceUpload:
    """One source on its way."""

    def __init__(self, server: str, token: str, hello: Hello, on_notice: Callable[[str], None]) -> None:
        self._server = server
        self._token = token
        self._hello = encode(hello)
        self._on_notice = on_notice
        self._connection: ClientConnection | None = None
        self._under_way: collections.deque[Frame] = collections.deque()
        self._watermark = 0
        self._begun_at = 0
        self._failures = 0

    @property
    def stored(self) -> int:
        """Rows that the server has now and had not before."""
        return self._watermark - self._begun_at

    @property
    def known(self) -> bool:
        """Whether the server had rows of the source before."""
        return self._begun_at > 0

    async def open(self) -> None:
        """Connect and say hello.

        Raises:
            UploadError: the server is away, or doesn't take it.
        """
        await self._through(self._open)
        self._begun_at = self._watermark

    async def send(self, frame: Frame) -> None:
        """Send a frame, unless it is stored already; waits while many are under way.

        Raises:
            UploadError: as for `open`.
        """
        if frame.last_seq <= self._watermark:
            return
        self._under_way.append(frame)
        await self._through(lambda: self._say(frame))
        while len(self._under_way) >= _WINDOW:
            await self._through(self._hear)

    async def finish(self) -> None:
        """Wait until all is stored.

        Raises:
            UploadError: as for `open`.
        """
        while self._under_way:
            await self._through(self._hear)
        await self.close()

    async def close(self) -> None:
        """End the connection; may be called again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*_BROKEN):
                await connection.close()

    async def _through(self, step: Callable[[], object]) -> None:
        """Do a step; where the connection breaks, make a new one and send again what was under way."""
        while True:
            try:
                if self._connection is None:
                    await self._open()
                    for frame in self._under_way:
                        await self._say(frame)
                else:
                    await step()  # type: ignore[misc]
                return
            except _BROKEN as error:
                await self._wait(_reason(error, self._server))
            except _Again as error:
                await self._wait(str(error))

    async def _wait(self, reason: str) -> None:
        await self.close()
        if self._failures >= len(_PAUSES_S):
            raise UploadError(reason)
        self._on_notice(f"{reason}; trying again")
        await asyncio.sleep(_PAUSES_S[self._failures])
        self._failures += 1

    async def _open(self) -> None:
        parts = urllib.parse.urlsplit(self._server)
        scheme = "wss" if parts.scheme == "https" else "ws"
        try:
            self._connection = await connect(
                f"{scheme}://{parts.netloc}{parts.path}/api/ingest",
                additional_headers={"Authorization": f"Bearer {self._token}"},
                user_agent_header=f"oomcast/{__version__}",
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                open_timeout=_ANSWER_S,
                close_timeout=2,
                proxy=None if parts.hostname in LOOPBACK else True,
            )
        except InvalidStatus as error:
            if error.response.status_code in (401, 403):
                raise UploadError(
                    f"{self._server} refused the token: set OOMCAST_TOKEN to what `oomcast token` prints there"
                ) from None
            raise
        except InvalidURI:
            raise UploadError(f"{self._server} is no server's address: check OOMCAST_SERVER") from None
        await self._connection.send(self._hello)
        answer = await self._receive()
        if not isinstance(answer, Welcome):
            raise self._refusal(answer)
        self._advance(answer.watermark)

    async def _say(self, frame: Frame) -> None:
        assert self._connection is not None
        await self._connection.send(encode(frame))

    async def _hear(self) -> None:
        answer = await self._receive()
        if not isinstance(answer, Ack):
            raise self._refusal(answer)
        self._advance(answer.seq)

    def _advance(self, watermark: int) -> None:
        if watermark > self._watermark:
            self._watermark, self._failures = watermark, 0
        while self._under_way and self._under_way[0].last_seq <= self._watermark:
            self._under_way.popleft()

    async def _receive(self) -> Welcome | Ack | Problem:
        assert self._connection is not None
        data = await asyncio.wait_for(self._connection.recv(), _ANSWER_S)
        try:
            return decode_server_message(data if isinstance(data, bytes) else data.encode())
        except WireError as error:
            raise UploadError(f"what answers at {self._server} is no oomcast server ({error})") from None

    def _refusal(self, answer: Welcome | Ack | Problem) -> Exception:
        if isinstance(answer, Problem) and answer.code in ("store", "busy", "sequence"):
            return _Again(f"{self._server} can't take it now: {answer.message}")
        said = answer.message if isinstance(answer, Problem) else "an answer that doesn't belong here"
        return UploadError(f"{self._server} refused it: {said}")


def _reason(error: BaseException, server: str) -> str:
    if isinstance(error, InvalidHandshake):
        return f"what answers at {server} is no oomcast server: check OOMCAST_SERVER"
    if isinstance(error, asyncio.TimeoutError):
        return f"{server} has not answered for {_ANSWER_S:.0f} s"
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"no server answers at {server} ({reason}): start one with `oomcast serve`, or set OOMCAST_SERVER"
