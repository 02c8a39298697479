"""When memory is critical: what is left at a batch's peak falls below a share of the limit (pure)."""

from __future__ import annotations

from collections import deque

from oomcast.assessment import Assessment, State
from oomcast.probes.limits import Limit
from oomcast.sample import Phase

__all__ = ["Alarm", "Spike"]

# Kept apart, or a training that stands at the level would be called critical and steady by turns.
_CLEAR_FACTOR = 1.5
_CHANGE_NS = 10**9
_BATCHES = 64


class Spike:
    """How far memory has lately stood above a batch's end inside it, for each phase by itself.

    Of the last 64 batches: long enough to hold what comes at every few batches, short enough to forget what came once,
    such as the first batch's compiling.
    """

    def __init__(self) -> None:
        """Nothing seen yet."""
        self._heights: dict[Phase, deque[int]] = {}

    def take(self, phase: Phase, rss_bytes: int | None, peak_bytes: int | None) -> None:
        """One more batch."""
        if rss_bytes is not None and peak_bytes is not None:
            self._heights.setdefault(phase, deque(maxlen=_BATCHES)).append(max(0, peak_bytes - rss_bytes))

    def largest_bytes(self, phase: Phase) -> int:
        """The largest of this phase; 0 where none is known yet."""
        return max(self._heights.get(phase, ()), default=0)


class Alarm:
    """Says when the state changes: at once, but not more than once a second."""

    def __init__(self, critical_headroom: float) -> None:
        """Begin steady.

        Args:
            critical_headroom: critical is less than this share of the limit; steady again, 1.5 times of it.
        """
        self._share = critical_headroom
        self._changed_ns: int | None = None
        self.state = State.STEADY

    def take(
        self, limit: Limit | None, spike_bytes: int, wall_ns: int, epoch: int | None, batch: int | None
    ) -> Assessment | None:
        """One more look.

        Args:
            limit: the binding one of those that kill; one that does not is no reason for alarm, and one that is not
                known changes nothing.
            spike_bytes: see `Spike.largest_bytes`.
            wall_ns: now.
            epoch, batch: where the training stands, as in samples.

        Returns:
            the new assessment when the state changes, else None.
        """
        if limit is None or not getattr(limit, "kills", True) or self._is_too_soon(wall_ns):
            return None
        left = limit.headroom_bytes - spike_bytes
        state = self._judge(left, self._share * limit.limit_bytes)
        if state is self.state:
            return None
        self.state, self._changed_ns = state, wall_ns
        return Assessment(
            state=state,
            wall_ns=wall_ns,
            limit_kind=limit.kind,
            limit_bytes=limit.limit_bytes,
            used_bytes=limit.used_bytes,
            spike_bytes=spike_bytes,
            headroom_bytes=left,
            epoch=epoch,
            batch=batch,
        )

    def _is_too_soon(self, wall_ns: int) -> bool:
        # A clock that was set back must not silence the alarm.
        return self._changed_ns is not None and 0 <= wall_ns - self._changed_ns < _CHANGE_NS

    def _judge(self, left_bytes: int, critical_bytes: float) -> State:
        if left_bytes < critical_bytes:
            return State.CRITICAL
        return State.STEADY if left_bytes > _CLEAR_FACTOR * critical_bytes else self.state
