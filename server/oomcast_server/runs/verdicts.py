"""What the agents said of the ends of sources, which of it names a run, and what silence means (pure)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgspec

from oomcast_server.rest.shapes import Verdict
from oomcast_server.store.schema import State

__all__ = ["Detail", "Ended", "gravest", "packed", "vanished", "verdict_of"]

Detail: TypeAlias = dict[str, str | int | None]

_MOST_BYTES = 64 << 10
_CORE = ("outcome", "ending", "grade", "text", "evidence", "type", "message")
_NEAR_LIMIT = 0.95  # the agent's own level for a probable out-of-memory kill
_GRAVITY = {State.DIED: 0, State.FAILED: 1, State.STOPPED: 2, State.FINISHED: 3}

_MINUTE_NS = 60_000_000_000
_INFERRED = "Inferred by the server from silence."


@dataclasses.dataclass(frozen=True)
class Ended:
    """A source that has ended."""

    pk: int
    id: str
    state: State
    detail: str | None  # JSON of the END event's detail


def packed(detail: Mapping[str, str | int | None]) -> str:
    """An END event's detail as it is stored: whole, unless it is absurdly large."""
    text = msgspec.json.encode(detail)
    if len(text) > _MOST_BYTES:
        text = msgspec.json.encode({name: detail[name] for name in _CORE if name in detail})
    return text.decode()


def _unpacked(detail: str | None) -> Detail:
    return msgspec.json.decode(detail, type=Detail) if detail else {}


def gravest(ended: Sequence[Ended]) -> Ended | None:
    """The one that says most about the run: died, failed, stopped, finished; of deaths, the surest for memory first."""
    return min(ended, key=lambda source: (_GRAVITY[source.state], _doubt(source), source.pk), default=None)


def _doubt(source: Ended) -> int:
    if source.state is not State.DIED:
        return 0
    detail = _unpacked(source.detail)
    if detail.get("ending") != "oom killed":
        return 2
    return 0 if detail.get("grade") == "confirmed" else 1


def verdict_of(detail: str, source_id: str, *, whole: bool) -> Verdict:
    """A stored verdict for the page; `whole` with everything that the agent said.

    An older agent said no more than the outcome.
    """
    said = _unpacked(detail)
    ending = _word(said, "ending", "outcome") or "died"
    text = _word(said, "text", "message") or f"{ending[:1].upper()}{ending[1:]}."
    grade = _word(said, "grade") or "unknown"
    return Verdict(
        ending=ending, grade=grade, text=text, inferred=False, source=source_id, detail=said if whole else None
    )


def _word(said: Detail, *names: str) -> str | None:
    return next((str(said[name]) for name in names if said.get(name)), None)


def vanished(source_id: str, silence_ns: int, limit_bytes: int | None, used_bytes: int | None) -> Verdict:
    """What the server makes of a source that has said nothing for `silence_ns`, and whose agent is gone."""
    ago = f"Vanished {_ago(silence_ns)} ago"
    share = used_bytes / limit_bytes if limit_bytes and used_bytes is not None else None
    used = f" with {100 * share:.0f} % of its limit in use" if share is not None else ""
    if share is not None and share > _NEAR_LIMIT:
        grade, guess = "probable", "probably killed for memory, its agent with it"
    else:
        grade, guess = "unknown", "the machine, its network or the whole job ended"
    text = f"{ago}{used}: {guess}. {_INFERRED}"
    return Verdict(ending="vanished", grade=grade, text=text, inferred=True, source=source_id)


def _ago(span_ns: int) -> str:
    """The time in its largest unit of which there are two, so that it needn't be told anew each second."""
    minutes = span_ns // _MINUTE_NS
    if minutes < 1:
        return f"{span_ns // 1_000_000_000} s"
    if minutes < 120:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h" if hours < 48 else f"{hours // 24} days"
