"""The agent's way to the server: a sender in the background, and how long an end waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Protocol

from oomcast.agent.outbox import Outbox
from oomcast.agent.starter import start_server_if_none
from oomcast.errors import OomcastError
from oomcast.handover import Handover
from oomcast.places import places

if TYPE_CHECKING:
    from oomcast.agent.sender import Sender

__all__ = ["Delivery", "Say"]

# At a run's end the server gets this long to take the rest, as long as it answers at all; then the journal keeps it.
_DELIVERY_S = 30.0
# How long the end of a training may wait for a connection that is only being made.
_GREETING_S = 0.5
_KEPT = "the last samples are in the journal, not on the server: `oomcast sync` sends them"
# A server started by us is up in a second or two; on a machine that pages, later.
_SERVER_STARTS_S = 20.0


class Say(Protocol):
    """How the session is told something."""

    def __call__(self, text: str | None = None, *, done: bool = False) -> None: ...


class Delivery:
    """Sends one outbox, and what dead agents of this machine left for the same server."""

    def __init__(self, outbox: Outbox, hello: bytes, handover: Handover, say: Say) -> None:
        """Send nothing yet."""
        self._outbox = outbox
        self._hello = hello
        self._handover = handover
        self._say = say
        self._sender: Sender | None = None
        self._server_starts_until = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, unless the run is to stay offline."""
        if self._handover.mode == "online":
            self._tasks.append(asyncio.create_task(self._send()))

    async def _send(self) -> None:
        # A fifth of an agent's start, which comes after its first look into the ring.
        from oomcast.agent.left_behind import send_left_behind
        from oomcast.agent.sender import Sender

        handover, patience_s = self._handover, 2.0
        state = places(handover.home).state
        with contextlib.suppress(OomcastError, OSError):
            if handover.autostart and start_server_if_none(handover.server, state):
                patience_s = _SERVER_STARTS_S
                self._server_starts_until = time.monotonic() + patience_s
        self._sender = Sender(
            self._outbox, self._hello, handover.server, handover.token, self._say, patience_s=patience_s
        )
        self._tasks.append(asyncio.create_task(send_left_behind(self._sender, handover)))
        await self._sender.run()

    async def finish(self) -> None:
        """Wait for the rest to be taken, as long as that is worth it."""
        if not self._tasks:
            return
        started = time.monotonic()
        first_failures = self._sender.failures if self._sender else 0
        told = False
        while self._outbox.pending and time.monotonic() < started + _DELIVERY_S:
            sender = self._sender
            away = sender is None or not sender.connected
            if not told and away and self._outbox.kept and time.monotonic() > started + _GREETING_S:
                # No server to wait for: the training may end now. It is tried some more without it.
                told = True
                self._say(None if time.monotonic() < self._server_starts_until else _KEPT, done=True)
            # A server that doesn't answer is not waited for, unless it is starting, or only memory holds the rest.
            tried = sender is not None and sender.failures >= first_failures + 2
            if tried and self._outbox.kept and time.monotonic() > self._server_starts_until:
                break
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """End all sending."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
