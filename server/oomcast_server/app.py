"""The wiring, and nothing else."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable

from fastapi import FastAPI

from oomcast_server import api, pages
from oomcast_server.assets import Assets, load_assets
from oomcast_server.auth import Gate, Secret
from oomcast_server.ingest import Ingest
from oomcast_server.live import Hub
from oomcast_server.pipeline import Pipeline
from oomcast_server.problems import handle_problems
from oomcast_server.settings import ServerSettings
from oomcast_server.store.sqlite import SqliteStore
from oomcast_server.viewers import Viewers

__all__ = ["create_app"]


def create_app(
    settings: ServerSettings,
    store: SqliteStore,
    wall_ns: Callable[[], int] = time.time_ns,
    assets: Assets | None = None,
) -> Gate:
    """The ASGI application over an open store, which stays the caller's to close.

    Raises:
        SettingsError: there is no token, and none can be made.
    """
    secret = Secret(settings.read_token())
    hub = Hub(wall_ns)
    pipeline = Pipeline(store, hub.committed, wall_ns)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        pipeline.start()
        hub.start()
        yield
        await hub.close()
        await pipeline.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    handle_problems(app)
    app.include_router(api.make_router(store, wall_ns))
    app.include_router(pages.make_router(assets if assets is not None else load_assets(), secret))
    app.add_api_websocket_route("/api/ingest", Ingest(pipeline, wall_ns).serve)
    app.add_api_websocket_route("/api/live", Viewers(store, hub, wall_ns).serve)
    return Gate(app, secret, settings.reachable_hosts)
