"""All that is known when a training has ended: what the judge judges by (pure)."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from oomcast.agent.report import Report
from oomcast.assessment import Assessment
from oomcast.probes.death import ExitStatus, Kills, Victim
from oomcast.probes.limits import Limit
from oomcast.wire import ProcessState

__all__ = ["NEAR_LIMIT", "DeadChild", "Evidence"]

# At this share of a limit that kills, a SIGKILL is probably the kernel's.
NEAR_LIMIT = 0.95
# At this one it may be, where a counter that counts for others, too, has moved.
_HIGH = 0.80
# A child's death has to do with its parent's for so long.
_LATELY_NS = 60 * 10**9


class DeadChild(NamedTuple):
    """A child of the training that has ended."""

    pid: int
    name: str
    signal: int | None
    code: int | None
    mono_ns: int  # when it was noticed
    counted: bool = False  # the kernel's counter or log says that it was killed for memory

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.name} {self.pid}"


@dataclasses.dataclass(frozen=True)
class Evidence:
    """All that is known at the end; the defaults say that it isn't."""

    # What the process said.
    closed: bool | None = None  # the session said that nothing follows; None: it said nothing
    open_phase: bool = False  # a fit was under way when it ended
    exception: tuple[str, str, str] | None = None  # type, message, and the types behind it (";" between them)
    # What the system says of its end.
    status: ExitStatus | None = None  # None: nobody says
    mono_ns: int | None = None  # when it ended
    kills_before: Kills = Kills(None, None)  # when it was last seen to live  # noqa: RUF009  immutable
    kills_after: Kills = Kills(None, None)  # noqa: RUF009
    kills_named: int = 0  # of those in between, how many the kernel's log says were other processes of this cgroup
    kills_of_children: int = 0  # how many may have been children that ended by SIGKILL then
    earlier_kills: int = 0  # counted in its cgroup while it lived on
    late_kills: int = 0  # counted in its cgroup in the last seconds, its own included
    victim: Victim | None = None  # the kernel's log names this process
    children: tuple[DeadChild, ...] = ()
    # How it stood before.
    limit: Limit | None = None  # the binding one, at the last look
    limits: tuple[Limit, ...] = ()  # all of them
    report: Report = Report()  # noqa: RUF009
    processes: tuple[ProcessState, ...] = ()  # the biggest of its cgroup
    assessment: Assessment | None = None
    hung_s: int | None = None  # for so long no batch had ended, and nothing was computed
    hung_by_memory: bool = False
    shm_free_bytes: int | None = None  # of /dev/shm
    shm_total_bytes: int | None = None
    gpus: bool = False  # it could see GPUs
    launcher: str | None = None  # who started it: "slurm 4711"
    # How it was watched.
    came_late: bool = False  # the agent was there only when it was dead; what it compares with is some time before
    agent_died: bool = False  # nobody watched any more; this is put together later
    stopped_for_memory: str | None = (
        None  # what was done, in words, where memory was nearly out and `on_critical` acted
    )
    outside: bool = False  # it was never asked to say how it ends: a command, or a process that ran already
    detached: bool = False  # the watching ended, and the training goes on

    @property
    def killing_limit(self) -> Limit | None:
        """Of the limits at which the kernel kills, the one with the least headroom."""
        found = self._that_kill
        if self.victim and self.victim.constraint in _CONSTRAINTS:
            prefix = _CONSTRAINTS[self.victim.constraint]
            found = [limit for limit in found if limit.kind.startswith(prefix)]
        return min(found, key=lambda limit: limit.headroom_bytes, default=None)

    @property
    def known_limits(self) -> dict[str, Limit]:
        """By kind; the binding one was looked at last."""
        return {limit.kind: limit for limit in (*self.limits, *((self.limit,) if self.limit else ()))}

    @property
    def _that_kill(self) -> list[Limit]:
        known = self.known_limits
        # At a resource limit an allocation fails, and nobody is killed. Where a cgroup may swap, it swaps first.
        return [
            limit
            for limit in known.values()
            if limit.kills
            and limit.limit_bytes > 0
            and not limit.kind.startswith("RLIMIT")
            and f"{limit.kind} (with swap)" not in known
        ]

    @property
    def killing_share(self) -> float:
        """How much of a limit that kills was in use, of the fullest; 0.0 where none is known."""
        return max((share(limit) for limit in self._that_kill), default=0.0)

    @property
    def near(self) -> bool:
        """A SIGKILL is probably the kernel's."""
        return self.killing_share >= NEAR_LIMIT

    @property
    def high(self) -> bool:
        """It may be."""
        return self.killing_share >= _HIGH

    @property
    def own_kills(self) -> int:
        """By how much the counter of its own cgroup moved at its death."""
        return _moved(self.kills_before.own, self.kills_after.own)

    @property
    def other_kills(self) -> str | None:
        """The nearest of the wider counters that moved at its death, in words."""
        for before, after in zip(self.kills_before.above, self.kills_after.above, strict=False):
            if before is not None and after is not None:
                return "a cgroup above its own" if after > before else None
        return "the host" if _moved(self.kills_before.host, self.kills_after.host) else None

    @property
    def lost_children(self) -> tuple[DeadChild, ...]:
        """Children that the kernel killed for memory, those of the last minute only unless it hung since."""
        return tuple(child for child in self.children if child.counted and (self._lately(child) or self.hung_s))

    @property
    def killed_children(self) -> tuple[DeadChild, ...]:
        """Children that ended by SIGKILL in the last minute, for whatever reason."""
        return tuple(child for child in self.children if child.signal == 9 and self._lately(child))

    def _lately(self, child: DeadChild) -> bool:
        return self.mono_ns is None or child.mono_ns >= self.mono_ns - _LATELY_NS


_CONSTRAINTS = {"memcg": "cgroup", "none": "host"}


def share(limit: Limit) -> float:
    """How much of it is in use."""
    return limit.used_bytes / limit.limit_bytes if limit.limit_bytes > 0 else 0.0


def _moved(before: int | None, after: int | None) -> int:
    # A counter that can't be read any more (the cgroup is gone) proves nothing.
    return max(0, after - before) if before is not None and after is not None else 0
