"""Where agents connect: hello, then frames, each acknowledged when it is on the disk."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from oomcast._version import __version__
from oomcast.errors import WireError
from oomcast.wire import (
    OLDEST_PROTOCOL,
    PROTOCOL,
    Ack,
    Hello,
    Problem,
    ServerMessage,
    Welcome,
    decode_agent_message,
    encode,
)
from oomcast_server.errors import StoreUnavailable
from oomcast_server.intake.pipeline import Answer, Gone, Hole, Pipeline, Receipt, Unavailable
from oomcast_server.intake.salvage import read_frame
from oomcast_server.runs.presence import Presence
from oomcast_server.text import clean

__all__ = ["Ingest", "decode_hello"]

_MOST_IN_FLIGHT = 16  # frames of one connection that wait for their commit; then it isn't read from
_SEND_TIMEOUT_S = 10.0  # an agent that doesn't read its answers is gone, or not one of ours
_HELLO_TIMEOUT_S = 10.0  # an agent says hello at once
_MOST_TRIES = 16  # messages that are no hello, before the connection ends
_POLICY_VIOLATION = 1008
_PID_LIMIT = 2**62  # SQLite and PostgreSQL store signed 64-bit integers


class _Peek(msgspec.Struct, tag="hello", tag_field="type"):
    """As much of a hello as every protocol version will have."""

    protocol: int
    oomcast: str = "unknown"


class _AnyFrame(msgspec.Struct, tag="frame", tag_field="type"):
    """Whatever says that it is a frame."""


class Ingest:
    """The ASGI endpoint of `/api/ingest`."""

    def __init__(
        self,
        pipeline: Pipeline,
        presence: Presence,
        wall_ns: Callable[[], int] = time.time_ns,
        hello_timeout_s: float = _HELLO_TIMEOUT_S,
    ) -> None:
        self._pipeline = pipeline
        self._presence = presence
        self._wall_ns = wall_ns
        self._hello_timeout_s = hello_timeout_s

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one agent until it goes."""
        await websocket.accept()
        connection = _Connection(websocket, self._pipeline, self._wall_ns, self._hello_timeout_s)
        with contextlib.suppress(WebSocketDisconnect, asyncio.TimeoutError):
            source_pk = await connection.greet()
            if source_pk is not None:
                with self._presence.of(source_pk):
                    await connection.take_frames()


