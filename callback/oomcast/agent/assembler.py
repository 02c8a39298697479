"""Records, notes and probe readings in; samples and events out (pure).

This is where raw figures get their meaning: pages become bytes, cumulative faults become faults per batch, Keras's step
numbers become one count of batches over all phases, and everything gets its seq.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from oomcast.agent.verdict import Evidence, Verdict
from oomcast.handover import Note
from oomcast.probes.limits import Limit
from oomcast.probes.process import ProcessReading, parse_statm
from oomcast.recorder import Context, Mark
from oomcast.ring import Record
from oomcast.sample import Event, EventKind, Kind, Phase, Sample

__all__ = ["Assembler", "Outside"]

# `ru_maxrss` is in KiB, but in bytes on macOS: getrusage(2) of each.
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024

# Phases whose late batch ends may still come: on JAX and torch the hooks of a phase's last batches can run when the
# next phase has begun.
_SEGMENTS_KEPT = 8

_EVENTS = {
    Mark.TRAIN_BEGIN: EventKind.TRAIN_BEGIN,
    Mark.TRAIN_END: EventKind.TRAIN_END,
    Mark.EPOCH_BEGIN: EventKind.EPOCH_BEGIN,
    Mark.EPOCH_END: EventKind.EPOCH_END,
    Mark.PHASE_BEGIN: EventKind.PHASE_BEGIN,
    Mark.PHASE_END: EventKind.PHASE_END,
}


class Outside(NamedTuple):
    """What the agent last saw of the process from outside."""

    process: ProcessReading = ProcessReading()
    limit: Limit | None = None


class _Segment:
    """The batches of one phase or epoch: where they stand in the count over all phases."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.last_step = -1


