"""The REST interface of the page and of the command line."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from oomcast._version import __version__
from oomcast.sample import EventKind
from oomcast.wire import PROTOCOL
from oomcast_server.charts.series import ALL, Range, read_series
from oomcast_server.intake.pipeline import Pipeline
from oomcast_server.rest import parameters as given
from oomcast_server.rest.etags import answer, unchanged, weak_tag
from oomcast_server.rest.openapi import answers, takes
from oomcast_server.rest.problems import Refused
from oomcast_server.rest.requests import check_query, read_json
from oomcast_server.rest.shapes import (
    Comparison,
    EventPage,
    ProjectList,
    RunChange,
    RunDetail,
    RunFigures,
    RunList,
    Series,
    ServerInfo,
    StoreInfo,
    milliseconds,
    to_json,
)
from oomcast_server.runs.changing import change_run, values_of
from oomcast_server.runs.comparing import run_figures
from oomcast_server.runs.cursors import BadCursor
from oomcast_server.runs.events import EventFilters, event_page
from oomcast_server.runs.listing import Filters
from oomcast_server.runs.presence import Presence
from oomcast_server.runs.projects import project_list
from oomcast_server.runs.query import RunStanding, run_page, source_key, standing_of
from oomcast_server.store.base import Store

__all__ = ["make_router"]

_LARGEST = 2**62
_MOST_READS = 4  # at once; more would only fight for the disk

_Result = TypeVar("_Result")


def make_router(store: Store, presence: Presence, pipeline: Pipeline, wall_ns: Callable[[], int]) -> APIRouter:
    """The routes under `/api`."""
    api = _Api(store, presence, pipeline, wall_ns)
    router = APIRouter(prefix="/api", dependencies=[Depends(check_query)])
    get = functools.partial(router.add_api_route, methods=["GET"])
    get("/server", api.server, summary="What this server is", responses=answers(ServerInfo))
    get("/projects", api.projects, summary="List projects", responses=answers(ProjectList, tagged=True))
    get("/runs", api.runs, summary="List runs", responses=answers(RunList, tagged=True))
    get("/runs/{run_id}", api.run, summary="One run", responses=answers(RunDetail, tagged=True))
    get("/runs/{run_id}/series", api.series, summary="A chart's data", responses=answers(Series, tagged=True))
    get("/runs/{run_id}/events", api.events, summary="A run's events", responses=answers(EventPage))
    get("/runs/{run_id}/summary", api.summary, summary="What a run came to", responses=answers(RunFigures, tagged=True))
    get("/compare", api.compare, summary="Runs side by side", responses=answers(Comparison, 404, tagged=True))
    router.add_api_route(
        "/runs/{run_id}",
        api.change,
        methods=["PATCH"],
        summary="Rename or tag a run",
        responses=answers(RunDetail),
        openapi_extra=takes(RunChange, {"name": "resnet, batch 256", "tags": ["baseline"]}),
    )
    return router


class _Api:
    """What the routes do. The docstrings are what the API page says of them."""

    def __init__(self, store: Store, presence: Presence, pipeline: Pipeline, wall_ns: Callable[[], int]) -> None:
        self._store = store
        self._presence = presence
        self._pipeline = pipeline
        self._wall_ns = wall_ns
        self._started_ns = wall_ns()
        self._gate = asyncio.Semaphore(_MOST_READS)

    async def _read(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        async with self._gate:
            return await asyncio.to_thread(function, *arguments)

    async def server(self) -> Response:
        """Its version, and which engine keeps its data."""
        return _json(
            ServerInfo(
                version=__version__,
                protocol=PROTOCOL,
                store=StoreInfo(self._store.engine),
                started_ms=milliseconds(self._started_ns),
                now_ms=milliseconds(self._wall_ns()),
            )
        )

    async def projects(self, request: Request) -> Response:
        """Every project with the number of its runs, the one with the newest activity first."""
        body = to_json(await self._read(project_list, self._store))
        return _tagged(request, weak_tag(body), body)

    async def runs(
        self,
        request: Request,
        project: given.Project = None,
        state: given.StateName = None,
        host: given.Host = None,
        tag: given.Tag = None,
        text: given.Text = None,
        limit: given.Limit = 200,
        cursor: given.Cursor = None,
    ) -> Response:
        """Live runs first, then the others, each the newest first.

        Filters may be combined: a run must pass all of them. Where there are more runs than `limit`, `next` is the
        cursor of the next page; pages don't shift when runs are added.
        """
        words = {"project": project, "state": state, "host": host, "tag": tag, "text": text}
        filters = Filters(**{name: value or None for name, value in words.items()})
        now_ns = self._wall_ns()
        arguments = (self._store, self._presence, filters, limit, cursor or None, now_ns)
        page = await self._paged(run_page, *arguments)
        tag_of_page = weak_tag(to_json((page.runs, page.next)))
        return unchanged(request.headers, tag_of_page) or answer(to_json(page), tag_of_page, keep=False)

    async def run(self, request: Request, run_id: given.RunId) -> Response:
        """A run's state, figures and verdict, its sources (processes) with theirs, and its newest 2000 events."""
        standing = await self._standing(run_id)
        tag = weak_tag("run", standing.key)
        return unchanged(request.headers, tag) or answer(to_json(await self._read(standing.detail, self._store)), tag)

    async def change(self, request: Request, run_id: given.RunId) -> Response:
        """Give a run another name, other tags, or both; what is left out stays.

        Answers with the run as it is then. A browser's request needs the login cookie and an Origin of this server.
        """
        values = values_of(await read_json(request, RunChange))
        standing = await self._standing(run_id)
        pk = standing.pk
        function = functools.partial(change_run, self._store, run_pk=pk, values=values)
        if values and not await self._pipeline.change(function, runs=[pk]):
            raise Refused(404, f"no run {run_id!r}: it was deleted meanwhile")
        standing = await self._standing(run_id)
        return answer(to_json(await self._read(standing.detail, self._store)), weak_tag("run", standing.key))

    async def _standing(self, run_id: str) -> RunStanding:
        found = await self._read(standing_of, self._store, self._presence, _plain(run_id), self._wall_ns())
        return _found(found, f"no run {run_id!r}: GET /api/runs lists those there are")

    async def series(
        self,
        request: Request,
        run_id: given.RunId,
        source: given.SourceId = None,
        x: given.X = "batch",
        begin: given.From = None,
        end: given.To = None,
        points: given.Points = 1500,
        metrics: given.Metrics = None,
    ) -> Response:
        """One source's samples as columns, reduced to `points`; without `source`, the run's main one.

        `columns` say where each point stands, `metrics` what was measured there: `last` is the newest sample of the
        point's bucket, `min` and `max` span all of its samples (they are left out where each point is one sample).
        `ticks` are what only the agent's clock measures; `gpus` are readings of each device.
        """
        names = _metrics(metrics)
        key = await self._read(source_key, self._store, _plain(run_id), source)
        key = _found(key, f"no run {run_id!r} with such a source: GET /api/runs/{{run_id}} lists its sources")
        tag = weak_tag("series", key, x, begin, end, points, names)
        if (same := unchanged(request.headers, tag)) is not None:
            return same
        edges = (
            (_batch(begin, math.ceil), _batch(end, math.floor)) if x == "batch" else (_time(begin, -1), _time(end, 1))
        )
        wanted = Range(x == "batch", *edges)
        return answer(to_json(await self._read(read_series, self._store, run_id, key, wanted, points, names)), tag)

    async def events(
        self,
        run_id: given.RunId,
        source: given.SourceId = None,
        kind: given.EventKindName = None,
        after: given.AfterMs = None,
        limit: given.EventLimit = 200,
        cursor: given.EventCursor = None,
    ) -> Response:
        """What happened in a run: epochs, phases, limits, checkpoints, gaps, the end; source by source.

        Sources stand in the order in which they came; the events of each in the order of `seq`. Where there are more
        than `limit`, `next` is the cursor of the next page.
        """
        filters = EventFilters(source=source, kind=_kind(kind), after_ns=_time(after, 1))
        arguments = (self._store, _plain(run_id), filters, limit, cursor or None)
        return _json(_found(await self._paged(event_page, *arguments), f"no run {run_id!r} with such a source"))

    async def summary(self, request: Request, run_id: given.RunId) -> Response:
        """Figures to compare runs by, of each source: duration, throughput, peak, growth per batch, faults, stalls."""
        figures = await self._figures(run_id)
        return _tagged(request, weak_tag(body := to_json(figures)), body)

    async def compare(self, request: Request, runs: given.RunIds) -> Response:
        """The summaries of 2 to 10 runs, in the order of `runs`; one that is named twice stands there once."""
        ids = dict.fromkeys(runs.split(","))
        body = to_json(Comparison(runs=[await self._figures(run_id) for run_id in ids]))
        return _tagged(request, weak_tag(body), body)

    async def _figures(self, run_id: str) -> RunFigures:
        found = await self._read(run_figures, self._store, self._presence, _plain(run_id), self._wall_ns())
        return _found(found, f"no run {run_id!r}: GET /api/runs lists those there are")

    async def _paged(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        try:
            return await self._read(function, *arguments)
        except BadCursor as error:
            raise Refused(422, f"cursor can't be used: {error}", "cursor") from None


def _json(value: Any) -> Response:
    return Response(to_json(value), media_type="application/json")


def _tagged(request: Request, tag: str, body: bytes) -> Response:
    return unchanged(request.headers, tag) or answer(body, tag)


def _found(value: _Result | None, otherwise: str) -> _Result:
    if value is None:
        raise Refused(404, otherwise)
    return value


def _plain(run_id: str) -> str:
    # PostgreSQL takes no NUL in a text; no id has one.
    return run_id.replace("\0", " ")


def _metrics(given_names: str | None) -> tuple[str, ...]:
    if not given_names:
        return ALL
    names = tuple(dict.fromkeys(given_names.split(",")))
    if unknown := [name for name in names if name not in ALL]:
        raise Refused(422, f"metrics={unknown[0]!r} is no metric: expected some of {', '.join(ALL)}", "metrics")
    return names


def _kind(name: str | None) -> EventKind | None:
    if not name:
        return None
    if name not in given.EVENT_KINDS:
        raise Refused(422, f"kind={name!r} is no kind of event: expected {', '.join(given.EVENT_KINDS)}", "kind")
    return EventKind[name.upper()]


def _batch(edge: float | None, round_: Callable[[float], int]) -> int | None:
    return None if edge is None else _stored(round_(edge))


def _time(edge_ms: float | None, outward: int) -> int | None:
    # A float holds a time of today to a quarter of a µs: a sample at the edge must not be lost to that.
    if edge_ms is None:
        return None
    return _stored(round(min(max(edge_ms, -1e300), 1e300) * 1e6) + outward * 1_000)


def _stored(value: int) -> int:
    return max(-_LARGEST, min(_LARGEST, value))
