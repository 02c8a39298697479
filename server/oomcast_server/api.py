"""The REST interface of the page and the command line; read only."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.exceptions import HTTPException
from starlette.responses import Response

from oomcast._version import __version__
from oomcast.wire import PROTOCOL
from oomcast_server import query
from oomcast_server.charts import Range, read_series
from oomcast_server.presence import Presence
from oomcast_server.shapes import RunList, ServerInfo, StoreInfo, milliseconds, to_json
from oomcast_server.store.sqlite import SqliteStore

__all__ = ["make_router"]

_LARGEST = 2**62
_MOST_READS = 4  # at once; more would only fight for the disk

Limit = Annotated[int, Query(ge=1, le=1000)]
Points = Annotated[int, Query(ge=10, le=10_000)]
Edge = Annotated[float | None, Query(allow_inf_nan=False)]
SourceId = Annotated[str | None, Query(pattern=r"^[a-z0-9]{8,40}$")]


def make_router(store: SqliteStore, presence: Presence, wall_ns: Callable[[], int]) -> APIRouter:
    """The routes under `/api`."""
    router = APIRouter(prefix="/api")
    started_ns = wall_ns()
    gate = asyncio.Semaphore(_MOST_READS)

    async def read(function: Callable[..., Any], *arguments: Any) -> Any:
        async with gate:
            return await asyncio.to_thread(function, *arguments)

    @router.get("/server")
    async def server() -> Response:
        return _json(
            ServerInfo(
                version=__version__,
                protocol=PROTOCOL,
                store=StoreInfo(store.engine),
                started_ms=milliseconds(started_ns),
                now_ms=milliseconds(wall_ns()),
            )
        )

    @router.get("/runs")
    async def runs(limit: Limit = 200) -> Response:
        now_ns = wall_ns()
        return _json(RunList(await read(query.run_list, store, presence, now_ns, limit), milliseconds(now_ns)))

    @router.get("/runs/{run_id}")
    async def run(run_id: str) -> Response:
        detail = await read(query.run_detail, store, presence, run_id, wall_ns())
        return _json(_found(detail, f"no run {run_id!r}"))

    @router.get("/runs/{run_id}/series")
    async def series(
        run_id: str,
        source: SourceId = None,
        x: Literal["batch", "time"] = "batch",
        begin: Annotated[Edge, Query(alias="from")] = None,
        end: Annotated[Edge, Query(alias="to")] = None,
        points: Points = 1500,
    ) -> Response:
        key = _found(await read(query.source_key, store, run_id, source), f"no run {run_id!r} with such a source")
        edges = (
            (_batch(begin, math.ceil), _batch(end, math.floor)) if x == "batch" else (_time(begin, -1), _time(end, 1))
        )
        wanted = Range(x == "batch", *edges)
        return _json(await read(read_series, store, run_id, key, wanted, points))

    return router


def _json(value: Any) -> Response:
    return Response(to_json(value), media_type="application/json")


def _found(value: Any, otherwise: str) -> Any:
    if value is None:
        raise HTTPException(404, otherwise)
    return value


def _batch(edge: float | None, round_: Callable[[float], int]) -> int | None:
    return None if edge is None else _stored(round_(edge))


def _time(edge_ms: float | None, outward: int) -> int | None:
    # A float holds a time of today to a quarter of a µs: a sample at the edge must not be lost to that.
    return None if edge_ms is None else _stored(round(edge_ms * 1e6) + outward * 1_000)


def _stored(value: int) -> int:
    return max(-_LARGEST, min(_LARGEST, value))
