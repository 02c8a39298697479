"""The values that cross boundaries: one sample, one GPU reading, one event (pure).

Every figure is an integer in the unit that its name says, or None where it could not be measured. There are no floats:
an integer cannot be NaN, and it goes from the wire into the database without being rebuilt.
"""

from __future__ import annotations

import enum
from typing import Annotated, NamedTuple

import msgspec

__all__ = [
    "EVENT_COLUMNS",
    "GPU_COLUMNS",
    "SAMPLE_COLUMNS",
    "Event",
    "EventKind",
    "GpuReading",
    "Kind",
    "Phase",
    "Sample",
]

# SQLite and PostgreSQL store signed 64-bit integers, and a client's figure must never overflow them. The bound leaves
# room for sums; 4 EiB and 146 years in nanoseconds are enough.
_LARGEST = 2**62

Count = Annotated[int, msgspec.Meta(ge=0, le=_LARGEST)]
Text = Annotated[str, msgspec.Meta(max_length=4096)]


class Kind(enum.IntEnum):
    """What a sample marks: the end of a batch, or a tick of the agent's clock."""

    BATCH = 0
    TICK = 1


class Phase(enum.IntEnum):
    """What the training is doing: idle is between fits, test and predict are `evaluate` and `predict` of their own."""

    IDLE = 0
    TRAIN = 1
    VALIDATION = 2
    TEST = 3
    PREDICT = 4


class EventKind(enum.IntEnum):
    """What an event marks on the time axis. Values are stored: never renumber."""

    TRAIN_BEGIN = 0  # detail: epochs, steps (None where unknown)
    TRAIN_END = 1
    EPOCH_BEGIN = 2
    EPOCH_END = 3
    PHASE_BEGIN = 4  # detail: phase
    PHASE_END = 5  # detail: phase
    MODEL = 6  # detail: name, backend and the framework's versions
    LIMIT = 7  # detail: kind, limit_bytes: the binding limit, at first and whenever it changes
    NOTICE = 8  # detail: text: something about the monitoring itself that the user should know
    EXCEPTION = 9  # detail: type, message: what ended the training, as far as Python saw it
    GAP = 10  # detail: from, to, reason: samples that were lost
    END = 11  # detail: the verdict (`agent/verdict.py`): nothing follows
    CHILD = 12  # detail: pid, name, ending, text: a child of the training ended in a way that one should know of
    HANG = 13  # detail: text, idle_s: no batch has ended for long, and nothing is computed
    RESUME = 14  # the training goes on after a hang
    AGENT = 15  # detail: text: the agent was killed, and another goes on in its place
    CRITICAL = 16  # detail: the assessment (`assessment.py`): headroom fell below the critical level
    CLEAR = 17  # detail: the assessment: it is above it again
    ACTION = 18  # detail: action, text, path: what `on_critical` did
    GPU_FAULT = 19  # detail: device, xid, text: the driver reported an error of a device


class Sample(NamedTuple):
    """One row: what was measured at a batch end or at a tick."""

    seq: Count
    kind: Kind
    wall_ns: Count
    mono_ns: Count
    phase: Phase
    epoch: Count | None  # from 0
    batch: Count | None  # counted over all phases of the source, from 0; the last one that this sample covers
    step: Count | None  # the same within its epoch and phase
    steps: Count | None  # how many batches this sample covers (steps_per_execution, sample_every)
    duration_ns: Count | None  # of one batch, begin to end; the mean of an execution of several
    rss_bytes: Count | None
    peak_bytes: Count | None  # largest RSS since the previous batch sample
    shared_bytes: Count | None
    swap_bytes: Count | None
    minor_faults: Count | None  # since the previous batch sample (for a tick: the previous tick)
    major_faults: Count | None
    limit_bytes: Count | None  # the binding limit
    working_set_bytes: Count | None  # what is charged against it
    # Protocol 2 from here on; the defaults let an older agent's rows be read.
    anonymous_bytes: Count | None = None  # RSS that no file backs: heap, arenas, tensors
    file_bytes: Count | None = None  # RSS of mapped files; the rest of `shared_bytes` is shared memory
    virtual_bytes: Count | None = None
    children: Count | None = None  # living descendants (data-loader workers)
    children_rss_bytes: Count | None = None  # their sum; pages shared among them count once for each
    children_swap_bytes: Count | None = None
    tree_pss_bytes: Count | None = None  # the process and its descendants, shared pages divided among their users
    psi_some_us: Count | None = None  # time that some task stalled on memory, since the sample of this kind before
    psi_full_us: Count | None = None  # the same of all tasks at once
    swap_in_bytes: Count | None = None  # since the sample of this kind before
    swap_out_bytes: Count | None = None
    refaults: Count | None = None  # pages that were reclaimed and needed again, since the sample of this kind before
    host_swap_bytes: Count | None = None  # in use on the whole host


class GpuReading(NamedTuple):
    """One device: as NVML saw it at the tick with the same seq, or as the framework's allocator did at that batch end.

    A tick's reading has no allocator figures, a batch's only those: they are taken in the training process.
    """

    seq: Count
    device: Annotated[int, msgspec.Meta(ge=0, le=1023)]
    used_bytes: Count | None  # of the whole device, all processes
    total_bytes: Count | None
    process_bytes: Count | None  # of the monitored process; None where the driver can't say (containers, MIG, WDDM)
    utilization_percent: Annotated[int, msgspec.Meta(ge=0, le=100)] | None
    reserved_bytes: Count | None = None  # by the driver and its firmware
    allocated_bytes: Count | None = None  # tensors, as the framework's allocator counts them
    allocated_peak_bytes: Count | None = None  # largest since the batch before
    pool_bytes: Count | None = None  # what the allocator holds of the device, used or not
    allocator_limit_bytes: Count | None = None  # the framework's own cap
    ecc_errors: Count | None = None  # uncorrected, since the driver was loaded


class Event(NamedTuple):
    """Something that happened once. It has a seq of the same counter as the samples."""

    seq: Count
    kind: EventKind
    wall_ns: Count
    mono_ns: Count
    epoch: Count | None
    batch: Count | None  # the last batch that had ended, as in `Sample.batch`
    detail: dict[Annotated[str, msgspec.Meta(max_length=64)], Text | int | None]


SAMPLE_COLUMNS: tuple[str, ...] = Sample._fields
GPU_COLUMNS: tuple[str, ...] = GpuReading._fields
EVENT_COLUMNS: tuple[str, ...] = Event._fields
