"""An export on its way to whoever asked for it: read as fast as it is taken, and no faster."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncGenerator, Iterator

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from oomcast_server.errors import StoreUnavailable
from oomcast_server.keeping.exporting import Chunk, Exported, chunks
from oomcast_server.keeping.formats import Format
from oomcast_server.store.base import Store

__all__ = ["Download"]

_log = logging.getLogger("oomcast_server")

_SEND_TIMEOUT_S = 60.0  # who takes nothing for so long is not waited for
_SEND_BYTES = 256 << 10  # at once; the rest of a chunk follows when these are taken
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class Download(StreamingResponse):
    """Sends a run in some format. Not more than `slots` at once read; the others wait for their turn."""

    def __init__(
        self,
        store: Store,
        exported: Exported,
        form: Format,
        first: bytes,
        suffix: str,
        slots: asyncio.Semaphore,
        reads: asyncio.Semaphore,
        encoding: str | None = None,
        send_timeout_s: float = _SEND_TIMEOUT_S,
    ) -> None:
        """`first` is what `form` began with, `suffix` how the file's name ends, `reads` bounds the reads at once."""
        name = _UNSAFE.sub("-", exported.run.name).strip("-.")[:60] or "run"
        headers = {
            "Content-Disposition": f'attachment; filename="{name}-{exported.run.id}.{suffix}"',
            "Vary": "Accept-Encoding",
        }
        if encoding is not None:
            headers["Content-Encoding"] = encoding
        self._store = store
        self._exported = exported
        self._form = form
        self._first = first
        self._slots = slots
        self._reads = reads
        self._send_timeout_s = send_timeout_s
        super().__init__((), headers=headers, media_type=form.media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, when it is its turn."""
        async with self._slots:
            await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        """Send it. Where it can't be finished the answer stays without its end, which every client can tell."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async with contextlib.aclosing(self._pieces()) as pieces:
                async for piece in pieces:
                    await self._send_piece(send, piece)
        except StoreUnavailable as error:
            _log.error("an export of run %s was broken off: %s", self._exported.run.id, error)
            return
        except asyncio.TimeoutError:
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_piece(self, send: Send, piece: bytes) -> None:
        for begin in range(0, len(piece), _SEND_BYTES):
            part = piece[begin : begin + _SEND_BYTES]
            message = {"type": "http.response.body", "body": part, "more_body": True}
            await asyncio.wait_for(send(message), self._send_timeout_s)

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        yield self._first
        left = chunks(self._store, self._exported)
        while True:
            async with self._reads:
                piece = await asyncio.to_thread(_next, left, self._form)
            if piece is None:
                break
            yield piece
        yield await asyncio.to_thread(self._form.end)


def _next(left: Iterator[Chunk], form: Format) -> bytes | None:
    chunk = next(left, None)
    return None if chunk is None else form.chunk(chunk)
