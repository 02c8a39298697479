"""How a source ended, in words, with its grade and its evidence (pure).

Exit code 137 alone proves nothing: `kill -9` looks the same. An out-of-memory kill is confirmed only by the kernel's
own counter of this cgroup, which moved at the death and not for a child, or by its log naming this process, together
with SIGKILL; it is probable by SIGKILL at a limit at which the kernel kills, or by a counter that may have counted
somebody else.
"""

from __future__ import annotations

import dataclasses
import enum
import signal
from collections.abc import Iterator

from oomcast.agent.advice import advise
from oomcast.agent.allocation import exhausted
from oomcast.agent.evidence import DeadChild, Evidence, share
from oomcast.agent.wording import (
    assessed,
    in_use,
    left_free,
    limit_name,
    listed,
    shell_code,
    signal_name,
    size,
    span,
)

__all__ = ["DeadChild", "Ending", "Evidence", "Grade", "Verdict", "judge"]

_LONGEST_TEXT = 4000
# At this share of a limit that doesn't kill, it is worth a word.
_FULL = 0.9


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
    DETACHED = "detached"  # only the watching ended


class Grade(str, enum.Enum):
    """How sure it is."""

    CONFIRMED = "confirmed"
    PROBABLE = "probable"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The answer."""

    ending: Ending
    grade: Grade
    text: str
    reasons: tuple[str, ...] = ()
    inferred: bool = False  # nobody watched when it ended
    advice: str | None = None  # what to do about it
    facts: dict[str, str | int | None] = dataclasses.field(default_factory=dict)  # how it stood

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
            "text": self.text,
            "evidence": "; ".join(self.reasons),
            "inferred": int(self.inferred),
            "advice": self.advice,
            **self.facts,
        }
        if self.outcome == "died" or self.ending is Ending.STOPPED:
            detail |= {"type": self.ending.value, "message": self.text}
        return {key: value[:_LONGEST_TEXT] if isinstance(value, str) else value for key, value in detail.items()}


_OUTCOMES = {
    Ending.FINISHED: "finished",
    Ending.STOPPED: "stopped",
    Ending.DETACHED: "stopped",
    Ending.EXCEPTION: "failed",
    Ending.ALLOCATION_FAILED: "failed",
}
_BY_PYTHON = "Python saw it end"
_SIGKILL = 9
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
    verdict = _ending(evidence)
    verdict = dataclasses.replace(
        verdict,
        text=verdict.text + _aside(evidence, verdict),
        reasons=(*verdict.reasons, *_circumstances(evidence, verdict)),
        facts=_facts(evidence, verdict),
    )
    if verdict.ending is Ending.DETACHED:
        return verdict
    killed = verdict.ending is Ending.KILLED and verdict.grade is Grade.UNKNOWN
    short = verdict.ending in (Ending.OOM_KILLED, Ending.ALLOCATION_FAILED)
    return dataclasses.replace(verdict, advice=advise(evidence, ran_out=short, killed_unknown=killed))


def _ending(evidence: Evidence) -> Verdict:
    if evidence.detached:
        text = "Watching stopped; the training goes on."
        return Verdict(Ending.DETACHED, Grade.CONFIRMED, text, ("the watching was ended by its user",))
    if evidence.closed is not None:
        return _by_python(evidence)
    if evidence.status is None:
        return _unseen(evidence)
    if evidence.status.signal is not None:
        return _by_signal(evidence, evidence.status.signal)
    return _by_exit(evidence, evidence.status.code or 0)


def _by_python(evidence: Evidence) -> Verdict:
    if evidence.exception:
        return _by_exception(evidence, *evidence.exception)
    if evidence.open_phase:
        return Verdict(
            Ending.EXCEPTION, Grade.UNKNOWN, "A fit was left by an exception that was caught.", (_BY_PYTHON,)
        )
    if evidence.stopped_for_memory:
        text = f"Stopped before memory ran out: {evidence.stopped_for_memory}."
        return Verdict(Ending.STOPPED, Grade.CONFIRMED, text, ("`on_critical` ended it", _BY_PYTHON))
    return Verdict(Ending.FINISHED, Grade.CONFIRMED, "Finished.", (_BY_PYTHON,))


def _by_exception(evidence: Evidence, kind: str, message: str, chain: str) -> Verdict:
    if kind == "KeyboardInterrupt":
        return Verdict(Ending.STOPPED, Grade.CONFIRMED, "Stopped by Ctrl-C.", (_BY_PYTHON,))
    said = f"{kind}: {message}" if message else kind
    memory = exhausted(kind, message, chain, gpus=evidence.gpus)
    if memory is None:
        return Verdict(Ending.EXCEPTION, Grade.CONFIRMED, said, (_BY_PYTHON,))
    reasons = [_BY_PYTHON]
    if exhausted(kind, message, gpus=evidence.gpus) is None:
        reasons.append(f"what led to it was {chain.replace(';', ', ')}")
    text = f"{memory.value[0].upper()}{memory.value[1:]} could not be allocated: {said}"
    return Verdict(Ending.ALLOCATION_FAILED, Grade.CONFIRMED, text, tuple(reasons))


def _by_signal(evidence: Evidence, number: int) -> Verdict:
    reasons = (f"it ended by {signal_name(number)}",)
    if number == _SIGKILL:
        return _by_kill(evidence, reasons)
    if number in _STOPS:
        return Verdict(Ending.STOPPED, Grade.CONFIRMED, f"Stopped by {_STOPS[signal.Signals(number)]}.", reasons)
    if number in _CRASHES:
        return Verdict(Ending.CRASHED, Grade.CONFIRMED, f"Crashed with {_CRASHES[signal.Signals(number)]}.", reasons)
    return Verdict(Ending.KILLED, Grade.CONFIRMED, f"Killed by {signal_name(number)}.", reasons)


def _by_kill(evidence: Evidence, reasons: tuple[str, ...]) -> Verdict:
    sure, maybe = _kernel_says(evidence)
    if sure:
        return _oom_killed(evidence, Grade.CONFIRMED, (*reasons, *sure))
    if maybe or evidence.near:
        return _oom_killed(evidence, Grade.PROBABLE, (*reasons, *maybe))
    if evidence.kills_after.own is not None and not evidence.own_kills:
        reasons = (*reasons, "its cgroup's counter of out-of-memory kills did not move at its death")
    text = f"Killed by SIGKILL{left_free(evidence.killing_limit)}: no sign that memory was why."
    return Verdict(Ending.KILLED, Grade.UNKNOWN, text, reasons)


def _kernel_says(evidence: Evidence) -> tuple[list[str], list[str]]:
    """What proves that the kernel killed it for memory, and what may be a sign of it."""
    sure, maybe = [], []
    if evidence.victim:
        sure.append("the kernel's log says that it was killed for memory")
    moved = evidence.own_kills
    said = f"its cgroup's counter of out-of-memory kills went up by {moved} at its death"
    if moved and evidence.came_late:
        maybe.append(f"its cgroup's counter of out-of-memory kills went up by {moved} while nobody watched")
    elif moved - evidence.kills_named - evidence.kills_of_children > 0:
        sure.append(said)
    elif moved - evidence.kills_named > 0:
        maybe.append(f"{said}, which may have been for a child that was killed then, too")
    elif not moved and evidence.high and (other := evidence.other_kills):
        maybe.append(f"the counter of out-of-memory kills of {other} went up at its death")
    return sure, maybe


def _oom_killed(evidence: Evidence, grade: Grade, reasons: tuple[str, ...]) -> Verdict:
    at = in_use(evidence.killing_limit)
    text = f"Probably killed for memory{at}." if grade is not Grade.CONFIRMED else _KILLED_BY_KERNEL.format(at)
    return Verdict(Ending.OOM_KILLED, grade, text, reasons)


_KILLED_BY_KERNEL = "Killed by the kernel: out of memory{}."


def _by_exit(evidence: Evidence, code: int) -> Verdict:
    if evidence.exception:
        return _by_exception(evidence, *evidence.exception)
    reasons = (f"its exit code is {code}",)
    if code == 0:
        return _by_success(evidence, reasons)
    number = shell_code(code)
    if number == _SIGKILL and evidence.lost_children:
        # What was run is the shell's child, and this is how the shell passes its end on.
        text = f"A child was killed by the kernel: out of memory{in_use(evidence.killing_limit)}."
        return Verdict(Ending.OOM_KILLED, Grade.CONFIRMED, text, reasons)
    if number == _SIGKILL and evidence.late_kills:
        moved = f"its cgroup's counter of out-of-memory kills went up by {evidence.late_kills} shortly before"
        text = f"A child was probably killed for memory{in_use(evidence.killing_limit)}."
        return Verdict(Ending.OOM_KILLED, Grade.PROBABLE, text, (*reasons, moved))
    if number is not None:
        text = f"Ended with exit code {code}, by which a shell says that {signal_name(number)} ended its command."
        return Verdict(Ending.EXCEPTION, Grade.UNKNOWN, text, reasons)
    return Verdict(Ending.EXCEPTION, Grade.UNKNOWN, f"Ended with exit code {code}.", reasons)


def _by_success(evidence: Evidence, reasons: tuple[str, ...]) -> Verdict:
    if evidence.outside:
        return Verdict(Ending.FINISHED, Grade.CONFIRMED, "Finished, with exit code 0.", reasons)
    return Verdict(Ending.FINISHED, Grade.PROBABLE, "Ended without saying so, with exit code 0.", reasons)


def _unseen(evidence: Evidence) -> Verdict:
    """Nobody says how it ended."""
    if evidence.exception:
        return _by_exception(evidence, *evidence.exception)
    unseen = ("nobody watched when it ended",) if evidence.agent_died else ("how it ended is not known",)
    inferred = evidence.agent_died
    if evidence.victim:
        verdict = _oom_killed(
            evidence, Grade.CONFIRMED, ("the kernel's log says that it was killed for memory", *unseen)
        )
        return dataclasses.replace(verdict, inferred=inferred)
    sure, maybe = _kernel_says(evidence)
    if sure or maybe:
        verdict = _oom_killed(evidence, Grade.PROBABLE, (*sure, *maybe, *unseen))
        return dataclasses.replace(verdict, inferred=inferred)
    what = "Vanished together with its agent" if inferred else "Died without a word"
    if evidence.near:
        text = f"{what}{in_use(evidence.killing_limit)}: memory may be why."
    else:
        text = f"{what}{left_free(evidence.killing_limit)}."
    return Verdict(Ending.VANISHED, Grade.UNKNOWN, text, unseen, inferred)


def _aside(evidence: Evidence, verdict: Verdict) -> str:
    """What else the first sentence's reader must know."""
    parts = []
    if evidence.hung_s and verdict.ending not in (Ending.FINISHED, Ending.DETACHED):
        what = "stalled by memory" if evidence.hung_by_memory else "hung"
        parts.append(f"It had {what} for {span(evidence.hung_s)}.")
    if evidence.lost_children and verdict.ending not in (Ending.FINISHED, Ending.DETACHED):
        names = ", ".join(child.label for child in evidence.lost_children[-3:])
        parts.append(f"A child ({names}) had been killed by the kernel: out of memory.")
    if not parts:
        return ""
    return f"{'' if verdict.text.endswith(('.', '!', '?')) else '.'} {' '.join(parts)}"


