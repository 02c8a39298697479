"""The thread that writes: it takes what has come in, and commits it as one group."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

__all__ = ["GroupWriter"]

Item = TypeVar("Item")

_GROUP_S = 0.05  # a commit waits for the disk; what comes in meanwhile shares the next one
_GROUP_WEIGHT = 50_000  # rows


class GroupWriter(Generic[Item]):
    """One thread that hands out items in groups.

    A group begins with the first item to come and takes what is waiting, up to 50 ms or 50 000 rows. It never waits for
    more: an item that comes to an idle writer is committed at once. The queue has no bound of its own; who fills it
    (the pipeline) admits only so many items, and lets the rest wait at their sockets.
    """

    def __init__(
        self,
        commit: Callable[[Iterator[Item]], None],
        weigh: Callable[[Item], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`commit` gets each group as an iterator, which it must use up; it must not raise."""
        self._commit = commit
        self._weigh = weigh
        self._monotonic = monotonic
        self._queue: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="oomcast-writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, item: Item) -> None:
        """Queue `item`; from any thread."""
        self._queue.put(item)

    def _run(self) -> None:
        while not self._stopping:
            item = self._queue.get()
            if item is None:
                return
            self._commit(self._group(item))

    def _group(self, item: Item) -> Iterator[Item]:
        until, weight = self._monotonic() + _GROUP_S, 0
        while True:
            yield item
            weight += self._weigh(item)
            if weight >= _GROUP_WEIGHT or self._monotonic() >= until:
                return
            try:
                following = self._queue.get_nowait()
            except queue.Empty:
                return
            if following is None:
                self._stopping = True
                return
            item = following

    def close(self) -> None:
        """Commit what is queued, then end the thread."""
        self._queue.put(None)
        self._thread.join()
