"""What strangers and broken clients send, to a real server process: typed errors, bounded memory, nothing in its log.

All the while a good agent is connected, and served.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import msgspec
import psutil
import pytest
from tests.server.conftest import Agent, ServerProcess, connect_agent
from tests.server.fuzz import lost_from, mutants
from tests.server.parts import RUN, TOKEN, a_frame, a_hello, a_sample, a_stretch, an_event
from websockets.exceptions import WebSocketException

from oomcast.sample import EventKind, GpuReading
from oomcast.wire import Ack, Problem, Welcome, encode

pytestmark = pytest.mark.xdist_group("hostile")  # one server for all of them

MIB = 1 << 20
BEARER = f"Authorization: Bearer {TOKEN}"
MASK = b"\x00\x00\x00\x00"
names = itertools.count()


class Victim:
    """The server, and what is known of it from outside."""

    def __init__(self, process: ServerProcess, port: int) -> None:
        self.process = process
        self.port = port
        self.system = psutil.Process(process.process.pid)
        self._dialled: list[socket.socket] = []

    @property
    def rss(self) -> int:
        return int(self.system.memory_info().rss)

    @property
    def connections(self) -> int:
        return len([one for one in self.system.net_connections("tcp") if one.status != psutil.CONN_LISTEN])

    def dial(self, data: bytes = b"") -> socket.socket:
        """A connection on which `data` was sent."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        self._dialled.append(client)
        if data:
            client.sendall(data)
        return client

    def hang_up(self) -> None:
        """Close every connection that was dialled."""
        for client in self._dialled:
            client.close()
        self._dialled.clear()

    def upgraded(self, path: str = "/api/ingest", *headers: str) -> socket.socket:
        """A raw WebSocket, its handshake done."""
        client = self.dial(upgrade(self.port, path, *headers))
        assert read_head(client).startswith(b"HTTP/1.1 101")
        return client


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    process = ServerProcess(tmp_path_factory.mktemp("hostile"), OOMCAST_TOKEN=TOKEN)
    try:
        port, _ = process.wait_until_up()
        yield Victim(process, port)
        _, _, said = process.end()
        assert said == "", "nothing that a client sends is worth a line in the log, and no exception is left unhandled"
    finally:
        process.end(signal.SIGKILL)


@pytest.fixture(autouse=True)
def hang_up(victim: Victim) -> Iterator[None]:
    yield
    victim.hang_up()


class Good:
    """An agent that sends a row each few milliseconds."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self.slowest_s = 0.0

    async def work(self, agent: Agent) -> None:
        while True:
            sent = time.monotonic()
            answer = await agent.ask(a_stretch(self.acknowledged + 1, self.acknowledged + 1))
            assert answer == Ack(seq=self.acknowledged + 1)
            self.acknowledged += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - sent)
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def good_agent(victim: Victim) -> AsyncIterator[Good]:
    """It is served while the block lasts: each row in two seconds at most."""
    good = Good()
    name = f"goodrun{next(names):03}"
    async with connect_agent(victim.port) as agent:
        assert isinstance(await agent.ask(a_hello(run=name, source=name)), Welcome)
        working = asyncio.create_task(good.work(agent))
        try:
            yield good
            before = good.acknowledged
            await until(lambda: good.acknowledged > before or working.done())
        finally:
            working.cancel()
            results = await asyncio.gather(working, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError), results
    assert good.slowest_s < 2


async def until(condition: Callable[[], object], timeout_s: float = 40) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def welcomed(victim: Victim) -> AsyncIterator[Agent]:
    name = f"badrun{next(names):03}"
    async with connect_agent(victim.port) as agent:
        assert isinstance(await agent.ask(a_hello(run=name, source=name)), Welcome)
        yield agent


def upgrade(port: int, path: str, *headers: str) -> bytes:
    lines = (
        *(f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: Upgrade", "Upgrade: websocket"),
        *("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", BEARER, *headers),
    )
    return "\r\n".join((*lines, "", "")).encode()


def read_head(client: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        data = client.recv(1)
        if not data:
            break
        head += data
    return head


def raw_frame(opcode: int, payload: bytes, *, fin: bool = True, rsv1: bool = False) -> bytes:
    first = opcode | (0x80 if fin else 0) | (0x40 if rsv1 else 0)
    if len(payload) < 126:
        return bytes([first, 0x80 | len(payload)]) + MASK + payload
    if len(payload) < 1 << 16:
        return bytes([first, 0x80 | 126]) + struct.pack(">H", len(payload)) + MASK + payload
    return bytes([first, 0x80 | 127]) + struct.pack(">Q", len(payload)) + MASK + payload


def pour(client: socket.socket, data: bytes, times: int) -> None:
    """Send it again and again, until it is taken no more."""
    with contextlib.suppress(TimeoutError, ConnectionError):
        for _ in range(times):
            client.sendall(data)


def close_code(client: socket.socket) -> int:
    """The code of the close frame that comes, whatever comes before it."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while chunk := client.recv(65_536):
            data += chunk
    while data:
        opcode, length = data[0] & 0x0F, data[1] & 0x7F
        header = {126: 4, 127: 10}.get(length, 2)
        size = int.from_bytes(data[2:header], "big") if header > 2 else length
        payload, data = data[header : header + size], data[header + size :]
        if opcode == 8:
            return int.from_bytes(payload[:2], "big")
    return 0


