"""Keeps what agents wrote to their journals, also what the journals have dropped since.

Each segment gets a second name as soon as it is there, so that its content stays when the journal removes it. This is
how the oracle knows which rows a gap stands for.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from oomcast.agent.journal import Journal
from oomcast.sample import Event, Kind, Sample
from oomcast.wire import Frame, decode_agent_message
from tests.torture.oracle import Gap, Store, ranges

__all__ = ["Tap"]


class Tap:
    """Watches all journals below a state folder."""

    def __init__(self, state: Path, kept: Path) -> None:
        """Both folders must lie on one file system."""
        self._journals = state / "journals"
        self._kept = kept

    def look(self) -> None:
        """Take the segments that are new; a segment lives for a good part of a second."""
        with contextlib.suppress(OSError):
            for segment in self._journals.glob("*/*.frames"):
                folder = self._kept / segment.parent.name
                folder.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(OSError):
                    os.link(segment, folder / segment.name)

    def _written(self, source: str) -> dict[int, int | None]:
        """Seq → batch of every row that was journalled; None for a row that is no batch's."""
        journal = Journal(self._kept / source, max_bytes=1 << 40)
        rows: dict[int, int | None] = {}
        try:
            seq = 0
            while frame := journal.next_after(seq):
                message = decode_agent_message(frame.payload)
                assert isinstance(message, Frame)
                taken: list[Sample | Event] = [*message.samples, *message.events]
                for row in taken:
                    is_batch = isinstance(row, Sample) and row.kind == Kind.BATCH
                    rows[row.seq] = row.batch if is_batch else None
                seq = frame.last_seq
        finally:
            journal.close()
        return rows

    def judge(self, store: Store, name: str, produced: int, gaps: list[Gap]) -> tuple[int, list[str]]:
        """Whether the batches that a run lacks are those that its gaps stand for, to the last one.

        Args:
            store: what was stored.
            name: the run.
            produced: steps by the training's own count.
            gaps: what its gap events say.

        Returns:
            How many batches are missing, and what is wrong.
        """
        question = """
            SELECT s.id, samples.batch FROM samples JOIN sources s ON s.pk = samples.source_pk
            JOIN runs r ON r.pk = s.run_pk WHERE r.name = ? AND samples.kind = ?
        """
        stored = {batch for _, batch in store.ask(question, name, int(Kind.BATCH))}
        missing = set(range(produced)) - stored
        told: set[int] = set()
        faults = []
        for source in {gap.source for gap in gaps}:
            written = self._written(source)
            for gap in gaps:
                if gap.source == source:
                    lost = {seq: written.get(seq, -1) for seq in range(gap.first_seq, gap.last_seq + 1)}
                    told |= {batch for batch in lost.values() if batch is not None}
        if -1 in told:
            told.discard(-1)
            faults.append("a gap stands for seqs that no journal ever had")
        if missing - told:
            faults.append(f"batches {ranges(sorted(missing - told))} are missing, and no gap says so")
        if told - missing:
            faults.append(f"batches {ranges(sorted(told - missing))} are there, and a gap says that they are lost")
        return len(missing), faults
