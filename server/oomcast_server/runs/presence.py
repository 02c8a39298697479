"""Which agents are connected, and for how long this server has listened: what silence is judged by."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

__all__ = ["VANISHED_AFTER_NS", "Presence"]

# The agent sends each second and comes back within two: a minute is no hiccup of the network.
VANISHED_AFTER_NS = 60_000_000_000
# Where the agent may be connected to another server: it sends each second.
_HEARD_WITHIN_NS = 5_000_000_000


class Presence:
    """Changed on the event loop, read from any thread."""

    def __init__(self, since_ns: int, patience_ns: int = VANISHED_AFTER_NS, *, shared: bool = False) -> None:
        """A server that listens since `since_ns` (wall clock) and takes `patience_ns` of silence for the end.

        `shared`: agents may also be connected to other servers on the same store.
        """
        self._since_ns = since_ns
        self._patience_ns = patience_ns
        self._shared = shared
        self._connections: Counter[int] = Counter()

    @contextlib.contextmanager
    def of(self, source_pk: int) -> Iterator[None]:
        """The source is connected while the block lasts."""
        self._connections[source_pk] += 1
        try:
            yield
        finally:
            self._connections[source_pk] -= 1
            if not self._connections[source_pk]:
                del self._connections[source_pk]

    def connected(self, source_pk: int) -> bool:
        """Whether an agent of the source is connected to this server now."""
        return source_pk in self._connections

    def heard(self, source_pk: int, last_ns: int, now_ns: int) -> bool:
        """The same, or to another server of this store, as far as what it sent last at `last_ns` shows."""
        return self.connected(source_pk) or (self._shared and now_ns - last_ns < _HEARD_WITHIN_NS)

    def lost(self, source_pk: int, last_ns: int, now_ns: int) -> bool:
        """Whether a source that was heard last at `last_ns` has been silent for too long, and its agent is gone.

        What was sent while the server was down proves no silence: its agent had nobody to talk to.
        """
        heard_ns = max(last_ns, self._since_ns)
        return not self.connected(source_pk) and now_ns - heard_ns >= self._patience_ns
