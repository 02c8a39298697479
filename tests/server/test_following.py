"""What another server stores is shown by this one: once, in order, and only where someone watches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from tests.server.fuzz import lost_from
from tests.server.parts import RUN, a_frame, a_hello, a_sample, a_stretch, an_end, an_event
from tests.server.storing import store_frames

from oomcast.sample import EventKind, GpuReading, Kind
from oomcast.wire import Frame, Status
from oomcast_server.intake.pipeline import Pipeline
from oomcast_server.live.following import Follower
from oomcast_server.live.hub import Hub
from oomcast_server.live.mailbox import Mailbox
from oomcast_server.runs.presence import Presence
from oomcast_server.store.base import Store

pytestmark = pytest.mark.fast


class Replica:
    """A server without its sockets, on a store that others write to as well."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.presence = Presence(0, shared=True)
        self.hub = Hub(self.presence)
        self.follower = Follower(store, self.hub)
        self.pipeline = Pipeline(store, self.follower.committed)
        self.viewer = Mailbox()
        self.heard: list[dict[str, Any]] = []

    async def watch(self) -> None:
        await self.follower.follow(RUN)
        self.hub.watch(self.viewer, RUN)

    async def commit(self, *frames: Frame) -> None:
        """By this server's own pipeline."""
        registered = await self.pipeline.hello(a_hello())
        for frame in frames:
            await (await self.pipeline.frame(registered.run_pk, registered.source_pk, frame))

    async def poll(self, with_list: bool = False) -> None:
        await self.follower.poll(with_list)

    async def hear(self, enough: Callable[[list[dict[str, Any]]], object]) -> list[dict[str, Any]]:
        """All messages since the start, once they are enough."""
        until = time.monotonic() + 15
        while not enough(self.heard):
            messages = await asyncio.wait_for(self.viewer.take(), max(0.1, until - time.monotonic()))
            self.heard += [msgspec.json.decode(message) for message in messages]
        return self.heard


def rows_of(heard: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message for message in heard if message["type"] == "rows"]


def seqs(heard: list[dict[str, Any]]) -> list[int]:
    return [seq for message in rows_of(heard) for seq in message["columns"]["seq"]]


def up_to(seq: int) -> Callable[[list[dict[str, Any]]], object]:
    return lambda heard: [message for message in rows_of(heard) if message["to_seq"] >= seq]


@pytest.fixture
async def replica(store: Store) -> AsyncIterator[Replica]:
    made = Replica(store)
    made.pipeline.start()
    yield made
    await made.pipeline.close()
    await made.hub.close()


async def test_rows_of_another_server_are_told_whole(replica: Replica) -> None:
    await replica.watch()
    tick = a_sample(2, Kind.TICK, batch=0, children=3)
    frame = a_frame(
        [a_sample(1), tick],
        [an_event(3, EventKind.EPOCH_END)],
        [GpuReading(2, 0, 5, 10, None, 7)],
        Status(wall_ns=5, pressure="system"),
    )
    store_frames(replica.store, [frame])
    await replica.poll()
    (rows,) = rows_of(await replica.hear(up_to(3)))
    assert (rows["from_seq"], rows["to_seq"], rows["rows"]) == (1, 3, 2)
    assert rows["columns"]["kind"] == [0, 1]
    assert rows["ticks"]["metrics"]["children"] == [3]
    assert rows["gpus"][0]["used_bytes"] == [5]
    assert [event["kind"] for event in rows["events"]] == ["epoch_end"]
    assert rows["status"]["pressure"] == "system"
    assert rows["summary"]["samples"] == 2


async def test_what_was_stored_before_someone_watched_is_left_to_his_fetch(replica: Replica) -> None:
    store_frames(replica.store, [a_stretch(1, 5)])
    await replica.watch()
    store_frames(replica.store, [a_stretch(6, 7)])
    await replica.poll()
    assert seqs(await replica.hear(up_to(7))) == [6, 7]


async def test_own_commits_are_told_once(replica: Replica) -> None:
    await replica.watch()
    await replica.commit(a_stretch(1, 3))
    await replica.poll()
    await replica.commit(a_stretch(4, 5))
    await replica.poll()
    assert seqs(await replica.hear(up_to(5))) == [1, 2, 3, 4, 5]


async def test_an_agent_that_changes_servers_is_told_in_order_and_once(replica: Replica) -> None:
    if not replica.store.shared:
        pytest.skip("no two servers write to one SQLite file")
    await replica.watch()
    await replica.commit(a_stretch(1, 3))
    store_frames(replica.store, [a_stretch(4, 6)])  # by another server
    await replica.commit(a_stretch(7, 9))
    await replica.poll()
    assert seqs(await replica.hear(up_to(9))) == list(range(1, 10))


async def test_gaps_are_passed_over_and_what_follows_is_told(replica: Replica) -> None:
    await replica.watch()
    lost = a_frame(events=[an_event(8, EventKind.GAP, **lost_from(3, 8))])
    lost = msgspec.structs.replace(lost, first_seq=3)
    await replica.commit(a_stretch(1, 2), lost, a_stretch(9, 9))
    assert seqs(await replica.hear(up_to(9))) == [1, 2, 9]


async def test_more_rows_than_are_worth_sending_are_fetched_instead(replica: Replica) -> None:
    await replica.watch()
    await replica.hear(lambda heard: heard)
    store_frames(replica.store, [a_stretch(1, 4_000), a_stretch(4_001, 8_000)])
    await replica.poll()
    heard = await replica.hear(lambda heard: [m for m in heard[1:] if m["type"] == "resync"])
    assert seqs(heard) == []
    store_frames(replica.store, [a_stretch(8_001, 8_002)])
    await replica.poll()
    assert seqs(await replica.hear(up_to(8_002))) == [8_001, 8_002]


async def test_a_run_s_end_by_another_server_is_told(replica: Replica) -> None:
    await replica.watch()
    store_frames(replica.store, [a_stretch(1, 1), a_frame(events=[an_end(2, "finished")])])
    await replica.poll()
    assert rows_of(await replica.hear(up_to(2)))[-1]["summary"]["state"] == "finished"


async def test_the_list_of_runs_hears_of_what_others_store(replica: Replica) -> None:
    replica.hub.start()
    replica.hub.watch_runs(replica.viewer)
    store_frames(replica.store, [a_stretch(1, 5)])
    await replica.poll(with_list=True)
    heard = await replica.hear(lambda heard: heard)
    assert [(run["id"], run["samples"]) for run in heard[0]["runs"]] == [(RUN, 5)]


async def test_it_polls_by_itself(replica: Replica) -> None:
    await replica.watch()
    store_frames(replica.store, [a_stretch(1, 2)])
    replica.follower.start()
    store_frames(replica.store, [a_stretch(3, 4)])
    assert seqs(await replica.hear(up_to(4))) == [1, 2, 3, 4]
    await replica.follower.close()


def test_a_source_that_sends_to_another_server_counts_as_connected() -> None:
    here, alone = Presence(0, shared=True), Presence(0)
    second = 10**9
    assert here.heard(1, last_ns=100 * second, now_ns=104 * second)
    assert not here.heard(1, last_ns=100 * second, now_ns=106 * second)
    assert not alone.heard(1, last_ns=100 * second, now_ns=101 * second)
    assert not here.connected(1)
