"""The agent's life: read the ring, look from outside, journal, send; when the training is gone, tell how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import select
import signal
import time
from pathlib import Path

import msgspec

from oomcast._version import __version__
from oomcast.agent.assembler import Assembler, Outside
from oomcast.agent.journal import Journal, JournalFrame
from oomcast.agent.order import Order
from oomcast.agent.outbox import Outbox
from oomcast.agent.sender import Sender
from oomcast.agent.starter import start_server_if_none
from oomcast.agent.verdict import Verdict, judge
from oomcast.errors import OomcastError
from oomcast.handover import Handover, Note, Notice, read_handover, remove_folder, sweep
from oomcast.places import places
from oomcast.probes.death import ExitStatus, KernelLog, KillCounters, exit_status
from oomcast.probes.gpu import GpuProbe
from oomcast.probes.limits import LimitProbe
from oomcast.probes.process import read_process
from oomcast.ring import Record, RingReader
from oomcast.sample import Event, GpuReading, Sample
from oomcast.wire import PROTOCOL, Frame, Hello, encode

__all__ = ["Agent"]

_POLL_S = 0.05
_TICK_S = 1.0
# At a run's end the server gets this long to take the rest, as long as it answers at all; then the journal keeps it.
_DELIVERY_S = 30.0
# How long to wait for somebody who can say how the process ended; the verdict is to be on the server within two.
_STATUS_S = 1.0
# How long the end of a training may wait for a connection that is only being made.
_GREETING_S = 0.5
_KEPT = "the last samples are in the journal, not on the server: `oomcast sync` sends them"
# A server started by us is up in a second or two; on a machine that pages, later.
_SERVER_STARTS_S = 20.0
_ROWS_PER_FRAME = 2000


class Agent:
    """Watches one process through one session's folder."""

    def __init__(self, folder: Path, lifeline: int, uplink: int, pidfd: int | None) -> None:
        """Open everything that the session left in `folder`.

        Args:
            folder: the session's, see `handover.py`; removed at the end.
            lifeline: a pipe that ends when the process does.
            uplink: a pipe for lines to the session.
            pidfd: the process itself; it tells of a death that the life-line hides, and how it came. None: the system
                has none.

        Raises:
            OomcastError, OSError: the folder is not a session's.
        """
        self._folder = folder
        self._lifeline = lifeline
        self._uplink = uplink
        self._handover: Handover = read_handover(folder)
        self._pid = self._handover.source.pid
        self._ring = RingReader(folder / "ring")
        self._notes = open(folder / "notes", "rb")  # noqa: SIM115  as long as the agent
        self._gpu = GpuProbe()
        self._limits = LimitProbe(self._pid)
        self._kills = KillCounters(self._pid)
        self._log = KernelLog()
        self._order = Order()
        self._assembler = Assembler()
        self._outside = Outside()
        self._next_tick_ns = 0
        self._hello = self._make_hello()
        self._outbox = Outbox(self._open_journal())
        self._sender: Sender | None = None
        self._told_disk = False
        self._server_starts_until = 0.0
        self._pidfd = pidfd

    def _make_hello(self) -> bytes:
        source = msgspec.structs.replace(self._handover.source, gpus=self._gpu.devices, gpu_note=self._gpu.note)
        return encode(Hello(protocol=PROTOCOL, oomcast=__version__, run=self._handover.run, source=source))

    def _open_journal(self) -> Journal | None:
        folder = places(self._handover.home).state / "journals" / self._handover.source.id
        try:
            return Journal(folder, max_bytes=self._handover.journal_max, hello=self._hello)
        except (OomcastError, OSError) as error:
            self._say(f"no journal, so what can't be delivered at once may be lost: {error}")
            return None

    async def run(self) -> None:
        """Until the training is gone and its story is told."""
        sweep(self._folder.parent)
        sending = asyncio.create_task(self._send()) if self._handover.mode == "online" else None
        try:
            while not self._ended():
                self._poll()
                await asyncio.sleep(_POLL_S)
            await self._finish()
            if sending:
                await self._deliver()
        finally:
            if sending:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            lost = self._outbox.pending and not self._outbox.kept
            self._say("the last samples are lost: no server took them, and no disk" if lost else None, done=True)
            self._close()

    async def _send(self) -> None:
        handover, patience_s = self._handover, 2.0
        with contextlib.suppress(OomcastError, OSError):
            if handover.autostart and start_server_if_none(handover.server, places(handover.home).state):
                patience_s = _SERVER_STARTS_S
                self._server_starts_until = time.monotonic() + patience_s
        self._sender = Sender(
            self._outbox, self._hello, handover.server, handover.token, self._say, patience_s=patience_s
        )
        await self._sender.run()

    def _ended(self) -> bool:
        if self._assembler.closed is not None:
            return True
        # The life-line may be closed by a program that closes all files it doesn't know; the pidfd can't.
        return any_readable([self._lifeline if self._pidfd is None else self._pidfd])

    def _poll(self) -> None:
        batch = self._ring.read()
        tick = time.monotonic_ns() >= self._next_tick_ns
        if batch.records or tick:
            self._look(anew=tick)
        rows: list[Sample | Event] = []
        gpus: list[GpuReading] = []
        if batch.lost:
            rows.append(self._assembler.gap(time.time_ns(), time.monotonic_ns(), batch.lost))
        rows.extend(self._assemble(self._order.take(batch.records, time.monotonic_ns())))
        rows.extend(self._read_notes())
        if tick:
            rows.extend(self._tick(gpus))
        self._post(rows, gpus)

    def _assemble(self, records: list[Record]) -> list[Sample | Event]:
        return [row for record in records if (row := self._assembler.record(record, self._outside))]

    def _look(self, *, anew: bool) -> None:
        process = read_process(self._pid)
        if process.rss_bytes is None and self._outside.limit is not None:
            return  # gone, and what is charged now is not what was charged then: the last look stands
        self._outside = Outside(process, self._limits.binding(process, anew=anew))

    def _read_notes(self) -> list[Event]:
        events = []
        # A line still being written stays for the next time.
        while (line := self._notes.readline()) and line.endswith(b"\n"):
            with contextlib.suppress(msgspec.MsgspecError):
                events.append(self._assembler.note(msgspec.json.decode(line, type=Note)))
        if line:
            self._notes.seek(-len(line), os.SEEK_CUR)
        return events

    def _tick(self, gpus: list[GpuReading]) -> list[Sample | Event]:
        wall, mono = time.time_ns(), time.monotonic_ns()
        self._next_tick_ns = mono + int(_TICK_S * 1e9)
        rows: list[Sample | Event] = []
        if change := self._assembler.limit_change(wall, mono, self._outside.limit):
            rows.append(change)
        sample = self._assembler.tick(wall, mono, self._outside)
        gpus.extend(self._gpu.read(sample.seq, self._pid))
        rows.append(sample)
        return rows

    async def _finish(self) -> None:
        # First what was written in order, then what a writer that died left behind a hole.
        self._poll()
        batch = self._ring.drain()
        rows: list[Sample | Event] = []
        if batch.lost:
            rows.append(self._assembler.gap(time.time_ns(), time.monotonic_ns(), batch.lost))
        rows.extend(self._assemble(self._order.take(batch.records, time.monotonic_ns(), final=True)))
        rows.extend(self._read_notes())
        verdict = await self._judge()
        rows.append(self._assembler.end(time.time_ns(), time.monotonic_ns(), verdict))
        self._post(rows, [])

    async def _judge(self) -> Verdict:
        said = self._assembler.evidence()
        status = None if said.closed is not None else await self._wait_for_status()
        return judge(
            dataclasses.replace(
                said,
                status=status,
                kills_before=self._kills.before,
                kills_after=self._kills.read(),
                logged=self._pid in self._log.killed(),
                limit=self._outside.limit,
            )
        )

    async def _wait_for_status(self) -> ExitStatus | None:
        # Until its parent has waited for it, or at once while it is a zombie that we may ask.
        deadline = time.monotonic() + _STATUS_S
        while (status := exit_status(self._pid, self._pidfd)) is None and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        return status

    def _post(self, rows: list[Sample | Event], gpus: list[GpuReading]) -> None:
        for start in range(0, len(rows), _ROWS_PER_FRAME):
            part = rows[start : start + _ROWS_PER_FRAME]
            frame = Frame(
                first_seq=part[0].seq,
                last_seq=part[-1].seq,
                samples=[row for row in part if isinstance(row, Sample)],
                gpus=[reading for reading in gpus if part[0].seq <= reading.seq <= part[-1].seq],
                events=[row for row in part if isinstance(row, Event)],
            )
            self._outbox.append(JournalFrame(frame.first_seq, frame.last_seq, encode(frame)))
        if self._outbox.disk_error and not self._told_disk:
            self._told_disk = True
            self._say(f"the journal can't be written ({self._outbox.disk_error}): free some space or set OOMCAST_HOME")

    async def _deliver(self) -> None:
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

    def _say(self, text: str | None, *, done: bool = False) -> None:
        # The session may be gone, or its thread stuck behind a full terminal: then this is not heard.
        with contextlib.suppress(OSError):
            os.write(self._uplink, msgspec.json.encode(Notice(text=text, done=done)) + b"\n")

    def _close(self) -> None:
        for close in (self._outbox.close, self._gpu.close, self._log.close, self._ring.close, self._notes.close):
            with contextlib.suppress(Exception):
                close()


def any_readable(fds: list[int]) -> bool:
    """Whether any of them has something, or has ended; at once. (`select` takes no number from 1024 up.)"""
    if not hasattr(select, "poll"):
        return bool(select.select(fds, [], [], 0)[0])
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def main(folder: Path, lifeline: int, uplink: int, pidfd: int | None = None) -> None:
    """Run an agent in this process."""
    # A signal to the whole job (Ctrl-C, a scheduler's or container's end) must not silence the witness: it ends when
    # the training does.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        with contextlib.suppress(ValueError, OSError):
            signal.signal(number, signal.SIG_IGN)
    os.set_blocking(uplink, False)
    try:
        asyncio.run(Agent(folder, lifeline, uplink, pidfd).run())
    except Exception as error:
        text = f"the agent failed ({type(error).__name__}: {error}); training goes on without being watched"
        with contextlib.suppress(OSError):
            os.write(uplink, msgspec.json.encode(Notice(text=text, done=True)) + b"\n")
        raise
    finally:
        remove_folder(folder)
