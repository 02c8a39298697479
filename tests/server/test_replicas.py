"""Two servers on one PostgreSQL: whatever is said to either of them is so on both, once."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx
import msgspec
import pytest
import sqlalchemy as sa
from tests.server.conftest import Agent, RunningServer
from tests.server.parts import NOW_NS, RUN, TOKEN, a_frame, a_hello, a_sample, a_stretch, an_end, an_event, wait_for
from tests.server.stores import open_at
from tests.torture.rolled import wrong_rollups
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from oomcast.sample import EventKind
from oomcast.wire import Ack, Hello, Welcome
from oomcast_server.alerts.evaluator import Evaluator
from oomcast_server.intake.pipeline import Pipeline, Receipt
from oomcast_server.rollups.catching_up import catch_up
from oomcast_server.runs.presence import Presence
from oomcast_server.store import schema
from oomcast_server.store.base import Store

pytestmark = [
    pytest.mark.fast,
    # FastAPI hides it while it reads a signature, and Python's filters are one for all threads: the other server's too.
    pytest.mark.filterwarnings("ignore::pydantic.warnings.UnsupportedFieldAttributeWarning"),
]


@pytest.fixture
def pair(make_running: Callable[..., RunningServer], postgres_url: str) -> tuple[RunningServer, RunningServer]:
    return make_running(database=postgres_url), make_running(database=postgres_url)


def sources_of(store: Store) -> list[Any]:
    table = schema.sources.c
    with store.read() as connection:
        query = sa.select(table.run_pk, table.pk, table.id, table.watermark).order_by(table.pk)
        return list(connection.execute(query))


def watermark(store: Store) -> int:
    return sum(source.watermark for source in sources_of(store))


def assert_whole(store: Store) -> None:
    """Of every source each seq up to its watermark is stored once, and its rollups are those of its samples."""
    samples, events = schema.samples.c, schema.events.c
    for source in sources_of(store):
        with store.read() as connection:
            seqs: list[int] = []
            for table in (samples, events):
                of_source = sa.select(table.seq).where(table.source_pk == source.pk)
                seqs += connection.execute(of_source).scalars()
            assert sorted(seqs) == list(range(1, source.watermark + 1))
            assert wrong_rollups(connection, (source.run_pk, source.pk), source.watermark) == []


def summary(server: RunningServer, run: str = RUN) -> dict[str, Any]:
    return dict(server.get(f"/api/runs/{run}").json())


def patch(server: RunningServer, **change: object) -> httpx.Response:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return httpx.patch(f"{server.base}/api/runs/{RUN}", json=change, headers=headers, timeout=30, trust_env=False)


def delete(server: RunningServer) -> httpx.Response:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return httpx.delete(f"{server.base}/api/runs/{RUN}", headers=headers, timeout=30, trust_env=False)


# An agent that comes to the other server.


async def welcomed(agent: Agent, hello: Hello | None = None) -> int:
    answer = await agent.ask(hello or a_hello())
    assert isinstance(answer, Welcome)
    return answer.watermark


async def test_frames_that_one_server_stored_unheard_are_not_doubled_by_the_other(
    pair: tuple[RunningServer, RunningServer],
) -> None:
    one, other = pair
    async with one.agent() as agent:
        await welcomed(agent)
        for first in range(1, 1_001, 50):
            await agent.say(a_stretch(first, first + 49))
        assert isinstance(await agent.hear(), Ack)  # and of no other frame, though all of them are stored
        await asyncio.to_thread(wait_for, lambda: watermark(one.store) == 1_000)
        agent.websocket.transport.abort()
    async with other.agent() as agent:
        assert await welcomed(agent) == 1_000
        assert await agent.ask(a_stretch(51, 100)) == Ack(seq=1_000)
        assert await agent.ask(a_stretch(951, 1_037)) == Ack(seq=1_037)
    assert_whole(one.store)


async def test_an_agent_that_goes_to_and_fro_finds_each_server_up_to_date(
    pair: tuple[RunningServer, RunningServer],
) -> None:
    seq = 0
    for turn in range(12):
        async with pair[turn % 2].agent() as agent:
            assert await welcomed(agent) == seq
            for length in (1, 16, 150):
                again = max(1, seq - 20)  # as after an answer that was lost
                assert await agent.ask(a_stretch(again, seq + length)) == Ack(seq=seq + length)
                seq += length
    assert_whole(pair[0].store)
    assert summary(pair[0])["samples"] == summary(pair[1])["samples"] == seq


async def test_one_source_that_both_servers_hear_at_once_is_stored_once(
    pair: tuple[RunningServer, RunningServer],
) -> None:
    """As when a balancer's dead connection still brings what its agent sends anew by another."""

    async def send(server: RunningServer) -> None:
        async with server.agent() as agent:
            await welcomed(agent)
            for first in range(1, 2_001, 40):
                await agent.say(a_stretch(first, first + 39))
            while not isinstance(answer := await agent.hear(), Ack) or answer.seq < 2_000:
                pass

    await asyncio.gather(*(send(server) for server in pair))
    assert watermark(pair[0].store) == 2_000
    assert_whole(pair[0].store)


