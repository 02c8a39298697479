"""How a source ended, in words, with its grade and its evidence (pure).

Exit code 137 alone proves nothing: `kill -9` looks the same. An out-of-memory kill is confirmed only by the kernel's
own counter of this cgroup, or its log naming this process, together with SIGKILL; it is probable by SIGKILL at the
limit.
"""

from __future__ import annotations

import dataclasses
import enum
import signal

from oomcast.probes.death import ExitStatus, Kills
from oomcast.probes.limits import Limit

__all__ = ["Ending", "Evidence", "Grade", "Verdict", "judge"]

# At this share of the limit a SIGKILL is probably the kernel's.
NEAR_LIMIT = 0.95
NO_KILLS = Kills(None, None)


class Ending(str, enum.Enum):
    """What happened."""

    FINISHED = "finished"
    STOPPED = "stopped"
    EXCEPTION = "exception"
    ALLOCATION_FAILED = "allocation failed"
    OOM_KILLED = "oom killed"
    KILLED = "killed"
    CRASHED = "crashed"
    VANISHED = "vanished"


class Grade(str, enum.Enum):
    """How sure it is."""

    CONFIRMED = "confirmed"
    PROBABLE = "probable"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Evidence:
    """All that is known at the end."""

    closed: bool | None = None  # the session said that nothing follows; None: it said nothing
    open_phase: bool = False  # a fit was under way when it ended
    exception: tuple[str, str] | None = None  # type and message, as Python saw it
    status: ExitStatus | None = None  # None: nobody says
    kills_before: Kills = NO_KILLS
    kills_after: Kills = NO_KILLS
    logged: bool = False  # the kernel's log names this process
    limit: Limit | None = None  # the binding limit at the last look


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The answer."""

    ending: Ending
    grade: Grade
    text: str
    reasons: tuple[str, ...] = ()

    @property
    def outcome(self) -> str:
        """The run's state: finished, stopped (by its user), failed (by an exception) or died."""
        return _OUTCOMES.get(self.ending, "died")

    def detail(self) -> dict[str, str | int | None]:
        """As it stands in the END event; an exception has told its own type and message already."""
        detail: dict[str, str | int | None] = {
            "outcome": self.outcome,
            "ending": self.ending.value,
            "grade": self.grade.value,
            "text": self.text[:4000],
            "evidence": "; ".join(self.reasons)[:4000],
        }
        if self.ending not in (Ending.FINISHED, Ending.EXCEPTION, Ending.ALLOCATION_FAILED):
            detail |= {"type": self.ending.value, "message": self.text[:4000]}
        return detail


_OUTCOMES = {
    Ending.FINISHED: "finished",
    Ending.STOPPED: "stopped",
    Ending.EXCEPTION: "failed",
    Ending.ALLOCATION_FAILED: "failed",
}
_BY_PYTHON = "Python saw it end"
_STOPS = {
    signal.SIGINT: "Ctrl-C",
    signal.SIGTERM: "SIGTERM",
    getattr(signal, "SIGHUP", 1): "SIGHUP (a closed terminal)",
}
_CRASHES = {
    getattr(signal, name, None): name for name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSYS")
}


def judge(evidence: Evidence) -> Verdict:
    """The verdict for this evidence."""
    if evidence.closed is not None:
        return _by_python(evidence)
    if evidence.status is None:
        return _unseen(evidence)
    if evidence.status.signal is not None:
        return _by_signal(evidence, evidence.status.signal)
    return _by_exit(evidence, evidence.status.code or 0)


def _by_python(evidence: Evidence) -> Verdict:
    if evidence.exception:
        return _by_exception(*evidence.exception)
    if evidence.open_phase:
        return Verdict(
            Ending.EXCEPTION, Grade.UNKNOWN, "A fit was left by an exception that was caught.", (_BY_PYTHON,)
        )
    return Verdict(Ending.FINISHED, Grade.CONFIRMED, "Finished.", (_BY_PYTHON,))


def _by_exception(kind: str, message: str) -> Verdict:
    if kind == "KeyboardInterrupt":
        return Verdict(Ending.STOPPED, Grade.CONFIRMED, "Stopped by Ctrl-C.", (_BY_PYTHON,))
    said = f"{kind}: {message}" if message else kind
    where = _allocation(kind, message)
    if where:
        return Verdict(
            Ending.ALLOCATION_FAILED, Grade.CONFIRMED, f"{where} could not be allocated: {said}", (_BY_PYTHON,)
        )
    return Verdict(Ending.EXCEPTION, Grade.CONFIRMED, said, (_BY_PYTHON,))


