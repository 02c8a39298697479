"""Batch ends back in their order (pure).

On JAX and torch Keras calls the end hooks of several batches at once, on a pool of threads, so that a later batch's
record can stand before an earlier one's. Once that is seen, records are held back for a moment and sorted; until then,
and always on TensorFlow, they pass through as they come.
"""

from __future__ import annotations

from oomcast.recorder import Context, Mark
from oomcast.ring import Record

__all__ = ["Order"]

# Longer than a batch end waits for the interpreter's lock behind its neighbours, shorter than a person sees.
_HOLD_NS = 40_000_000


class Order:
    """Records in, records out; the same ones, each batch behind the one before it."""

    def __init__(self, hold_ns: int = _HOLD_NS) -> None:
        self._hold_ns = hold_ns
        self._held: list[Record] = []
        self._last = (0, -1)  # serial and step of the newest batch let through
        self.threaded = False

    @property
    def first_held(self) -> int | None:
        """The number of the first record that is held back: all before it were passed on."""
        return self._held[0].number if self._held else None

    def take(self, records: list[Record], now_ns: int, *, final: bool = False) -> list[Record]:
        """What can be passed on now.

        Args:
            records: what the ring gave.
            now_ns: the monotonic clock.
            final: nothing follows, so nothing is held back.
        """
        held = [*self._held, *records]
        self._held = []
        if not self.threaded:
            self.threaded = self._jumps_back(held)
        if self.threaded and not final:
            ripe = sum(1 for record in held if record.mono_ns <= now_ns - self._hold_ns)
            held, self._held = held[:ripe], held[ripe:]
        return _sorted(held) if self.threaded else held

    def _jumps_back(self, records: list[Record]) -> bool:
        for record in records:
            context = Context.unpack(record.context)
            if context.mark is not Mark.BATCH:
                continue
            place = (context.serial, record.step)
            if place < self._last:
                return True
            self._last = place
        return False


def _sorted(records: list[Record]) -> list[Record]:
    # A mark is a border: what began after it stays after it. What an allocator said goes with its batch.
    result: list[Record] = []
    batches: list[tuple[int, int, Record]] = []
    for record in records:
        context = Context.unpack(record.context)
        if context.mark in (Mark.BATCH, Mark.ALLOCATOR):
            batches.append((context.serial, record.step, record))
            continue
        result += [kept for _, _, kept in sorted(batches, key=lambda item: item[:2])]
        batches = []
        result.append(record)
    return result + [kept for _, _, kept in sorted(batches, key=lambda item: item[:2])]