# One run on both.


async def rank(server: RunningServer, number: int, rows: int, run: str = RUN) -> None:
    hello = a_hello(run=run, source=f"sourcerank{number}", host=f"box{number}", rank=number)
    async with server.agent(hello) as agent:
        for first in range(1, rows + 1, 10):
            samples = [
                a_sample(seq, rss=1_000 * (number + 1), working_set_bytes=7_000 * number)
                for seq in range(first, min(first + 10, rows + 1))
            ]
            assert isinstance(await agent.ask(a_frame(samples)), Ack)


async def test_the_ranks_of_a_run_on_two_servers_are_one_run(pair: tuple[RunningServer, RunningServer]) -> None:
    one, other = pair
    await asyncio.gather(rank(one, 0, 200), rank(other, 1, 310))
    for server in pair:
        seen = summary(server)
        assert (seen["sources"], seen["samples"], seen["main_source"]) == (2, 510, "sourcerank0")
        assert seen["rss_bytes"] == 1_000
        assert (seen["tightest"]["id"], seen["tightest"]["headroom_bytes"]) == ("sourcerank1", 1_000)

    assert_whole(one.store)


async def test_a_run_that_ends_on_both_servers_has_ended(pair: tuple[RunningServer, RunningServer]) -> None:
    async def end(server: RunningServer, number: int, outcome: str) -> None:
        hello = a_hello(source=f"sourcerank{number}", rank=number)
        await server.store_frames(a_stretch(1, 5), a_frame(events=[an_end(6, outcome)]), hello=hello)

    await asyncio.gather(end(pair[0], 0, "finished"), end(pair[1], 1, "died"))
    assert [summary(server)["state"] for server in pair] == ["died", "died"]


async def test_servers_that_hear_of_a_new_run_at_once_make_one(pair: tuple[RunningServer, RunningServer]) -> None:
    for number in range(15):
        run = f"newrunnewrun{number}"
        await asyncio.gather(rank(pair[0], 0, 1, run), rank(pair[1], 1, 1, run))
        assert summary(pair[number % 2], run)["sources"] == 2
    assert len(pair[0].get("/api/runs").json()["runs"]) == 15


# What users see and change.


async def say(viewer: ClientConnection, **message: str) -> None:
    await viewer.send(msgspec.json.encode(message).decode())


