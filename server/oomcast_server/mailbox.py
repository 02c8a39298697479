"""What waits to be sent to one viewer: bounded, and newest first in worth."""

from __future__ import annotations

import asyncio

__all__ = ["Mailbox"]

_MOST_BYTES = 2 << 20
_MOST_MESSAGES = 256


class Mailbox:
    """Rows of runs, and the newest summary of each run.

    When a viewer is slower than its runs, rows of a run that would exceed 2 MiB or 256 messages are dropped together
    with those that wait, and the viewer is told to fetch that run again. Summaries take each other's place.
    """

    def __init__(self) -> None:
        self._rows: list[tuple[str, bytes]] = []
        self._bytes = 0
        self._summaries: dict[str, bytes] = {}
        self._resync: dict[str, bool] = {}
        self._notes: list[bytes] = []
        self._something = asyncio.Event()

    def put_rows(self, run_id: str, message: bytes) -> None:
        """Rows of a run; lost if the viewer is to fetch that run anyway."""
        if self._bytes + len(message) > _MOST_BYTES or len(self._rows) >= _MOST_MESSAGES:
            self.put_resync(run_id)
            return
        self._rows.append((run_id, message))
        self._bytes += len(message)
        self._something.set()

    def put_resync(self, run_id: str) -> None:
        """The viewer is to fetch the run again."""
        self.drop(run_id)
        self._resync[run_id] = True
        self._something.set()

    def drop(self, run_id: str) -> None:
        """Forget what waits of a run's rows."""
        self._rows = [row for row in self._rows if row[0] != run_id]
        self._bytes = sum(len(message) for _, message in self._rows)
        self._resync.pop(run_id, None)

    def put_summary(self, run_id: str, summary: bytes) -> None:
        """A run's newest summary, as JSON."""
        self._summaries[run_id] = summary
        self._something.set()

    def put_note(self, message: bytes) -> None:
        """A message that is sent as it is; beyond 256 of them the rest are dropped."""
        if len(self._notes) < _MOST_MESSAGES:
            self._notes.append(message)
            self._something.set()

    async def take(self) -> list[bytes]:
        """Everything that waits, as whole messages, once there is something."""
        await self._something.wait()
        self._something.clear()
        messages = self._notes
        messages += [b'{"type":"resync","run":"%s"}' % run_id.encode() for run_id in self._resync]
        messages += [message for _, message in self._rows]
        if self._summaries:
            messages.append(b'{"type":"runs","runs":[%s]}' % b",".join(self._summaries.values()))
        self._notes, self._rows, self._bytes, self._summaries, self._resync = [], [], 0, {}, {}
        return messages
