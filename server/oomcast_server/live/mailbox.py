"""What waits to be sent to one viewer: bounded, and newest first in worth."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

__all__ = ["Mailbox", "Summaries"]

_MOST_LETTERS = 2 << 20  # they are references to what other viewers get as well
_MOST_MESSAGES = 256
_MOST_NOTES = 16


class Summaries:
    """The newest summaries of some runs, each as JSON; made once for all who list the runs."""

    def __init__(self, by_run: Mapping[str, str]) -> None:
        self.by_run = by_run
        self._message: str | None = None

    @property
    def message(self) -> str:
        """All of them as one message."""
        if self._message is None:
            self._message = '{"type":"runs","runs":[' + ",".join(self.by_run.values()) + "]}"
        return self._message

    def with_newer(self, newer: Summaries) -> Summaries:
        """These with those of `newer`, which take the place of the same runs'."""
        return Summaries({**self.by_run, **newer.by_run})


class Mailbox:
    """Rows of runs, and the newest summary of each run.

    When a viewer is slower than its runs, rows of a run that would exceed 2 MiB or 256 messages are dropped together
    with those that wait, and the viewer is told to fetch that run again. Summaries take each other's place, and so do
    whole lists; of answers to a viewer's own requests, 16 wait at most.
    """

    def __init__(self) -> None:
        self._rows: list[tuple[str, str]] = []
        self._letters = 0
        self._summaries: Summaries | None = None
        self._list: str | None = None
        self._awaits_list = False
        self._resync: dict[str, bool] = {}
        self._gone: dict[str, bool] = {}
        self._notes: list[str] = []
        self._something = asyncio.Event()

    def put_rows(self, run_id: str, message: str) -> None:
        """Rows of a run; lost if the viewer is to fetch that run anyway."""
        if self._letters + len(message) > _MOST_LETTERS or len(self._rows) >= _MOST_MESSAGES:
            self.put_resync(run_id)
            return
        self._rows.append((run_id, message))
        self._letters += len(message)
        self._something.set()

    def put_resync(self, run_id: str) -> None:
        """The viewer is to fetch the run again."""
        self.drop(run_id)
        self._resync[run_id] = True
        self._something.set()

    def drop(self, run_id: str) -> None:
        """Forget what waits of a run's rows."""
        self._rows = [row for row in self._rows if row[0] != run_id]
        self._letters = sum(len(message) for _, message in self._rows)
        self._resync.pop(run_id, None)

    def put_gone(self, run_id: str) -> None:
        """The run was deleted."""
        self.drop(run_id)
        self._gone[run_id] = True
        self._something.set()

    def await_list(self) -> None:
        """Summaries wait until the list is there that they change: it is the first that a viewer hears of runs."""
        self._awaits_list = True

    def put_list(self, message: str | None) -> None:
        """The whole list of runs; None: there will be none."""
        self._list, self._awaits_list = message, False
        self._something.set()

    def put_summaries(self, summaries: Summaries) -> None:
        """Summaries of runs that have changed."""
        self._summaries = summaries if self._summaries is None else self._summaries.with_newer(summaries)
        if not self._awaits_list:
            self._something.set()

    def put_note(self, message: str) -> None:
        """An answer to the viewer's own request; beyond 16 of them the rest are dropped."""
        if len(self._notes) < _MOST_NOTES:
            self._notes.append(message)
            self._something.set()

    async def take(self) -> list[str]:
        """Everything that waits, as whole messages, once there is something."""
        await self._something.wait()
        self._something.clear()
        messages = self._notes if self._list is None else [self._list, *self._notes]
        messages += ['{"type":"resync","run":"' + run_id + '"}' for run_id in self._resync]
        messages += [message for _, message in self._rows]
        self._list, self._notes, self._resync, self._rows, self._letters = None, [], {}, [], 0
        if self._summaries is not None and not self._awaits_list:
            messages.append(self._summaries.message)
            self._summaries = None
        # The last word on these runs, whatever was said of them before.
        messages += ['{"type":"gone","run":"' + run_id + '"}' for run_id in self._gone]
        self._gone = {}
        return messages
