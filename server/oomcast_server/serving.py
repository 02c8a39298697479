"""One server from its settings to its end."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import logging
import signal
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from oomcast.wire import MAX_MESSAGE_BYTES
from oomcast_server.app import create_app
from oomcast_server.listening import bind, check_exposure, links
from oomcast_server.pidfile import pid_file
from oomcast_server.settings import ServerSettings
from oomcast_server.store.sqlite import SqliteStore

__all__ = ["make_server", "serve"]


class _Server(uvicorn.Server):
    """uvicorn closes a connection once all is sent; one whose other side takes nothing would outlive the loop."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)


def make_server(app: ASGIApp) -> uvicorn.Server:
    """uvicorn as oomcast wants it; give it the bound socket when it runs."""
    return _Server(
        uvicorn.Config(
            app,
            ws="websockets-sansio",
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_per_message_deflate=False,  # a decompression bomb costs the sender nothing
            http="h11",
            lifespan="on",
            log_config=None,
            access_log=False,  # a login link has the token in its query
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
    )


def serve(settings: ServerSettings, say: Callable[[str], None]) -> None:
    """Listen until SIGINT or SIGTERM.

    Raises:
        PortInUse, StartError: the address can't be listened on.
        StoreRefused, StoreUnavailable: the database can't be opened.
        SettingsError: a folder can't be written.
    """
    check_exposure(settings)
    token = settings.read_token()
    logging.basicConfig(level=logging.WARNING, format="oomcast: %(message)s")
    with contextlib.closing(bind(settings, token)) as listener, contextlib.ExitStack() as stack:
        store = stack.enter_context(contextlib.closing(SqliteStore(settings.database)))
        app = create_app(settings, store)
        port = listener.getsockname()[1]
        stack.enter_context(pid_file(settings.places.state, port))
        for line in links(settings, port, token, _user()):
            say(line)
        _run(app, listener)


def _run(app: ASGIApp, listener: socket.socket) -> None:
    # uvicorn ends in good order at these signals, then raises them again for whoever was there before.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    make_server(app).run(sockets=[listener])


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user in this container
        return "you"
