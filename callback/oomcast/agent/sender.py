"""Delivery: connect, say hello, send what the server has not got, take its acknowledgements, and begin again."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import urllib.parse
from collections.abc import Callable

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from oomcast._version import __version__
from oomcast.agent.outbox import Outbox, gap_frame
from oomcast.errors import WireError
from oomcast.settings import LOOPBACK
from oomcast.wire import MAX_MESSAGE_BYTES, OLDEST_PROTOCOL, PROTOCOL, Ack, Problem, Welcome, decode_server_message

__all__ = ["Sender"]

_FIRST_RETRY_S = 0.25
# A server that was restarted is found again at once; one that is away for hours is not knocked at all the time.
_LONGEST_RETRY_S = 1.0
_AWAY_S, _AWAY_RETRY_S = 60.0, 10.0
_ANSWER_S = 10.0
# Frames under way: enough to fill a fast line, few enough that a slow server's backlog stays in the journal.
_WINDOW = 64
_REFUSED_PAUSE_S = 1.0
_REFUSED_RETRY_S = 5.0
# A frame that the server still can't read is given up, or it would hold back all that follow.
_MALFORMED_TRIES = 3


class _Refused(Exception):  # noqa: N818  not an error of ours
    """The server said no, in words for the user; trying again soon would not change it."""


class Sender:
    """Sends one source's outbox to one server for as long as it is told to."""

    def __init__(
        self,
        outbox: Outbox,
        hello: bytes,
        server: str,
        token: str | None,
        on_notice: Callable[[str], None],
        *,
        patience_s: float = 2.0,
    ) -> None:
        """Connect to nothing yet.

        Args:
            outbox: what to send.
            hello: the encoded `Hello`.
            server: its address, http or https.
            token: what it asks for; None to try without.
            on_notice: told in one line what keeps samples from being delivered, once each.
            patience_s: a server that can't be reached is not told of sooner; it may be starting.
        """
        self._outbox = outbox
        self._hello = hello
        self._server = server
        self._token = token
        self._on_notice = on_notice
        self._told: str | None = None
        self._quiet_until = time.monotonic() + patience_s
        self._sent = 0
        self._under_way: list[int] = []  # last seqs of frames that wait for their answer
        self._malformed = 0  # how often the frame after the watermark was refused as such
        self.connected = False
        self.failures = 0

    async def run(self) -> None:
        """Deliver until cancelled."""
        pause = _FIRST_RETRY_S
        away_since = time.monotonic()
        while True:
            refused = False
            try:
                async with self._connect() as connection:
                    await self._converse(connection)
            except _Refused as refusal:
                refused = True
                self._tell(str(refusal))
            except Exception as error:  # also what resolvers and proxies raise of their own
                if not isinstance(error, OSError) or time.monotonic() > self._quiet_until:
                    self._tell(self._explain(error))
            if self.connected:
                pause, away_since = _FIRST_RETRY_S, time.monotonic()
            longest = _LONGEST_RETRY_S if time.monotonic() < away_since + _AWAY_S else _AWAY_RETRY_S
            if refused:
                pause = longest = _REFUSED_RETRY_S
            self.connected = False
            self.failures += 1
            # Full jitter: a thousand agents whose server restarts must not come back in step.
            await asyncio.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311  no secret hangs on it
            pause = min(pause * 2, longest)

    def _connect(self) -> connect:
        parts = urllib.parse.urlsplit(self._server)
        scheme = "wss" if parts.scheme == "https" else "ws"
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        return connect(
            f"{scheme}://{parts.netloc}{parts.path}/api/ingest",
            additional_headers=headers,
            user_agent_header=f"oomcast/{__version__}",
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
            open_timeout=_ANSWER_S,
            close_timeout=1,
            proxy=None if parts.hostname in LOOPBACK else True,
        )

    async def _converse(self, connection: ClientConnection) -> None:
        await connection.send(self._hello)
        self._take_welcome(await asyncio.wait_for(self._receive(connection), _ANSWER_S))
        self.connected = True
        if self._told:
            self._tell(f"connected to {self._server}")
        self._told = None
        pump = asyncio.create_task(self._pump(connection))
        try:
            while True:
                await self._take(await self._receive(connection))
        except ConnectionClosed:
            return
        finally:
            pump.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionClosed, OSError):
                await pump

    async def _receive(self, connection: ClientConnection) -> Welcome | Ack | Problem:
        data = await connection.recv()
        return decode_server_message(data if isinstance(data, bytes) else data.encode())

    def _take_welcome(self, answer: Welcome | Ack | Problem) -> None:
        if isinstance(answer, Problem):
            raise _Refused(f"{self._server} refused this run: {answer.message}")
        if not isinstance(answer, Welcome) or not OLDEST_PROTOCOL <= answer.protocol <= PROTOCOL:
            raise _Refused(
                f"{self._server} speaks another protocol than oomcast {__version__} (protocol {PROTOCOL}): "
                "install the same version on both sides"
            )
        self._outbox.acknowledge(answer.watermark)
        self._under_way.clear()
        self._sent = answer.watermark

    async def _pump(self, connection: ClientConnection) -> None:
        while True:
            self._under_way = [seq for seq in self._under_way if seq > self._outbox.acknowledged]
            frame = self._outbox.next_after(self._sent) if len(self._under_way) < _WINDOW else None
            if frame is None:
                await self._outbox.wait()
                continue
            if self._malformed >= _MALFORMED_TRIES and frame.first_seq <= self._outbox.acknowledged + 1:
                frame = gap_frame(frame.first_seq, frame.last_seq, time.time_ns(), "the server could not read it")
            self._sent = frame.last_seq
            self._under_way.append(frame.last_seq)
            await connection.send(frame.payload)

    async def _take(self, answer: Welcome | Ack | Problem) -> None:
        if isinstance(answer, Ack):
            if answer.seq > self._outbox.acknowledged:
                self._malformed = 0
            self._outbox.acknowledge(answer.seq)
        elif isinstance(answer, Problem):
            if answer.fatal:
                raise _Refused(f"{self._server}: {answer.message}")
            if answer.code == "rejected":
                self._on_notice(f"{self._server} could not take some samples: {answer.message}")
                return
            if answer.code == "malformed":
                self._malformed += 1
            if answer.code != "sequence":
                self._tell(f"{self._server} can't take samples now: {answer.message}")
                await asyncio.sleep(_REFUSED_PAUSE_S)
            self._rewind(self._outbox.acknowledged if answer.seq is None else answer.seq)

    def _rewind(self, seq: int) -> None:
        """Send again what comes after `seq`; what comes twice is harmless."""
        self._under_way.clear()
        self._sent = min(self._sent, seq)
        self._outbox.wake()

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self._on_notice(text)

    def _explain(self, error: BaseException) -> str:
        kept = "samples are kept in the journal meanwhile"
        if isinstance(error, InvalidStatus) and error.response.status_code in (401, 403):
            return (
                f"{self._server} refused the token: set OOMCAST_TOKEN to that server's token "
                f"(`oomcast token` prints it on the server's machine); {kept}"
            )
        if isinstance(error, (InvalidHandshake, InvalidURI, WireError)):
            return (
                f"what answers at {self._server} is no oomcast server: set OOMCAST_SERVER to one, "
                f"or start one on a free port with `oomcast serve --port`; {kept}"
            )
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return f"can't reach {self._server} ({reason}): start it with `oomcast serve` or set OOMCAST_SERVER; {kept}"
