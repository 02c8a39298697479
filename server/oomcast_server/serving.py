"""One server from its settings to its end."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import logging
import signal
import socket
import time
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from oomcast.wire import MAX_MESSAGE_BYTES
from oomcast_server.app import create_app
from oomcast_server.connections import BACKLOG, Http, Socket, allow_connections
from oomcast_server.listening import bind, check_exposure, links
from oomcast_server.pidfile import pid_file
from oomcast_server.rollups.catching_up import catch_up
from oomcast_server.settings import ServerSettings
from oomcast_server.store.opening import open_store

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
            ws=Socket,
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_per_message_deflate=False,  # a decompression bomb costs the sender nothing
            http=Http,
            backlog=BACKLOG,
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
    # It warns of each request that is none, and anyone who reaches the port can send millions.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    allow_connections()
    with contextlib.ExitStack() as stack:

        def listen() -> socket.socket:
            return stack.enter_context(contextlib.closing(bind(settings, token)))

        def make_app() -> ASGIApp:
            store = stack.enter_context(contextlib.closing(open_store(settings)))
            catch_up(store, time.time_ns(), say)
            return create_app(settings, store)

        if settings.postgres_url:
            # A balancer passes over who refuses a connection, and waits for who takes it: not before it can be served.
            app, listener = make_app(), listen()
        else:
            listener, app = listen(), make_app()  # a file is not touched where another server is
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
