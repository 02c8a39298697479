"""The hot path: what one batch end costs the training (see `make bench`).

A hook takes what only this thread can take at this instant, and stores it in the ring: two clocks, `getrusage` (page
faults, high-water mark) and one `pread` of an open `/proc/self/statm`, whose text goes into the record as it is: the
agent parses it. Writing "5" to `/proc/self/clear_refs` re-arms the high-water mark, so that each record has its own.

Elsewhere than on Linux a record holds what there is, and the agent adds the rest from outside.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import os
import struct
import sys
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from oomcast.descriptors import out_of_the_way
from oomcast.ring import HEADER_BYTES, SLOT_BYTES, STATM_BYTES, USED_BYTES, RingWriter
from oomcast.sample import Phase

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

__all__ = ["Context", "Hook", "Hooks", "Mark", "Recorder"]

_CONTEXT = struct.Struct("<BBHiqq")  # mark, phase, steps per execution, epoch, serial, total
_PEAKS_REARMED = 0x80  # a bit beside the phase: maxrss covers this record only
_PHASE_BITS, _DEPTH_SHIFT = 0x07, 3
_PAGE_KIB = (os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096) // 1024
# The kernel sums up per-CPU counters for statm, and not for the mark: some dozen KiB lie between them.
_SLACK_KIB = 256
_BEGINS = 64  # begin times kept; on JAX and torch some batches are under way at once


class Hook(Protocol):
    """A batch hook as Keras calls it."""

    def __call__(self, step: int, logs: object = None) -> None: ...


class Hooks(NamedTuple):
    """What Keras calls for the batches of one phase, and what we call when the phase is interrupted or over."""

    begin: Hook
    end: Hook
    flush: Callable[[], None]  # records the newest batch, if `sample_every` has passed it over


class Mark(enum.IntEnum):
    """What a record marks; `BATCH` is the end of a batch, the rest are rare and go by `Recorder.mark`."""

    BATCH = 0
    TRAIN_BEGIN = 1  # step: planned epochs, begin_ns: planned steps (-1 where unknown)
    TRAIN_END = 2
    EPOCH_BEGIN = 3
    EPOCH_END = 4
    PHASE_BEGIN = 5
    PHASE_END = 6
    CLOSE = 7  # step: 1 if the interpreter ended as it should
    ALLOCATOR = 8  # what the framework's GPU allocator said, before the BATCH of the same step: see `allocator.py`


class Context(NamedTuple):
    """Where the training stands; changes a few times per epoch, so a batch's record carries it ready packed."""

    mark: Mark
    phase: Phase
    steps_per_execution: int
    epoch: int  # -1 where there is none
    serial: int  # counts the phases and epochs that began: records of one serial count their steps together
    total: int  # planned steps of this phase, -1 where unknown
    peaks_rearmed: bool = False
    depth: int = 0  # how many phases are open around this one (validation runs inside train)

    def pack(self) -> bytes:
        """As it stands in a ring record."""
        flags = self.phase | min(self.depth, 15) << _DEPTH_SHIFT | (_PEAKS_REARMED if self.peaks_rearmed else 0)
        spe = min(self.steps_per_execution, 0xFFFF)
        return _CONTEXT.pack(self.mark, flags, spe, self.epoch, self.serial, self.total)

    @classmethod
    @functools.lru_cache(maxsize=64)  # the agent asks for each record, and all of a phase carry the same
    def unpack(cls, data: bytes) -> Context:
        """The inverse of `pack`."""
        mark, flags, spe, epoch, serial, total = _CONTEXT.unpack(data)
        rearmed = bool(flags & _PEAKS_REARMED)
        depth = (flags & ~_PEAKS_REARMED) >> _DEPTH_SHIFT
        return cls(Mark(mark), Phase(flags & _PHASE_BITS), spe, epoch, serial, total, rearmed, depth)


class _Reads(NamedTuple):
    """What can be read per batch in this process; each is as cheap as it gets."""

    statm: Callable[[], bytes]
    usage: Callable[[], tuple[int, int, int]] | None  # high-water mark, minor and major faults; None: the fast path
    rearm: Callable[[], object]


class _OpenFile:
    """A file number that is given back with the last who needs it; unlike `FileIO`, without a warning."""

    _close = staticmethod(os.close)  # by the class: at the interpreter's end, modules may be empty already

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        try:  # noqa: SIM105  the same
            self._close(self.number)
        except OSError:
            pass


