"""One thing that `oomcast doctor` tried, and how it shows sizes."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Finding", "size"]


class Finding(NamedTuple):
    """One thing that was tried."""

    name: str
    good: bool
    text: str  # the value, or why there is none
    needed: bool = False  # no training can be watched without


def size(number: int | None) -> str:
    """Bytes for people."""
    if number is None:
        return "not told here"
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number} B"