class Assembler:
    """Turns what one source says into rows that follow each other without a hole."""

    def __init__(self) -> None:
        self._seq = 0
        self._batches = 0
        self._segments: dict[int, _Segment] = {}
        self._phases: list[Context] = []
        self._batch_faults: tuple[int, int] | None = None
        self._tick_faults: tuple[int, int] | None = None
        self._limit: tuple[str, int] | None = None
        self.closed: bool | None = None  # whether the process ended as it should; None: it has not said
        self.exception: tuple[str, str] | None = None  # type and message of the one that ended Python
        self.peak_bytes: int | None = None
        self.samples = 0

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    @property
    def last_seq(self) -> int:
        """The seq of the newest row; 0 before the first."""
        return self._seq

    @property
    def batches(self) -> int:
        """Batches that have ended, over all phases."""
        return self._batches

    def record(self, record: Record, outside: Outside) -> Sample | Event | None:
        """The row for one ring record; None for a mark that is no row."""
        context = Context.unpack(record.context)
        if context.mark is Mark.BATCH:
            return self._batch(record, context, outside)
        return self._mark(record, context)

    def _batch(self, record: Record, context: Context, outside: Outside) -> Sample:
        segment = self._segment(context.serial)
        step = min(record.step, context.total - 1) if context.total > 0 else record.step
        # From what was recorded last, so that sample_every and steps_per_execution need no rule of their own.
        covered = step - segment.last_step
        first = record.step - context.steps_per_execution + 1
        segment.last_step = max(segment.last_step, step)
        batch = segment.base + step
        self._batches = max(self._batches, batch + 1)
        rss, shared = parse_statm(record.statm)
        rss = outside.process.rss_bytes if rss is None else rss
        minor, major = self._faults_since_batch(record)
        self.samples += 1
        return Sample(
            seq=self._next_seq(),
            kind=Kind.BATCH,
            wall_ns=record.wall_ns,
            mono_ns=record.mono_ns,
            phase=context.phase,
            epoch=context.epoch if context.epoch >= 0 else None,
            batch=batch,
            step=step,
            steps=covered if covered > 0 else context.steps_per_execution,
            duration_ns=_duration(record, max(1, step - first + 1)),
            rss_bytes=rss,
            peak_bytes=self._peak(record, context, rss),
            shared_bytes=shared,
            swap_bytes=outside.process.swap_bytes,
            minor_faults=minor,
            major_faults=major,
            limit_bytes=outside.limit.limit_bytes if outside.limit else None,
            working_set_bytes=outside.limit.used_bytes if outside.limit else None,
        )

    def _segment(self, serial: int) -> _Segment:
        if serial not in self._segments:
            self._segments[serial] = _Segment(self._batches)
            for old in list(self._segments)[:-_SEGMENTS_KEPT]:
                del self._segments[old]
        return self._segments[serial]

    def _faults_since_batch(self, record: Record) -> tuple[int | None, int | None]:
        before, now = self._batch_faults, (record.minor_faults, record.major_faults)
        if record.minor_faults < 0:
            return None, None
        # Batch ends of several threads may come out of order, and no fault is to count twice.
        self._batch_faults = now if before is None else (max(before[0], now[0]), max(before[1], now[1]))
        if before is None:
            return None, None
        return max(0, now[0] - before[0]), max(0, now[1] - before[1])

    def _peak(self, record: Record, context: Context, rss: int | None) -> int | None:
        if record.maxrss < 0 or not context.peaks_rearmed:
            return None
        # The kernel counts RSS per CPU and sums up late, so that the mark can be a little below what statm says.
        peak = max(record.maxrss * _MAXRSS_UNIT, rss or 0)
        self.peak_bytes = max(self.peak_bytes or 0, peak)
        return peak

    def _mark(self, record: Record, context: Context) -> Event | None:
        if context.mark is Mark.CLOSE:
            self.closed = bool(record.step)
            return None
        detail: dict[str, str | int | None] = {}
        if context.mark is Mark.TRAIN_BEGIN:
            self._batch_faults = (record.minor_faults, record.major_faults) if record.minor_faults >= 0 else None
            plan = (record.step, record.begin_ns)
            detail = {"epochs": plan[0] if plan[0] >= 0 else None, "steps": plan[1] if plan[1] >= 0 else None}
        elif context.mark in (Mark.PHASE_BEGIN, Mark.PHASE_END):
            detail = {"phase": context.phase.name.lower()}
        self._follow(context)
        return self._event(_EVENTS[context.mark], record.wall_ns, record.mono_ns, detail)

    def _follow(self, context: Context) -> None:
        if context.mark in (Mark.TRAIN_BEGIN, Mark.PHASE_BEGIN):
            # What stands deeper was left by an exception.
            self._phases[context.depth :] = [context]
        elif context.mark is Mark.EPOCH_BEGIN:
            self._phases[-1:] = [context]
        elif context.mark in (Mark.TRAIN_END, Mark.PHASE_END):
            del self._phases[context.depth :]
        if context.mark in (Mark.EPOCH_BEGIN, Mark.PHASE_BEGIN):
            self._begin_segment(context)

    def _begin_segment(self, context: Context) -> None:
        # Batches of the phase before whose end hooks are still to come have their places kept free.
        outer = self._phases[-2] if len(self._phases) > 1 else None
        pending = self._segments.get(outer.serial) if outer else None
        if outer and pending and outer.total > 0 and pending.last_step + 1 < outer.total and pending.last_step >= 0:
            missing = outer.total - pending.last_step - 1
            if missing <= _LATE_BATCHES:
                self._batches += missing
        self._segment(context.serial)

    def note(self, note: Note) -> Event:
        """The event for a line that the session wrote."""
        if note.kind is EventKind.EXCEPTION:
            self.exception = (str(note.detail.get("type") or ""), str(note.detail.get("message") or ""))
        return self._event(note.kind, note.wall_ns, note.mono_ns, note.detail)

    def tick(self, wall_ns: int, mono_ns: int, outside: Outside) -> Sample:
        """The row for one look from outside."""
        process, limit = outside
        minor, major = self._faults_since_tick(process)
        where = self._phases[-1] if self._phases else None
        self.samples += 1
        return Sample(
            seq=self._next_seq(),
            kind=Kind.TICK,
            wall_ns=wall_ns,
            mono_ns=mono_ns,
            phase=where.phase if where else Phase.IDLE,
            epoch=where.epoch if where and where.epoch >= 0 else None,
            batch=self._batches - 1 if self._batches else None,
            step=None,
            steps=None,
            duration_ns=None,
            rss_bytes=process.rss_bytes,
            peak_bytes=None,
            shared_bytes=process.shared_bytes,
            swap_bytes=process.swap_bytes,
            minor_faults=minor,
            major_faults=major,
            limit_bytes=limit.limit_bytes if limit else None,
            working_set_bytes=limit.used_bytes if limit else None,
        )

    def _faults_since_tick(self, process: ProcessReading) -> tuple[int | None, int | None]:
        if process.minor_faults is None or process.major_faults is None:
            return None, None
        before, self._tick_faults = self._tick_faults, (process.minor_faults, process.major_faults)
        if before is None:
            return None, None
        return max(0, process.minor_faults - before[0]), max(0, process.major_faults - before[1])

    def limit_change(self, wall_ns: int, mono_ns: int, limit: Limit | None) -> Event | None:
        """An event if another limit binds than before, or the same one has moved."""
        now = (limit.kind, limit.limit_bytes) if limit else None
        if now == self._limit or limit is None:
            return None
        self._limit = now
        detail: dict[str, str | int | None] = {"kind": limit.kind, "limit_bytes": limit.limit_bytes}
        return self._event(EventKind.LIMIT, wall_ns, mono_ns, detail)

    def gap(self, wall_ns: int, mono_ns: int, lost: int) -> Event:
        """Records that the ring lost."""
        detail: dict[str, str | int | None] = {"records": lost, "reason": "the ring was overwritten before it was read"}
        return self._event(EventKind.GAP, wall_ns, mono_ns, detail)

    def evidence(self) -> Evidence:
        """What the training's own process has said of its end."""
        return Evidence(closed=self.closed, open_phase=bool(self._phases), exception=self.exception)

    def end(self, wall_ns: int, mono_ns: int, verdict: Verdict) -> Event:
        """The last row: how it ended."""
        return self._event(EventKind.END, wall_ns, mono_ns, verdict.detail())

    def _event(self, kind: EventKind, wall_ns: int, mono_ns: int, detail: dict[str, str | int | None]) -> Event:
        epoch = self._phases[-1].epoch if self._phases else -1
        return Event(
            seq=self._next_seq(),
            kind=kind,
            wall_ns=wall_ns,
            mono_ns=mono_ns,
            epoch=epoch if epoch >= 0 else None,
            batch=self._batches - 1 if self._batches else None,
            detail=detail,
        )


# A training that stops early leaves the rest of its epoch undone: only so many batches can be on their way.
_LATE_BATCHES = 4


def _duration(record: Record, batches: int) -> int | None:
    if record.begin_ns < 0 or record.begin_ns > record.mono_ns:
        return None
    return (record.mono_ns - record.begin_ns) // batches
