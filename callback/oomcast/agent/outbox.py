"""Frames on their way to the server: in the journal, and in memory for as long as no disk takes them."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Iterable

from oomcast.agent.journal import Journal, JournalFrame
from oomcast.errors import JournalError, WireError
from oomcast.sample import Event, EventKind, Sample
from oomcast.wire import Frame, decode_agent_message, encode

__all__ = ["Outbox", "gap_frame"]

# What a full disk may cost in memory: some 40 minutes of 100 batches/s. Beyond it the oldest frames are dropped.
_MEMORY_BYTES = 8 << 20
_RECENT_FRAMES = 32


class Outbox:
    """Everything between the watermark and now, in order. Frames go in once and come out as often as asked for."""

    def __init__(self, journal: Journal | None, memory_bytes: int = _MEMORY_BYTES) -> None:
        """Start with what the journal holds.

        Args:
            journal: None where no folder can be written; then memory is all there is.
            memory_bytes: its bound.
        """
        self.journal = journal
        self._memory: collections.deque[JournalFrame] = collections.deque()
        self._memory_used = 0
        self._memory_bytes = memory_bytes
        # The newest of the journal's frames, so that a server that keeps up costs no reading back.
        self._recent: collections.deque[JournalFrame] = collections.deque(maxlen=_RECENT_FRAMES)
        self.acknowledged = 0
        self.last_seq = journal.last_seq if journal else 0
        self.disk_error: str | None = None
        self._news = asyncio.Event()

    @property
    def pending(self) -> bool:
        """Whether something waits for the server."""
        return self.last_seq > self.acknowledged

    @property
    def kept(self) -> bool:
        """Whether everything that waits would survive this process."""
        return not self._memory

    @property
    def unwritten(self) -> list[JournalFrame]:
        """What no disk has taken yet, and no server either."""
        return list(self._memory)

    @property
    def unwritten_bytes(self) -> int:
        """Their size."""
        return self._memory_used

    def append(self, frame: JournalFrame) -> None:
        """Take one frame: onto the disk, or into memory while the disk is full."""
        self.last_seq = max(self.last_seq, frame.last_seq)
        self._memory.append(frame)
        self._memory_used += len(frame.payload)
        self._write_out()
        while self._memory_used > self._memory_bytes and len(self._memory) > 1:
            self._memory_used -= len(self._memory.popleft().payload)
        self._news.set()

    def _write_out(self) -> None:
        if self.journal is None:
            return
        try:
            while self._memory:
                self.journal.append(self._memory[0])
                frame = self._memory.popleft()
                self._memory_used -= len(frame.payload)
                self._recent.append(frame)
        except (OSError, JournalError) as error:
            self.disk_error = f"{self.journal.folder}: {getattr(error, 'strerror', None) or error}"
        else:
            self.disk_error = None

    def acknowledge(self, seq: int) -> None:
        """The server has everything up to `seq`."""
        self.acknowledged = max(self.acknowledged, seq)
        self.last_seq = max(self.last_seq, seq)
        if self.journal:
            self.journal.acknowledge(seq)
        while self._recent and self._recent[0].last_seq <= self.acknowledged:
            self._recent.popleft()
        while self._memory and self._memory[0].last_seq <= self.acknowledged:
            self._memory_used -= len(self._memory.popleft().payload)
        self._news.set()

    def next_after(self, seq: int) -> JournalFrame | None:
        """The next frame to send when the server has `seq`: what was lost between is made good by a gap frame."""
        frame = None
        if self._recent and self._recent[0].first_seq <= seq + 1:
            frame = _first_after(self._recent, seq)
        elif self.journal:
            frame = self.journal.next_after(seq)
        if frame is None:
            frame = _first_after(self._memory, seq)
        if frame is not None and frame.first_seq > seq + 1:
            return gap_frame(seq + 1, frame.first_seq - 1, _time_of(frame), "journal full or damaged")
        return frame

    def wake(self) -> None:
        """Let `wait` return."""
        self._news.set()

    async def wait(self) -> None:
        """Until something was appended or acknowledged."""
        await self._news.wait()
        self._news.clear()

    def close(self) -> None:
        """Close the journal; what the server has is deleted, the rest stays for the next agent."""
        if self.journal:
            self.journal.close()


def _first_after(frames: Iterable[JournalFrame], seq: int) -> JournalFrame | None:
    return next((frame for frame in frames if frame.last_seq > seq), None)


def gap_frame(first: int, last: int, wall_ns: int, reason: str) -> JournalFrame:
    """A frame that stands for rows that are lost.

    Args:
        first: the first lost seq.
        last: the last one.
        wall_ns: when, as near as is known.
        reason: in words.
    """
    detail: dict[str, str | int | None] = {"from": first, "to": last, "reason": reason}
    event = Event(seq=last, kind=EventKind.GAP, wall_ns=wall_ns, mono_ns=0, epoch=None, batch=None, detail=detail)
    return JournalFrame(first, last, encode(Frame(first_seq=first, last_seq=last, events=[event])))


def _time_of(frame: JournalFrame) -> int:
    """The wall clock of a frame's first row: the lost ones were taken before it."""
    try:
        message = decode_agent_message(frame.payload)
    except WireError:
        return 0
    assert isinstance(message, Frame)
    rows: list[Sample | Event] = [*message.samples, *message.events]
    return min((row.wall_ns for row in rows), default=0)
