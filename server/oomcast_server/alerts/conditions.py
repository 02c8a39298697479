"""What of a run someone should be woken for, as far as the run itself tells it (pure)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from oomcast_server.runs.presence import Presence
from oomcast_server.runs.standing import RunState, SourceState
from oomcast_server.runs.summary import told
from oomcast_server.store.schema import State

__all__ = ["Condition", "conditions_of"]


@dataclasses.dataclass(frozen=True)
class Condition:
    """Something that is so now. `rule` names it; a run has each at most once."""

    rule: str
    severity: str  # warning, critical
    text: str


def conditions_of(run: RunState, sources: Sequence[SourceState], now_ns: int, presence: Presence) -> list[Condition]:
    """What is so of this run now; `sources` are all of a live run's."""
    found = []
    if run.trouble == "critical":
        found.append(Condition("critical", "critical", f"{run.name}: memory is nearly out."))
    if run.trouble == "hung":
        found.append(Condition("hung", "warning", f"{run.name} hangs: no batch has ended for long."))
    _, verdict = told(run, sources, now_ns, presence)
    if verdict is not None and verdict.inferred:
        found.append(Condition("vanished", "critical", f"{run.name}: {verdict.text}"))
    elif verdict is not None and verdict.ending == "oom killed" and run.state != State.LIVE:
        found.append(Condition("oom_killed", "critical", f"{run.name}: {verdict.text}"))
    return found