def _allocation(kind: str, message: str) -> str | None:
    """Whose memory ran out, if that is what the exception says."""
    name = kind.rpartition(".")[2]
    if name == "MemoryError" or "can't allocate memory" in message:
        return "Memory"
    exhausted = name in ("ResourceExhaustedError", "OutOfMemoryError") or "RESOURCE_EXHAUSTED" in message
    if not exhausted:
        return None
    on_gpu = any(word in message for word in ("GPU", "CUDA", "cuda", "device:"))
    return "GPU memory" if on_gpu and "CPU:0" not in message else "Memory"


def _by_signal(evidence: Evidence, number: int) -> Verdict:
    name = _name(number)
    if number == getattr(signal, "SIGKILL", 9):
        return _by_kill(evidence)
    if number in _STOPS:
        return Verdict(
            Ending.STOPPED, Grade.CONFIRMED, f"Stopped by {_STOPS[signal.Signals(number)]}.", (f"it ended by {name}",)
        )
    if number in _CRASHES:
        return Verdict(
            Ending.CRASHED, Grade.CONFIRMED, f"Crashed with {name}.", (f"it ended by {name}", *_near(evidence))
        )
    return Verdict(Ending.KILLED, Grade.CONFIRMED, f"Killed by {name}.", (f"it ended by {name}",))


def _by_kill(evidence: Evidence) -> Verdict:
    reasons = ["it ended by SIGKILL"]
    own = _moved(evidence.kills_before.own, evidence.kills_after.own)
    if evidence.logged:
        reasons.append("the kernel's log says that it was killed for memory")
    if own:
        reasons.append(f"its cgroup's counter of out-of-memory kills went up by {own}")
    reasons += _near(evidence)
    if evidence.logged or own:
        text = f"Killed by the kernel: out of memory{_at(evidence.limit)}."
        return Verdict(Ending.OOM_KILLED, Grade.CONFIRMED, text, tuple(reasons))
    if evidence.limit and evidence.limit.used_bytes >= NEAR_LIMIT * evidence.limit.limit_bytes:
        text = f"Probably killed for memory{_at(evidence.limit)}."
        return Verdict(Ending.OOM_KILLED, Grade.PROBABLE, text, tuple(reasons))
    if evidence.kills_after.own is not None:
        reasons.append("its cgroup's counter of out-of-memory kills did not move")
    text = f"Killed by SIGKILL{_free(evidence.limit)}: no sign that memory was why."
    return Verdict(Ending.KILLED, Grade.UNKNOWN, text, tuple(reasons))


def _by_exit(evidence: Evidence, code: int) -> Verdict:
    if evidence.exception:
        return _by_exception(*evidence.exception)
    if code == 0:
        return Verdict(
            Ending.FINISHED, Grade.PROBABLE, "Ended without saying so, with exit code 0.", ("its exit code is 0",)
        )
    return Verdict(Ending.EXCEPTION, Grade.UNKNOWN, f"Ended with exit code {code}.", (f"its exit code is {code}",))


def _unseen(evidence: Evidence) -> Verdict:
    if evidence.exception:
        return _by_exception(*evidence.exception)
    own = _moved(evidence.kills_before.own, evidence.kills_after.own)
    if evidence.logged:
        reason = "the kernel's log says that it was killed for memory"
        return Verdict(
            Ending.OOM_KILLED, Grade.CONFIRMED, f"Killed by the kernel: out of memory{_at(evidence.limit)}.", (reason,)
        )
    if own:
        reason = f"its cgroup's counter of out-of-memory kills went up by {own}; how it ended is not known"
        return Verdict(
            Ending.OOM_KILLED, Grade.PROBABLE, f"Probably killed for memory{_at(evidence.limit)}.", (reason,)
        )
    return Verdict(
        Ending.VANISHED, Grade.UNKNOWN, f"Died without a word{_free(evidence.limit)}.", tuple(_near(evidence))
    )


def _moved(before: int | None, after: int | None) -> int:
    # A counter that can't be read any more (the cgroup is gone) proves nothing.
    return max(0, after - before) if before is not None and after is not None else 0


def _near(evidence: Evidence) -> list[str]:
    limit = evidence.limit
    if limit is None or limit.limit_bytes <= 0:
        return []
    share = 100 * limit.used_bytes / limit.limit_bytes
    return [f"{share:.0f} % of its limit ({_short(limit.kind)}) was in use when it was last looked at"]


def _short(kind: str) -> str:
    """The limit's name without the long path that a container's cgroup has."""
    head, _, last = kind.rpartition("/")
    return f"{head.partition('/')[0]}{last or '/'}"


def _at(limit: Limit | None) -> str:
    return f", with {_mib(limit.used_bytes)} of {_mib(limit.limit_bytes)} in use" if limit else ""


def _free(limit: Limit | None) -> str:
    return f" with {_mib(max(0, limit.headroom_bytes))} of {_mib(limit.limit_bytes)} free" if limit else ""


def _mib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
