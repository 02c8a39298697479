"""Simulated agents and viewers in processes of their own, for `bench_server.py`.

    python -m tests.server.bench_load agents|viewers SPEC

SPEC is JSON. Each process says "ready" when all its connections stand, begins at a line on its standard input, and
prints its results as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec
from tests.server.bench_rows import WALL_NS, a_row
from tests.server.parts import TOKEN
from websockets.asyncio.client import ClientConnection, connect

from oomcast.wire import PROTOCOL, Ack, Frame, Hello, RunInfo, SourceInfo, Welcome, decode_server_message, encode

IN_FLIGHT = 16
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
Sent = tuple[str, int, float]  # run, last seq, monotonic time: of a frame's sending, its acknowledgement, its arrival


class AgentSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Agents, one for each run. `rate`: frames a second of each; None: as fast as they are acknowledged.

    `full`: every column of every row has a figure; else rows are a training's, of which one in fifty is a tick.
    `ahead`: frames are encoded before the clock runs, so that the agent's work is not measured as the server's.
    """

    port: int
    runs: list[str]
    rows: int  # of each, behind what is stored of it already
    frame: int = 500
    rate: float | None = None
    full: bool = False
    ahead: bool = False
    seconds: float | None = None  # end after it, whatever is left


class AgentResult(msgspec.Struct, frozen=True, kw_only=True):
    """When it began and ended (monotonic clock), rows acknowledged, and each acknowledgement."""

    begun_s: float
    ended_s: float
    rows: int
    waits_s: list[float]  # from sending a frame to its acknowledgement
    sent: list[Sent]
    acknowledged: list[Sent]  # as its process heard it, which may itself be late on a busy machine


class ViewerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Viewers, one for each run named (a run may be named often); `lists`: they have the list of runs open as well."""

    port: int
    runs: list[str]
    lists: bool = True


class ViewerResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came: the last seq of each message of rows, and how many didn't follow on the one before."""

    messages: int
    letters: int
    holes: int
    arrived: list[Sent]


def frames(begin: int, spec: AgentSpec) -> Iterator[bytes]:
    """So many rows from seq `begin` on."""
    end = begin + spec.rows - 1
    for first in range(begin, end + 1, spec.frame):
        last = min(first + spec.frame - 1, end)
        samples = [a_row(seq, spec.full) for seq in range(first, last + 1)]
        yield encode(Frame(first_seq=first, last_seq=last, samples=samples))


def hello(run: str) -> Hello:
    source = SourceInfo(id=f"{run}source", host="box", pid=1, started_ns=WALL_NS, command="train.py")
    return Hello(protocol=PROTOCOL, oomcast="bench", run=RunInfo(id=run, project="bench", name=run), source=source)


@dataclasses.dataclass
class _Agent:
    """One agent: sends with a bounded number of frames in flight."""

    run: str
    spec: AgentSpec
    begin: int
    made: Iterable[bytes]
    waits_s: list[float] = dataclasses.field(default_factory=list)
    sent: list[Sent] = dataclasses.field(default_factory=list)
    acknowledged: list[Sent] = dataclasses.field(default_factory=list)
    rows: int = 0
    _sent: deque[float] = dataclasses.field(default_factory=deque)
    _all_sent: bool = False

    @property
    def end(self) -> int:
        return self.begin + self.spec.rows - 1

    async def work(self, websocket: ClientConnection) -> None:
        room = asyncio.Semaphore(IN_FLIGHT)
        hearing = asyncio.create_task(self._hear(websocket, room))
        begun = time.monotonic()
        for number, data in enumerate(self.made):
            if self.spec.seconds is not None and time.monotonic() > begun + self.spec.seconds:
                break
            if self.spec.rate is not None:
                await asyncio.sleep(max(0.0, begun + number / self.spec.rate - time.monotonic()))
            await room.acquire()
            now = time.monotonic()
            self._sent.append(now)
            self.sent.append((self.run, min(self.begin + (number + 1) * self.spec.frame, self.end + 1) - 1, now))
            await websocket.send(data)
        self._all_sent = True
        if self._sent:
            await hearing
        hearing.cancel()

    async def _hear(self, websocket: ClientConnection, room: asyncio.Semaphore) -> None:
        while not self._all_sent or self._sent:
            data = await websocket.recv()
            now = time.monotonic()
            assert isinstance(data, bytes)
            answer = decode_server_message(data)
            assert isinstance(answer, Ack), answer
            self.waits_s.append(now - self._sent.popleft())
            self.acknowledged.append((self.run, answer.seq, now))
            self.rows = answer.seq - self.begin + 1
            room.release()


