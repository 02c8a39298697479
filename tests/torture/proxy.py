"""A line between agents and servers that can be cut: a TCP proxy, or balancer, on a thread of its own."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import enum
import socket
import struct
import threading

__all__ = ["Line", "Proxy"]

_RESET = struct.pack("ii", 1, 0)  # linger for 0 s: the peer gets a reset


class Line(enum.Enum):
    """What the line does with what comes."""

    OPEN = "open"
    DROP = "drop"  # takes connections and bytes and forwards none; who spoke meanwhile is reset when it opens again
    STALL = "stall"  # takes connections and no bytes, as a network whose packets come through in the end
    RESET = "reset"  # resets every connection, old or new


class Proxy:
    """Listens on a port of its own and forwards to others in turn, as long as the line is open."""

    def __init__(self, *target_ports: int) -> None:
        """Listen on 127.0.0.1. Each connection goes to the next of `target_ports` that takes it."""
        self._target_ports = collections.deque(target_ports)
        self._line = Line.OPEN
        self._pairs: set[_Pair] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()
        self._ready.wait()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._opened, self._ended = asyncio.Event(), asyncio.Event()
        self._opened.set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._ended.wait()
        server.close()
        for pair in list(self._pairs):
            pair.reset()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def set(self, line: Line) -> None:
        """Cut the line, or open it again."""
        asyncio.run_coroutine_threadsafe(self._set(line), self._loop).result(10)

    async def _set(self, line: Line) -> None:
        self._line = line
        if line in (Line.OPEN, Line.DROP):
            self._opened.set()  # what waits goes on, to be forwarded or dropped
        else:
            self._opened.clear()
        for pair in list(self._pairs):
            if line is Line.RESET or (line is Line.OPEN and pair.dropped):
                pair.reset()

    def close(self) -> None:
        """Cut all, and stop listening."""
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = _Pair(writer)
        self._pairs.add(pair)
        try:
            with contextlib.suppress(OSError):
                await self._join(pair, reader)
        finally:
            self._pairs.discard(pair)
            pair.close()

    async def _join(self, pair: _Pair, reader: asyncio.StreamReader) -> None:
        if self._line is Line.RESET:
            pair.reset()
            return
        await self._opened.wait()
        if self._line is Line.DROP:
            pair.dropped = True
            while await reader.read(65536):
                pass
            return
        back, forth = await self._connect()
        pair.writers.append(forth)
        copies = [
            asyncio.create_task(self._copy(pair, reader, forth)),
            asyncio.create_task(self._copy(pair, back, pair.writers[0])),
        ]
        await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        for copy in copies:
            copy.cancel()
        await asyncio.gather(*copies, return_exceptions=True)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        ports = list(self._target_ports)
        self._target_ports.rotate(-1)
        for port in ports[:-1]:
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port)
        return await asyncio.open_connection("127.0.0.1", ports[-1])

    async def _copy(self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await self._opened.wait()
            data = await reader.read(65536)
            await self._opened.wait()
            if not data and self._line is not Line.DROP:
                return  # the other end is told by our close
            if not data:
                # An end that the other one must not hear of, as long as nothing comes through.
                pair.dropped = True
                await pair.over.wait()
                return
            if self._line is Line.DROP or pair.dropped:
                pair.dropped = True
            else:
                writer.write(data)
                await writer.drain()


class _Pair:
    """One connection through the proxy, with both its ends."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writers = [writer]
        self.dropped = False  # bytes of it are gone, and what follows would make no sense
        self.over = asyncio.Event()

    def reset(self) -> None:
        self.over.set()
        for writer in self.writers:
            raw = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()

    def close(self) -> None:
        for writer in self.writers:
            writer.close()
