"""Who looks on: viewers that watch runs by the balancer, and come back as the page does when their server is gone."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Sequence

import httpx
import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException
from websockets.typing import Origin

from oomcast_server.auth import COOKIE, Secret

__all__ = ["Audience"]

_FIRST_S, _LONGEST_S = 0.4, 15.0  # as the page's scripts/live.js has them


class _Message(msgspec.Struct):
    type: str
    run: str = ""
    source: str = ""
    from_seq: int = 0
    to_seq: int = 0


class _Viewer:
    """One page that shows one run."""

    def __init__(self, base: str, token: str, run: str) -> None:
        self._base = base
        self._headers = {"Cookie": f"{COOKIE}={Secret(token).session}"}
        self._run = run
        self._told: dict[str, int] = {}  # source → the last seq since the last resync
        self._lost: float | None = None
        self.rows: float | None = None  # when the last ones came
        self.back_s: list[float] = []  # from each loss until rows came again
        self.longest_s = 0.0  # without rows
        self.losses = self.skipped = self.doubled = 0

    @property
    def is_lost(self) -> bool:
        """Whether it has lost its connection, and no rows have come since."""
        return self._lost is not None

    async def look(self) -> None:
        """Until cancelled."""
        attempt = 0
        while True:
            with contextlib.suppress(OSError, WebSocketException, TimeoutError):
                async with connect(
                    self._base.replace("http", "ws") + "/api/live",
                    additional_headers=self._headers,
                    origin=Origin(self._base),
                    proxy=None,
                    max_size=None,
                    compression=None,
                ) as websocket:
                    attempt = 0
                    await websocket.send('{"type":"watch_runs"}')
                    await websocket.send('{"type":"watch","run":"' + self._run + '"}')
                    while True:
                        self._take(msgspec.json.decode(await websocket.recv(), type=_Message))
            if self._lost is None:
                self._lost = time.monotonic()
                self.losses += 1
            await self._probe()
            await asyncio.sleep(min(_LONGEST_S, _FIRST_S * 2**attempt) * random.uniform(0.5, 1))
            attempt += 1

    async def _probe(self) -> None:
        async with httpx.AsyncClient(trust_env=False, headers=self._headers) as client:
            with contextlib.suppress(httpx.HTTPError):
                await client.get(f"{self._base}/api/server")

    def _take(self, message: _Message) -> None:
        if message.type == "resync":
            self._told.clear()
        if message.type != "rows" or message.run != self._run:
            return
        now = time.monotonic()
        if self.rows is not None:
            self.longest_s = max(self.longest_s, now - self.rows)
        self.rows = now
        if self._lost is not None:
            self.back_s.append(now - self._lost)
            self._lost = None
        told = self._told.get(message.source, message.from_seq - 1)
        self.skipped += message.from_seq > told + 1
        self.doubled += message.from_seq <= told
        self._told[message.source] = message.to_seq


class Audience:
    """Some viewers on a thread of their own."""

    def __init__(self, base: str, token: str, runs: Sequence[str]) -> None:
        """One for each of `runs`, by their ids, at the server `base`."""
        self._viewers = [_Viewer(base, token, run) for run in runs]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._look(),), name="audience")
        self._thread.start()

    async def _look(self) -> None:
        self._tasks = [asyncio.create_task(viewer.look()) for viewer in self._viewers]
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def all_see(self) -> bool:
        """Whether rows have come to each."""
        return all(viewer.rows is not None for viewer in self._viewers)

    def all_back(self) -> bool:
        """Whether rows come to each over the connection that it has now."""
        return not any(viewer.is_lost for viewer in self._viewers)

    def close(self) -> None:
        """They leave."""
        for task in self._tasks:
            self._loop.call_soon_threadsafe(task.cancel)
        self._thread.join(10)
        self._loop.close()

    @property
    def back_s(self) -> list[float]:
        """How long each took each time from the loss of its connection until rows came again."""
        return [seconds for viewer in self._viewers for seconds in viewer.back_s]

    @property
    def losses(self) -> int:
        """How often one lost its connection."""
        return sum(viewer.losses for viewer in self._viewers)

    @property
    def longest_s(self) -> float:
        """The longest that any was without rows, whoever was to blame."""
        return max(viewer.longest_s for viewer in self._viewers)

    @property
    def skipped(self) -> int:
        """How often rows came that didn't follow on those before, and nobody said that they should be fetched."""
        return sum(viewer.skipped for viewer in self._viewers)

    @property
    def doubled(self) -> int:
        """How often rows came again."""
        return sum(viewer.doubled for viewer in self._viewers)
