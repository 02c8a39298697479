"""What the frameworks' own GPU allocators say at each batch end: recorded in the training process, read by the agent.

NVML can't see it: TensorFlow and JAX take most of a device at their start and divide it themselves. An allocator's
record stands before the one of its batch; the query is the framework's cost, and `tests/gpu` measures it.

    begin_ns   bytes given to tensors          minor_faults   bytes of the pool
    maxrss     their peak                      major_faults   bytes that the pool may have at most
    total      framework and device (in the context)
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from oomcast.recorder import Context, Hook, Hooks, Mark, Recorder
from oomcast.ring import Record

__all__ = ["Allocator", "AllocatorReading", "Allocators", "decode"]

_NAMES = ("", "TensorFlow", "JAX", "torch")  # by their numbers in records
_ORDINAL_BITS = 16
# A framework that is loaded may start its GPU within the first batch: so many batch ends look for it once more.
_LATE_LOOKS = 8
_MOST_FAILURES = 3
_PACKAGE = Path(__file__).parent

Append = Callable[[int, int, int, int, int, int, int, bytes, bytes], None]


class AllocatorReading(NamedTuple):
    """What one allocator said of one device. Sizes in bytes, None where it doesn't say."""

    ordinal: int  # the framework's number of the device: "GPU:0"
    allocated_bytes: int | None  # given to tensors
    peak_bytes: int | None  # the largest since the reading before
    pool_bytes: int | None  # what it holds of the device, given to tensors or not
    limit_bytes: int | None  # what it may hold at most, where that is less than the device
    framework: str = ""


def decode(record: Record) -> AllocatorReading:
    """The reading in a ring record whose mark is ALLOCATOR (pure)."""
    number, ordinal = divmod(Context.unpack(record.context).total, 1 << _ORDINAL_BITS)
    sizes = (record.begin_ns, record.maxrss, record.minor_faults, record.major_faults)
    allocated, peak, pool, limit = (size if size >= 0 else None for size in sizes)
    return AllocatorReading(ordinal, allocated, peak, pool, limit, _NAMES[number] if number < len(_NAMES) else "")


def _pack(context: Context, framework: str, ordinal: int) -> bytes:
    number = _NAMES.index(framework) if framework in _NAMES else 0
    return context._replace(mark=Mark.ALLOCATOR, total=number << _ORDINAL_BITS | ordinal).pack()


class Allocator(Protocol):
    """One framework's allocator. What the framework raises comes through."""

    framework: str
    module: Any

    def read(self) -> list[AllocatorReading]:
        """Every device that it uses, now."""

    def rearm(self) -> None:
        """Start new peaks."""

    def look(self) -> None:
        """See whether it uses more devices than before."""


