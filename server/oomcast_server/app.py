"""The wiring, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from fastapi import FastAPI

from oomcast_server import api, pages
from oomcast_server.assets import Assets, load_assets
from oomcast_server.auth import Gate, Secret
from oomcast_server.errors import StoreUnavailable
from oomcast_server.ingest import Ingest
from oomcast_server.live import Hub
from oomcast_server.pipeline import Pipeline
from oomcast_server.presence import VANISHED_AFTER_NS, Presence
from oomcast_server.problems import handle_problems
from oomcast_server.query import Standing, live_runs
from oomcast_server.settings import ServerSettings
from oomcast_server.store.sqlite import SqliteStore
from oomcast_server.viewers import Viewers

__all__ = ["create_app"]

_MOST_LIVE = 1_000


def create_app(
    settings: ServerSettings,
    store: SqliteStore,
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
    presence = Presence(wall_ns(), vanished_after_ns)
    hub = Hub(presence, wall_ns)
    pipeline = Pipeline(store, hub.committed, wall_ns)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        pipeline.start()
        live: list[Standing] = []
        with contextlib.suppress(StoreUnavailable):  # then a run is watched from its next rows on
            live = await asyncio.to_thread(live_runs, store, _MOST_LIVE)
        hub.start(live)
        yield
        await hub.close()
        await pipeline.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    handle_problems(app)
    app.include_router(api.make_router(store, presence, wall_ns))
    app.include_router(pages.make_router(assets if assets is not None else load_assets(), secret))
    app.add_api_websocket_route("/api/ingest", Ingest(pipeline, presence, wall_ns).serve)
    app.add_api_websocket_route("/api/live", Viewers(store, hub, presence, wall_ns).serve)
    return Gate(app, secret, settings.reachable_hosts)