def map_of(**fields: Any) -> bytes:
    return msgspec.msgpack.encode({"type": "frame", "first_seq": 1, "last_seq": 2, **fields})


ROW = list(a_sample(1))
DETAILS = [(str(number), "x") for number in range(80_000)]
BROKEN: dict[str, bytes] = {
    "nan": map_of(samples=[[1, 0, float("nan"), *ROW[3:]], [2, *ROW[1:]]]),
    "2**64-1": map_of(samples=[[1, 0, 2**64 - 1, *ROW[3:]], [2, *ROW[1:]]]),
    "a seq of 2**64-1": map_of(first_seq=2**64 - 1, last_seq=2**64 - 1, samples=[[2**64 - 1, *ROW[1:]]]),
    "a span of 2**62": map_of(last_seq=2**62),
    "a million nils": map_of(samples=[None] * 1_000_000),
    "a million maps": map_of(samples=[{}] * 1_000_000),
    "a hundred thousand rows that are none": map_of(last_seq=100_000, samples=[[1]] * 100_000),
    "a hundred thousand readings of one device": map_of(gpus=[[1, 0, 1, 1, None, 1]] * 100_000),
    "an array that claims 4 billion": map_of()[:-1] + b"\xdd\xff\xff\xff\xff",
    "nested a million deep": b"\x91" * (MIB - 1),
    "nested inside an unknown field": map_of(x=0)[:-1] + b"\x91" * 500_000 + b"\xc0",
    "nul strings": map_of(samples=[ROW], events=[[2, 8, 5, 5, None, None, {"\x00": "a\x00b"}]]),
    "eighty thousand details": map_of(
        samples=[ROW], events=[[2, 8, 5, 5, None, None, {str(n): "x" for n in range(80_000)}]]
    ),
    "an extension type": msgspec.msgpack.encode(msgspec.msgpack.Ext(-1, b"\xff" * 12)),
    "nothing": b"",
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_message_is_answered_and_memory_comes_back(victim: Victim, name: str) -> None:
    async with good_agent(victim), welcomed(victim) as agent:
        await agent.ask(BROKEN[name])
        before = victim.rss
        for _ in range(3):
            async with welcomed(victim) as another:
                answer = await another.ask(BROKEN[name])
                assert isinstance(answer, (Problem, Ack))
                assert not isinstance(answer, Problem) or "\n" not in answer.message
        assert victim.rss - before < 48 * MIB


async def test_thousands_of_broken_messages_on_one_connection_leave_it_usable(victim: Victim) -> None:
    async with good_agent(victim), welcomed(victim) as agent:
        last = 0
        for data in itertools.islice(mutants(11), 3_000):
            answer = await agent.ask(data)
            if isinstance(answer, Problem) and answer.code == "rejected":
                answer = await agent.hear()  # of what is left of the frame
            assert isinstance(answer, (Problem, Ack))
            last = answer.seq if isinstance(answer, Ack) else last
        assert await agent.ask(a_stretch(last + 1, last + 5)) == Ack(seq=last + 5)


async def test_a_text_message_is_malformed_and_the_connection_stays(victim: Victim) -> None:
    async with welcomed(victim) as agent:
        await agent.websocket.send("hello")
        answer = await agent.hear()
        assert isinstance(answer, Problem)
        assert answer.code == "malformed"
        assert await agent.ask(a_stretch(1, 2)) == Ack(seq=2)


async def test_one_device_s_reading_twice_is_stored_once(victim: Victim) -> None:
    async with welcomed(victim) as agent:
        answer = await agent.ask(a_frame([a_sample(1)], gpus=[GpuReading(1, 0, 1, 2, None, 3)] * 2))
        assert isinstance(answer, Problem)
        assert await agent.hear() == Ack(seq=1)


async def test_a_gap_that_grew_before_it_was_acknowledged_is_taken(victim: Victim) -> None:
    async with welcomed(victim) as agent:
        for last in (4, 10):
            event = an_event(last, EventKind.GAP, **lost_from(1, last))
            lost = msgspec.structs.replace(a_frame(events=[event]), first_seq=1)
            assert await agent.ask(lost) == Ack(seq=last)
        assert await agent.ask(a_stretch(11, 11)) == Ack(seq=11)


async def test_names_with_nul_and_control_characters_are_taken_without_them(victim: Victim) -> None:
    async with connect_agent(victim.port) as agent:
        hello = a_hello(run="nulrunnul1", source="nulsource1", name="a\x00\x1b[31mb\x00", command="\x00")
        assert isinstance(await agent.ask(hello), Welcome)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    url = f"http://127.0.0.1:{victim.port}/api/runs/nulrunnul1"
    assert httpx.get(url, headers=headers, trust_env=False).json()["name"] == "a[31mb"


# Below the messages: WebSocket frames.


def test_a_compressed_bomb_is_refused_before_it_is_unpacked_websockets_cve_2018_1000518(victim: Victim) -> None:
    client = victim.dial(upgrade(victim.port, "/api/ingest", "Sec-WebSocket-Extensions: permessage-deflate"))
    assert b"permessage-deflate" not in read_head(client)
    before = victim.rss
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = packer.compress(b"\0" * (200 * MIB)) + packer.flush()
    client.sendall(raw_frame(2, bomb, rsv1=True))
    assert close_code(client) == 1002
    assert victim.rss - before < 16 * MIB


def test_a_message_over_1_mib_in_pieces_is_not_taken(victim: Victim) -> None:
    client = victim.upgraded()
    with contextlib.suppress(ConnectionError):
        client.sendall(raw_frame(2, b"\0" * 65_536, fin=False))
        for _ in range(17):
            client.sendall(raw_frame(0, b"\0" * 65_536, fin=False))
    assert close_code(client) in (1009, 0)  # 0: it was closed while we were still sending


def test_a_message_of_empty_pieces_without_end_is_not_taken(victim: Victim) -> None:
    client = victim.upgraded()
    before = victim.rss
    with contextlib.suppress(ConnectionError):
        client.sendall(raw_frame(2, b"", fin=False))
        for _ in range(2_000):
            client.sendall(raw_frame(0, b"", fin=False) * 500)
    assert close_code(client) in (1009, 0)
    assert victim.rss - before < 16 * MIB


@pytest.mark.parametrize("path", ["/api/ingest", "/api/live"])
def test_text_that_is_no_utf_8_ends_the_connection_by_its_code(victim: Victim, path: str) -> None:
    client = victim.upgraded(path)
    client.sendall(raw_frame(1, b"\xff\xfe"))
    assert close_code(client) == 1007


@pytest.mark.parametrize("opcode", [3, 7, 11, 15])
def test_an_unknown_opcode_ends_the_connection_by_its_code(victim: Victim, opcode: int) -> None:
    client = victim.upgraded()
    client.sendall(raw_frame(opcode, b"x"))
    assert close_code(client) == 1002


async def test_an_agent_that_reads_no_answers_is_held_back_and_let_go(victim: Victim) -> None:
    async with good_agent(victim):
        client = victim.dial()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(upgrade(victim.port, "/api/ingest"))
        read_head(client)
        client.sendall(raw_frame(2, encode(a_hello(run="deafrundeaf", source="deafsource1"))))
        before, bad = victim.rss, raw_frame(2, b"\xc1" * 100)
        client.settimeout(0.5)
        await asyncio.to_thread(pour, client, bad * 1_000, 2_000)
        assert victim.rss - before < 32 * MIB
        client.close()


async def test_a_viewer_that_asks_and_never_reads_is_bounded_and_let_go(victim: Victim) -> None:
    async with good_agent(victim):
        clients = [victim.upgraded("/api/live") for _ in range(20)]
        before = victim.rss
        requests = raw_frame(1, b'{"type":"watch_runs"}') * 20 + raw_frame(1, b'{"type":"?"}') * 20
        for client in clients:
            client.settimeout(0.2)
            await asyncio.to_thread(pour, client, requests, 100)
        assert victim.rss - before < 64 * MIB
        for client in clients:
            client.close()


# Below that: connections.


def too_slow(victim: Victim) -> list[socket.socket]:
    """Connections that begin something, each at another place, and don't go on."""
    begun = upgrade(victim.port, "/api/ingest")
    many = "".join(f"X-{number}: {'y' * 200}\r\n" for number in range(200))
    return [
        victim.dial(),
        victim.dial(b"GET /api/runs HTTP/1.1\r\nHost: 127"),
        victim.dial(begun[:-2]),
        victim.dial(begun),  # and says no hello
        victim.dial(begun[:-2] + many.encode() + b"\r\n"),
        victim.dial(b"PATCH /api/runs/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n\r\n"),
    ]


def drip(clients: list[socket.socket]) -> None:
    """One more byte of a head on each that still takes it."""
    for client in clients:
        with contextlib.suppress(OSError):
            client.send(b"y")


def is_closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(65_536, socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


async def test_two_thousand_connections_that_go_on_with_nothing_are_dropped_in_time(victim: Victim) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4_096:
        pytest.skip(f"needs 4 096 open files, and {hard} are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4_096), hard))
    before, held = victim.rss, victim.connections
    async with good_agent(victim):
        slow = too_slow(victim)
        lorises = [victim.dial(b"GET / HTTP/1.1\r\nX: ") for _ in range(50)]
        idle = [victim.dial() for _ in range(2_000)]
        begun = time.monotonic()
        await until(lambda: victim.connections > held + 2_000)
        grown = victim.rss - before
        while not all(is_closed(client) for client in (*slow, *lorises, *idle)):
            drip(lorises)
            assert time.monotonic() < begun + 30, [at for at, client in enumerate(slow) if not is_closed(client)]
            await asyncio.sleep(0.5)
    assert grown < 96 * MIB
    await until(lambda: victim.connections <= held + 1)


def test_a_server_that_may_open_few_files_keeps_some_for_its_database(tmp_path: Any) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OOMCAST_HOME": str(tmp_path),
        "OOMCAST_TOKEN": TOKEN,
    }
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (800, 800)); "
        "from oomcast_server.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "serve", "--port", "0"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().split("/login")[0].rsplit(":", 1)[1])
            with contextlib.ExitStack() as stack:
                for _ in range(900):
                    stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
                assert asyncio.run(acknowledged(port)) == Ack(seq=5)
        finally:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=30)
    assert said == ""


