"""One session's folder, turned into journalled rows: ring and notes in, frames out, each row exactly once.

Both the agent that watches a training and the one that finds what a dead agent left work through this.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from oomcast.agent.assembler import Assembler, Outside
from oomcast.agent.journal import Destination, Journal, JournalFrame
from oomcast.agent.order import Order
from oomcast.agent.outbox import Outbox
from oomcast.agent.resume import Resume, read_resume, write_resume
from oomcast.errors import JournalError, OomcastError
from oomcast.handover import Handover, Note
from oomcast.places import places
from oomcast.ring import Batch, RingReader
from oomcast.sample import Event, GpuReading, Sample
from oomcast.wire import Frame, GpuDevice, Status, encode

__all__ = ["Recording", "Row"]

Row = Sample | Event

_ROWS_PER_FRAME = 2000
# An agent that was just killed may have been seen by another of this user, which looks into journals left behind.
_LOCK_PATIENCE_S = 1.0


class Recording:
    """Reads a session's folder on from where it was last read."""

    def __init__(
        self,
        folder: Path,
        handover: Handover,
        hello: bytes,
        on_problem: Callable[[str], None],
        devices: Sequence[GpuDevice] = (),
    ) -> None:
        """Open ring, notes and journal.

        Args:
            folder: the session's.
            handover: what lies in it.
            hello: the source's encoded Hello.
            on_problem: told in one line why something can't be kept.
            devices: as for `Assembler`.

        Raises:
            OomcastError, OSError: the folder is not a session's.
        """
        self._folder = folder
        self._handover = handover
        self._on_problem = on_problem
        self._told_disk = False
        # Shared memory may be full, which must not make a later agent begin from an old standing.
        self._standings = (folder, places(handover.home).state / "journals" / handover.source.id)
        found = [resume for place in self._standings if (resume := read_resume(place)) is not None]
        self.before: Resume | None = max(found, key=lambda resume: resume.assembler.seq, default=None)
        start = self.before or Resume()
        self._ring = RingReader(folder / "ring", start.ring_number)
        self._notes = open(folder / "notes", "rb")  # noqa: SIM115  as long as the recording
        self._notes.seek(start.notes_offset)
        self._order = Order()
        self._order.threaded = start.threaded
        self.assembler = Assembler(start.assembler, devices, handover.source.backend)
        self.outbox = Outbox(self._open_journal(hello))
        # The step that the agent before was killed in.
        for frame in start.journal_frames:
            if frame.first_seq > self.outbox.last_seq:
                self.outbox.append(frame)
        # Where no standing could be written down: what was stored under a seq stays what it is.
        self.assembler.skip_to(self.outbox.last_seq)

    def _open_journal(self, hello: bytes) -> Journal | None:
        handover = self._handover
        folder = places(handover.home).state / "journals" / handover.source.id
        destination = Destination(server=handover.server, mode=handover.mode, folder=str(self._folder))
        until = time.monotonic() + _LOCK_PATIENCE_S
        while True:
            try:
                return Journal(folder, max_bytes=handover.journal_max, hello=hello, destination=destination)
            except (OomcastError, OSError) as error:
                # A folder that is being sent and removed by another at this moment is made anew.
                if time.monotonic() > until or not isinstance(error, (JournalError, FileNotFoundError)):
                    self._on_problem(f"no journal, so what can't be delivered at once may be lost: {error}")
                    return None
                time.sleep(0.02)

    def read(self) -> Batch:
        """What the training has recorded since the last call."""
        return self._ring.read()

    def drain(self) -> Batch:
        """The rest, once the training is gone."""
        return self._ring.drain()

    def rows(self, batch: Batch, outside: Outside, *, final: bool = False) -> list[Row]:
        """The rows for what was read, and for new notes.

        Args:
            batch: from `read` or `drain`.
            outside: what was last seen from outside.
            final: nothing follows.
        """
        wall_ns, mono_ns = time.time_ns(), time.monotonic_ns()
        rows: list[Row] = []
        if batch.lost:
            rows.append(self.assembler.gap(wall_ns, mono_ns, batch.lost))
        for record in self._order.take(batch.records, mono_ns, final=final):
            row = self.assembler.record(record, outside)
            if row is not None:
                rows.append(row)
        rows.extend(self._read_notes())
        return rows

    def _read_notes(self) -> list[Event]:
        events = []
        # A line still being written stays for the next time.
        while (line := self._notes.readline()) and line.endswith(b"\n"):
            with contextlib.suppress(msgspec.MsgspecError):
                events.append(self.assembler.note(msgspec.json.decode(line, type=Note)))
        if line:
            self._notes.seek(-len(line), os.SEEK_CUR)
        return events

    def keep(
        self, rows: Sequence[Row], gpus: Sequence[GpuReading], standing: Resume, status: Status | None = None
    ) -> None:
        """Journal one step's rows.

        Args:
            rows: with consecutive seqs.
            gpus: readings of the devices, of these rows' seqs.
            standing: what was seen last; the rest of it is filled in here.
            status: how things stand at the newest row.
        """
        if not rows:
            return
        frames = _frames(rows, gpus, status)
        standing.ring_number = self._order.first_held or self._ring.next_number
        standing.notes_offset = self._notes.tell()
        standing.threaded = self._order.threaded
        standing.assembler = self.assembler.snapshot()
        # With those that no disk has taken yet: they are nowhere else.
        unwritten = [*self.outbox.unwritten, *frames]
        standing.frames = [(frame.first_seq, frame.last_seq, frame.payload) for frame in unwritten]
        standing.wall_ns = rows[-1].wall_ns
        self._write_down(standing)
        for frame in frames:
            self.outbox.append(frame)
        error = self.outbox.disk_error
        if error and not self._told_disk:
            self._told_disk = True
            self._on_problem(f"the journal can't be written ({error}): free some space or set OOMCAST_HOME")

    def _write_down(self, standing: Resume) -> None:
        for place in self._standings:
            with contextlib.suppress(OSError):
                write_resume(place, standing)
                return

    def close(self) -> None:
        """Give everything back; the journal stays if something in it is not delivered."""
        for close in (self.outbox.close, self._ring.close, self._notes.close):
            with contextlib.suppress(Exception):
                close()


def _frames(rows: Sequence[Row], gpus: Sequence[GpuReading], status: Status | None) -> list[JournalFrame]:
    frames = []
    for start in range(0, len(rows), _ROWS_PER_FRAME):
        part = rows[start : start + _ROWS_PER_FRAME]
        first, last = part[0].seq, part[-1].seq
        frame = Frame(
            first_seq=first,
            last_seq=last,
            samples=[row for row in part if isinstance(row, Sample)],
            gpus=[reading for reading in gpus if first <= reading.seq <= last],
            events=[row for row in part if isinstance(row, Event)],
            status=status if part[-1] is rows[-1] else None,
        )
        frames.append(JournalFrame(first, last, encode(frame)))
    return frames
