"""Records become rows: batches counted over all phases, faults per batch, peaks in bytes, one seq without holes."""

from __future__ import annotations

import time

import msgspec
import pytest

from oomcast.agent.assembler import Assembler, AssemblerState, Outside
from oomcast.handover import Detail, Note
from oomcast.probes.limits import Limit
from oomcast.probes.pressure import PressureReading
from oomcast.probes.process import PAGE_BYTES, ProcessReading
from oomcast.recorder import Context, Mark
from oomcast.ring import Record
from oomcast.sample import Event, EventKind, Kind, Phase, Sample
from oomcast.wire import GpuDevice

pytestmark = pytest.mark.fast

NOWHERE = Outside()


class Training:
    """Feeds an assembler as a session would."""

    def __init__(self, backend: str | None = None) -> None:
        self.assembler = Assembler(backend=backend)
        self.number = 0
        self.faults = 0
        self.context = Context(Mark.BATCH, Phase.TRAIN, 1, -1, 0, -1, peaks_rearmed=True)

    def record(self, mark: Mark, *, step: int = -1, begin_ns: int = -1, maxrss: int = 100) -> Sample | Event | None:
        self.number += 1
        self.faults += 5
        context = self.context._replace(mark=mark).pack()
        now = self.number * 1_000_000
        record = Record(
            self.number, now, now, begin_ns, step, maxrss, self.faults, self.faults // 10, context, b"9 20 3 "
        )
        return self.assembler.record(record, NOWHERE)

    def begin(self, mark: Mark, phase: Phase, *, epoch: int = -1, total: int = -1, steps: int = 1) -> None:
        serial, depth = self.context.serial + 1, int(phase is Phase.VALIDATION)
        self.context = Context(mark, phase, steps, epoch, serial, total, peaks_rearmed=True, depth=depth)
        self.record(mark)

    def batch(self, step: int, **more: int) -> Sample:
        row = self.record(Mark.BATCH, step=step, **more)
        assert isinstance(row, Sample)
        return row


def test_batches_are_counted_over_epochs_and_phases() -> None:
    training = Training()
    seen = []
    for epoch in range(2):
        training.begin(Mark.EPOCH_BEGIN, Phase.TRAIN, epoch=epoch, total=3)
        outer = training.context
        seen += [training.batch(step) for step in range(3)]
        training.begin(Mark.PHASE_BEGIN, Phase.VALIDATION, epoch=epoch)
        seen += [training.batch(step) for step in range(2)]
        training.context = outer._replace(serial=training.context.serial)
    assert [row.batch for row in seen] == list(range(10))
    assert [row.step for row in seen] == [0, 1, 2, 0, 1] * 2
    assert [row.phase for row in seen[:5]] == [Phase.TRAIN] * 3 + [Phase.VALIDATION] * 2


def test_several_steps_per_execution_count_as_such_and_the_last_overshoot_is_cut() -> None:
    training = Training()
    training.begin(Mark.EPOCH_BEGIN, Phase.TRAIN, epoch=0, total=5, steps=3)
    first, last = training.batch(2, begin_ns=0), training.batch(5, begin_ns=0)
    assert (first.step, first.steps, first.batch) == (2, 3, 2)
    assert (last.step, last.steps, last.batch) == (4, 2, 4)
    # Keras says 3/5 of the last execution, which ran only batches 3 and 4.
    assert last.duration_ns == last.mono_ns // 2


def test_sparse_samples_say_how_many_batches_they_cover() -> None:
    training = Training()
    training.begin(Mark.EPOCH_BEGIN, Phase.TRAIN, epoch=0, total=20)
    assert [training.batch(step).steps for step in (4, 9, 14, 19)] == [5, 5, 5, 5]


def test_batch_ends_that_come_late_and_out_of_order_keep_their_places() -> None:
    training = Training("Keras 3.15.1, jax 0.10.2")
    training.begin(Mark.TRAIN_BEGIN, Phase.TRAIN, total=4)
    training.begin(Mark.EPOCH_BEGIN, Phase.TRAIN, epoch=0, total=4)
    train = training.context
    first = [training.batch(step).batch for step in (1, 0, 2)]
    training.begin(Mark.PHASE_BEGIN, Phase.VALIDATION, epoch=0)
    validation, training.context = training.context, train
    late = training.batch(3).batch
    training.context = validation
    assert (first, late, training.batch(0).batch) == ([1, 0, 2], 3, 4)


