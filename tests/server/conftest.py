"""Real servers for the tests of this folder: uvicorn on a free port, over a real SQLite file."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest
from tests.server.parts import TOKEN, a_hello, wait_for
from tests.server.postgres import empty_postgres_url, own_postgres, postgres, postgres_url
from tests.server.stores import empty_address, store, store_address
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Origin

from oomcast.wire import AgentMessage, Frame, ServerMessage, decode_server_message, encode
from oomcast_server.app import create_app
from oomcast_server.assets import Assets
from oomcast_server.auth import Gate, Secret
from oomcast_server.listening import bind
from oomcast_server.runs.presence import VANISHED_AFTER_NS
from oomcast_server.serving import make_server
from oomcast_server.settings import ServerSettings, load
from oomcast_server.store.base import Store
from oomcast_server.store.opening import open_store

# Fixtures of modules of their own.
__all__ = ["empty_address", "empty_postgres_url", "own_postgres", "postgres", "postgres_url", "store", "store_address"]

TEST_ASSETS = Assets(b"<!doctype html><title>shell</title>", {})


class Agent:
    """A real client of `/api/ingest`."""

    def __init__(self, websocket: ClientConnection) -> None:
        self.websocket = websocket

    async def say(self, message: AgentMessage | bytes) -> None:
        await self.websocket.send(message if isinstance(message, bytes) else encode(message))

    async def hear(self) -> ServerMessage:
        data = await self.websocket.recv()
        assert isinstance(data, bytes)
        return decode_server_message(data)

    async def ask(self, message: AgentMessage | bytes) -> ServerMessage:
        await self.say(message)
        return await self.hear()


class RunningServer:
    """A server in this process, on a thread of its own."""

    def __init__(self, settings: ServerSettings, app: Gate, store: Store) -> None:
        self.settings, self.app, self.store = settings, app, store
        listener = bind(settings, TOKEN)
        self.port: int = listener.getsockname()[1]
        self._server = make_server(app)
        self._thread = threading.Thread(target=self._server.run, args=([listener],))
        self._thread.start()
        wait_for(lambda: self._server.started)

    def stop(self) -> float:
        """End it in good order; returns the seconds that this took."""
        begun = time.monotonic()
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()
        return time.monotonic() - begun

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def cookie(self) -> dict[str, str]:
        return {"Cookie": f"oomcast_session={Secret(TOKEN).session}"}

    def get(self, path: str, **parameters: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return httpx.get(self.base + path, params=parameters, headers=headers, timeout=30, trust_env=False)  # type: ignore[arg-type]

    @contextlib.asynccontextmanager
    async def agent(self, hello: AgentMessage | None = None) -> AsyncIterator[Agent]:
        """A connected agent that has said hello and been welcomed."""
        async with connect_agent(self.port) as agent:
            if hello is not None:
                await agent.ask(hello)
            yield agent

    async def store_frames(self, *frames: Frame, hello: AgentMessage | None = None) -> None:
        async with self.agent(hello or a_hello()) as agent:
            for frame in frames:
                await agent.ask(frame)

    @contextlib.asynccontextmanager
    async def viewer(self) -> AsyncIterator[ClientConnection]:
        """A browser that has followed the login link."""
        url = f"ws://127.0.0.1:{self.port}/api/live"
        async with connect(
            url,
            additional_headers=self.cookie,
            origin=Origin(self.base),
            proxy=None,
            max_size=None,
            compression=None,
        ) as websocket:
            yield websocket


@contextlib.asynccontextmanager
async def connect_agent(port: int) -> AsyncIterator[Agent]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    url = f"ws://127.0.0.1:{port}/api/ingest"
    async with connect(url, additional_headers=headers, proxy=None, compression=None) as websocket:
        yield Agent(websocket)


@pytest.fixture
def make_running(tmp_path: Path) -> Iterator[Callable[..., RunningServer]]:
    """Starts servers, each on its own database unless told otherwise, and ends them after the test."""
    with contextlib.ExitStack() as stack:

        def start(
            database: Path | str | None = None,
            assets: Assets = TEST_ASSETS,
            wall_ns: Callable[[], int] = time.time_ns,
            vanished_after_ns: int = VANISHED_AFTER_NS,
            **given: object,
        ) -> RunningServer:
            address = str(database or tmp_path / "data" / "oomcast.db")
            settings = load({}, home=str(tmp_path), port=0, token=TOKEN, store=address, **given)
            store = stack.enter_context(contextlib.closing(open_store(settings)))
            server = RunningServer(settings, create_app(settings, store, wall_ns, assets, vanished_after_ns), store)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def server(make_running: Callable[..., RunningServer]) -> RunningServer:
    """On SQLite; a module that takes `on_both_engines` has it once for each."""
    return make_running()


@pytest.fixture
def shared_server(make_running: Callable[..., RunningServer], store_address: str) -> RunningServer:
    """Once for each engine."""
    return make_running(database=store_address)


class ServerProcess:
    """`python -m oomcast_server serve` as a user starts it."""

    def __init__(self, home: Path, *arguments: str, **environment: str) -> None:
        self.home = home
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OOMCAST_", "SSH_"))}
        self.environment = {**kept, "PYTHONPATH": os.pathsep.join(sys.path), "OOMCAST_HOME": str(home), **environment}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "oomcast_server", *(arguments or ("serve", "--port", "0"))],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def first_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def wait_until_up(self) -> tuple[int, str]:
        """Its port and token, from the line that it prints, once it answers."""
        line = self.first_line()
        address = line.split("http://", 1)[1]
        port, token = int(address.split("/")[0].rsplit(":", 1)[1]), address.split("token=")[1]
        headers = {"Authorization": f"Bearer {token}"}

        def answers() -> bool:
            with contextlib.suppress(httpx.TransportError):
                url = f"http://127.0.0.1:{port}/api/server"
                return httpx.get(url, headers=headers, trust_env=False).status_code == 200
            return False

        wait_for(answers)
        return port, token

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Signal it, and wait: its exit code, and what else it said."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@pytest.fixture
def start_process(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Starts server processes, and kills after the test what still runs."""
    started: list[ServerProcess] = []

    def start(*arguments: str, home: Path | None = None, **environment: str) -> ServerProcess:
        started.append(ServerProcess(home or tmp_path, *arguments, **environment))
        return started[-1]

    yield start
    for server in started:
        server.end(signal.SIGKILL)
