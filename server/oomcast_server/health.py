"""For whoever watches over this process: does it live, and does it serve? Open to all, so it says nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import sqlalchemy as sa
from fastapi import APIRouter
from starlette.responses import PlainTextResponse, Response

from oomcast_server.errors import StoreUnavailable
from oomcast_server.store.base import Store

__all__ = ["make_router"]

_GET = ["GET", "HEAD"]
_FRESH_S = 1.0  # anyone may ask, as often as he likes: the store is asked once a second at most
_PATIENCE_S = 5.0


def make_router(
    store: Store, is_failing: Callable[[], bool], monotonic: Callable[[], float] = time.monotonic
) -> APIRouter:
    """`/healthz`: the process lives. `/readyz`: its store can be read, and was written when it was last tried.

    `is_failing`: whether the last attempt to write failed.
    """
    router = APIRouter()
    reading = _Reading(store, monotonic)

    @router.api_route("/healthz", methods=_GET, include_in_schema=False)
    async def healthz() -> Response:
        return PlainTextResponse("ok\n")

    @router.api_route("/readyz", methods=_GET, include_in_schema=False)
    async def readyz() -> Response:
        if not await reading.works():
            return PlainTextResponse("the store can't be read\n", 503)
        if is_failing():
            return PlainTextResponse("the store can't be written\n", 503)
        return PlainTextResponse("ok\n")

    return router


class _Reading:
    """Whether the store can be read, found out once for all who ask within a second."""

    def __init__(self, store: Store, monotonic: Callable[[], float]) -> None:
        self._store = store
        self._monotonic = monotonic
        self._until_s = float("-inf")
        self._worked = False
        self._trying: asyncio.Task[None] | None = None

    async def works(self) -> bool:
        if self._monotonic() >= self._until_s and self._trying is None:
            self._trying = asyncio.create_task(self._try())
        if self._trying is None:
            return self._worked
        # A store that hangs is not ready; the attempt goes on, so that there is never more than one.
        done, _ = await asyncio.wait({self._trying}, timeout=_PATIENCE_S)
        return bool(done) and self._worked

    async def _try(self) -> None:
        self._worked = False
        try:
            await asyncio.to_thread(self._read)
            self._worked = True
        except StoreUnavailable:
            pass  # said by the answer
        finally:
            self._until_s, self._trying = self._monotonic() + _FRESH_S, None

    def _read(self) -> None:
        with self._store.read() as connection:
            connection.execute(sa.text("SELECT 1 FROM runs LIMIT 1")).all()