async def run_agents(spec: AgentSpec) -> AgentResult:
    async with contextlib.AsyncExitStack() as stack:
        agents, sockets = [], []
        for run in spec.runs:
            websocket = await stack.enter_async_context(_connect(spec.port, "/api/ingest"))
            await websocket.send(encode(hello(run)))
            welcome = decode_server_message(await websocket.recv())  # type: ignore[arg-type]
            assert isinstance(welcome, Welcome)
            begin = welcome.watermark + 1
            made = frames(begin, spec)
            agents.append(_Agent(run, spec, begin, list(made) if spec.ahead else made))
            sockets.append(websocket)
        await _ready()
        begun = time.monotonic()
        works = (agent.work(websocket) for agent, websocket in zip(agents, sockets, strict=True))
        await asyncio.gather(*works)
        ended = time.monotonic()
    return AgentResult(
        begun_s=begun,
        ended_s=ended,
        rows=sum(agent.rows for agent in agents),
        waits_s=[wait for agent in agents for wait in agent.waits_s],
        sent=[sent for agent in agents for sent in agent.sent],
        acknowledged=[sent for agent in agents for sent in agent.acknowledged],
    )


class _Head(msgspec.Struct):
    """As much of a message as is looked at."""

    type: str
    run: str = ""
    from_seq: int = 0
    to_seq: int = 0


class _Viewer:
    def __init__(self) -> None:
        self.messages = self.letters = self.holes = 0
        self.arrived: list[Sent] = []
        self._last: int | None = None

    async def listen(self, websocket: ClientConnection) -> None:
        decoder = msgspec.json.Decoder(_Head)
        async for data in websocket:
            now = time.monotonic()
            self.messages += 1
            self.letters += len(data)
            if data[:14] == '{"type":"runs"':
                continue
            head = decoder.decode(data)
            if head.type == "rows":
                self.holes += self._last is not None and head.from_seq != self._last + 1
                self._last = head.to_seq
                self.arrived.append((head.run, head.to_seq, now))


async def run_viewers(spec: ViewerSpec) -> ViewerResult:
    async with contextlib.AsyncExitStack() as stack:
        viewers, tasks = [], []
        for run in spec.runs:
            websocket = await stack.enter_async_context(_connect(spec.port, "/api/live"))
            if spec.lists:
                await websocket.send('{"type":"watch_runs"}')
            await websocket.send(f'{{"type":"watch","run":"{run}"}}')
            viewers.append(_Viewer())
            tasks.append(asyncio.create_task(viewers[-1].listen(websocket)))
        await _ready()
        await _line()  # until told to stop
        lost = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert not lost, f"the server closed {len(lost)} viewers"
    return ViewerResult(
        messages=sum(viewer.messages for viewer in viewers),
        letters=sum(viewer.letters for viewer in viewers),
        holes=sum(viewer.holes for viewer in viewers),
        arrived=[sent for viewer in viewers for sent in viewer.arrived],
    )


def _connect(port: int, path: str) -> connect:
    url = f"ws://127.0.0.1:{port}{path}"
    return connect(url, additional_headers=HEADERS, proxy=None, compression=None, max_size=None, open_timeout=60)


async def _ready() -> None:
    print("ready", flush=True)
    await _line()


async def _line() -> str:
    return await asyncio.to_thread(sys.stdin.readline)


def main() -> None:
    what: Literal["agents", "viewers"] = sys.argv[1]  # type: ignore[assignment]
    result: AgentResult | ViewerResult
    if what == "agents":
        result = asyncio.run(run_agents(msgspec.json.decode(sys.argv[2], type=AgentSpec)))
    else:
        result = asyncio.run(run_viewers(msgspec.json.decode(sys.argv[2], type=ViewerSpec)))
    print(msgspec.json.encode(result).decode(), flush=True)


if __name__ == "__main__":
    main()
