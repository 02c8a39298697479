"""What viewers are told, and that a slow one harms nobody."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from tests.server.conftest import RunningServer
from tests.server.parts import RUN, SOURCE, TOKEN, a_frame, a_hello, a_sample, a_stretch, an_event
from tests.server.storing import store_frames
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from oomcast.sample import EventKind, GpuReading, Kind
from oomcast.wire import Ack, LimitState, Status
from oomcast_server.auth import Gate, Secret
from oomcast_server.intake.pipeline import Pipeline
from oomcast_server.live.hub import Hub
from oomcast_server.live.mailbox import Mailbox, Summaries
from oomcast_server.live.thinning import MOST_ROWS
from oomcast_server.live.viewers import SharedList, Viewers
from oomcast_server.runs.presence import Presence
from oomcast_server.settings import load
from oomcast_server.store.sqlite import SqliteStore

pytestmark = pytest.mark.fast


@pytest.fixture
def server(shared_server: RunningServer) -> RunningServer:
    """On either engine."""
    return shared_server


async def say(viewer: ClientConnection, **message: str) -> None:
    await viewer.send(msgspec.json.encode(message).decode())


async def hear(viewer: ClientConnection, kind: str) -> dict[str, Any]:
    """The next message of that kind."""
    while True:
        message = msgspec.json.decode(await asyncio.wait_for(viewer.recv(), 15))
        if message["type"] == kind:
            return dict(message)


async def hear_samples(viewer: ClientConnection, count: int) -> list[str]:
    """The runs that the message names in which the run has so many samples."""
    while True:
        runs = (await hear(viewer, "runs"))["runs"]
        if (RUN, count) in [(run["id"], run["samples"]) for run in runs]:
            return [run["id"] for run in runs]


async def watch(viewer: ClientConnection) -> None:
    await say(viewer, type="watch", run=RUN)
    assert (await hear(viewer, "resync"))["run"] == RUN


async def test_rows_come_after_they_are_committed(server: RunningServer) -> None:
    async with server.agent(a_hello()) as agent, server.viewer() as viewer:
        await watch(viewer)
        tick = a_sample(3, Kind.TICK, batch=1)
        gpu = GpuReading(3, 0, 5, 10, None, 7)
        await agent.say(a_frame([a_sample(1), a_sample(2), tick], [an_event(4, EventKind.EPOCH_END)], [gpu]))
        rows = await hear(viewer, "rows")
        stored = server.get(f"/api/runs/{RUN}").json()
    assert stored["samples"] == 3
    assert (rows["run"], rows["source"], rows["from_seq"], rows["to_seq"]) == (RUN, SOURCE, 1, 4)
    assert rows["columns"]["seq"] == [1, 2, 3]
    assert rows["columns"]["kind"] == [0, 0, 1]
    assert rows["metrics"]["rss_bytes"] == [1000, 1000, 1000]
    assert rows["metrics"]["minor_faults"] == [1, 2, None]
    assert rows["gpus"][0]["used_bytes"] == [5]
    assert rows["gpus"][0]["batch"] == [1]
    assert [event["kind"] for event in rows["events"]] == ["epoch_end"]
    assert rows["summary"]["samples"] == 3


async def test_series_and_rows_have_the_same_columns(server: RunningServer) -> None:
    async with server.agent(a_hello()) as agent, server.viewer() as viewer:
        await watch(viewer)
        await agent.ask(a_stretch(1, 3))
        rows = await hear(viewer, "rows")
    series = server.get(f"/api/runs/{RUN}/series").json()
    assert rows["columns"] == series["columns"]
    assert rows["metrics"] == {name: span["last"] for name, span in series["metrics"].items()}


async def test_ticks_and_the_newest_status_come_with_the_rows(server: RunningServer) -> None:
    async with server.agent(a_hello()) as agent, server.viewer() as viewer:
        await watch(viewer)
        ticks = [a_sample(seq, Kind.TICK, batch=0, children=seq) for seq in (2, 3)]
        status = Status(
            wall_ns=5_000_000, pressure="system", limits=[LimitState(kind="host", limit_bytes=9, used_bytes=1)]
        )
        await agent.say(a_frame([a_sample(1), *ticks], status=status))
        rows = await hear(viewer, "rows")
        assert rows["ticks"]["columns"]["seq"] == [2, 3]
        assert rows["ticks"]["metrics"]["children"] == [2, 3]
        assert rows["status"]["limits"] == [{"kind": "host", "limit_bytes": 9, "used_bytes": 1, "binds": False}]
        series = server.get(f"/api/runs/{RUN}/series").json()["ticks"]
        assert rows["ticks"]["columns"] == series["columns"]
        assert rows["ticks"]["metrics"] == {name: span["last"] for name, span in series["metrics"].items()}
        (source,) = server.get(f"/api/runs/{RUN}").json()["sources_detail"]
        assert source["status"] == rows["status"]
        await agent.say(a_stretch(4, 4))
        assert (await hear(viewer, "rows"))["status"] is None


async def hear_verdict(viewer: ClientConnection, ending: str | None) -> dict[str, Any]:
    """The run, once its verdict has this ending."""
    while True:
        for run in (await hear(viewer, "runs"))["runs"]:
            if (run["verdict"] or {}).get("ending") == ending:
                return dict(run)


@pytest.mark.parametrize("request_", [{"type": "watch_runs"}, {"type": "watch", "run": RUN}])
async def test_viewers_hear_of_a_source_that_vanishes_and_of_its_return(
    make_running: Callable[..., RunningServer], request_: dict[str, str]
) -> None:
    late = [0]
    server = make_running(wall_ns=lambda: time.time_ns() + late[0])
    async with server.viewer() as viewer:
        await say(viewer, **request_)
        async with server.agent(a_hello()) as agent:
            await agent.ask(a_stretch(1, 1))
        late[0] += 61_000_000_000
        run = await hear_verdict(viewer, "vanished")
        assert run["state"] == "silent"
        assert "Vanished 1 min ago" in run["verdict"]["text"]
        late[0] += 60_000_000_000
        assert "Vanished 2 min ago" in (await hear_verdict(viewer, "vanished"))["verdict"]["text"]
        async with server.agent(a_hello()):
            assert (await hear_verdict(viewer, None))["state"] == "silent"


async def test_viewers_hear_of_what_vanished_before_the_server_was_started_again(
    make_running: Callable[..., RunningServer], tmp_path: Path
) -> None:
    with contextlib.closing(SqliteStore(tmp_path / "x.db")) as store:
        store_frames(store, [a_stretch(1, 1)])
    late = [3600 * 10**9]
    server = make_running(tmp_path / "x.db", wall_ns=lambda: time.time_ns() + late[0])
    async with server.viewer() as viewer:
        await say(viewer, type="watch", run=RUN)
        assert server.get(f"/api/runs/{RUN}").json()["verdict"] is None  # it had nobody to talk to
        late[0] += 60 * 10**9
        assert "Vanished 61 min ago" in (await hear_verdict(viewer, "vanished"))["verdict"]["text"]


async def hear_until(viewer: ClientConnection, last_seq: int) -> list[dict[str, Any]]:
    """The messages of rows up to the one that has `last_seq`."""
    heard: list[dict[str, Any]] = []
    while not heard or heard[-1]["to_seq"] < last_seq:
        heard.append(await hear(viewer, "rows"))
    return heard


async def test_every_row_is_told_of_once_however_fast_they_come(server: RunningServer) -> None:
    async with server.agent(a_hello()) as agent, server.viewer() as viewer:
        await watch(viewer)
        for seq in range(1, 201):
            await agent.say(a_stretch(seq, seq))
        heard = await hear_until(viewer, 200)
    assert sum(rows["rows"] for rows in heard) == 200
    assert [rows["from_seq"] for rows in heard] == [1, *(rows["to_seq"] + 1 for rows in heard[:-1])]
    assert len(heard) < 200


async def test_many_rows_are_reduced_to_what_a_screen_shows_and_no_peak_is_lost(server: RunningServer) -> None:
    batches = [a_sample(seq, rss=10**6 if seq == 777 else 1_000 + seq % 7) for seq in range(1, 2_001)]
    ticks = [a_sample(seq, Kind.TICK, batch=1, children=seq) for seq in range(2_001, 2_101)]
    gpus = [GpuReading(seq, 0, 5 + (seq == 2_050), 10, None, 7) for seq in range(2_001, 2_101)]
    async with server.agent(a_hello()) as agent, server.viewer() as viewer:
        await watch(viewer)
        await agent.say(a_frame([*batches, *ticks], gpus=gpus))
        rows = await hear(viewer, "rows")
    assert (rows["rows"], rows["from_seq"], rows["to_seq"]) == (2_100, 1, 2_100)
    assert len(rows["columns"]["seq"]) <= 2 * MOST_ROWS
    assert len(rows["ticks"]["columns"]["seq"]) <= MOST_ROWS
    assert max(rows["metrics"]["rss_bytes"]) == 10**6
    assert max(rows["gpus"][0]["used_bytes"]) == 6
    assert len(rows["gpus"][0]["used_bytes"]) <= MOST_ROWS
    assert rows["columns"]["seq"] == sorted(rows["columns"]["seq"])
    assert rows["columns"]["seq"][-1] == rows["ticks"]["columns"]["seq"][-1] == 2_100


async def test_the_last_rows_of_an_ending_run_arrive(server: RunningServer) -> None:
    async with server.agent(a_hello()) as agent, server.viewer() as viewer:
        await watch(viewer)
        await agent.ask(a_stretch(1, 1))
        await agent.ask(a_frame([a_sample(2)], [an_event(3, EventKind.END, outcome="finished")]))
        while (rows := await hear(viewer, "rows"))["to_seq"] < 3:
            pass
    assert rows["summary"]["state"] == "finished"


async def test_too_many_rows_to_push_are_fetched_instead(server: RunningServer) -> None:
    async with server.agent(a_hello()) as agent, server.viewer() as viewer:
        await watch(viewer)
        for begin in range(1, 20_001, 2_000):
            await agent.say(a_stretch(begin, begin + 1_999))
        assert (await hear(viewer, "resync"))["run"] == RUN


async def test_the_list_comes_at_once_and_then_what_changes(server: RunningServer) -> None:
    await server.store_frames(a_stretch(1, 1))
    await server.store_frames(a_stretch(1, 1), hello=a_hello(run="otherrun1", source="othersource1"))
    async with server.viewer() as viewer:
        await say(viewer, type="watch_runs")
        everything: set[str] = set()
        while everything != {RUN, "otherrun1"}:
            everything |= {run["id"] for run in (await hear(viewer, "runs"))["runs"]}
        await server.store_frames(a_stretch(2, 5))
        await hear_samples(viewer, 5)
        await server.store_frames(a_stretch(6, 6))
        assert await hear_samples(viewer, 6) == [RUN]


async def test_a_run_that_falls_silent_is_told(make_running: Callable[..., RunningServer]) -> None:
    late = [0]
    server = make_running(wall_ns=lambda: time.time_ns() + late[0])
    async with server.agent(a_hello()) as agent, server.viewer() as viewer:
        await say(viewer, type="watch_runs")
        await agent.ask(a_stretch(1, 1))
        late[0] = 11_000_000_000
        states: list[str] = []
        while "silent" not in states:
            states = [run["state"] for run in (await hear(viewer, "runs"))["runs"]]


async def test_after_unwatch_no_rows_come(server: RunningServer) -> None:
    async with server.agent(a_hello()) as agent, server.viewer() as viewer:
        await watch(viewer)
        await say(viewer, type="unwatch", run=RUN)
        await say(viewer, type="?")  # its answer shows that the request before it was obeyed
        await hear(viewer, "problem")
        await agent.ask(a_stretch(1, 1))
        await watch(viewer)
        await agent.ask(a_stretch(2, 2))
        assert (await hear(viewer, "rows"))["columns"]["seq"] == [2]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"type":"watch"}', '{"type":"watch","run":"../x"}', "[" * 3000, "x" * 5000]
)
async def test_a_request_that_is_none_gets_a_problem(server: RunningServer, text: str) -> None:
    async with server.viewer() as viewer:
        await viewer.send(text)
        assert set(await hear(viewer, "problem")) == {"type", "message"}
        await watch(viewer)


def stalled_viewer(server: RunningServer) -> socket.socket:
    """A viewer that asks for a run's rows and reads none of them."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", server.port))
    lines = (
        "GET /api/live HTTP/1.1",
        f"Host: 127.0.0.1:{server.port}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        f"Authorization: Bearer {TOKEN}",
    )
    client.sendall("\r\n".join((*lines, "", "")).encode())
    assert client.recv(12) == b"HTTP/1.1 101"
    request = b'{"type":"watch","run":"%s"}' % RUN.encode()
    client.sendall(bytes([0x81, 0x80 | len(request), 0, 0, 0, 0]) + request)  # a masked text frame, mask 0
    return client


