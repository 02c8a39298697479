"""What is removed when it is too old, what stays, and that nobody notices the removal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from tests.server.conftest import RunningServer
from tests.server.parts import RUN, TOKEN, a_frame, a_hello, a_sample, a_stretch, an_end, wait_for
from tests.server.stores import open_at

from oomcast.sample import GpuReading, Kind
from oomcast.wire import Ack, Frame
from oomcast_server.intake.pipeline import Pipeline
from oomcast_server.keeping.janitor import Janitor
from oomcast_server.keeping.retention import Part, Policy, drop_rollups, drop_samples, parts
from oomcast_server.store import partitions, schema
from oomcast_server.store.base import Store

pytestmark = pytest.mark.fast

DAY_NS = 86_400_000_000_000
START_NS = 1_750_000_000_000_000_000


class Clock:
    """The server's wall clock, which goes by days."""

    def __init__(self) -> None:
        self.day = 0

    def __call__(self) -> int:
        return START_NS + self.day * DAY_NS


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(make_running: Callable[..., RunningServer], store_address: str, clock: Clock) -> RunningServer:
    """Once for each engine; 30 and 400 days."""
    return make_running(database=store_address, wall_ns=clock)


def ask(server: RunningServer, method: str, path: str, body: Any = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return httpx.request(method, server.base + path, json=body, headers=headers, timeout=30, trust_env=False)


def prune(server: RunningServer, **body: Any) -> dict[str, Any]:
    """Prune, and wait for the end."""
    answer = ask(server, "POST", "/api/prune", body)
    assert answer.status_code == 200, answer.text
    wait_for(lambda: not ask(server, "GET", "/api/prune").json()["running"])
    assert ask(server, "GET", "/api/prune").json()["error"] is None
    return dict(answer.json())


def seqs(store: Store, table: sa.Table = schema.samples) -> list[int]:
    with store.read() as connection:
        return list(connection.execute(sa.select(table.c.seq).distinct().order_by(table.c.seq)).scalars())


def count(store: Store, table: sa.Table) -> int:
    with store.read() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def with_gpu(frame: Frame) -> Frame:
    readings = [GpuReading(sample.seq, 0, None, None, None, None, None, 5) for sample in frame.samples]
    return a_frame(frame.samples, frame.events, readings)


async def test_samples_go_when_they_are_too_old(server: RunningServer, clock: Clock) -> None:
    await server.store_frames(with_gpu(a_stretch(1, 100)))
    clock.day = 30
    assert prune(server)["samples"] == 0
    clock.day = 31
    assert prune(server)["samples"] == 96
    assert seqs(server.store) == seqs(server.store, schema.gpu_samples) == [97, 98, 99, 100]


async def test_only_what_is_too_old_goes(server: RunningServer, clock: Clock) -> None:
    await server.store_frames(a_stretch(1, 1_000))
    clock.day = 20
    await server.store_frames(a_stretch(1_001, 2_000))
    clock.day = 40
    prune(server)
    assert seqs(server.store) == list(range(993, 2_001))  # 1 000 is inside a bucket, which is of the later day


async def test_a_kind_of_which_there_are_few_is_looked_at_too(server: RunningServer, clock: Clock) -> None:
    await server.store_frames(a_frame([a_sample(1, Kind.TICK), *(a_sample(seq) for seq in range(2, 201))]))
    clock.day = 20
    await server.store_frames(a_frame([a_sample(201, Kind.TICK), *(a_sample(seq) for seq in range(202, 401))]))
    clock.day = 40
    prune(server)
    assert seqs(server.store) == list(range(193, 401))


async def test_a_chart_of_pruned_samples_still_has_every_peak(server: RunningServer, clock: Clock) -> None:
    rows = [a_sample(seq, rss=10**6 + seq * 37 % 1_000) for seq in range(1, 2_049)]
    rows[700] = rows[700]._replace(rss_bytes=9_999_999)
    for begin in range(0, 2_048, 512):
        await server.store_frames(a_frame(rows[begin : begin + 512]))
    before = server.get(f"/api/runs/{RUN}/series", points=50).json()
    clock.day = 100
    prune(server)
    assert seqs(server.store) == []
    after = server.get(f"/api/runs/{RUN}/series", points=50).json()
    assert max(after["metrics"]["rss_bytes"]["max"]) == max(before["metrics"]["rss_bytes"]["max"]) == 9_999_999
    assert after["columns"]["batch"][-1] == before["columns"]["batch"][-1]


async def test_a_source_that_goes_on_loses_nothing(
    server: RunningServer, make_running: Callable[..., RunningServer], store_address: str, clock: Clock
) -> None:
    await server.store_frames(a_stretch(1, 1_000))
    clock.day = 50
    prune(server)
    await server.store_frames(a_stretch(1_001, 1_500))
    server.stop()
    server.store.close()
    again = make_running(database=store_address, wall_ns=clock)  # its unfinished rollups are read from the store
    await again.store_frames(a_stretch(1_501, 3_000))
    series = again.get(f"/api/runs/{RUN}/series", points=20).json()
    assert (series["columns"]["batch"][-1], again.get(f"/api/runs/{RUN}").json()["samples"]) == (2_999, 3_000)
    assert seqs(again.store) == list(range(993, 3_001))


async def test_rollups_go_later_and_the_story_stays(server: RunningServer, clock: Clock) -> None:
    end = an_end(2_001, "died", ending="oom killed", grade="confirmed", text="Killed.")
    await server.store_frames(with_gpu(a_stretch(1, 2_000)), a_frame(events=[end]))
    clock.day = 400
    prune(server)
    assert count(server.store, schema.rollups) > 100
    clock.day = 401
    report = prune(server)
    assert (report["runs"], report["samples"], report["rolled_samples"]) == (1, 1, 2_001)
    for table in (schema.samples, schema.gpu_samples, schema.rollups, schema.gpu_rollups):
        assert count(server.store, table) == 0
    run = server.get(f"/api/runs/{RUN}").json()
    assert (run["state"], run["samples"], run["verdict"]["text"]) == ("died", 2_000, "Killed.")
    assert [event["kind"] for event in run["events"]] == ["end"]
    assert server.get(f"/api/runs/{RUN}/series").status_code == 200


async def test_old_rollups_of_a_source_that_goes_on_are_gone(server: RunningServer, clock: Clock) -> None:
    await server.store_frames(a_stretch(1, 2_000))
    clock.day = 390
    await server.store_frames(a_stretch(2_001, 2_010))
    clock.day = 405
    report = prune(server)
    assert report["rolled_samples"] == 2_000 - 2_000 % 16
    with server.store.read() as connection:
        kept = connection.execute(sa.select(schema.rollups.c.level, schema.rollups.c.bucket)).all()
    assert kept == []
    await server.store_frames(a_stretch(2_011, 2_100))
    assert server.get(f"/api/runs/{RUN}/series").json()["columns"]["batch"][-1] == 2_099


async def test_without_rollups_nothing_is_removed(server: RunningServer, clock: Clock) -> None:
    await server.store_frames(a_stretch(1, 100))
    with server.store.write() as connection:  # as a database of before there were any
        connection.execute(sa.update(schema.sources).values(rolled=0))
        connection.execute(sa.delete(schema.rollups))
    clock.day = 31
    assert prune(server)["samples"] == 0
    assert len(seqs(server.store)) == 100


async def test_a_project_may_keep_its_own_time(server: RunningServer, clock: Clock) -> None:
    await server.store_frames(a_stretch(1, 96))
    kept = ask(server, "PUT", "/api/projects/default", {"full_days": 90})
    assert (kept.status_code, kept.json()) == (200, {"full_days": 90, "rollup_days": None})
    clock.day = 60
    assert prune(server)["samples"] == 0
    assert ask(server, "PUT", "/api/projects/default", {"full_days": 7}).status_code == 200
    assert prune(server)["samples"] == 96


async def test_0_days_are_for_ever(server: RunningServer, clock: Clock) -> None:
    await server.store_frames(a_stretch(1, 96))
    ask(server, "PUT", "/api/projects/default", {"full_days": 0})
    clock.day = 30_000
    report = prune(server)
    assert (report["samples"], report["rolled_samples"]) == (0, 0)


async def test_a_project_is_pruned_alone(server: RunningServer, clock: Clock) -> None:
    await server.store_frames(a_stretch(1, 96))
    clock.day = 60
    assert ask(server, "POST", "/api/prune", {"project": "another"}).status_code == 404
    assert prune(server, project="default")["samples"] == 96


@pytest.mark.parametrize(
    ("project", "body", "status"),
    [
        ("nobody's", {"full_days": 1}, 404),
        ("default", {"full_days": -1}, 422),
        ("default", {"full_days": 1.5}, 422),
        ("default", {"days": 1}, 422),
        ("default", {"full_days": 90, "rollup_days": 30}, 409),
        ("default", {"full_days": 0, "rollup_days": 400}, 409),
    ],
)
async def test_what_can_t_be_kept_is_a_problem(
    server: RunningServer, project: str, body: dict[str, Any], status: int
) -> None:
    await server.store_frames(a_stretch(1, 2))
    answer = ask(server, "PUT", f"/api/projects/{project}", body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert ask(server, "GET", "/api/storage").json()["projects"][0]["retention"] == {
        "full_days": None,
        "rollup_days": None,
    }


async def test_a_dry_run_removes_nothing(server: RunningServer, clock: Clock) -> None:
    await server.store_frames(a_stretch(1, 96))
    clock.day = 60
    report = prune(server, dry_run=True)
    assert (report["samples"], report["dry_run"]) == (96, True)
    assert report["estimated_bytes"] > 0
    assert len(seqs(server.store)) == 96


async def test_storage_is_told_by_project(server: RunningServer) -> None:
    await server.store_frames(a_stretch(1, 100))
    storage = ask(server, "GET", "/api/storage").json()
    (project,) = storage["projects"]
    assert (project["name"], project["runs"], project["live"], project["samples"]) == ("default", 1, 1, 100)
    assert (project["full_days"], project["rollup_days"]) == (30, 400)
    assert 0 < project["estimated_bytes"] <= storage["database_bytes"]


async def test_room_that_is_free_again_is_told(make_running: Callable[..., RunningServer], clock: Clock) -> None:
    server = make_running(wall_ns=clock)
    for begin in range(1, 10_001, 2_000):
        await server.store_frames(a_stretch(begin, begin + 1_999))
    before = ask(server, "GET", "/api/storage").json()
    clock.day = 60
    prune(server)
    after = ask(server, "GET", "/api/storage").json()
    assert after["unused_bytes"] - before["unused_bytes"] > 500_000
    assert after["disk_free_bytes"] > 0


async def test_samples_are_taken_while_others_go(server: RunningServer, clock: Clock) -> None:
    for begin in range(1, 20_001, 2_000):
        await server.store_frames(a_stretch(begin, begin + 1_999))
    clock.day = 60
    async with server.agent(a_hello(run="another0run", source="another0source")) as agent:
        ask(server, "POST", "/api/prune", {})
        for begin in range(1, 2_001, 20):
            assert await agent.ask(a_stretch(begin, begin + 19)) == Ack(seq=begin + 19)
    wait_for(lambda: not ask(server, "GET", "/api/prune").json()["running"])
    assert len(seqs(server.store)) == 2_000


@pytest.mark.parametrize("drop", [drop_samples, drop_rollups])
async def test_after_each_step_the_source_says_what_is_there(
    server: RunningServer, clock: Clock, drop: Callable[..., int | None]
) -> None:
    await server.store_frames(with_gpu(a_stretch(1, 1_000)))
    clock.day = 500
    (part,) = parts(server.store, Policy(30, 400), clock())
    for kept_from, table, first in steps(server.store, part, drop):
        assert kept_from > 1
        assert first is None or first >= kept_from
        assert table == (schema.samples if drop is drop_samples else schema.rollups)


def steps(store: Store, part: Part, drop: Callable[..., int | None]) -> Sequence[tuple[int, sa.Table, int | None]]:
    table = schema.samples if drop is drop_samples else schema.rollups
    first = table.c.seq if drop is drop_samples else (table.c.bucket * 16 + 1)
    name = "full_from" if drop is drop_samples else "rollups_from"
    found: list[tuple[int, sa.Table, int | None]] = []
    while True:
        with store.write() as connection:
            if drop(connection, part, most_rows=60) is None:
                break
        with store.read() as connection:
            level = [] if drop is drop_samples else [table.c.level == 1]
            least = connection.execute(sa.select(sa.func.min(first)).where(*level)).scalar()
            found.append((connection.execute(sa.select(schema.sources.c[name])).scalar_one(), table, least))
    assert len(found) > 3
    return found


async def test_it_is_done_by_itself(store: Store, clock: Clock) -> None:
    pipeline = Pipeline(store, lambda _: None, clock)
    pipeline.start()
    registered = await pipeline.hello(a_hello())
    await (await pipeline.frame(registered.run_pk, registered.source_pk, a_stretch(1, 96)))
    janitor = Janitor(store, pipeline, Policy(30, 400), clock, first_s=0.01, every_s=0.01)
    clock.day = 31
    janitor.start()
    while seqs(store):
        await asyncio.sleep(0.01)
    await janitor.close()
    await pipeline.close()


async def test_of_two_servers_one_does_it(postgres_url: str, clock: Clock) -> None:
    stores = [open_at(postgres_url) for _ in range(2)]
    pipelines = [Pipeline(store, lambda _: None, clock) for store in stores]
    for pipeline in pipelines:
        pipeline.start()
    janitors = [Janitor(store, pipe, Policy(30, 400), clock) for store, pipe in zip(stores, pipelines, strict=True)]
    for janitor in janitors:
        janitor.start()
        janitor.prune_soon()
        while janitor.progress.running:
            await asyncio.sleep(0.01)
    assert [janitor.progress.error is None for janitor in janitors] == [True, False]
    await janitors[0].close()  # which gives the lease back
    janitors[1].prune_soon()
    while janitors[1].progress.running:
        await asyncio.sleep(0.01)
    assert janitors[1].progress.error is None
    await janitors[1].close()
    for store, pipeline in zip(stores, pipelines, strict=True):
        await pipeline.close()
        store.close()


async def test_on_postgresql_the_room_of_old_weeks_is_given_back(postgres_url: str) -> None:
    store = open_at(postgres_url)
    pipeline = Pipeline(store, lambda _: None)
    pipeline.start()
    registered = await pipeline.hello(a_hello())
    await (await pipeline.frame(registered.run_pk, registered.source_pk, with_gpu(a_stretch(1, 103))))
    with store.write() as connection:  # as if all of it had come long ago
        old = partitions.week_of(START_NS)
        for table in ("samples", "gpu_samples"):
            bounds = f"FROM ({old}) TO ({old + 1})"
            connection.execute(sa.text(f"CREATE TABLE {table}_old PARTITION OF {table} FOR VALUES {bounds}"))
            connection.execute(sa.text(f"UPDATE {table} SET week = {old}"))
        connection.execute(sa.update(schema.rollups).values(day=START_NS // DAY_NS))
        connection.execute(sa.update(schema.sources).values(last_ns=START_NS))
    janitor = Janitor(store, pipeline, Policy(30, 0))
    janitor.start()
    janitor.prune_soon()
    while janitor.progress.running:
        await asyncio.sleep(0.01)
    await janitor.close()
    assert janitor.progress.error is None
    with store.read() as connection:
        assert min(partitions.weeks(connection)) > old
    assert seqs(store) == seqs(store, schema.gpu_samples) == list(range(97, 104))
    await pipeline.close()
    store.close()


def test_rollups_are_kept_no_shorter_than_samples() -> None:
    default = Policy(30, 400)
    assert default.of_project(None, None) == default
    assert default.of_project(500, None) == Policy(500, 500)
    assert default.of_project(0, 400) == Policy(0, 0)
    assert default.of_project(7, 0) == Policy(7, 0)
