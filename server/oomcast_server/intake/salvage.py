"""Frames checked, cleaned, and saved row by row where a row is bad (pure)."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import msgspec

from oomcast.errors import WireError
from oomcast.sample import Event, EventKind, GpuReading, Sample
from oomcast.wire import MAX_MESSAGE_BYTES, Frame, LimitState, ProcessState, Status, decode_agent_message
from oomcast_server.text import clean

__all__ = ["read_frame"]

Row = TypeVar("Row", Sample, GpuReading, Event, Status)
Part = TypeVar("Part", LimitState, ProcessState)

# No row is shorter than this on the wire, so no frame spans more seqs; without a bound one frame could name 2**62.
_LEAST_ROW_BYTES = 8
_MOST_ROWS = MAX_MESSAGE_BYTES // _LEAST_ROW_BYTES
_LONGEST = 500  # letters of a text in a status, of which there are up to a hundred
# A row that is refused costs more than one that is taken: an agent that sends so many bad ones sends nothing good.
_MOST_BAD = 1_000
# The page of a run shows its newest 2 000 events: their details must stay of a size to send.
_MOST_DETAILS = 64
_MOST_LETTERS = 16_384

_seq = operator.itemgetter(0)  # of a sample or an event; a function of Python's would take longer than the sorting
_RawRows = Annotated[list[msgspec.Raw], msgspec.Meta(max_length=_MOST_ROWS)]


class _Loose(msgspec.Struct, tag="frame", tag_field="type"):
    first_seq: int
    last_seq: int
    samples: _RawRows = []
    gpus: _RawRows = []
    events: _RawRows = []
    status: msgspec.Raw = msgspec.Raw(b"\xc0")  # nil


def read_frame(data: bytes, now_ns: int) -> tuple[Frame, str | None]:
    """The frame in `data`, its rows in order of seq, and what was wrong with it in one line, or None.

    Rows that are out of range, missing or there twice are replaced by gap events of reason "rejected", so that the
    frame is whole in any case.

    Raises:
        WireError: not a frame at all.
    """
    try:
        frame = decode_agent_message(data)
    except WireError as error:
        return _salvage(data, now_ns, str(error))
    if not isinstance(frame, Frame):
        raise WireError("expected a frame: this connection has had its hello")
    if is_whole(frame) or is_gap(frame):
        return _in_order(frame), None
    reason = f"the rows are not one for each seq from {frame.first_seq} to {frame.last_seq}"
    return _mend(frame, now_ns), reason


def is_whole(frame: Frame) -> bool:
    """Whether each seq of the frame stands in it exactly once."""
    seqs = {sample[0] for sample in frame.samples}
    seqs.update(event.seq for event in frame.events)
    length = frame.last_seq - frame.first_seq + 1
    if not seqs or len(seqs) != length or len(frame.samples) + len(frame.events) != length:
        return False
    within = all(frame.first_seq <= reading.seq <= frame.last_seq for reading in frame.gpus)
    once = len({reading[:2] for reading in frame.gpus}) == len(frame.gpus)
    return within and once and min(seqs) == frame.first_seq and max(seqs) == frame.last_seq and frame.first_seq > 0


def is_gap(frame: Frame) -> bool:
    """Whether the frame only says that its rows are lost, however many they were."""
    if frame.samples or frame.gpus or len(frame.events) != 1 or not 0 < frame.first_seq <= frame.last_seq <= 2**62:
        return False
    event = frame.events[0]
    ends = (event.detail.get("from"), event.detail.get("to"))
    within = frame.first_seq <= event.seq <= frame.last_seq
    return event.kind is EventKind.GAP and within and ends == (frame.first_seq, frame.last_seq)


def _salvage(data: bytes, now_ns: int, reason: str) -> tuple[Frame, str]:
    try:
        loose = msgspec.msgpack.decode(data, type=_Loose)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(reason) from error
    samples, gpus, events = _good(loose.samples, Sample), _good(loose.gpus, GpuReading), _good(loose.events, Event)
    loosely = Frame(
        first_seq=loose.first_seq,
        last_seq=loose.last_seq,
        samples=samples,
        gpus=gpus,
        events=events,
        status=next(iter(_good([loose.status], Status)), None),
    )
    return _mend(loosely, now_ns), reason


def _good(rows: Sequence[msgspec.Raw], kind: type[Row]) -> list[Row]:
    decoder = msgspec.msgpack.Decoder(kind)
    good, bad = [], 0
    for row in rows:
        try:
            good.append(decoder.decode(row))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            bad += 1  # its seq will be missing, and become a gap
            if bad > _MOST_BAD:
                break
    return good


def _mend(frame: Frame, now_ns: int) -> Frame:
    first, last = frame.first_seq, frame.last_seq
    if not 0 < first <= last <= first + _MOST_ROWS or last > 2**62:
        raise WireError(f"a frame from seq {first} to {last}: expected 1 or more, and at most {_MOST_ROWS} rows")
    missing = set(range(first, last + 1))
    kept: dict[str, list[Any]] = {"samples": [], "events": []}
    for name, rows in (("samples", frame.samples), ("events", frame.events)):
        for row in rows:
            if row[0] in missing:
                missing.remove(row[0])
                kept[name].append(row)
    # One for each seq and device: the first.
    within = list({reading[:2]: reading for reading in reversed(frame.gpus) if first <= reading.seq <= last}.values())
    gaps = _gaps(sorted(missing), _time_near(kept["samples"], now_ns))
    mended = {"samples": kept["samples"], "gpus": within[::-1], "events": kept["events"] + gaps}
    return _in_order(msgspec.structs.replace(frame, **mended))


def _time_near(samples: Sequence[Sample], now_ns: int) -> tuple[int, int]:
    return (samples[0].wall_ns, samples[0].mono_ns) if samples else (now_ns, 0)


def _gaps(missing: Sequence[int], time: tuple[int, int]) -> list[Event]:
    """One event for each stretch of missing seqs, at its first."""
    stretches: list[list[int]] = []
    for seq in missing:
        if stretches and stretches[-1][-1] == seq - 1:
            stretches[-1].append(seq)
        else:
            stretches.append([seq])
    return [_gap(stretch[0], stretch[-1], time) for stretch in stretches]


def _gap(first: int, last: int, time: tuple[int, int]) -> Event:
    return Event(first, EventKind.GAP, *time, None, None, {"from": first, "to": last, "reason": "rejected"})


def _in_order(frame: Frame) -> Frame:
    return Frame(
        first_seq=frame.first_seq,
        last_seq=frame.last_seq,
        samples=sorted(frame.samples, key=_seq),
        gpus=frame.gpus,
        events=[_cleaned(event, frame) for event in sorted(frame.events, key=_seq)],
        status=_cleaned_status(frame.status) if frame.status else None,
    )


def _cleaned(event: Event, frame: Frame) -> Event:
    detail: dict[str, str | int | None] = {}
    letters = 0
    for key, value in itertools.islice(event.detail.items(), _MOST_DETAILS):
        kept = clean(value)[: max(0, _MOST_LETTERS - letters)] if isinstance(value, str) else value
        letters += len(kept) if isinstance(kept, str) else 0
        detail[clean(key)] = kept
    if event.kind is EventKind.GAP and not _is_within(detail.get("from"), detail.get("to"), event.seq, frame):
        detail.pop("from", None)
        detail.pop("to", None)
    return event._replace(detail=detail)


def _is_within(begin: str | int | None, end: str | int | None, seq: int, frame: Frame) -> bool:
    """Whether a gap names seqs of its own frame, its own among them: it says nothing about other frames' rows."""
    return isinstance(begin, int) and isinstance(end, int) and frame.first_seq <= begin <= seq <= end <= frame.last_seq


def _cleaned_status(status: Status) -> Status:
    return msgspec.structs.replace(
        status,
        limits=[_cut(limit, kind=limit.kind) for limit in status.limits],
        processes=[_cut(process, name=process.name, role=process.role) for process in status.processes],
        pressure=None if status.pressure is None else clean(status.pressure)[:_LONGEST],
    )


def _cut(part: Part, **texts: str) -> Part:
    return msgspec.structs.replace(part, **{name: clean(text)[:_LONGEST] for name, text in texts.items()})
