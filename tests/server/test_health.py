"""What a container's health check and a load balancer hear."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Connection
from tests.server.conftest import RunningServer

from oomcast_server import health
from oomcast_server.errors import StoreUnavailable
from oomcast_server.store.sqlite import SqliteStore

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_it_is_told_without_a_token_and_tells_nothing_else(server: RunningServer, path: str) -> None:
    answer = httpx.get(server.base + path, trust_env=False)
    assert (answer.status_code, answer.text) == (200, "ok\n")
    head = httpx.head(server.base + path, trust_env=False)
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_other_hosts_names_and_methods_stay_closed(server: RunningServer, path: str) -> None:
    assert httpx.get(server.base + path, headers={"Host": "evil.example"}, trust_env=False).status_code == 400
    assert httpx.post(server.base + path, trust_env=False).status_code == 405
    assert httpx.get(server.base + path + "/x", trust_env=False).status_code == 401


class Broken(SqliteStore):
    """A database whose disk answers reads with an error, or never."""

    failure: Exception | None = None
    reads = 0

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        self.reads += 1
        if self.failure is not None:
            raise self.failure
        with super().read() as connection:
            yield connection


async def ask(store: Broken, is_failing: bool, now: list[float], times: int = 1) -> list[tuple[int, str]]:
    app = FastAPI()
    app.include_router(health.make_router(store, lambda: is_failing, lambda: now[0]))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        answers = await asyncio.gather(*(client.get("/readyz") for _ in range(times)))
    return [(answer.status_code, answer.text) for answer in answers]


async def test_a_store_that_can_t_be_read_or_written_is_not_ready_and_its_path_stays_inside(tmp_path: Path) -> None:
    with contextlib.closing(Broken(tmp_path / "x.db")) as store:
        assert await ask(store, True, [0.0]) == [(503, "the store can't be written\n")]
        store.failure = StoreUnavailable(f"can't read {tmp_path}: disk I/O error")
        assert await ask(store, False, [0.0]) == [(503, "the store can't be read\n")]


async def test_the_store_is_asked_once_however_many_ask(tmp_path: Path) -> None:
    with contextlib.closing(Broken(tmp_path / "x.db")) as store:
        assert await ask(store, False, [0.0], times=50) == [(200, "ok\n")] * 50
        assert store.reads == 1
