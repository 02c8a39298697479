"""That a deleted run is gone at once, and its rows with it, whatever comes next."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from tests.server.conftest import RunningServer
from tests.server.parts import RUN, TOKEN, a_frame, a_hello, a_sample, a_stretch, an_end, wait_for
from tests.server.traces import exported, fill, imported

from oomcast_server.keeping.deletion import delete_run, purge
from oomcast_server.store import schema

pytestmark = pytest.mark.fast

MINUTE_NS = 60_000_000_000
OTHER = "another0run"


@pytest.fixture
def clock() -> list[int]:
    return [time.time_ns()]


@pytest.fixture
def server(make_running: Callable[..., RunningServer], store_address: str, clock: list[int]) -> RunningServer:
    """Once for each engine."""
    return make_running(database=store_address, wall_ns=lambda: clock[0])


def delete(server: RunningServer, run: str = RUN) -> httpx.Response:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return httpx.delete(f"{server.base}/api/runs/{run}", headers=headers, timeout=30, trust_env=False)


def rows_of(server: RunningServer) -> int:
    """Rows in every table that has a run's."""
    with server.store.read() as connection:
        tables = [*schema.ROWS, schema.sources, schema.terms, schema.runs]
        return sum(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() for table in tables)


async def test_a_run_is_gone_with_all_its_rows(server: RunningServer) -> None:
    await fill(server)
    await server.store_frames(a_stretch(1, 2_000), a_frame(events=[an_end(2_001, "finished")]), hello=a_hello(OTHER))
    await fill_of_other(server)
    kept = rows_of(server)
    answer = delete(server)
    assert (answer.status_code, answer.content) == (204, b"")
    assert server.get(f"/api/runs/{RUN}").status_code == 404
    assert [run["id"] for run in server.get("/api/runs", text="train").json()["runs"]] == [OTHER]
    wait_for(lambda: rows_of(server) < kept - 320)
    wait_for(lambda: purges_of(server) == 0)
    assert server.get(f"/api/runs/{OTHER}").json()["samples"] == 2_000
    assert delete(server, OTHER).status_code == 204
    wait_for(lambda: rows_of(server) == 0)


async def fill_of_other(server: RunningServer) -> None:
    assert server.get(f"/api/runs/{OTHER}/series").status_code == 200


def purges_of(server: RunningServer) -> int:
    with server.store.read() as connection:
        query = sa.select(sa.func.count()).select_from(schema.purges).where(schema.purges.c.source_pk > 0)
        return int(connection.execute(query).scalar_one())


async def test_a_run_is_not_deleted_under_its_agent(server: RunningServer, clock: list[int]) -> None:
    async with server.agent(a_hello()) as agent:
        await agent.ask(a_stretch(1, 10))
        clock[0] += 2 * MINUTE_NS
        answer = delete(server)
        assert answer.status_code == 409
        assert "its agent is connected" in answer.json()["detail"]


async def test_a_run_that_was_heard_of_just_now_lives(server: RunningServer, clock: list[int]) -> None:
    await server.store_frames(a_stretch(1, 10))
    wait_for(lambda: not server.get(f"/api/runs/{RUN}").json()["sources_detail"][0]["connected"] or server.store.shared)
    answer = delete(server)
    assert answer.status_code == 409
    assert "lives" in answer.json()["detail"]
    clock[0] += MINUTE_NS
    assert delete(server).status_code == 204


async def test_what_is_not_there_can_t_be_deleted(server: RunningServer) -> None:
    answer = delete(server)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


async def test_a_deleted_run_can_be_imported_at_once(server: RunningServer, tmp_path: Path) -> None:
    await fill(server)
    path = exported(server, "jsonl", tmp_path)
    deleted_pk = pk_of(server)
    with server.store.write() as connection:  # as the server does it, but nobody removes the rows yet
        assert delete_run(connection, deleted_pk, time.time_ns())
    assert imported(server, path).sent == 12 + 301
    assert pk_of(server) > deleted_pk
    while purges_of(server):
        with server.store.write() as connection:
            place = connection.execute(sa.select(schema.purges).where(schema.purges.c.source_pk > 0)).first()
            assert place is not None
            purge(connection, (place[0], place[1]), most_rows=50)
    assert exported(server, "jsonl", tmp_path / "..").read_bytes() == path.read_bytes()


def pk_of(server: RunningServer) -> int:
    with server.store.read() as connection:
        return int(connection.execute(sa.select(schema.runs.c.pk).where(schema.runs.c.id == RUN)).scalar_one())


async def test_a_run_s_number_is_never_another_s(server: RunningServer) -> None:
    found = []
    for _ in range(3):
        await server.store_frames(a_frame(events=[an_end(1, "finished")]))
        found.append(pk_of(server))
        wait_for(lambda: delete(server).status_code == 204)
        wait_for(lambda: purges_of(server) == 0)
    assert found == sorted(set(found))


async def test_runs_that_come_at_once_have_numbers_of_their_own(server: RunningServer) -> None:
    names = [f"run0number{number:02}" for number in range(40)]
    await asyncio.gather(*(server.store_frames(a_stretch(1, 3), hello=a_hello(name)) for name in names))
    assert sorted(run["id"] for run in server.get("/api/runs").json()["runs"]) == names


async def test_what_was_left_is_removed_by_the_next_server(
    make_running: Callable[..., RunningServer], store_address: str, clock: list[int]
) -> None:
    first = make_running(database=store_address, wall_ns=lambda: clock[0])
    await first.store_frames(a_stretch(1, 500), a_frame(events=[an_end(501, "finished")]))
    first.stop()
    with first.store.write() as connection:
        assert delete_run(connection, 1, time.time_ns())
    first.store.close()
    again = make_running(database=store_address, wall_ns=lambda: clock[0])
    headers = {"Authorization": f"Bearer {TOKEN}"}
    httpx.post(f"{again.base}/api/prune", json={}, headers=headers, trust_env=False)
    wait_for(lambda: rows_of(again) == 0)


async def test_alerts_go_with_their_run(server: RunningServer) -> None:
    await server.store_frames(a_frame(events=[an_end(1, "finished")]))
    values = {"run_pk": pk_of(server), "rule": "r", "dedup_key": "k", "severity": "notice", "state": "firing"}
    with server.store.write() as connection:
        connection.execute(sa.insert(schema.episodes).values(**values, started_ns=1, detail="{}"))
    wait_for(lambda: delete(server).status_code == 204)
    with server.store.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.episodes)).scalar_one() == 0


async def test_whoever_has_it_open_is_told(server: RunningServer, clock: list[int]) -> None:
    await server.store_frames(a_frame([a_sample(1)], [an_end(2, "finished")]))
    clock[0] += 120_000_000_000
    async with server.viewer() as viewer:
        await viewer.send(json.dumps({"type": "watch", "run": RUN}))
        assert json.loads(await viewer.recv())["type"] == "resync"
        answer = await asyncio.to_thread(delete, server)
        assert answer.status_code == 204
        messages = [json.loads(await viewer.recv())]
        while messages[-1]["type"] != "gone":
            messages.append(json.loads(await viewer.recv()))
        assert messages[-1] == {"type": "gone", "run": RUN}