def _circumstances(evidence: Evidence, verdict: Verdict) -> Iterator[str]:
    if verdict.outcome == "died" or verdict.ending is Ending.ALLOCATION_FAILED:
        yield from _nearness(evidence)
    if evidence.victim and evidence.victim.anonymous_bytes is not None:
        yield f"it held {size(evidence.victim.anonymous_bytes)} of memory of its own, by the kernel's log"
    for child in evidence.children:
        if child.counted:
            yield f"its child {child.label} was killed by the kernel: out of memory{_ago(evidence, child)}"
        elif child in evidence.killed_children and verdict.ending is not Ending.FINISHED:
            yield f"its child {child.label} was killed by SIGKILL{_ago(evidence, child)}"
    others = evidence.earlier_kills - sum(child.counted for child in evidence.children)
    if others > 0 and verdict.ending is not Ending.FINISHED:
        yield f"{others} other out-of-memory kill{'s' if others > 1 else ''} in its cgroup while it lived on"
    if evidence.hung_s:
        yield f"no batch had ended for {span(evidence.hung_s)} before"


def _nearness(evidence: Evidence) -> Iterator[str]:
    fullest = max(evidence.known_limits.values(), key=share, default=None)
    for limit in dict.fromkeys((evidence.killing_limit, fullest)):
        if limit is not None and (limit is evidence.killing_limit or share(limit) >= _FULL):
            yield f"{100 * share(limit):.0f} % of its limit ({limit_name(limit)}) was in use when it was last looked at"


def _ago(evidence: Evidence, child: DeadChild) -> str:
    if evidence.mono_ns is None:
        return ""
    return f" {span(max(0, evidence.mono_ns - child.mono_ns) / 1e9)} before"


def _facts(evidence: Evidence, verdict: Verdict) -> dict[str, str | int | None]:
    report = evidence.report
    limit = evidence.killing_limit if verdict.ending is Ending.OOM_KILLED else evidence.limit
    return {
        "used_bytes": limit.used_bytes if limit else None,
        "limit_bytes": limit.limit_bytes if limit else None,
        "limit_kind": limit.kind if limit else None,
        "peak_bytes": report.peak_bytes,
        "growth_bytes_per_batch": report.growth.bytes_per_batch if report.growth else None,
        "phase": report.phase.name.lower() if report.phase is not None else None,
        "epoch": report.epoch,
        "batch": report.batch,
        "processes": listed(evidence.processes),
        "assessment": assessed(evidence.assessment),
    }
