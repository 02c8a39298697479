"""The wiring, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable

from fastapi import FastAPI

from oomcast_server import health, pages
from oomcast_server.alerts.evaluator import Evaluator
from oomcast_server.assets import Assets, load_assets
from oomcast_server.auth import Gate, Secret
from oomcast_server.errors import StoreUnavailable
from oomcast_server.intake.ingest import Ingest
from oomcast_server.intake.pipeline import Pipeline
from oomcast_server.keeping import api as keeping_api
from oomcast_server.keeping.janitor import Janitor
from oomcast_server.keeping.retention import Policy
from oomcast_server.live.following import Follower
from oomcast_server.live.hub import Hub
from oomcast_server.live.viewers import Viewers
from oomcast_server.rest import api, reference
from oomcast_server.rest.problems import handle_problems
from oomcast_server.rest.requests import HeadAsGet
from oomcast_server.runs.presence import VANISHED_AFTER_NS, Presence
from oomcast_server.runs.query import Standing, live_runs
from oomcast_server.settings import ServerSettings
from oomcast_server.store.base import Store

__all__ = ["create_app"]

_MOST_LIVE = 1_000


def create_app(
    settings: ServerSettings,
    store: Store,
    wall_ns: Callable[[], int] = time.time_ns,
    assets: Assets | None = None,
    vanished_after_ns: int = VANISHED_AFTER_NS,
) -> Gate:
    """The ASGI application over an open store, which stays the caller's to close.

    A source whose agent is gone and that says nothing for `vanished_after_ns` is held to have vanished.

    Raises:
        SettingsError: there is no token, and none can be made.
    """
    secret = Secret(settings.read_token())
    presence = Presence(wall_ns(), vanished_after_ns, shared=store.shared)
    hub = Hub(presence, wall_ns)
    follower = Follower(store, hub, wall_ns) if store.shared else None
    pipeline = Pipeline(store, follower.committed if follower else hub.committed, wall_ns)
    evaluator = Evaluator(store, pipeline, presence, secrets.token_hex(8), wall_ns)
    janitor = Janitor(store, pipeline, Policy(settings.full_days, settings.rollup_days), wall_ns)
    folder = None if settings.postgres_url else settings.database.parent

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        pipeline.start()
        live: list[Standing] = []
        with contextlib.suppress(StoreUnavailable):  # then a run is watched from its next rows on
            live = await asyncio.to_thread(live_runs, store, _MOST_LIVE)
        hub.start(live)
        if follower:
            follower.start()
        evaluator.start()
        janitor.start()
        yield
        await janitor.close()
        await evaluator.close()
        if follower:
            await follower.close()
        await hub.close()
        await pipeline.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_middleware(HeadAsGet)
    handle_problems(app)
    app.include_router(api.make_router(store, presence, pipeline, wall_ns))
    app.include_router(keeping_api.make_router(store, pipeline, presence, janitor, folder, wall_ns, hub.gone))
    app.include_router(reference.make_router(app))
    app.include_router(health.make_router(store, lambda: pipeline.failing))
    app.include_router(pages.make_router(assets if assets is not None else load_assets(), secret))
    app.add_api_websocket_route("/api/ingest", Ingest(pipeline, presence, wall_ns).serve)
    viewers = Viewers(store, hub, presence, wall_ns, follower.follow if follower else None, settings.viewers)
    app.add_api_websocket_route("/api/live", viewers.serve)
    return Gate(app, secret, settings.reachable_hosts)
