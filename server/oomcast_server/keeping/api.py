"""The REST interface to what is kept: export, storage, retention, pruning, deletion."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import sqlalchemy as sa
from fastapi import APIRouter, Depends, Query, Request
from fastapi import Path as InPath
from sqlalchemy import Connection
from starlette.responses import Response

from oomcast_server.keeping.deletion import delete_run, find_run
from oomcast_server.keeping.download import Download
from oomcast_server.keeping.exporting import open_export
from oomcast_server.keeping.formats import CsvFormat, Format, Gzipped, LinesFormat
from oomcast_server.keeping.janitor import Changing, Janitor
from oomcast_server.keeping.parquet import ParquetFormat
from oomcast_server.keeping.retention import Policy, parts
from oomcast_server.keeping.shapes import (
    ProjectStorage,
    PruneProgress,
    PruneReport,
    PruneRequest,
    RetentionChange,
    StorageInfo,
)
from oomcast_server.keeping.storage import Kept, ProjectUse, Storage, read_storage
from oomcast_server.rest.openapi import answers, takes
from oomcast_server.rest.parameters import RunId
from oomcast_server.rest.problems import MEDIA_TYPE, Refused
from oomcast_server.rest.requests import check_query, read_json
from oomcast_server.rest.shapes import Retention, milliseconds, to_json
from oomcast_server.runs.presence import Presence
from oomcast_server.store import schema
from oomcast_server.store.base import Store

__all__ = ["make_router"]

_MOST_READS = 2  # at once: the dashboard's own come first
_MOST_EXPORTS = 8  # at once; more wait

_Result = TypeVar("_Result")

ProjectName = Annotated[str, InPath(description="The project's whole name.", examples=["mnist"], max_length=200)]
FormatName = Annotated[
    Literal["csv", "parquet", "jsonl"],
    Query(
        alias="format",
        description="`csv`: one row for each sample. `parquet`: the same, with run and events in the metadata. "
        "`jsonl`: everything, one JSON object on each line.",
        examples=["csv"],
    ),
]


def make_router(
    store: Store,
    pipeline: Changing,
    presence: Presence,
    janitor: Janitor,
    folder: Path | None,
    wall_ns: Callable[[], int],
    on_deleted: Callable[[str], None] = lambda _: None,
) -> APIRouter:
    """The routes under `/api` that export, prune and delete.

    `folder` is the database's (None: it is on another machine). `on_deleted` is called on the event loop with the id of
    a run that is gone.
    """
    keeping = _Keeping(store, pipeline, presence, janitor, folder, wall_ns, on_deleted)
    router = APIRouter(prefix="/api", dependencies=[Depends(check_query)])
    add = router.add_api_route
    add("/runs/{run_id}/export", keeping.export, summary="A run as a file", responses=_FILES)
    add(
        "/runs/{run_id}",
        keeping.delete,
        methods=["DELETE"],
        status_code=204,
        summary="Delete a run",
        responses=_GONE,
    )
    add("/storage", keeping.storage, summary="What the data take", responses=answers(StorageInfo))
    add(
        "/projects/{name:path}",
        keeping.retain,
        methods=["PUT"],
        summary="Set a project's retention",
        responses=answers(Retention, 404, 409),
        openapi_extra=takes(RetentionChange, {"full_days": 30, "rollup_days": 400}),
    )
    add(
        "/prune",
        keeping.prune,
        methods=["POST"],
        summary="Remove what is too old",
        responses=answers(PruneReport, 404),
        openapi_extra=takes(PruneRequest, {"dry_run": True}),
    )
    add("/prune", keeping.pruning, summary="How far the removal is", responses=answers(PruneProgress))
    return router


class _Keeping:
    """What the routes do. The docstrings are what the API page says of them."""

    def __init__(
        self,
        store: Store,
        pipeline: Changing,
        presence: Presence,
        janitor: Janitor,
        folder: Path | None,
        wall_ns: Callable[[], int],
        on_deleted: Callable[[str], None],
    ) -> None:
        self._store = store
        self._pipeline = pipeline
        self._presence = presence
        self._janitor = janitor
        self._folder = folder
        self._wall_ns = wall_ns
        self._on_deleted = on_deleted
        self._reads = asyncio.Semaphore(_MOST_READS)
        self._slots = asyncio.Semaphore(_MOST_EXPORTS)

    async def _read(self, function: Callable[..., _Result], *arguments: Any, **given: Any) -> _Result:
        async with self._reads:
            return await asyncio.to_thread(function, *arguments, **given)

    async def export(self, request: Request, run_id: RunId, form: FormatName) -> Response:
        """The whole run as it is now, streamed: `oomcast import` makes a run of it on another server.

        Where the answer breaks off, the run was deleted or pruned meanwhile. CSV and JSON lines are compressed with
        gzip where `Accept-Encoding` allows it.
        """
        made = _FORMATS[form]()
        exported = await self._read(open_export, self._store, _plain(run_id), with_devices=form != "jsonl")
        if exported is None:
            raise _no_run(run_id)
        packed = form != "parquet" and _takes_gzip(request)
        whole: Format = Gzipped(made) if packed else made
        first = whole.begin(exported)
        encoding = "gzip" if packed else None
        return Download(self._store, exported, whole, first, form, self._slots, self._reads, encoding)

    async def delete(self, run_id: RunId) -> Response:
        """Delete a run that has ended, or that no agent is connected for and nothing came of for a minute.

        It is gone at once and for good; the room that it took can be used again soon after.
        """
        found = await self._read(find_run, self._store, _plain(run_id))
        if found is None:
            raise _no_run(run_id)
        run_pk, source_pks = found
        if any(self._presence.connected(pk) for pk in source_pks):
            raise Refused(409, f"run {run_id} lives, its agent is connected: end the training first")
        if not await self._pipeline.change(
            lambda connection: delete_run(connection, run_pk, self._wall_ns()), [run_pk]
        ):
            raise _no_run(run_id)
        self._on_deleted(run_id)
        self._janitor.purge_soon()
        return Response(status_code=204)

    async def storage(self) -> Response:
        """The database on disk, and how much each project keeps of it and for how long."""
        return _json(_storage_info(await self._read(read_storage, self._store, self._folder), self._janitor.default))

    async def retain(self, request: Request, name: ProjectName) -> Response:
        """For how many days every sample is kept, and for how many the rollups that older charts are made of."""
        change = await read_json(request, RetentionChange)
        default = self._janitor.default
        kept = await self._pipeline.change(lambda connection: _retain(connection, _plain(name), change, default))
        return _json(kept)

    async def prune(self, request: Request) -> Response:
        """Remove now what is older than its project keeps it, which else happens each hour.

        The answer says what; the removal goes on behind it, see `GET /api/prune`.
        """
        wanted = await read_json(request, PruneRequest)
        arguments = (self._store, self._folder, self._janitor.default, self._wall_ns(), wanted)
        report = await self._read(_plan, *arguments)
        if not wanted.dry_run:
            self._janitor.prune_soon(wanted.project)
        return _json(report)

    async def pruning(self) -> Response:
        """What the removal of old data does, and what it has done since the server began."""
        now = self._janitor.progress
        finished = milliseconds(now.finished_ns) if now.finished_ns is not None else None
        return _json(PruneProgress(running=now.running, removed_rows=now.rows, finished_ms=finished, error=now.error))


_FORMATS: dict[str, Callable[[], Format]] = {"csv": CsvFormat, "parquet": ParquetFormat, "jsonl": LinesFormat}


_GONE: dict[int | str, dict[str, Any]] = {
    204: {"description": "It is gone."},
    409: {"description": "It lives.", "content": {MEDIA_TYPE: {}}},
}
_FILES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file.",
        "content": {
            form.media_type.partition(";")[0]: {"schema": {"type": "string", "format": "binary"}}
            for form in (CsvFormat, LinesFormat, ParquetFormat)
        },
    },
    501: {"description": "Parquet is not installed on the server.", "content": {MEDIA_TYPE: {}}},
}


def _json(value: Any) -> Response:
    return Response(to_json(value), media_type="application/json")


def _plain(text: str) -> str:
    return text.replace("\0", " ")  # PostgreSQL takes no NUL in a text; nothing is called so


def _no_run(run_id: str) -> Refused:
    return Refused(404, f"no run {run_id[:40]!r}: GET /api/runs lists them")


def _takes_gzip(request: Request) -> bool:
    given = [part.partition(";") for part in request.headers.get("accept-encoding", "").lower().split(",")]
    return any(name.strip() == "gzip" and weight.replace(" ", "") not in _NEVER for name, _, weight in given)


_NEVER = ("q=0", "q=0.0", "q=0.00", "q=0.000")


def _storage_info(storage: Storage, default: Policy) -> StorageInfo:
    return StorageInfo(
        database_bytes=storage.database_bytes,
        unused_bytes=storage.unused_bytes,
        disk_free_bytes=storage.disk_free_bytes,
        full_days=default.full_days,
        rollup_days=default.rollup_days,
        projects=[_project(storage, use, default) for use in storage.projects],
    )


def _project(storage: Storage, use: ProjectUse, default: Policy) -> ProjectStorage:
    policy = default.of_project(use.full_days, use.rollup_days)
    return ProjectStorage(
        name=use.name,
        runs=use.runs,
        live=use.live,
        samples=use.samples,
        kept_samples=use.kept.full,
        estimated_bytes=storage.estimate(use.kept),
        retention=Retention(full_days=use.full_days, rollup_days=use.rollup_days),
        full_days=policy.full_days,
        rollup_days=policy.rollup_days,
    )


def _retain(connection: Connection, name: str, change: RetentionChange, default: Policy) -> Retention:
    table = schema.projects
    query = sa.select(table.c.full_days, table.c.rollup_days).where(table.c.name == name)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise _no_project(name)
    full = row.full_days if change.full_days is msgspec.UNSET else change.full_days
    rollup = row.rollup_days if change.rollup_days is msgspec.UNSET else change.rollup_days
    in_force = default.of_project(full, rollup)
    if rollup is not None and in_force.rollup_days != rollup:
        kept = f"samples are kept for {in_force.full_days} days" if in_force.full_days else "samples are kept for ever"
        raise Refused(409, f"rollup_days {rollup}: {kept}, expected as many or more, or 0 (for ever)", "rollup_days")
    connection.execute(sa.update(table).where(table.c.name == name).values(full_days=full, rollup_days=rollup))
    return Retention(full_days=full, rollup_days=rollup)


def _no_project(name: str) -> Refused:
    return Refused(404, f"no project {name[:40]!r}: GET /api/storage lists them")


def _plan(store: Store, folder: Path | None, default: Policy, now_ns: int, wanted: PruneRequest) -> PruneReport:
    storage = read_storage(store, folder)
    if wanted.project is not None and wanted.project not in {use.name for use in storage.projects}:
        raise _no_project(wanted.project)
    runs, kept = set(), Kept()
    for part in parts(store, default, now_ns, wanted.project):
        runs.add(part.run_pk)
        kept.full += part.samples
        kept.rolled += part.rolled
    return PruneReport(
        dry_run=wanted.dry_run,
        runs=len(runs),
        samples=kept.full,
        rolled_samples=kept.rolled,
        estimated_bytes=storage.estimate(kept),
    )