async def hear(viewer: ClientConnection, enough: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    while True:
        message = msgspec.json.decode(await asyncio.wait_for(viewer.recv(), 15))
        if enough(message):
            return dict(message)


async def test_viewers_of_one_server_see_what_the_other_stores(pair: tuple[RunningServer, RunningServer]) -> None:
    one, other = pair
    async with one.viewer() as viewer, one.viewer() as lister, other.agent(a_hello()) as agent:
        await say(viewer, type="watch", run=RUN)
        await hear(viewer, lambda message: message["type"] == "resync")
        await say(lister, type="watch_runs")
        told = 0
        for last in (10, 20, 30):
            await agent.ask(a_stretch(last - 9, last))
            while told < last:
                rows = await hear(viewer, lambda message: message["type"] == "rows")
                assert rows["from_seq"] == told + 1
                told = rows["to_seq"]
        await hear(lister, lambda message: message["type"] == "runs" and message["runs"] and _samples(message) == 30)


def _samples(message: dict[str, Any]) -> int:
    return int(message["runs"][0]["samples"])


async def test_a_new_name_is_seen_on_both_and_stays(pair: tuple[RunningServer, RunningServer]) -> None:
    one, other = pair
    async with other.agent(a_hello()) as agent:
        await agent.ask(a_stretch(1, 10))  # now the other one remembers the run under its first name
        assert patch(one, name="renamed", tags=["mine"]).status_code == 200
        assert summary(other)["name"] == "renamed"
        assert await agent.ask(a_stretch(11, 20)) == Ack(seq=20)
    for server in pair:
        seen = summary(server)
        assert (seen["name"], seen["tags"], seen["samples"]) == ("renamed", ["mine"], 20)
        assert len(server.get("/api/runs", text="renamed").json()["runs"]) == 1


async def test_a_deleted_run_is_gone_on_both(pair: tuple[RunningServer, RunningServer]) -> None:
    one, other = pair
    async with other.agent(a_hello()) as agent:
        await agent.ask(a_stretch(1, 10))
        await agent.ask(a_frame(events=[an_end(11, "finished")]))
        before = {source.pk for source in sources_of(one.store)}
        assert delete(one).status_code == 204
        assert other.get(f"/api/runs/{RUN}").status_code == 404
        await agent.say(a_stretch(12, 20))
        with pytest.raises(ConnectionClosed):  # come again with a hello
            await agent.hear()
    async with other.agent() as agent:
        assert await welcomed(agent) == 0
    assert not before & {source.pk for source in sources_of(one.store)}


# What tells that something is wrong.


async def test_rollups_that_are_wrong_are_found(pair: tuple[RunningServer, RunningServer]) -> None:
    store, table = pair[0].store, schema.rollups
    await pair[0].store_frames(a_stretch(1, 1_000))
    ((run_pk, pk, _, mark),) = sources_of(store)
    with store.write() as connection:
        finest = (table.c.level == 1, table.c.kind == 0)
        connection.execute(sa.delete(table).where(*finest, table.c.bucket == 3))
        connection.execute(sa.update(table).where(*finest, table.c.bucket == 5).values(rss_bytes_max=1))
        connection.execute(sa.update(table).where(*finest, table.c.bucket == 61).values(bucket=62))
    with store.read() as connection:
        found = wrong_rollups(connection, (run_pk, pk), mark)
    assert found == [
        "2 of 80 rollups are missing: level, kind, bucket [(1, 0, 3), (1, 0, 61)]",
        "1 of 80 rollups are there that no sample makes: level, kind, bucket [(1, 0, 62)]",
        "1 of 80 rollups are wrong: level, kind, bucket [(1, 0, 5)]",
    ]


# Many at once.


@contextlib.asynccontextmanager
async def pipelines(url: str, count: int = 2) -> AsyncIterator[list[tuple[Store, Pipeline]]]:
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            store = stack.enter_context(contextlib.closing(open_at(url)))
            made.append((store, Pipeline(store, lambda _: None)))
            made[-1][1].start()
        yield made
        for _, pipeline in made:
            await pipeline.close()


def shuffled(values: Sequence[int], seed: int) -> list[int]:
    return random.Random(seed).sample(values, len(values))


async def test_no_two_servers_wait_for_each_other(postgres_url: str) -> None:
    """Each commits groups of many new and known runs and projects, in orders of its own, and changes between them."""
    runs = range(60)

    async def hammer(number: int, store: Store, pipeline: Pipeline) -> None:
        evaluator = Evaluator(store, pipeline, Presence(0, shared=True), "all of them", lambda: 10**18)

        async def send(run: int) -> None:
            hello = a_hello(run=f"hammered{run:03}", source=f"source{number}of{run:03}")
            about = msgspec.structs.replace(hello.run, project=f"project{run % 20}")
            registered = await pipeline.hello(msgspec.structs.replace(hello, run=about))
            for first in (1, 11, 21):
                frame = a_frame([a_sample(seq) for seq in range(first, first + 10)])
                answer = await (await pipeline.frame(registered.run_pk, registered.source_pk, frame))
                assert answer == Receipt(first + 9)
            frame = a_frame(events=[an_event(31, EventKind.CRITICAL)])
            await (await pipeline.frame(registered.run_pk, registered.source_pk, frame))

        sending = asyncio.gather(*(send(run) for run in shuffled(runs, number)))
        while not sending.done():
            await evaluator.look()
        await sending
        await evaluator.look()

    async with pipelines(postgres_url) as made:
        await asyncio.gather(*(hammer(number, *server) for number, server in enumerate(made)))
        store = made[0][0]
        assert len(sources_of(store)) == 2 * len(runs)
        assert_whole(store)
        with store.read() as connection:
            found = connection.execute(sa.select(schema.episodes.c.dedup_key)).scalars().all()
            seen = connection.execute(sa.select(schema.runs.c.sources, schema.runs.c.samples)).all()
        assert len(found) == len(set(found)) == len(runs)
        assert {tuple(row) for row in seen} == {(2, 60)}


async def test_servers_that_start_together_on_an_older_database_catch_up_once(postgres_url: str) -> None:
    async with pipelines(postgres_url, 3) as made:
        store, pipeline = made[0]
        for number in range(12):
            registered = await pipeline.hello(a_hello(run=f"olderrun{number}", source=f"oldersource{number}"))
            await (await pipeline.frame(registered.run_pk, registered.source_pk, a_stretch(1, 3_000)))
        with store.write() as connection:
            for table in (schema.rollups, schema.terms):
                connection.execute(sa.delete(table))
            connection.execute(sa.update(schema.sources).values(rolled=0))
        await asyncio.gather(*(asyncio.to_thread(catch_up, each, NOW_NS) for each, _ in made))
        assert_whole(store)
        with store.read() as connection:
            found = connection.execute(sa.select(schema.terms.c.run_pk).distinct()).all()
        assert len(found) == 12
