"""How the demo's training ended: classified, and put in words (pure)."""

from __future__ import annotations

import dataclasses
import re
import signal
from collections.abc import Sequence
from typing import Any

from oomcast.demo.facts import Facts
from oomcast.demo.scenarios import Ending

__all__ = ["Outcome", "classify", "error_line", "lines"]

# How TensorFlow, numpy and C++ say that an allocation failed.
_NO_MEMORY = re.compile(
    r"MemoryError|ResourceExhausted|RESOURCE_EXHAUSTED|bad_alloc|[Cc]annot allocate memory|failed to allocate|OOM when"
)
_ERROR = re.compile(r"^(?:[\w.]+(?:Error|Exception|Interrupt|Exit)\b.*|terminate called .*|.*what\(\):.*)")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Everything that is known of a training that is over."""

    ending: Ending
    returncode: int
    seconds: float
    facts: Facts
    box: str
    headroom_bytes: int
    error: str | None = None  # what it said last
    run: dict[str, Any] | None = None  # what the server knows


def error_line(last_lines: Sequence[str]) -> str | None:
    """The line of a process's stderr that names its error, if there is one."""
    return next((line.strip() for line in reversed(last_lines) if _ERROR.match(line.strip())), None)


def classify(returncode: int, kills: int | None, last_lines: Sequence[str], interrupted: bool) -> Ending:
    """How a training ended.

    Args:
        returncode: its exit status; a signal as its negative number.
        kills: what the kernel's counter of its box says; None where there is none.
        last_lines: the end of its stderr.
        interrupted: whether the demo itself was told to stop.
    """
    if returncode == 0:
        return Ending.FINISHED
    if returncode == -signal.SIGKILL and kills:
        return Ending.OOM_KILLED
    if interrupted:
        return Ending.INTERRUPTED
    if returncode == -signal.SIGKILL and kills is None:
        return Ending.KILLED
    if any(_NO_MEMORY.search(line) for line in last_lines):
        return Ending.ALLOCATION_FAILED
    return Ending.FAILED


def lines(outcome: Outcome) -> list[tuple[str, str]]:
    """The verdict as (name, text) pairs; what is not known is left out."""
    facts, run = outcome.facts, outcome.run or {}
    peak = max((size for size in (facts.peak_rss_bytes, run.get("peak_bytes")) if size is not None), default=None)
    found = [
        ("ended", _ended(outcome)),
        ("trained", f"{_count(facts.batches, 'batch', 'batches')}, {_count(facts.epochs, 'epoch', 'epochs')}"),
        ("peak", None if peak is None else f"{_size(peak)} RSS, shared libraries included"),
        ("swap", _size(facts.peak_swap_bytes) if facts.peak_swap_bytes else None),
        ("limit", _limit(outcome)),
        ("growth", _growth(outcome)),
        ("time", f"{outcome.seconds:.0f} s"),
    ]
    return [(name, text) for name, text in found if text is not None]


def _ended(outcome: Outcome) -> str:
    tightened = outcome.facts.tightened
    allows = f"its box allows {_size(tightened.limit_bytes)}" if tightened else "while it was still starting"
    error = outcome.error or _status(outcome.returncode)
    return {
        Ending.FINISHED: "finished",
        Ending.OOM_KILLED: f"killed by the kernel: out of memory ({allows})",
        Ending.KILLED: f"killed by SIGKILL, which is what the kernel does when memory runs out ({allows})",
        Ending.ALLOCATION_FAILED: f"{error[:160]} ({allows})",
        Ending.FAILED: f"failed: {error[:160]}",
        Ending.INTERRUPTED: "stopped by you",
    }[outcome.ending]


def _status(returncode: int) -> str:
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return f"ended by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"ended by signal {-returncode}"


def _limit(outcome: Outcome) -> str | None:
    tightened = outcome.facts.tightened
    if tightened is None:
        return None
    parts = f"{_size(tightened.charged_bytes)} when warm + {_size(outcome.headroom_bytes)} headroom"
    return f"{_size(tightened.limit_bytes)} charged to its {outcome.box} ({parts})"


def _growth(outcome: Outcome) -> str | None:
    # A slope only where memory went on growing to the end; elsewhere it would make a trend of one step.
    growth = outcome.facts.growth_bytes
    if growth is None or not outcome.ending.out_of_memory:
        return None
    return f"{_size(growth, sign=True)} RSS per batch, on average"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _size(size: float, *, sign: bool = False) -> str:
    shown, unit = abs(size), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if shown < 1024:
            break
        shown, unit = shown / 1024, larger
    digits = 2 if unit == "GiB" or (shown < 10 and unit != "B") else 0
    mark = ("-" if size < 0 else "+") if sign else ("-" if size < 0 else "")
    return f"{mark}{shown:.{digits}f} {unit}"
