"""What the training leaves behind for the verdict: JSON lines in a file, which survive whatever ends it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import msgspec

__all__ = ["BatchEnd", "EpochEnd", "Facts", "FactsWriter", "Tightened", "read_facts"]


class Tightened(msgspec.Struct, frozen=True, tag="tightened"):
    """The box now allows what was charged plus the headroom."""

    charged_bytes: int
    limit_bytes: int
    group: str | None  # the cgroup's folder; None for a resource limit
    kills: int | None  # the kernel's count so far; None where it keeps none


class BatchEnd(msgspec.Struct, frozen=True, tag="batch"):
    """A batch of training has ended."""

    epoch: int  # from 0
    rss_bytes: int
    swap_bytes: int | None


class EpochEnd(msgspec.Struct, frozen=True, tag="epoch"):
    """An epoch has ended, its validation too."""


_Line = Tightened | BatchEnd | EpochEnd


class FactsWriter:
    """Writes facts, each as one line in one call: what was written stays, even after SIGKILL."""

    def __init__(self, path: Path) -> None:
        """Open `path` for appending.

        Raises:
            OSError: it can't be opened.
        """
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, fact: _Line) -> None:
        """Append one fact."""
        os.write(self._fd, msgspec.json.encode(fact) + b"\n")


@dataclasses.dataclass(frozen=True)
class Facts:
    """A whole training in a few figures; None is not known."""

    tightened: Tightened | None = None
    batches: int = 0
    epochs: int = 0
    peak_rss_bytes: int | None = None  # at batch ends
    peak_swap_bytes: int | None = None
    growth_bytes: float | None = None  # RSS per batch, since the box was tightened


def read_facts(path: Path) -> Facts:
    """What is in the file; a last line that was cut off is left out."""
    tightened, epochs = None, 0
    rss: list[int] = []
    swap: list[int] = []
    loose = 0
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            fact = msgspec.json.decode(line, type=_Line)
        except msgspec.MsgspecError:
            continue
        if isinstance(fact, BatchEnd):
            rss.append(fact.rss_bytes)
            swap.append(fact.swap_bytes or 0)
        elif isinstance(fact, EpochEnd):
            epochs += 1
        else:
            tightened, loose = fact, len(rss)
    return Facts(
        tightened=tightened,
        batches=len(rss),
        epochs=epochs,
        peak_rss_bytes=max(rss, default=None),
        peak_swap_bytes=max(swap, default=None),
        growth_bytes=_growth(rss[loose:]) if tightened else None,
    )


def _growth(rss: list[int]) -> float | None:
    # The slope between the means of the first and last quarters: one batch's swing must not decide it.
    quarter = len(rss) // 4
    if quarter < 2:
        return None
    first, last = rss[:quarter], rss[-quarter:]
    return (sum(last) / quarter - sum(first) / quarter) / (len(rss) - quarter)