class _Connection:
    """One agent. Frames are read on while earlier ones are committed; answers go out in the frames' order."""

    def __init__(
        self, websocket: WebSocket, pipeline: Pipeline, wall_ns: Callable[[], int], hello_timeout_s: float
    ) -> None:
        self._websocket = websocket
        self._pipeline = pipeline
        self._wall_ns = wall_ns
        self._hello_timeout_s = hello_timeout_s
        self._run_pk = 0
        self._source_pk = 0
        self._watermark = 0
        self._next_refused: int | None = None
        self._in_flight: asyncio.Queue[asyncio.Future[Answer] | Problem] = asyncio.Queue(_MOST_IN_FLIGHT)
        self._first_seqs: dict[asyncio.Future[Answer], tuple[int, int]] = {}

    async def _send(self, message: ServerMessage) -> None:
        await asyncio.wait_for(self._websocket.send_bytes(encode(message)), _SEND_TIMEOUT_S)

    async def _receive(self) -> bytes:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        data = message.get("bytes")
        return data if data is not None else b""  # a text message is none of ours: empty bytes decode to a problem

    async def greet(self) -> int | None:
        """Take messages until a hello is stored: the source's key; None when the connection must end."""
        for _ in range(_MOST_TRIES):
            try:
                data = await asyncio.wait_for(self._receive(), self._hello_timeout_s)
            except asyncio.TimeoutError:
                break
            problem = _version_problem(data)
            if problem is not None:
                await self._send(problem)
                await self._websocket.close(1002)
                return None
            if await self._register(data):
                return self._source_pk
        await self._send(Problem(code="hello", message="no hello has come: say hello first, and at once", fatal=True))
        await self._websocket.close(_POLICY_VIOLATION)
        return None

    async def _register(self, data: bytes) -> bool:
        try:
            hello = decode_hello(data)
            registered = await self._pipeline.hello(hello)
        except WireError as error:
            code = "malformed" if _peek(data) is not None or not _is_frame(data) else "hello"
            await self._send(Problem(code=code, message=_line(error)))
            return False
        except StoreUnavailable as error:
            await self._send(Problem(code="store", message=_line(error)))
            return False
        self._run_pk, self._source_pk = registered.run_pk, registered.source_pk
        self._watermark = registered.watermark
        await self._send(Welcome(protocol=hello.protocol, oomcast=__version__, watermark=self._watermark))
        return True

    async def take_frames(self) -> None:
        """Read frames and answer them until the agent goes."""
        tasks = {asyncio.create_task(self._read()), asyncio.create_task(self._answer())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._forget()
        for task in tasks:
            if not task.cancelled():
                task.result()

    async def _read(self) -> None:
        while True:
            await self._take(await self._receive())

    def _forget(self) -> None:
        # What is still in the pipeline is stored all the same; the agent learns of it by the next welcome.
        for future in self._first_seqs:
            future.cancel()

    async def _take(self, data: bytes) -> None:
        try:
            frame, wrong = read_frame(data, self._wall_ns())
        except WireError as error:
            code = "malformed" if _peek(data) is None else "hello"
            await self._in_flight.put(Problem(code=code, message=_line(error)))
            return
        if wrong is not None:
            message = f"stored as a gap: {clean(wrong)}"
            await self._in_flight.put(Problem(code="rejected", message=message, seq=frame.first_seq))
        future = await self._pipeline.frame(self._run_pk, self._source_pk, frame)
        self._first_seqs[future] = (frame.first_seq, frame.last_seq)
        await self._in_flight.put(future)

    async def _answer(self) -> None:
        while True:
            entry = await self._in_flight.get()
            if isinstance(entry, Problem):
                await self._send(entry)
                continue
            await self._answer_frame(await entry, *self._first_seqs.pop(entry))

    async def _answer_frame(self, answer: Answer, first_seq: int, last_seq: int) -> None:
        if isinstance(answer, Gone):
            await self._websocket.close(1012)  # come again, with a hello
            raise WebSocketDisconnect(1012)
        if isinstance(answer, Unavailable):
            problem = Problem(code="store", message=clean(answer.reason), seq=self._watermark)
            await self._refuse(problem, first_seq, last_seq)
        elif isinstance(answer, Receipt):
            self._watermark = max(self._watermark, answer.watermark)
            self._next_refused = None
            await self._send(Ack(seq=answer.watermark))
        elif isinstance(answer, Hole):
            text = f"the frame begins at seq {first_seq}, but the next one to be stored is {answer.watermark + 1}"
            problem = Problem(code="sequence", message=text, seq=answer.watermark)
            await self._refuse(problem, first_seq, last_seq)

    async def _refuse(self, problem: Problem, first_seq: int, last_seq: int) -> None:
        # Frames that were on their way when one was refused follow it without a hole: one answer is enough for them,
        # or the agent would go back once for each.
        if first_seq != self._next_refused:
            await self._send(problem)
        self._next_refused = last_seq + 1


def _peek(data: bytes) -> _Peek | None:
    try:
        return msgspec.msgpack.decode(data, type=_Peek)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _is_frame(data: bytes) -> bool:
    try:
        msgspec.msgpack.decode(data, type=_AnyFrame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _version_problem(data: bytes) -> Problem | None:
    peek = _peek(data)
    if peek is None or OLDEST_PROTOCOL <= peek.protocol <= PROTOCOL:
        return None
    side = "the training's" if peek.protocol < OLDEST_PROTOCOL else "the server's"
    text = (
        f"this server speaks oomcast protocol {PROTOCOL} (version {__version__}), the training speaks {peek.protocol} "
        f"(version {clean(peek.oomcast)[:40]}): upgrade {side} side with `pip install -U oomcast`"
    )
    return Problem(code="protocol", message=text, fatal=True)


def decode_hello(data: bytes) -> Hello:
    """The hello in `data`.

    Raises:
        WireError: not a hello, or one with numbers that no database holds.
    """
    message = decode_agent_message(data)
    if not isinstance(message, Hello):
        raise WireError("a frame before hello: say hello first")
    source = message.source
    if not all(
        0 <= (value or 0) < _PID_LIMIT for value in (source.pid, source.rank, source.local_rank, source.world_size)
    ):
        raise WireError("a hello whose pid, rank or world size is out of range")
    return message


def _line(error: BaseException) -> str:
    return clean(str(error))[:1000]