async def test_a_stalled_viewer_holds_nobody_up_and_the_server_stops_in_time(server: RunningServer) -> None:
    await server.store_frames(a_stretch(1, 1))
    stalled = stalled_viewer(server)
    try:
        async with server.agent(a_hello()) as agent, server.viewer() as viewer:
            await watch(viewer)
            slowest, begun, seq, seen = 0.0, time.monotonic(), 1, 1
            while time.monotonic() - begun < 3:
                sent = time.monotonic()
                assert await agent.ask(a_stretch(seq + 1, seq + 1_000)) == Ack(seq=seq + 1_000)
                seq += 1_000
                while seen < seq:
                    rows = await hear(viewer, "rows")
                    seen = rows["to_seq"]
                slowest = max(slowest, time.monotonic() - sent)
        assert slowest < 2
        assert seq > 5_000
        assert server.stop() <= 2.5
    finally:
        stalled.close()


async def test_the_server_stops_in_time_with_agents_and_viewers_connected(server: RunningServer) -> None:
    async with server.agent(a_hello()) as agent, server.viewer() as viewer:
        await watch(viewer)
        await agent.ask(a_stretch(1, 1))
        assert await asyncio.to_thread(server.stop) <= 2.5


def test_a_mailbox_that_isn_t_emptied_is_bounded_and_asks_for_a_fetch_instead() -> None:
    mailbox = Mailbox()
    for _ in range(10_000):
        mailbox.put_rows(RUN, "x" * 1_000)
        mailbox.put_note("n")
    messages = asyncio.run(mailbox.take())
    assert '{"type":"resync","run":"' + RUN + '"}' in messages
    assert len(messages) <= 256 + 16 + 1
    assert sum(map(len, messages)) <= 3 << 20


