"""What an agent can rely on: acknowledged is on the disk, repeats are harmless, holes and bad rows are answered."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from tests.server.conftest import RunningServer, ServerProcess, connect_agent
from tests.server.parts import RUN, TOKEN, a_frame, a_hello, a_sample, a_stretch, an_event
from websockets.exceptions import ConnectionClosed

from oomcast.sample import EventKind
from oomcast.wire import OLDEST_PROTOCOL, PROTOCOL, Ack, Problem, ServerMessage, Welcome
from oomcast_server.settings import ServerSettings, load
from oomcast_server.store.schema import samples

pytestmark = pytest.mark.fast


@pytest.fixture
def server(shared_server: RunningServer) -> RunningServer:
    """On either engine."""
    return shared_server


def stored_seqs(settings: ServerSettings) -> list[int]:
    """As another process reads them: through an engine of its own."""
    url = settings.postgres_url or f"sqlite:///{settings.database}"
    engine = sa.create_engine(url)
    with contextlib.closing(engine.connect()) as connection:
        seqs = connection.execute(sa.select(samples.c.seq).order_by(samples.c.seq)).scalars().all()
    engine.dispose()
    return list(seqs)


def problem(message: ServerMessage) -> Problem:
    assert isinstance(message, Problem), message
    return message


async def test_a_new_source_is_welcomed_with_watermark_0(server: RunningServer) -> None:
    async with server.agent() as agent:
        welcome = await agent.ask(a_hello())
    assert isinstance(welcome, Welcome)
    assert (welcome.protocol, welcome.watermark) == (PROTOCOL, 0)


async def test_what_is_acknowledged_can_be_read_by_another_process(server: RunningServer) -> None:
    async with server.agent(a_hello()) as agent:
        assert await agent.ask(a_stretch(1, 50)) == Ack(seq=50)
        assert stored_seqs(server.settings) == list(range(1, 51))


async def test_a_killed_server_has_every_acknowledged_row(
    start_process: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    process = start_process(OOMCAST_TOKEN=TOKEN)
    port, _ = process.wait_until_up()
    async with connect_agent(port) as agent:
        await agent.ask(a_hello())
        for begin in range(1, 401, 20):
            answer = await agent.ask(a_stretch(begin, begin + 19))
        process.process.send_signal(signal.SIGKILL)
    assert answer == Ack(seq=400)
    process.process.wait(10)
    assert stored_seqs(load({}, store=str(tmp_path / "data" / "oomcast.db"))) == list(range(1, 401))


async def test_a_reconnect_is_told_where_to_go_on(server: RunningServer) -> None:
    await server.store_frames(a_stretch(1, 30))
    async with server.agent() as agent:
        welcome = await agent.ask(a_hello())
    assert isinstance(welcome, Welcome)
    assert welcome.watermark == 30


async def test_repeated_rows_are_acknowledged_and_stored_once(server: RunningServer) -> None:
    async with server.agent(a_hello()) as agent:
        await agent.ask(a_stretch(1, 30))
        assert await agent.ask(a_stretch(1, 30)) == Ack(seq=30)
        assert await agent.ask(a_stretch(21, 40)) == Ack(seq=40)
    assert stored_seqs(server.settings) == list(range(1, 41))
    assert server.get(f"/api/runs/{RUN}").json()["samples"] == 40


async def test_a_hole_is_answered_with_the_watermark_and_nothing_is_stored(server: RunningServer) -> None:
    async with server.agent(a_hello()) as agent:
        await agent.ask(a_stretch(1, 10))
        answer = problem(await agent.ask(a_stretch(12, 20)))
        assert (answer.code, answer.seq, answer.fatal) == ("sequence", 10, False)
        assert await agent.ask(a_stretch(11, 20)) == Ack(seq=20)


async def test_frames_that_follow_a_hole_are_answered_once(server: RunningServer) -> None:
    async with server.agent(a_hello()) as agent:
        for begin in (11, 21, 31):
            await agent.say(a_stretch(begin, begin + 9))
        await agent.say(a_stretch(1, 10))
        assert problem(await agent.hear()).code == "sequence"
        assert await agent.hear() == Ack(seq=10)


async def test_frames_needn_t_wait_for_each_other_s_acknowledgement(server: RunningServer) -> None:
    async with server.agent(a_hello()) as agent:
        for begin in range(1, 1001, 10):
            await agent.say(a_stretch(begin, begin + 9))
        heard = [await agent.hear() for _ in range(100)]
    assert heard == [Ack(seq=seq) for seq in range(10, 1001, 10)]


@pytest.mark.parametrize(("theirs", "side"), [(PROTOCOL + 1, "the server's side"), (0, "the training's side")])
async def test_another_protocol_is_told_which_side_to_upgrade(server: RunningServer, theirs: int, side: str) -> None:
    async with server.agent() as agent:
        answer = problem(await agent.ask(a_hello(protocol=theirs)))
        assert (answer.code, answer.fatal) == ("protocol", True)
        assert f"speaks oomcast protocol {PROTOCOL}" in answer.message
        assert f"upgrade {side}" in answer.message
        with pytest.raises(ConnectionClosed):
            await agent.hear()


async def test_an_older_version_s_journal_is_taken(server: RunningServer) -> None:
    rows = [list(a_sample(seq))[:18] for seq in (1, 2)]
    gpus = [[1, 0, 5, 10, None, 7]]
    data = msgspec.msgpack.encode({"type": "frame", "first_seq": 1, "last_seq": 2, "samples": rows, "gpus": gpus})
    async with server.agent() as agent:
        welcome = await agent.ask(a_hello(protocol=OLDEST_PROTOCOL))
        assert isinstance(welcome, Welcome)
        assert welcome.protocol == OLDEST_PROTOCOL
        assert await agent.ask(data) == Ack(seq=2)
    series = server.get(f"/api/runs/{RUN}/series").json()
    assert series["metrics"]["rss_bytes"]["last"] == [1000, 1000]
    assert series["metrics"]["anonymous_bytes"]["last"] == [None, None]
    assert series["gpus"][0]["allocated_bytes"] == [None]


async def test_a_newer_hello_of_another_shape_still_gets_the_protocol_answer(server: RunningServer) -> None:
    async with server.agent() as agent:
        hello = msgspec.msgpack.encode({"type": "hello", "protocol": 99, "who": ["knows"]})
        assert problem(await agent.ask(hello)).code == "protocol"


async def test_a_bad_row_becomes_a_gap_and_the_others_are_stored(server: RunningServer) -> None:
    rows = [list(a_sample(seq)) for seq in (1, 2, 3)]
    rows[1][10] = -5  # rss_bytes
    data = msgspec.msgpack.encode({"type": "frame", "first_seq": 1, "last_seq": 3, "samples": rows})
    async with server.agent(a_hello()) as agent:
        answer = problem(await agent.ask(data))
        assert (answer.code, answer.fatal) == ("rejected", False)
        assert await agent.hear() == Ack(seq=3)
        assert await agent.ask(a_stretch(4, 5)) == Ack(seq=5)
    assert stored_seqs(server.settings) == [1, 3, 4, 5]
    (gap,) = server.get(f"/api/runs/{RUN}").json()["events"]
    assert (gap["kind"], gap["seq"], gap["detail"]) == ("gap", 2, {"from": 2, "to": 2, "reason": "rejected"})


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x93\x01\x02\x03", msgspec.msgpack.encode({"type": "frame"})])
async def test_bytes_that_are_no_message_are_answered_and_the_connection_stays(
    server: RunningServer, data: bytes
) -> None:
    async with server.agent(a_hello()) as agent:
        answer = problem(await agent.ask(data))
        assert (answer.code, answer.fatal) == ("malformed", False)
        assert await agent.ask(a_stretch(1, 2)) == Ack(seq=2)


async def test_a_frame_that_claims_a_huge_span_is_malformed(server: RunningServer) -> None:
    data = msgspec.msgpack.encode({"type": "frame", "first_seq": 1, "last_seq": 2**60, "samples": []})
    async with server.agent(a_hello()) as agent:
        assert problem(await agent.ask(data)).code == "malformed"


async def test_a_frame_before_hello_is_refused_and_hello_can_follow(server: RunningServer) -> None:
    async with server.agent() as agent:
        assert problem(await agent.ask(a_stretch(1, 2))).code == "hello"
        assert isinstance(await agent.ask(a_hello()), Welcome)


async def test_a_second_hello_is_refused(server: RunningServer) -> None:
    async with server.agent(a_hello()) as agent:
        assert problem(await agent.ask(a_hello())).code == "hello"


def about(name: str, value: int) -> dict[str, Any]:
    return {name: value}


@pytest.mark.parametrize("name", ["pid", "rank", "local_rank", "world_size"])
async def test_a_number_that_no_database_holds_is_malformed(server: RunningServer, name: str) -> None:
    async with server.agent() as agent:
        assert problem(await agent.ask(a_hello(**about(name, 2**63)))).code == "malformed"
        assert isinstance(await agent.ask(a_hello(**about(name, 1))), Welcome)


async def test_a_message_over_1_mib_is_not_taken(server: RunningServer) -> None:
    async with server.agent(a_hello()) as agent:
        await agent.say(b"\0" * (1 << 20) + b"\0")
        with pytest.raises(ConnectionClosed) as closed:
            await agent.hear()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


async def test_control_characters_and_bidi_overrides_are_stripped(server: RunningServer) -> None:
    hello = a_hello(name="a\x1b[31mb\u202ec\x9b\x7f\x00d\ne")
    notice = a_frame(events=[an_event(1, EventKind.NOTICE, text="x\x1b]0;evil\x07\u2066y")])
    await server.store_frames(notice, hello=hello)
    detail = server.get(f"/api/runs/{RUN}").json()
    assert detail["name"] == "a[31mbcd e"
    assert detail["events"][0]["detail"] == {"text": "x]0;evily"}


async def test_two_agents_of_one_run_don_t_disturb_each_other(server: RunningServer) -> None:
    async with (
        server.agent(a_hello(source="source000a")) as first,
        server.agent(a_hello(source="source000b")) as second,
    ):
        answers = await asyncio.gather(first.ask(a_stretch(1, 100)), second.ask(a_stretch(1, 70)))
    assert list(answers) == [Ack(seq=100), Ack(seq=70)]
    detail = server.get(f"/api/runs/{RUN}").json()
    assert (detail["sources"], detail["samples"]) == (2, 170)
    assert [source["watermark"] for source in detail["sources_detail"]] == [100, 70]
