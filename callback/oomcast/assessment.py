"""What is thought of a training's memory now, as it goes from the agent to the callback and the server (pure)."""

from __future__ import annotations

import enum

import msgspec

__all__ = ["Assessment", "State"]


class State(str, enum.Enum):
    """How near the end is; at_risk and critical are alarms."""

    STEADY = "steady"
    GROWING = "growing"
    AT_RISK = "at_risk"
    CRITICAL = "critical"


class Assessment(msgspec.Struct, frozen=True, kw_only=True):
    """One judgement. Sizes in bytes, None where not known."""

    state: State
    wall_ns: int
    limit_kind: str | None = None
    limit_bytes: int | None = None
    used_bytes: int | None = None  # what is charged against the limit between batches
    spike_bytes: int | None = None  # how far a batch's peak has lately stood above that
    headroom_bytes: int | None = None  # what is left at such a peak; below zero where the limit was lowered
    epoch: int | None = None
    batch: int | None = None

    @property
    def text(self) -> str:
        """The judgement in one line, for people."""
        if self.headroom_bytes is None or self.limit_bytes is None:
            return f"Memory is {self.state.value.replace('_', ' ')}."
        left, limit = _size(max(0, self.headroom_bytes)), _size(self.limit_bytes)
        at = " at the peak of a batch" if self.spike_bytes else ""
        word = {State.CRITICAL: "Memory is critical"}.get(self.state, f"Memory is {self.state.value} again")
        return f"{word}: {left} of {limit} ({self.limit_kind}) free{at}."


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
