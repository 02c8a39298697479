"""Sizes, times, limits, signals and processes in words (pure)."""

from __future__ import annotations

import signal
from collections.abc import Iterable

from oomcast.assessment import Assessment
from oomcast.probes.limits import Limit
from oomcast.wire import ProcessState

__all__ = [
    "assessed",
    "in_use",
    "left_free",
    "limit_name",
    "listed",
    "process",
    "shell_code",
    "signal_name",
    "size",
    "span",
]

# A shell's exit code says by which signal its command ended: bash(1), "EXIT STATUS".
_SHELL = 128
# Below this share of the limit, what was last seen in use is not what was in use at the death.
_CURRENT = 0.9


def size(count: int) -> str:
    """Bytes for people."""
    shown = float(abs(count))
    sign = "-" if count < 0 else ""
    if shown >= 2**30:
        return f"{sign}{shown / 2**30:.1f} GiB"
    if shown >= 2**20:
        return f"{sign}{shown / 2**20:.{0 if shown >= 10 * 2**20 or count % 2**20 == 0 else 1}f} MiB"
    return f"{sign}{shown / 2**10:.0f} KiB" if shown >= 2**10 else f"{count} B"


def span(seconds: float) -> str:
    """A stretch of time for people."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def limit_name(limit: Limit) -> str:
    """The limit's name without the long path that a container's cgroup has."""
    head, _, last = limit.kind.rpartition("/")
    return f"{head.partition('/')[0]}{last or '/'}" if head else limit.kind


def signal_name(number: int) -> str:
    """Such as SIGKILL."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def shell_code(code: int) -> int | None:
    """The signal that an exit code speaks of, if it is one of those that shells make up."""
    number = code - _SHELL
    return number if number > 0 and number in {entry.value for entry in signal.Signals} else None


def process(state: ProcessState) -> str:
    """One process in one line."""
    parts = [size(state.rss_bytes) if state.rss_bytes is not None else "size not known"]
    if state.swap_bytes:
        parts.append(f"{size(state.swap_bytes)} in swap")
    return f"{state.name} {state.pid} ({state.role}) {', '.join(parts)}"


def listed(states: Iterable[ProcessState]) -> str | None:
    """Several of them; None where there are none."""
    return "; ".join(process(state) for state in states) or None


def assessed(assessment: Assessment | None) -> str | None:
    """The last assessment in words."""
    if assessment is None:
        return None
    state = assessment.state.value.replace("_", " ")
    if assessment.headroom_bytes is None or assessment.limit_bytes is None:
        return state
    left, whole = size(assessment.headroom_bytes), size(assessment.limit_bytes)
    return f"{state}: {left} of {whole} left at a batch's peak"


def in_use(limit: Limit | None) -> str:
    """How full it was at the death, to stand before a sentence's end."""
    if limit is None:
        return ""
    used = f", with {size(limit.used_bytes)} of {size(limit.limit_bytes)} in use"
    return used if limit.used_bytes >= _CURRENT * limit.limit_bytes else f"{used} when it was last looked at"


def left_free(limit: Limit | None) -> str:
    """How much was left, in the same place."""
    return f" with {size(max(0, limit.headroom_bytes))} of {size(limit.limit_bytes)} free" if limit else ""