async def acknowledged(port: int) -> Any:
    """The answer to a frame, once the server takes connections again."""
    deadline = time.monotonic() + 30
    while True:
        try:
            async with connect_agent(port) as agent:
                await agent.ask(a_hello())
                return await agent.ask(a_stretch(1, 5))
        except (OSError, EOFError, WebSocketException):
            assert time.monotonic() < deadline, "waited in vain"
            await asyncio.sleep(0.1)


# HTTP.


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nX: " + b"y" * 80_000,
        b"GET /" + b"y" * 80_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,
        b"\x00" * 1_000,
        b"GET / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_a_request_that_is_none_is_answered_400(victim: Victim, head: bytes) -> None:
    client = victim.dial()
    with contextlib.suppress(ConnectionError):
        client.sendall(head)
    with contextlib.suppress(ConnectionResetError):
        assert client.recv(100).startswith(b"HTTP/1.1 400")


async def test_a_body_beyond_the_limit_is_refused_and_not_kept(victim: Victim) -> None:
    async with good_agent(victim):
        before = victim.rss
        head = (
            f"PATCH /api/runs/{RUN} HTTP/1.1\r\nHost: 127.0.0.1:{victim.port}\r\n{BEARER}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {500 * MIB}\r\n\r\n"
        )
        client = victim.dial(head.encode())
        client.settimeout(1)
        await asyncio.to_thread(pour, client, b" " * MIB, 20)
        answer = read_head(client)
        assert answer.startswith((b"HTTP/1.1 413", b"HTTP/1.1 404"))
        assert victim.rss - before < 16 * MIB
        client.close()


async def test_a_hundred_thousand_requests_on_one_line_are_answered_one_by_one(victim: Victim) -> None:
    async with good_agent(victim):
        before = victim.rss
        one = f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{victim.port}\r\n\r\n".encode()
        client = victim.dial()
        client.settimeout(1)
        await asyncio.to_thread(pour, client, one * 1_000, 100)
        assert victim.rss - before < 16 * MIB
        client.close()


@pytest.mark.parametrize("header", ["Host: evil.example", "Host: 127.0.0.1:1@evil.example", "Host: "])
def test_a_websocket_under_another_name_is_refused_ray_cve_2025_62593(victim: Victim, header: str) -> None:
    request = upgrade(victim.port, "/api/live").replace(f"Host: 127.0.0.1:{victim.port}".encode(), header.encode())
    client = victim.dial(request)
    assert read_head(client).startswith((b"HTTP/1.1 403", b"HTTP/1.1 400"))


async def test_a_websocket_from_another_site_is_refused_bokeh_cve_2026_21883(victim: Victim) -> None:
    client = victim.dial(upgrade(victim.port, "/api/ingest", "Origin: http://evil.example"))
    assert read_head(client).startswith(b"HTTP/1.1 403")
