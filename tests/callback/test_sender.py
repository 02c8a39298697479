"""Delivery to servers that refuse, stall or say odd things, over a real socket: nothing is stuck, nothing given up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve

from oomcast.agent.journal import Journal, JournalFrame
from oomcast.agent.outbox import Outbox
from oomcast.agent.sender import Sender
from oomcast.sample import EventKind, Kind, Phase, Sample
from oomcast.wire import (
    PROTOCOL,
    Ack,
    Frame,
    Hello,
    Problem,
    RunInfo,
    SourceInfo,
    Welcome,
    decode_agent_message,
    encode,
)

pytestmark = pytest.mark.fast

HELLO = encode(
    Hello(
        protocol=PROTOCOL,
        oomcast="0",
        run=RunInfo(id="a" * 16, project="p", name="n"),
        source=SourceInfo(id="b" * 16, host="h", pid=1, started_ns=1),
    )
)

Answer = Callable[["FakeServer", Frame], Problem | None]


class FakeServer:
    """Speaks the protocol, keeps what it takes, and refuses what `answer` refuses."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.watermark = 0
        self.frames: list[Frame] = []
        self.refusals = 0
        self.url = ""

    async def talk(self, connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send(encode(Welcome(protocol=PROTOCOL, oomcast="0", watermark=self.watermark)))
        async for data in connection:
            assert isinstance(data, bytes)
            frame = decode_agent_message(data)
            assert isinstance(frame, Frame)
            await self._take(connection, frame)

    async def _take(self, connection: ServerConnection, frame: Frame) -> None:
        if frame.first_seq > self.watermark + 1:
            return  # as the real one: one answer is enough for all that follow a refused frame
        if problem := self._answer(self, frame):
            self.refusals += 1
            await connection.send(encode(problem))
            return
        if frame.last_seq > self.watermark:
            self.frames.append(frame)
            self.watermark = frame.last_seq
        await connection.send(encode(Ack(seq=self.watermark)))


@contextlib.asynccontextmanager
async def delivering(
    answer: Answer, tmp_path: Path, said: list[str]
) -> AsyncIterator[tuple[FakeServer, Outbox, Callable[[Callable[[], bool]], Awaitable[None]]]]:
    """A fake server, an outbox on a real journal, and a sender between them."""
    server = FakeServer(answer)
    outbox = Outbox(Journal(tmp_path / "j", max_bytes=1 << 24))
    async with serve(server.talk, "127.0.0.1", 0) as listener:
        port = next(iter(listener.sockets)).getsockname()[1]
        sender = Sender(outbox, HELLO, f"http://127.0.0.1:{port}", None, said.append)
        task = asyncio.create_task(sender.run())

        async def until(condition: Callable[[], bool]) -> None:
            async with asyncio.timeout(30) if hasattr(asyncio, "timeout") else contextlib.nullcontext():
                while not condition():
                    await asyncio.sleep(0.01)

        try:
            yield server, outbox, until
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            outbox.close()


def put(outbox: Outbox, seq: int) -> None:
    sample = Sample(seq, Kind.TICK, seq, seq, Phase.IDLE, *[None] * 13)
    outbox.append(JournalFrame(seq, seq, encode(Frame(first_seq=seq, last_seq=seq, samples=[sample]))))


def seqs(server: FakeServer) -> list[int]:
    return [sample.seq for frame in server.frames for sample in frame.samples]


async def test_a_server_that_could_not_store_for_a_while_gets_everything_after_it(tmp_path: Path) -> None:
    said: list[str] = []

    def full_disk(server: FakeServer, frame: Frame) -> Problem | None:
        return Problem(code="store", message="disk full", seq=server.watermark) if server.refusals < 2 else None

    async with delivering(full_disk, tmp_path, said) as (server, outbox, until):
        for seq in range(1, 301):  # more than the window holds
            put(outbox, seq)
        await until(lambda: outbox.acknowledged == 300)
    assert seqs(server) == list(range(1, 301))
    assert any("disk full" in line for line in said)


async def test_a_frame_that_the_server_cannot_read_is_given_up_for_those_behind_it(tmp_path: Path) -> None:
    said: list[str] = []

    def picky(server: FakeServer, frame: Frame) -> Problem | None:
        unreadable = any(sample.seq == 5 for sample in frame.samples)
        return Problem(code="malformed", message="what is this?") if unreadable else None

    async with delivering(picky, tmp_path, said) as (server, outbox, until):
        for seq in range(1, 21):
            put(outbox, seq)
        await until(lambda: outbox.acknowledged == 20)
    assert seqs(server) == [1, 2, 3, 4, *range(6, 21)]
    gaps = [event for frame in server.frames for event in frame.events]
    assert [(gap.kind, gap.detail["from"], gap.detail["to"]) for gap in gaps] == [(EventKind.GAP, 5, 5)]
    assert any("what is this?" in line for line in said)


async def test_a_server_that_lost_its_place_is_sent_again_from_there(tmp_path: Path) -> None:
    def forgetful(server: FakeServer, frame: Frame) -> Problem | None:
        if frame.first_seq == 10 and server.refusals == 0:
            return Problem(code="sequence", message="a hole", seq=9)
        return None

    async with delivering(forgetful, tmp_path, []) as (server, outbox, until):
        for seq in range(1, 31):
            put(outbox, seq)
        await until(lambda: outbox.acknowledged == 30)
    assert seqs(server) == list(range(1, 31))


@pytest.mark.parametrize("address", ["http://exa..mple:6662", "http://" + "a" * 70 + ".example:1"])
async def test_an_address_that_no_resolver_takes_is_told_and_tried_again(tmp_path: Path, address: str) -> None:
    said: list[str] = []
    sender = Sender(Outbox(None), HELLO, address, None, said.append, patience_s=0)
    task = asyncio.create_task(sender.run())
    try:
        for _ in range(1000):
            if sender.failures > 1:
                break
            await asyncio.sleep(0.01)
        assert not task.done()
        assert len(said) == 1
        assert address in said[0]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