class Allocators:
    """The allocators of this process, for one session. Hooks may call it from several threads."""

    def __init__(
        self, say: Callable[[str], None], *, reset_peak: bool = True, modules: Mapping[str, Any] | None = None
    ) -> None:
        """Look at nothing yet.

        Args:
            say: told what the user should know, in words; each thing once, or rarely.
            reset_peak: whether peaks may be reset, as for the process's own (`Settings.reset_peak`).
            modules: stands in for `sys.modules`.
        """
        self._say = say
        self._reset_peak = reset_peak
        self._modules = sys.modules if modules is None else modules
        self._found: dict[str, Allocator] = {}
        self._failures: dict[str, int] = {}
        self._settled: set[str] = set()  # frameworks that have no GPU here, or whose allocator can't be read
        self._stopped = False
        self._pending = False  # a framework is loaded that may yet begin to use a GPU
        self._late_looks = _LATE_LOOKS
        self._busy = threading.Lock()

    @property
    def found(self) -> list[Allocator]:
        """Those that are asked at each batch end."""
        return list(self._found.values())

    def look(self, *, late: bool = False) -> None:
        """Find what frameworks have come to use a GPU since the last look. Starts none of them.

        Args:
            late: a batch has just ended, and all that a new one has allocated belongs to it.
        """
        from oomcast.frameworks import FRAMEWORKS, find_allocator  # here, since the agent only decodes

        pending = False
        for framework in FRAMEWORKS if not self._stopped else ():
            if framework not in self._modules or framework in self._settled:
                continue
            try:
                pending = self._look_at(framework, find_allocator, late) or pending
            except Exception as error:
                self._fail(framework, error)
        self._pending = pending and self._late_looks > 0

    def _look_at(self, framework: str, find: Callable[..., tuple[Allocator | None, bool]], late: bool) -> bool:
        known = self._found.get(framework)
        if known is not None:
            known.look()
            return False
        found, may_start = find(framework, self._modules, self._say, reset_peak=self._reset_peak)
        if found is not None:
            self._found[framework] = found
            if not late:
                found.rearm()
        elif not may_start:
            self._settled.add(framework)
        return found is None and may_start

    def _fail(self, framework: str, error: Exception) -> None:
        """Forget what a framework raised; and it, when it has failed too often in a row.

        Raises:
            Exception: `error`, if a signal's handler of the user's raised it inside.
        """
        if not _is_of(error, self._modules.get(framework)):
            raise error
        failures = self._failures[framework] = self._failures.get(framework, 0) + 1
        if failures >= _MOST_FAILURES:
            self._settled.add(framework)
            self._found.pop(framework, None)
            self._say(_failed(framework, error))

    def rearm(self) -> None:
        """Start new peaks, so that what came before a fit is not taken for its first batch's."""
        for framework, allocator in list(self._found.items()):
            try:
                allocator.rearm()
            except Exception as error:
                self._fail(framework, error)

    def wrap(
        self, hooks: Hooks, recorder: Recorder, append: Append, context: Context, on_error: Callable[[Exception], None]
    ) -> Hooks:
        """`hooks` that first record what the allocators say; the very same where there is none to ask.

        Args:
            hooks: as `recorder` made them.
            recorder: knows which batches are sampled.
            append: the ring's.
            context: where the training stands, as for the hooks.
            on_error: told what went wrong; the hooks themselves raise only what it raises.
        """
        try:
            self.look()
        except Exception as error:
            on_error(error)
        if not self._found and not self._pending:
            return hooks
        return recorder.with_first(hooks, self._hook(append, context, on_error), context)

    def _hook(self, append: Append, context: Context, on_error: Callable[[Exception], None]) -> Hook:
        contexts: dict[tuple[str, int], bytes] = {}

        def ask(step: int, logs: object = None) -> None:
            # Another batch that ends at this moment: its reading stands for both, and nobody waits.
            if not (self._found or self._pending) or not self._busy.acquire(blocking=False):
                return
            try:
                if self._pending:
                    self._late_looks -= 1
                    self.look(late=True)
                for reading in self._read():
                    ordinal, *sizes, framework = reading
                    packed = contexts.get((framework, ordinal))
                    if packed is None:
                        packed = contexts[framework, ordinal] = _pack(context, framework, ordinal)
                    allocated, peak, pool, limit = (-1 if size is None else size for size in sizes)
                    append(time.monotonic_ns(), time.time_ns(), allocated, step, peak, pool, limit, packed, b"")
            except Exception as error:
                on_error(error)
            finally:
                self._busy.release()

        return ask

    def _read(self) -> list[AllocatorReading]:
        readings: list[AllocatorReading] = []
        for framework, allocator in list(self._found.items()):
            try:
                readings += allocator.read()
                self._failures.pop(framework, None)
            except Exception as error:
                self._fail(framework, error)
        return readings

    def stop(self) -> None:
        """Ask nothing any more: the session is over, or this is a forked child, where CUDA can't be used."""
        self._stopped, self._found, self._pending = True, {}, False


def _is_of(error: Exception, module: Any) -> bool:
    """Whether a framework or we raised it, as against a signal's handler of the user's that ran inside."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return True
    place = Path(trace.tb_frame.f_code.co_filename)
    home = getattr(module, "__file__", None)
    return place.is_relative_to(_PACKAGE) or (home is not None and place.is_relative_to(Path(home).parent))


def _failed(framework: str, error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["no reason given"]
    return f"the GPU allocator of {framework} can't be read ({type(error).__name__}: {lines[0][:200]})"
