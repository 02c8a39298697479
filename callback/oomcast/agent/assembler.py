"""Records, notes and probe readings in; samples and events out (pure).

This is where raw figures get their meaning: pages become bytes, cumulative faults become faults per batch, Keras's step
numbers become one count of batches over all phases, and everything gets its seq.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from oomcast import allocator
from oomcast.agent.counters import Counters
from oomcast.handover import Detail, Note
from oomcast.probes.children import ChildrenReading
from oomcast.probes.limits import Limit
from oomcast.probes.pressure import PressureReading
from oomcast.probes.process import ProcessReading, parse_statm
from oomcast.recorder import Context, Mark
from oomcast.ring import Record
from oomcast.sample import Event, EventKind, GpuReading, Kind, Phase, Sample
from oomcast.wire import GpuDevice

__all__ = ["Assembler", "AssemblerState", "Outside"]

# `ru_maxrss` is in KiB, but in bytes on macOS: getrusage(2) of each.
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024

# Phases whose late batch ends may still come: on JAX and torch the hooks of a phase's last batches can run when the
# next phase has begun.
_SEGMENTS_KEPT = 8
# Batches whose allocator was asked and whose own record is still to come: as many as may end at once.
_MOST_ALLOCATIONS = 64

# Backends on which Keras calls the end hooks from a pool of threads: a whole epoch's may come when validation has
# begun. A training that stops early leaves the rest of its epoch undone, though, and no places are to be kept for that:
# so there is a bound to how many may be on their way.
_THREADED, _LATE_BATCHES = ("jax", "torch"), 256

_PRESSURE = ("psi_some_us", "psi_full_us", "swap_in_bytes", "swap_out_bytes", "refaults")

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
    limit: Limit | None = None  # the binding one
    pressure: PressureReading = PressureReading()
    children: ChildrenReading = ChildrenReading()
    tree_pss_bytes: int | None = None  # where it was read at this look


class _Segment(msgspec.Struct):
    """The batches of one phase or epoch: where they stand in the count over all phases."""

    base: int
    last_step: int = -1


class AssemblerState(msgspec.Struct):
    """All that is carried from row to row: another agent goes on from it where this one was killed."""

    seq: int = 0
    batches: int = 0
    segments: dict[int, _Segment] = {}
    phases: list[bytes] = []  # contexts, packed
    batch_faults: tuple[int, int] | None = None
    tick_faults: tuple[int, int] | None = None
    batch_pressure: list[int | None] = []
    tick_pressure: list[int | None] = []
    limit: tuple[str, int] | None = None
    closed: bool | None = None
    exception: tuple[str, str, str] | None = None
    ended: bool = False


class Assembler:
    """Turns what one source says into rows that follow each other without a hole."""

    def __init__(
        self, state: AssemblerState | None = None, devices: Sequence[GpuDevice] = (), backend: str | None = None
    ) -> None:
        """Begin, or go on.

        Args:
            state: what `snapshot` gave to the agent before; None to begin.
            devices: the source's GPUs.
            backend: the framework that computes, as in `SourceInfo`.
        """
        self._late = _LATE_BATCHES if any(name in (backend or "") for name in _THREADED) else 0
        state = state or AssemblerState()
        self._devices = {gpu.ordinal: gpu.device for gpu in devices if gpu.ordinal is not None}
        self._strangers = len(devices)  # devices of the framework that are none of NVML's are counted from here
        self.framework: str | None = None  # whose allocator was heard last
        self._seq = state.seq
        self._batches = state.batches
        self._segments: dict[int, _Segment] = dict(state.segments)
        self._phases = [Context.unpack(data) for data in state.phases]
        self._batch_faults = state.batch_faults
        self._tick_faults = state.tick_faults
        self._batch_pressure = Counters(state.batch_pressure)
        self._tick_pressure = Counters(state.tick_pressure)
        self._limit = state.limit
        self._allocations: dict[tuple[int, int], list[allocator.AllocatorReading]] = {}
        self._readings: list[GpuReading] = []
        self.closed: bool | None = state.closed  # whether the process ended as it should; None: it has not said
        # Type, message and the chain of types behind it, of the exception that ended Python.
        self.exception: tuple[str, str, str] | None = state.exception
        self.ended = state.ended  # the last row was made

    def snapshot(self) -> AssemblerState:
        """What the next agent needs to go on behind the newest row."""
        return AssemblerState(
            seq=self._seq,
            batches=self._batches,
            segments=self._segments,
            phases=[context.pack() for context in self._phases],
            batch_faults=self._batch_faults,
            tick_faults=self._tick_faults,
            batch_pressure=self._batch_pressure.last,
            tick_pressure=self._tick_pressure.last,
            limit=self._limit,
            closed=self.closed,
            exception=self.exception,
            ended=self.ended,
        )

    def skip_to(self, seq: int) -> None:
        """Give no row a seq up to this one any more."""
        self._seq = max(self._seq, seq)

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

    @property
    def where(self) -> Context | None:
        """The innermost phase under way; None between fits."""
        return self._phases[-1] if self._phases else None

    def record(self, record: Record, outside: Outside) -> Sample | Event | None:
        """The row for one ring record; None for a mark that is no row."""
        context = Context.unpack(record.context)
        if context.mark is Mark.BATCH:
            return self._batch(record, context, outside)
        if context.mark is Mark.ALLOCATOR:
            self._keep(record, context)
            return None
        return self._mark(record, context)

    def _keep(self, record: Record, context: Context) -> None:
        # They stand before the record of their batch; of a batch that was never recorded, they are forgotten.
        kept = self._allocations.setdefault((context.serial, record.step), [])
        kept.append(allocator.decode(record))
        while len(self._allocations) > _MOST_ALLOCATIONS:
            del self._allocations[next(iter(self._allocations))]

    def take_readings(self) -> list[GpuReading]:
        """What the framework's allocators said at the batch ends since the last call."""
        readings, self._readings = self._readings, []
        return readings

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
        pressure = self._batch_pressure.since(_cumulative(outside.pressure))
        seq = self._next_seq()
        if self._allocations:
            self._read(seq, self._allocations.pop((context.serial, record.step), []))
        limit = outside.limit
        return Sample(
            seq=seq,
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
            limit_bytes=limit.limit_bytes if limit else None,
            working_set_bytes=limit.used_bytes if limit else None,
            anonymous_bytes=None if rss is None or shared is None else max(0, rss - shared),
            psi_some_us=pressure[0],
            psi_full_us=pressure[1],
            swap_in_bytes=pressure[2],
            swap_out_bytes=pressure[3],
            refaults=pressure[4],
        )

    def _read(self, seq: int, allocations: Sequence[allocator.AllocatorReading]) -> None:
        for said in allocations:
            self.framework = said.framework or self.framework
            self._readings.append(
                GpuReading(
                    seq,
                    self._devices.get(said.ordinal, self._strangers + said.ordinal),
                    used_bytes=None,
                    total_bytes=None,
                    process_bytes=None,
                    utilization_percent=None,
                    allocated_bytes=said.allocated_bytes,
                    allocated_peak_bytes=said.peak_bytes,
                    pool_bytes=said.pool_bytes,
                    allocator_limit_bytes=said.limit_bytes,
                )
            )

    def _segment(self, serial: int) -> _Segment:
        if serial not in self._segments:
            self._segments[serial] = _Segment(base=self._batches)
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
        return max(record.maxrss * _MAXRSS_UNIT, rss or 0)

    def _mark(self, record: Record, context: Context) -> Event | None:
        if context.mark is Mark.CLOSE:
            self.closed = bool(record.step)
            return None
        detail: Detail = {}
        if context.mark is Mark.TRAIN_BEGIN:
            self._batch_faults = (record.minor_faults, record.major_faults) if record.minor_faults >= 0 else None
            plan = (record.step, record.begin_ns)
            detail = {"epochs": plan[0] if plan[0] >= 0 else None, "steps": plan[1] if plan[1] >= 0 else None}
        elif context.mark in (Mark.PHASE_BEGIN, Mark.PHASE_END):
            detail = {"phase": context.phase.name.lower()}
        self._follow(context)
        return self.event(_EVENTS[context.mark], record.wall_ns, record.mono_ns, detail)

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
        if outer and pending and outer.total > 0:
            missing = outer.total - pending.last_step - 1
            if 0 < missing <= self._late:
                self._batches += missing
        self._segment(context.serial)

    def note(self, note: Note) -> Event:
        """The event for a line that the session wrote."""
        if note.kind is EventKind.EXCEPTION:
            self.exception = tuple(str(note.detail.get(name) or "") for name in ("type", "message", "chain"))  # type: ignore[assignment]
        return self.event(note.kind, note.wall_ns, note.mono_ns, note.detail)

    def tick(self, wall_ns: int, mono_ns: int, outside: Outside) -> Sample:
        """The row for one look from outside."""
        process, limit, pressure, children, pss = outside
        minor, major = self._faults_since_tick(process)
        where = self.where
        stalls = self._tick_pressure.since(_cumulative(pressure))
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
            anonymous_bytes=process.anonymous_bytes,
            file_bytes=process.file_bytes,
            virtual_bytes=process.virtual_bytes,
            children=children.count,
            children_rss_bytes=children.rss_bytes,
            children_swap_bytes=children.swap_bytes,
            tree_pss_bytes=pss,
            host_swap_bytes=pressure.host_swap_bytes,
            **dict(zip(_PRESSURE, stalls, strict=True)),
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
        detail: Detail = {"kind": limit.kind, "limit_bytes": limit.limit_bytes}
        return self.event(EventKind.LIMIT, wall_ns, mono_ns, detail)

    def gap(self, wall_ns: int, mono_ns: int, lost: int) -> Event:
        """Records that the ring lost."""
        detail: Detail = {"records": lost, "reason": "the ring was overwritten before it was read"}
        return self.event(EventKind.GAP, wall_ns, mono_ns, detail)

    def event(self, kind: EventKind, wall_ns: int, mono_ns: int, detail: Detail) -> Event:
        """The row for something that the agent itself has to say; after an END there is none."""
        self.ended = self.ended or kind is EventKind.END
        epoch = self.where.epoch if self.where else -1
        return Event(
            seq=self._next_seq(),
            kind=kind,
            wall_ns=wall_ns,
            mono_ns=mono_ns,
            epoch=epoch if epoch >= 0 else None,
            batch=self._batches - 1 if self._batches else None,
            detail=detail,
        )


def _cumulative(pressure: PressureReading) -> list[int | None]:
    return list(pressure[: len(_PRESSURE)])


def _duration(record: Record, batches: int) -> int | None:
    if record.begin_ns < 0 or record.begin_ns > record.mono_ns:
        return None
    return (record.mono_ns - record.begin_ns) // batches