def test_even_a_whole_epoch_s_batch_ends_may_come_when_validation_has_begun() -> None:
    training = Training("Keras 3.15.1, jax 0.10.2")
    training.begin(Mark.TRAIN_BEGIN, Phase.TRAIN, total=4)
    training.begin(Mark.EPOCH_BEGIN, Phase.TRAIN, epoch=0, total=4)
    train = training.context
    training.begin(Mark.PHASE_BEGIN, Phase.VALIDATION, epoch=0)
    first = training.batch(0).batch
    training.context = train
    assert (first, [training.batch(step).batch for step in (2, 0, 1, 3)]) == (4, [2, 0, 1, 3])


def test_where_hooks_are_called_in_turn_a_training_that_stops_early_leaves_no_hole() -> None:
    training = Training("Keras 3.15.1, tensorflow 2.21.0")
    training.begin(Mark.TRAIN_BEGIN, Phase.TRAIN, total=9)
    training.begin(Mark.EPOCH_BEGIN, Phase.TRAIN, epoch=0, total=9)
    training.batch(0)
    training.begin(Mark.PHASE_BEGIN, Phase.VALIDATION, epoch=0)
    assert training.batch(0).batch == 1


def test_faults_are_those_since_the_batch_before() -> None:
    training = Training()
    training.begin(Mark.TRAIN_BEGIN, Phase.TRAIN)
    rows = [training.batch(step) for step in range(3)]
    assert [row.minor_faults for row in rows] == [5, 5, 5]
    assert sum(row.major_faults or 0 for row in rows) == (20 // 10) - (5 // 10)


def test_no_fault_counts_twice_when_batch_ends_come_out_of_order() -> None:
    assembler, context = Assembler(), Context(Mark.BATCH, Phase.TRAIN, 1, 0, 1, -1).pack()
    cumulative = [100, 300, 200, 400]
    rows = [
        assembler.record(Record(n + 1, n, n, -1, n, -1, faults, 0, context, b""), NOWHERE)
        for n, faults in enumerate(cumulative)
    ]
    assert sum(row.minor_faults or 0 for row in rows if isinstance(row, Sample)) == 300


def test_faults_of_a_first_batch_with_nothing_before_it_are_unknown_not_zero() -> None:
    assert Training().batch(0).minor_faults is None


def test_pages_and_kilobytes_become_bytes_and_a_peak_is_never_below_its_rss() -> None:
    training = Training()
    row = training.batch(0, maxrss=1000)
    assert (row.rss_bytes, row.shared_bytes) == (20 * PAGE_BYTES, 3 * PAGE_BYTES)
    assert row.peak_bytes == 1000 * 1024
    assert training.batch(1, maxrss=1).peak_bytes == row.rss_bytes


def test_without_rearming_the_peak_of_a_batch_is_unknown() -> None:
    training = Training()
    training.context = training.context._replace(peaks_rearmed=False)
    assert training.batch(0).peak_bytes is None


def test_a_batch_without_a_begin_has_no_duration() -> None:
    assert Training().batch(0).duration_ns is None


def test_ticks_carry_what_was_seen_from_outside() -> None:
    assembler = Assembler()
    outside = Outside(
        ProcessReading(rss_bytes=5, swap_bytes=6, minor_faults=10, major_faults=1), Limit("cgroup /a", 100, 40)
    )
    first = assembler.tick(1, 1, outside)
    later = outside._replace(process=outside.process._replace(minor_faults=17, major_faults=3))
    second = assembler.tick(2, 2, later)
    assert (first.kind, first.rss_bytes, first.limit_bytes, first.working_set_bytes) == (Kind.TICK, 5, 100, 40)
    assert first.minor_faults is None
    assert (second.minor_faults, second.major_faults) == (7, 2)


def test_a_limit_is_told_once_and_again_when_it_moves() -> None:
    assembler = Assembler()
    told = [
        assembler.limit_change(1, 1, limit)
        for limit in (Limit("a", 10, 1), Limit("a", 10, 2), Limit("a", 8, 2), Limit("b", 8, 2), None)
    ]
    assert [event and event.detail for event in told] == [
        {"kind": "a", "limit_bytes": 10},
        None,
        {"kind": "a", "limit_bytes": 8},
        {"kind": "b", "limit_bytes": 8},
        None,
    ]


def test_what_the_process_said_of_its_end_is_kept() -> None:
    training = Training()
    assert training.assembler.closed is None
    training.begin(Mark.TRAIN_BEGIN, Phase.TRAIN)
    detail: Detail = {"type": "ValueError", "message": "no", "chain": None}
    training.assembler.note(Note(kind=EventKind.EXCEPTION, mono_ns=1, wall_ns=1, detail=detail))
    training.record(Mark.CLOSE, step=1)
    assert training.assembler.closed is True
    assert training.assembler.where is not None, "the fit was left, not ended"
    assert training.assembler.exception == ("ValueError", "no", "")


def test_pressure_is_told_since_the_sample_of_the_same_kind_before() -> None:
    training = Training()
    looks = iter([(100, 7), (150, 7), (150, 9), (400, None)])

    def outside() -> Outside:
        some, refaults = next(looks)
        return Outside(pressure=PressureReading(psi_some_us=some, refaults=refaults))

    assembler = training.assembler
    ticks = [assembler.tick(1, 1, outside()) for _ in range(4)]
    assert [(tick.psi_some_us, tick.refaults) for tick in ticks] == [(None, None), (50, 0), (0, 2), (250, None)]
    assert {tick.psi_full_us for tick in ticks} == {None}


def test_an_allocator_s_figures_go_with_their_batch_also_where_hooks_overtake_each_other() -> None:
    assembler = Assembler(devices=[GpuDevice(device=3, uuid="u", name="n", ordinal=0)])
    context = Context(Mark.BATCH, Phase.TRAIN, 1, 0, 1, -1)

    def record(mark: Mark, step: int, allocated: int = -1) -> Record:
        packed = context._replace(mark=mark, total=0 if mark is Mark.ALLOCATOR else -1).pack()
        return Record(step + 1, 1, 1, allocated, step, 700, -1, -1, packed, b"9 20 3 ")

    for step, allocated in ((0, 10), (1, 11)):
        assert assembler.record(record(Mark.ALLOCATOR, step, allocated), NOWHERE) is None
    rows = [assembler.record(record(Mark.BATCH, step), NOWHERE) for step in (1, 0)]
    readings = assembler.take_readings()
    assert [(reading.seq, reading.device, reading.allocated_bytes) for reading in readings] == [
        (rows[0].seq if rows[0] else 0, 3, 11),
        (rows[1].seq if rows[1] else 0, 3, 10),
    ]
    assert {(reading.used_bytes, reading.allocated_peak_bytes) for reading in readings} == {(None, 700)}
    assert assembler.take_readings() == []


def test_another_assembler_goes_on_from_a_snapshot() -> None:
    training, whole = Training(), Training()
    for one in (training, whole):
        one.begin(Mark.TRAIN_BEGIN, Phase.TRAIN)
        one.begin(Mark.EPOCH_BEGIN, Phase.TRAIN, epoch=0, total=9)
        one.batch(0)
        one.assembler.tick(1, 1, Outside(pressure=PressureReading(psi_some_us=5)))
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(training.assembler.snapshot()), type=AssemblerState)
    training.assembler = Assembler(state)
    for one in (training, whole):
        one.begin(Mark.PHASE_BEGIN, Phase.VALIDATION, epoch=0)
    later = Outside(pressure=PressureReading(psi_some_us=9))
    assert training.batch(0) == whole.batch(0)
    assert training.assembler.tick(2, 2, later) == whole.assembler.tick(2, 2, later)
    assert training.assembler.snapshot() == whole.assembler.snapshot()


def test_seqs_follow_each_other_whatever_the_row() -> None:
    training = Training()
    training.begin(Mark.TRAIN_BEGIN, Phase.TRAIN)
    rows: list[Sample | Event] = [
        training.batch(0),
        training.assembler.tick(time.time_ns(), 1, NOWHERE),
        training.assembler.gap(1, 1, 3),
        training.batch(1),
        training.assembler.event(EventKind.END, 1, 1, {}),
    ]
    assert [row.seq for row in rows] == [2, 3, 4, 5, 6]
    assert training.assembler.ended