class Recorder:
    """Turns hook calls into ring records. Thread-safe: each call stands alone."""

    def __init__(self, ring: RingWriter, *, reset_peak: bool = True, sample_every: int = 1) -> None:
        """Open the process's own /proc files.

        Args:
            ring: where records go.
            reset_peak: re-arm the high-water mark at each record.
            sample_every: record every so many batches.
        """
        self._ring = ring
        self._every = sample_every
        self._files: list[_OpenFile] = []
        self._statm = self._open("/proc/self/statm", os.O_RDONLY)
        self._clear_refs = self._open("/proc/self/clear_refs", os.O_WRONLY) if reset_peak else None
        self._status: int | None = None
        self.peaks_rearmed = self._try_rearm()
        if self.peaks_rearmed and _floor_hides_peaks():
            self._status = self._open("/proc/self/status", os.O_RDONLY)

    def _open(self, path: str, flags: int) -> int | None:
        if sys.platform != "linux":
            return None
        with contextlib.suppress(OSError):
            self._files.append(_OpenFile(out_of_the_way(os.open(path, flags | os.O_CLOEXEC))))
            return self._files[-1].number
        return None

    def _try_rearm(self) -> bool:
        # Fails under gVisor, which has no clear_refs, and after a setuid within the process.
        if self._clear_refs is None:
            return False
        with contextlib.suppress(OSError):
            return os.write(self._clear_refs, b"5") == 1
        return False

    def mark(self, context: Context, *, step: int = -1, value: int = -1) -> None:
        """Store a record that is no batch end; re-arms nothing, costs a few microseconds."""
        reads = self._reads()
        maxrss, minor, major = reads.usage() if reads.usage else (-1, -1, -1)
        now, wall = time.monotonic_ns(), time.time_ns()
        self._ring.append(now, wall, value, step, maxrss, minor, major, context.pack(), reads.statm())

    def rearm(self) -> None:
        """Start a new high-water mark, so that what came before a fit is not taken for its first batch's peak."""
        if self.peaks_rearmed:
            self._try_rearm()

    def batch_hooks(self, context: Context, on_error: Callable[[Exception], None]) -> Hooks:
        """The hooks of one phase, for Keras to call: each takes the batch's step number, and logs.

        The end hook's step is that of the last batch of an execution; with N steps per execution its begin was N - 1
        earlier (Keras says 3/5 even where only 3 and 4 were left).

        Args:
            context: where the training stands; the hooks are good for this phase and epoch.
            on_error: told what went wrong; the hooks themselves raise only what it raises.
        """
        begins = [-1] * _BEGINS
        monotonic_ns = time.monotonic_ns
        earlier = context.steps_per_execution - 1

        def begin(step: int, logs: object = None) -> None:
            try:
                begins[(step + earlier) % 64] = monotonic_ns()
            except Exception as error:
                on_error(error)

        packed = context._replace(peaks_rearmed=self.peaks_rearmed).pack()
        end = self._fast_end(packed, begins, on_error) or self._portable_end(packed, begins, on_error)
        if self._every == 1:
            return Hooks(begin, end, _nothing)
        return Hooks(begin, *_every(end, self._every, context.steps_per_execution))

    def _fast_end(self, packed: bytes, begins: list[int], on_error: Callable[[Exception], None]) -> Hook | None:
        statm, clear_refs = self._statm, self._clear_refs
        if statm is None or not self.peaks_rearmed or clear_refs is None or self._status is not None:
            return None
        memory, next_number, pack, pack_crc, crc32, slots = self._ring.hot
        getrusage, myself, pread, write = resource.getrusage, resource.RUSAGE_SELF, os.pread, os.write
        monotonic_ns, time_ns = time.monotonic_ns, time.time_ns
        length, stride, start, used = STATM_BYTES, SLOT_BYTES, HEADER_BYTES, USED_BYTES

        # What the last batch that moved memory left: its statm, its mark, and whether re-arming leaves the mark alone
        # (None: not asked yet, since most that move once move again).
        last: tuple[bytes, int, bool | None] = (b"", -1, None)

        # `ring.append` written out: the call alone would be 3 % of the whole. Change both or neither.
        def end(step: int, logs: object = None) -> None:
            nonlocal last
            try:
                usage = getrusage(myself)
                text = pread(statm, length, 0)
                number = next_number()
                body = pack(
                    number,
                    monotonic_ns(),
                    time_ns(),
                    begins[step % 64],
                    step,
                    usage[2],
                    usage[6],
                    usage[7],
                    packed,
                    text,
                )
                offset = (number - 1) % slots * stride + start
                memory[offset : offset + used] = body + pack_crc(crc32(body))
                # In five of six batches of a steady training nothing has moved, and re-arming would be for nothing.
                if text != last[0] or usage[2] != last[1]:
                    write(clear_refs, b"5")
                    last = (text, usage[2], None)
                elif not last[2]:
                    write(clear_refs, b"5")
                    if last[2] is None:
                        last = (text, usage[2], _is_at_level(usage[2], text))
            except Exception as error:
                on_error(error)

        end.files = self._files  # type: ignore[attr-defined]  # open as long as the hook lives
        return end

    def _portable_end(self, packed: bytes, begins: list[int], on_error: Callable[[Exception], None]) -> Hook:
        # For processes where something is missing or in the way; the same record, some microseconds dearer.
        reads, append = self._reads(), self._ring.append

        def end(step: int, logs: object = None) -> None:
            try:
                maxrss, minor, major = reads.usage() if reads.usage else (-1, -1, -1)
                now, wall, begin_ns = time.monotonic_ns(), time.time_ns(), begins[step % 64]
                append(now, wall, begin_ns, step, maxrss, minor, major, packed, reads.statm())
                reads.rearm()
            except Exception as error:
                on_error(error)

        end.files = self._files  # type: ignore[attr-defined]
        return end

    def _reads(self) -> _Reads:
        statm_fd, status_fd = self._statm, self._status

        def statm() -> bytes:
            return os.pread(statm_fd, STATM_BYTES, 0) if statm_fd is not None else b""

        def usage() -> tuple[int, int, int]:
            use = resource.getrusage(resource.RUSAGE_SELF)
            mark = use.ru_maxrss if status_fd is None else _high_water_kib(os.pread(status_fd, 4096, 0))
            return mark, use.ru_minflt, use.ru_majflt

        rearm: Callable[[], object] = self._try_rearm if self.peaks_rearmed else int
        return _Reads(statm, usage if resource is not None else None, rearm)

    def with_first(self, hooks: Hooks, first: Hook, context: Context) -> Hooks:
        """`hooks` whose end calls `first` before it takes a sample, at those batches only that are sampled."""
        begin, end, flush = hooks
        first_flush = _nothing
        if self._every > 1:
            first, first_flush = _every(first, self._every, context.steps_per_execution)

        def both(step: int, logs: object = None) -> None:
            first(step)
            end(step)

        def flush_both() -> None:
            first_flush()
            flush()

        return Hooks(begin, both, flush_both)

    def stop(self) -> None:
        """Make every hook that is still called do nothing.

        Hooks may be under way in other threads. The file numbers they hold must never come to mean another file, into
        which they would write: they lead nowhere from now on, and are given back with the last hook.
        """
        self._ring.close()
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for file in self._files:
            os.dup2(nowhere, file.number, inheritable=False)
        os.close(nowhere)


