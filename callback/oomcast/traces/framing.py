"""Rows of a file to frames as an agent sends them: every seq once, what is not in the file as a gap (pure)."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from oomcast.sample import Event, EventKind, GpuReading, Sample
from oomcast.traces.entries import Head, Row
from oomcast.traces.format import TraceError
from oomcast.traces.marks import Mark, marks_between, placed
from oomcast.wire import Frame

__all__ = ["Framer"]

_MOST_ROWS = 2_000
_MOST_BYTES = 600_000  # of a frame, estimated from above; a message may have 1 MiB
_SAMPLE_BYTES, _GPU_BYTES, _EVENT_BYTES = 300, 120, 100

_PRUNED = "removed by retention before the export"
_UNKNOWN = "not in the imported file"
_NOT_SAID = "which doesn't say how the training ended"
_STILL_RAN = "which was written before the training had ended"
_LARGEST = 2**62


class Framer:
    """Takes one source's rows in order of seq, a reading behind the sample of its seq, and gives frames."""

    def __init__(self, head: Head, file_name: str) -> None:
        self._head = head
        self._file_name = file_name
        self._next = 1  # seq
        self._last: Row | None = None
        self._last_sample: Sample | None = None
        self._devices: set[int] = set()  # read with the last row
        self._samples: list[Sample] = []
        self._gpus: list[GpuReading] = []
        self._events: list[Event] = []
        self._first = 1
        self._weight = 0

    def take(self, row: Row) -> Iterator[Frame]:
        """The frames that are full with this row.

        Raises:
            TraceError: the row doesn't follow on those before.
        """
        if isinstance(row, GpuReading):
            self._take_reading(row)
            return
        if not self._next <= row.seq < _LARGEST:
            raise TraceError(f"seq {row.seq}: expected {self._next} or more, in order and each once")
        lost = _lost(row)
        first = min(max(lost[0], self._next), row.seq) if lost else row.seq
        if first > self._next:
            yield from self._fill(first - 1, row)
        if lost and lost[1] > first:
            yield from self._flush()
            yield _gap_frame(first, lost[1], row)
            self._begin(lost[1] + 1)
        else:
            if self._weight >= _MOST_BYTES or self._next - self._first >= _MOST_ROWS:
                yield from self._flush()
            self._put(row)
        self._last = row
        self._devices.clear()
        if isinstance(row, Sample):
            self._last_sample = row

    def _take_reading(self, reading: GpuReading) -> None:
        if not isinstance(self._last, Sample) or reading.seq != self._last.seq:
            raise TraceError(f"a GPU reading of seq {reading.seq}: expected it behind the sample of the same seq")
        if reading.device in self._devices:
            raise TraceError(f"device {reading.device} of seq {reading.seq} is there twice: expected once")
        self._devices.add(reading.device)
        self._gpus.append(reading)
        self._weight += _GPU_BYTES

    def _put(self, row: Sample | Event) -> None:
        if isinstance(row, Sample):
            self._samples.append(row)
            self._weight += _SAMPLE_BYTES
        else:
            self._events.append(row)
            self._weight += _EVENT_BYTES + sum(len(str(part)) * 4 for pair in row.detail.items() for part in pair)
        self._next = row.seq + 1

    def _fill(self, last: int, row: Sample | Event) -> Iterator[Frame]:
        """Account for the seqs up to `last`, which the file doesn't hold."""
        ended: list[Mark] = []
        begun: list[Mark] = []
        if isinstance(row, Sample) and not self._head.has_events:
            ended, begun = marks_between(self._last_sample, row)
        room = last - self._next + 1
        ended = ended[:room]
        begun = begun[: room - len(ended)]
        for mark in ended:
            self._put(placed(mark, self._next))
        until = last - len(begun)
        yield from self._gap(until, row.wall_ns)
        for mark in begun:
            self._put(placed(mark, self._next))

    def _gap(self, last: int, wall_ns: int) -> Iterator[Frame]:
        first = self._next
        if first > last:
            return
        reason = _PRUNED if last < self._head.kept_from else _UNKNOWN
        detail: dict[str, str | int | None] = {"from": first, "to": last, "reason": reason}
        yield from self._flush()
        event = Event(last, EventKind.GAP, wall_ns, 0, None, None, detail)
        yield Frame(first_seq=first, last_seq=last, events=[event])
        self._begin(last + 1)

    def _begin(self, seq: int) -> None:
        self._first = self._next = seq

    def _flush(self) -> Iterator[Frame]:
        if self._samples or self._events:
            yield Frame(
                first_seq=self._first,
                last_seq=self._next - 1,
                samples=self._samples,
                gpus=self._gpus,
                events=self._events,
            )
        self._samples, self._gpus, self._events, self._weight = [], [], [], 0
        self._first = self._next

    def close(self) -> Iterator[Frame]:
        """The rest, with the source's status; and an end, where the file doesn't tell one."""
        if not (isinstance(self._last, Event) and self._last.kind is EventKind.END):
            self._put(self._unknown_end())
        for frame in self._flush():
            yield msgspec.structs.replace(frame, status=self._head.status)

    def _unknown_end(self) -> Event:
        wall_ns = self._last.wall_ns if isinstance(self._last, (Sample, Event)) else self._head.info.started_ns
        why = _STILL_RAN if self._head.has_events else _NOT_SAID
        text = f"Imported from {self._file_name}, {why}."
        detail: dict[str, str | int | None] = {"outcome": "finished", "grade": "unknown", "text": text}
        return Event(self._next, EventKind.END, wall_ns, 0, None, None, detail)


def _lost(row: Sample | Event) -> tuple[int, int] | None:
    """The seqs that a row says are lost, if it says so of others than its own."""
    if not isinstance(row, Event) or row.kind is not EventKind.GAP:
        return None
    first, last = row.detail.get("from"), row.detail.get("to")
    if not isinstance(first, int) or not isinstance(last, int) or not 0 < first <= row.seq <= last < _LARGEST:
        return None
    return None if first == last else (first, last)


def _gap_frame(first: int, last: int, event: Sample | Event) -> Frame:
    assert isinstance(event, Event)
    return Frame(first_seq=first, last_seq=last, events=[event._replace(detail={**event.detail, "from": first})])