def test_of_a_run_s_summaries_only_the_newest_waits() -> None:
    mailbox = Mailbox()
    for count in range(100):
        mailbox.put_summaries(Summaries({RUN: f'{{"samples":{count}}}', f"run{count % 3}": "{}"}))
    (message,) = asyncio.run(mailbox.take())
    runs = msgspec.json.decode(message)["runs"]
    assert len(runs) == 4
    assert {"samples": 99} in runs


def test_no_summary_comes_before_the_list_that_it_changes() -> None:
    mailbox = Mailbox()
    mailbox.await_list()
    mailbox.put_summaries(Summaries({RUN: "{}"}))
    mailbox.put_note("hello")
    assert asyncio.run(mailbox.take()) == ["hello"]
    mailbox.put_list("the list")
    assert asyncio.run(mailbox.take()) == ["the list", '{"type":"runs","runs":[{}]}']


class Counting(Mailbox):
    """What a viewer is given, without a socket behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[str] = []

    def put_rows(self, run_id: str, message: str) -> None:
        self.given.append(message)


async def test_a_frame_is_encoded_once_whoever_watches(tmp_path: Path) -> None:
    with contextlib.closing(SqliteStore(tmp_path / "x.db")) as store:
        hub = Hub(Presence(0), time.time_ns)
        pipeline = Pipeline(store, hub.committed)
        pipeline.start()
        viewers = [Counting() for _ in range(100)]
        for viewer in viewers:
            hub.watch(viewer, RUN)
        registered = await pipeline.hello(a_hello())
        await (await pipeline.frame(registered.run_pk, registered.source_pk, a_stretch(1, 3)))
        await until(lambda: all(viewer.given for viewer in viewers))
        await pipeline.close()
        await hub.close()
    assert len({id(message) for viewer in viewers for message in viewer.given}) == 1


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.005)


async def test_beyond_the_bound_viewers_are_asked_to_come_again(tmp_path: Path) -> None:
    with contextlib.closing(SqliteStore(tmp_path / "x.db")) as store:
        viewers = Viewers(store, Hub(Presence(0)), Presence(0), most=1)
        app = Starlette(routes=[WebSocketRoute("/api/live", viewers.serve)])
        settings = load({}, home=str(tmp_path), port=0, token=TOKEN)
        server = RunningServer(settings, Gate(app, Secret(TOKEN), settings.reachable_hosts), store)
        try:
            async with server.viewer() as first, server.viewer() as second:
                await say(first, type="watch_runs")
                await hear(first, "runs")
                with pytest.raises(ConnectionClosed) as closed:
                    await second.recv()
        finally:
            server.stop()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1013


async def test_who_asks_for_the_list_while_it_is_read_shares_the_next_reading(tmp_path: Path) -> None:
    begun, go_on = [0], threading.Event()

    def read() -> str:
        begun[0] += 1
        assert go_on.wait(15)
        return f"list {begun[0]}"

    shared = SharedList(read)
    first = asyncio.create_task(shared.get())
    await until(lambda: begun[0] == 1)
    later = [asyncio.create_task(shared.get()) for _ in range(50)]
    await asyncio.sleep(0)
    go_on.set()
    assert await first == "list 1"
    assert set(await asyncio.gather(*later)) == {"list 2"}


async def test_a_new_name_is_told_to_whoever_has_the_list_open(server: RunningServer) -> None:
    await server.store_frames(a_stretch(1, 2))
    async with server.viewer() as viewer:
        await viewer.send('{"type":"watch_runs"}')
        first = msgspec.json.decode(await viewer.recv())
        assert [run["name"] for run in first["runs"]] == ["calm-river-7"]
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(headers=headers, trust_env=False) as client:
            answer = await client.patch(f"{server.base}/api/runs/{RUN}", json={"name": "brave-otter"})
        assert answer.status_code == 200
        while [run["name"] for run in first["runs"]] != ["brave-otter"]:
            first = msgspec.json.decode(await viewer.recv())
