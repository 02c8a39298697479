"""Episodes: each condition of a run fires once and is resolved once, however many servers look."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.server.parts import WALL_NS, a_frame, a_hello, a_sample, an_end, an_event
from tests.server.storing import store_frames

from oomcast.sample import EventKind
from oomcast_server.alerts.evaluator import Evaluator
from oomcast_server.intake.pipeline import Pipeline
from oomcast_server.runs.presence import Presence
from oomcast_server.store.base import Store
from oomcast_server.store.schema import episodes
from oomcast_server.store.sqlite import SqliteStore

pytestmark = pytest.mark.fast

SECOND_NS = 10**9


class Clock:
    def __init__(self) -> None:
        self.now_ns = WALL_NS

    def __call__(self) -> int:
        return self.now_ns


@contextlib.asynccontextmanager
async def evaluators(store: Store, clock: Clock, count: int = 1) -> AsyncIterator[list[Evaluator]]:
    pipeline = Pipeline(store, lambda _: None, clock)
    pipeline.start()
    presence = Presence(clock(), 60 * SECOND_NS)
    yield [Evaluator(store, pipeline, presence, f"server{number}", clock) for number in range(count)]
    await pipeline.close()


def rows(store: Store) -> list[tuple[str, str]]:
    with store.read() as connection:
        query = sa.select(episodes.c.rule, episodes.c.state).order_by(episodes.c.pk)
        return [(rule, state) for rule, state in connection.execute(query)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_trouble_fires_once_and_is_resolved_when_it_is_over(tmp_path: Path, clock: Clock) -> None:
    with contextlib.closing(SqliteStore(tmp_path / "x.db")) as store:
        async with evaluators(store, clock) as (one,):
            store_frames(store, [a_frame([a_sample(1)], [an_event(2, EventKind.CRITICAL)])], now_ns=clock())
            await one.look()
            await one.look()
            assert rows(store) == [("critical", "firing")]
            store_frames(store, [a_frame(events=[an_event(3, EventKind.CLEAR)])], now_ns=clock())
            await one.look()
            assert rows(store) == [("critical", "resolved")]


async def test_a_kill_for_memory_is_told_though_it_took_the_place_of_an_alarm(tmp_path: Path, clock: Clock) -> None:
    with contextlib.closing(SqliteStore(tmp_path / "x.db")) as store:
        async with evaluators(store, clock) as (one,):
            store_frames(store, [a_frame([a_sample(1)], [an_event(2, EventKind.CRITICAL)])], now_ns=clock())
            await one.look()
            end = an_end(3, "died", ending="oom killed", grade="confirmed", text="Killed by the kernel.")
            store_frames(store, [a_frame(events=[end])], now_ns=clock())
            await one.look()
            assert rows(store) == [("critical", "resolved"), ("oom_killed", "firing")]


async def test_a_source_that_vanished_is_told_and_its_return_resolves_it(tmp_path: Path, clock: Clock) -> None:
    with contextlib.closing(SqliteStore(tmp_path / "x.db")) as store:
        async with evaluators(store, clock) as (one,):
            store_frames(store, [a_frame([a_sample(1)])], now_ns=clock())
            clock.now_ns += 61 * SECOND_NS
            await one.look()
            assert rows(store) == [("vanished", "firing")]
            store_frames(store, [a_frame([a_sample(2)])], now_ns=clock())
            await one.look()
            assert rows(store) == [("vanished", "resolved")]


async def test_of_two_servers_one_looks_and_the_other_goes_on_where_it_died(store: Store, clock: Clock) -> None:
    async with evaluators(store, clock, 2) as both:
        for number in range(20):
            hello = a_hello(run=f"trouble{number:03}", source=f"source{number:03}x")
            store_frames(store, [a_frame([a_sample(1)], [an_event(2, EventKind.CRITICAL)])], hello, now_ns=clock())
        await asyncio.gather(*(one.look() for one in both))
        assert rows(store) == [("critical", "firing")] * 20
        clock.now_ns += 20 * SECOND_NS  # the first one's leases have run out
        hello = a_hello(run="trouble000", source="source000x")
        store_frames(store, [a_frame(events=[an_event(3, EventKind.CLEAR)])], hello, now_ns=clock())
        await both[1].look()
        assert sorted(rows(store))[-1] == ("critical", "resolved")


async def test_a_run_that_was_killed_and_is_started_again_fires_anew(store: Store, clock: Clock) -> None:
    async with evaluators(store, clock) as (one,):
        end = {"ending": "oom killed", "grade": "confirmed", "text": "Killed by the kernel."}
        store_frames(store, [a_frame([a_sample(1)], [an_end(2, "died", **end)])], now_ns=clock())
        for _ in range(3):  # nothing more is to be said of it meanwhile
            await one.look()
        again = a_hello(source="sourcesource2", started_ns=WALL_NS + 100 * SECOND_NS)
        clock.now_ns += 100 * SECOND_NS
        store_frames(store, [a_frame([a_sample(1)])], again, now_ns=clock())
        await one.look()
        assert rows(store) == [("oom_killed", "resolved")]
        store_frames(store, [a_frame(events=[an_end(2, "died", **end)])], again, now_ns=clock())
        await one.look()
        assert rows(store) == [("oom_killed", "resolved"), ("oom_killed", "firing")]


async def test_what_vanished_or_died_long_ago_is_not_read_again_each_second(store: Store, clock: Clock) -> None:
    async with evaluators(store, clock) as (one,):
        for number in range(5):
            hello = a_hello(run=f"vanished{number}", source=f"vanisheds{number}")
            store_frames(store, [a_frame([a_sample(1)])], hello, now_ns=clock())
        clock.now_ns += 61 * SECOND_NS
        await one.look()
        assert rows(store) == [("vanished", "firing")] * 5
        assert one.unsettled(clock()) == set()
        store_frames(store, [a_frame([a_sample(2)])], a_hello(run="vanished3", source="vanisheds3"), now_ns=clock())
        assert len(one.unsettled(clock())) == 1
        await one.look()
        assert sorted(rows(store))[-1] == ("vanished", "resolved")