def _is_at_level(mark_kib: int, statm: bytes) -> bool:
    """Whether the high-water mark is where RSS is: there was no peak, and re-arming would change nothing."""
    return mark_kib - int(statm.split(None, 2)[1]) * _PAGE_KIB <= _SLACK_KIB


def _nothing() -> None:
    """Every batch is recorded already."""


def _every(end: Hook, every: int, steps_per_execution: int) -> tuple[Hook, Callable[[], None]]:
    newest = recorded = -1

    def sparse(step: int, logs: object = None) -> None:
        nonlocal newest, recorded
        newest = max(newest, step)
        # The step, not a counter of calls: batches may end on several threads and out of order.
        if (step + 1) // steps_per_execution % every == 0:
            recorded = max(recorded, step)
            end(step)

    def flush() -> None:
        # The last batches of a phase count too, and its peak may be among them.
        nonlocal recorded
        if newest > recorded:
            recorded = newest
            end(newest)

    return sparse, flush


def _floor_hides_peaks() -> bool:
    """Whether `ru_maxrss` stays high although the mark was just re-armed.

    The kernel keeps the high-water mark of what the process was before `exec` (with vfork: of the parent that started
    it) and never lowers it; a training started by a larger process would show the starter's size as its own peak.
    """
    if resource is None or sys.platform != "linux":
        return False
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/self/status", "rb") as status:
        mark = _high_water_kib(status.read())
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > mark + 8192
    return False


def _high_water_kib(status: bytes) -> int:
    return int(status.split(b"VmHWM:", 1)[1].split(None, 1)[0])
