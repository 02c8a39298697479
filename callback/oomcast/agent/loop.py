"""The agent's life: read the ring, look from outside, journal, send; when the training is gone, tell how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import select
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from oomcast._version import __version__
from oomcast.agent.alarm import Alarm, Spike
from oomcast.agent.delivery import Delivery
from oomcast.agent.ending import Ending
from oomcast.agent.left_behind import close_orphans
from oomcast.agent.observer import Observer
from oomcast.agent.recording import Recording, Row
from oomcast.agent.resume import Resume
from oomcast.assessment import State
from oomcast.handover import Detail, Handover, Notice, read_handover, remove_folder
from oomcast.sample import Event, EventKind, GpuReading, Kind, Phase, Sample
from oomcast.wire import PROTOCOL, Hello, Status, encode

__all__ = ["Agent"]

_POLL_S = 0.05
# Near the end, what happened last is worth more, and what is to be done is done sooner.
_CLOSE_POLL_S = 0.02
# While the disk is full and the server away, each step writes down all that is in memory only.
_COSTLY_POLL_S, _MUCH_BYTES = 0.5, 1 << 20
_TICK_S = 1.0
# How often to look for sessions that nobody holds, and how often where the disk was too full for them.
_ORPHANS_EVERY_S, _LEFT_EVERY_S = 60.0, 5.0


class Agent:
    """Watches one process through one session's folder."""

    def __init__(self, folder: Path, lifeline: int, uplink: int, pidfd: int | None) -> None:
        """Open everything that the session left in `folder`, and go on where an agent before was killed.

        Args:
            folder: the session's, see `handover.py`; removed at the end.
            lifeline: a pipe that ends when the session does.
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
        self._pidfd = pidfd
        self._observer = Observer(self._pid, self._handover.visible_gpus, self._handover.gpu_order)
        hello = self._make_hello()
        self._recording = Recording(folder, self._handover, hello, self._say, self._observer.devices)
        self._delivery = Delivery(self._recording.outbox, hello, self._handover, self._say)
        before = self._recording.before
        self._ending = Ending(folder, self._handover, self._observer, pidfd, before.standing if before else None)
        self._alarm = Alarm(self._handover.critical_headroom)
        self._spike = Spike()
        self._next_tick_ns = 0
        self._detached = False
        self._odd = False

    def _make_hello(self) -> bytes:
        source = msgspec.structs.replace(
            self._handover.source, gpus=self._observer.devices, gpu_note=self._observer.gpu_note
        )
        return encode(Hello(protocol=PROTOCOL, oomcast=__version__, run=self._handover.run, source=source))

    async def run(self) -> None:
        """Until the training is gone and its story is told."""
        self._delivery.start()
        orphans = asyncio.create_task(self._close_orphans())
        try:
            self._greet()
            while not self._ended():
                self._poll()
                await asyncio.sleep(self._pause_s)
            await self._finish()
            await self._delivery.finish()
        finally:
            orphans.cancel()
            await self._delivery.stop()
            outbox = self._recording.outbox
            lost = outbox.pending and not outbox.kept
            self._say("the last samples are lost: no server took them, and no disk" if lost else None, done=True)
            self._close()

    async def _close_orphans(self) -> None:
        while True:
            closed = await asyncio.to_thread(close_orphans, self._folder.parent, __version__)
            # Hundreds of agents on one host need not all look at once.
            often = _LEFT_EVERY_S if closed.left else _ORPHANS_EVERY_S
            await asyncio.sleep(often * (0.75 + random.random() / 2))  # noqa: S311  no secret hangs on it

    def _greet(self) -> None:
        before = self._recording.before
        if before is None:
            return
        away_ms = max(0, time.time_ns() - before.wall_ns) // 1_000_000
        text = f"the agent was killed; another went on {away_ms / 1000:.1f} s later where it was"
        self._keep([self._event(EventKind.AGENT, {"text": text, "away_ms": away_ms})])

    @property
    def _pause_s(self) -> float:
        if self._recording.outbox.unwritten_bytes > _MUCH_BYTES:
            return _COSTLY_POLL_S
        return _POLL_S if self._alarm.state is State.STEADY else _CLOSE_POLL_S

    def _ended(self) -> bool:
        if self._recording.assembler.closed is not None and not self._handover.outside:
            return True
        if self._handover.detachable and any_readable([self._lifeline]):
            self._detached = True
            return True
        # The life-line may be closed by a program that closes all files it doesn't know; the pidfd can't.
        if self._pidfd is not None:
            return any_readable([self._pidfd])
        if self._handover.outside:
            return not self._observer.alive
        return any_readable([self._lifeline])

    def _poll(self, *, final: bool = False) -> None:
        now_ns = time.monotonic_ns()
        tick = now_ns >= self._next_tick_ns
        self._ending.look(now_ns)
        # Far from the limit, ten steps a second will do, at half the cost; the page is told no more often.
        self._odd = not self._odd
        if self._odd and not tick and not final and self._observer.is_far_from_limit:
            return
        batch = self._recording.read()
        outside = self._observer.look(anew=tick)
        rows = self._recording.rows(batch, outside)
        readings = self._recording.assembler.take_readings()
        self._observer.heard(readings, self._recording.assembler.framework)
        status = None
        if tick:
            self._next_tick_ns = now_ns + int(_TICK_S * 1e9)
            rows += self._tick(readings)
            status = self._observer.status(self._ending.processes(), self._ending.hung_since_wall_ns)
        self._follow(rows)
        rows += self._judge_memory()
        self._keep(rows, readings, status)

    def _tick(self, readings: list[GpuReading]) -> list[Row]:
        wall_ns, mono_ns = time.time_ns(), time.monotonic_ns()
        assembler, outside = self._recording.assembler, self._observer.last
        rows: list[Row] = []
        if change := assembler.limit_change(wall_ns, mono_ns, outside.limit):
            rows.append(change)
        sample = assembler.tick(wall_ns, mono_ns, outside)
        rows.append(sample)
        gpus = self._observer.gpus(sample.seq)
        readings += gpus
        for kind, detail in self._ending.tick(sample, assembler.batches, sample.phase, gpus):
            rows.append(assembler.event(kind, wall_ns, mono_ns, detail))
        for fault in self._observer.gpu_faults():
            said: Detail = {"device": fault.device, "xid": fault.xid, "text": fault.text}
            rows.append(assembler.event(EventKind.GPU_FAULT, wall_ns, mono_ns, said))
        return rows

    def _follow(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._ending.follow(row)
            if isinstance(row, Sample) and row.kind is Kind.BATCH:
                self._spike.take(row.phase, row.rss_bytes, row.peak_bytes)

    def _judge_memory(self) -> list[Row]:
        assembler = self._recording.assembler
        where = assembler.where
        assessment = self._alarm.take(
            self._observer.killing,
            self._spike.largest_bytes(where.phase if where else Phase.IDLE),
            time.time_ns(),
            where.epoch if where and where.epoch >= 0 else None,
            assembler.batches - 1 if assembler.batches else None,
        )
        if assessment is None:
            return []
        self._tell(Notice(assessment=assessment))
        self._ending.assessed(assessment)
        kind = EventKind.CRITICAL if assessment.state is State.CRITICAL else EventKind.CLEAR
        return [self._event(kind, {**msgspec.to_builtins(assessment), "text": assessment.text})]

    def _event(self, kind: EventKind, detail: Detail) -> Event:
        return self._recording.assembler.event(kind, time.time_ns(), time.monotonic_ns(), detail)

    def _keep(self, rows: list[Row], readings: Sequence[GpuReading] = (), status: Status | None = None) -> None:
        self._recording.keep(rows, readings, self._standing(), status)

    def _standing(self) -> Resume:
        return Resume(standing=self._ending.standing, limit=self._observer.killing, boot=self._ending.boot)

    async def _finish(self) -> None:
        # First what was written in order, then what a writer that died left behind a hole.
        self._poll(final=True)
        rows = self._recording.rows(self._recording.drain(), self._observer.last, final=True)
        readings = self._recording.assembler.take_readings()
        self._follow(rows)
        verdict = await self._ending.judge(self._recording.assembler, detached=self._detached)
        detail = verdict.detail()
        rows.append(self._event(EventKind.END, detail))
        self._keep(rows, readings, self._observer.status(self._ending.processes(), None))
        self._tell(Notice(verdict=detail))

    def _say(self, text: str | None = None, *, done: bool = False) -> None:
        self._tell(Notice(text=text, done=done))

    def _tell(self, notice: Notice) -> None:
        # The session may be gone, or its thread stuck behind a full terminal: then this is not heard, or a part of it
        # only, which the next line must not be taken for the rest of.
        with contextlib.suppress(OSError):
            os.write(self._uplink, b"\n" + msgspec.json.encode(notice) + b"\n")

    def _close(self) -> None:
        for close in (self._recording.close, self._observer.close, self._ending.close):
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
        # Not done: the session starts another, or says that it can't; the folder stays for whoever comes after.
        text = f"the agent failed ({type(error).__name__}: {error}); training goes on"
        with contextlib.suppress(OSError):
            os.write(uplink, msgspec.json.encode(Notice(text=text)) + b"\n")
        raise
    remove_folder(folder)
