"""What the demo can show, and which endings mean that it was shown."""

from __future__ import annotations

import dataclasses
import enum

from oomcast.errors import OomcastError

__all__ = ["PLANS", "DemoError", "Ending", "Plan", "Scenario", "parse_scenario"]

_MIB = 1 << 20


class DemoError(OomcastError):
    """The demo can't run as asked; the text is one line that says what to do."""


class Scenario(enum.Enum):
    """What the training does to its memory."""

    HEALTHY = "healthy"
    LEAK = "leak"
    EPOCH_LEAK = "epoch-leak"
    VALIDATION_SPIKE = "validation-spike"
    CACHE_FILL = "cache-fill"
    SWAP = "swap"


class Ending(enum.Enum):
    """How a training ended, as its parent process can tell."""

    FINISHED = "finished"
    OOM_KILLED = "killed for memory"  # the kernel counted it
    KILLED = "killed"  # SIGKILL, and no counter that says by whom
    ALLOCATION_FAILED = "allocation failed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"

    @property
    def out_of_memory(self) -> bool:
        """Whether the limit is what ended it."""
        return self in (Ending.OOM_KILLED, Ending.KILLED, Ending.ALLOCATION_FAILED)


_OUT_OF_MEMORY = frozenset(ending for ending in Ending if ending.out_of_memory)
_FINISHED = frozenset({Ending.FINISHED})


@dataclasses.dataclass(frozen=True)
class Plan:
    """One scenario: what it shows, its size, and how it should end."""

    summary: str
    headroom_bytes: int  # what its box allows beyond the first batches
    seconds: float  # about how long it trains, or until it reaches its limit
    endings: frozenset[Ending]


PLANS: dict[Scenario, Plan] = {
    Scenario.HEALTHY: Plan("a training whose memory stays where it is", 384 * _MIB, 60, _FINISHED),
    Scenario.LEAK: Plan("a callback keeps the features of every batch in a list", 384 * _MIB, 60, _OUT_OF_MEMORY),
    Scenario.EPOCH_LEAK: Plan(
        "weights and validation predictions are kept at each epoch's end", 384 * _MIB, 75, _OUT_OF_MEMORY
    ),
    Scenario.VALIDATION_SPIKE: Plan(
        "validation takes a far larger batch than training", 512 * _MIB, 60, _FINISHED | _OUT_OF_MEMORY
    ),
    Scenario.CACHE_FILL: Plan(
        "tf.data's cache() fills during the first epoch, then stays as it is", 512 * _MIB, 60, _FINISHED
    ),
    Scenario.SWAP: Plan("the data in memory is larger than the limit, and the kernel swaps", 192 * _MIB, 60, _FINISHED),
}


def parse_scenario(text: str) -> Scenario:
    """The scenario of that name.

    Raises:
        DemoError: there is none.
    """
    try:
        return Scenario(text)
    except ValueError:
        names = ", ".join(scenario.value for scenario in Scenario)
        raise DemoError(f"no scenario is called {text!r}: expected one of {names}") from None
