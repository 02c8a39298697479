"""Figures that only ever grow, as what they grew by since the last time (pure)."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Counters"]


class Counters:
    """Some counters that are read together."""

    def __init__(self, last: Sequence[int | None] = ()) -> None:
        """`last`: where they stood when they were asked for before; empty: never."""
        self.last: list[int | None] = list(last)

    def since(self, now: Sequence[int | None]) -> list[int | None]:
        """By how much each has grown since the last call; None at the first one, or where it was or is not known.

        A counter that went back (its cgroup was made anew) counts as not having moved.
        """
        if now == self.last:  # most often: rows of one look
            return [None if value is None else 0 for value in now]
        before = self.last or [None] * len(now)
        self.last = [old if new is None else new for old, new in zip(before, now, strict=True)]
        return [None if old is None or new is None else max(0, new - old) for old, new in zip(before, now, strict=True)]
