"""Whether a training hangs: no batch ends, and nothing is computed (pure).

A long compile and a slow batch use the CPU or the GPU; a lock that is never released, a worker that is gone and a peer
that doesn't answer use neither. A training that pages uses little of both: that is said to be memory.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from oomcast.sample import Phase

__all__ = ["Hang", "HangChange"]

# A training that waits for its disk or its peers still uses more than this share of one core.
_IDLE_SHARE = 0.02
_BUSY_GPU_PERCENT = 5
# Some time in which every task waited for memory, or so many reads from disk for each second: it pages.
_STALLED_SHARE = 0.2
_FAULTS_PER_S = 20.0
_MOST_TICKS = 4000


class HangChange(NamedTuple):
    """It hangs, or goes on again."""

    hung: bool
    since_ns: int  # monotonic: when the last batch ended, or the phase began
    idle_s: int  # from then to now
    by_memory: bool
    text: str


class _Tick(NamedTuple):
    mono_ns: int
    cpu_ns: int | None
    major_faults: int | None
    psi_full_us: int | None


class Hang:
    """Follows one training, tick by tick."""

    def __init__(self, patience_s: float = 60.0, factor: float = 20.0) -> None:
        """Nothing is known yet.

        Args:
            patience_s: no batch has to end sooner than this.
            factor: nor sooner than so many times the median batch takes.
        """
        self._patience_ns = int(patience_s * 1e9)
        self._factor = factor
        self._progress: tuple[int, Phase] | None = None
        self._progress_ns = 0
        self._busy_gpu_ns: int | None = None
        self._ticks: deque[_Tick] = deque(maxlen=_MOST_TICKS)  # of the last `patience_s`
        self.since_ns: int | None = None
        """Monotonic time since when it hangs; None: it doesn't."""
        self.by_memory = False

    def tick(
        self,
        now_ns: int,
        batches: int,
        phase: Phase,
        *,
        cpu_ns: int | None,
        batch_ns: int | None = None,
        major_faults: int | None = None,
        psi_full_us: int | None = None,
        gpu_percent: int | None = None,
    ) -> HangChange | None:
        """Take one look; says so when it begins to hang, and when it goes on.

        Args:
            now_ns: monotonic.
            batches: that have ended so far.
            phase: the one under way; idle never hangs.
            cpu_ns: of the process and its children, since they began (whatever the zero is). None, not known: then
                nothing is ever said to hang.
            batch_ns: how long the median batch takes.
            major_faults: since the tick before.
            psi_full_us: time that every task waited for memory, since the tick before.
            gpu_percent: how busy the busiest of its GPUs is.
        """
        if self._progress != (batches, phase) or phase is Phase.IDLE:
            return self._went_on(now_ns, batches, phase, cpu_ns)
        self._ticks.append(_Tick(now_ns, cpu_ns, major_faults, psi_full_us))
        while len(self._ticks) > 1 and self._ticks[1].mono_ns <= now_ns - self._patience_ns:
            self._ticks.popleft()
        if gpu_percent is not None and gpu_percent >= _BUSY_GPU_PERCENT:
            self._busy_gpu_ns = now_ns
        patience = max(self._patience_ns, int(self._factor * (batch_ns or 0)))
        if self.since_ns is not None or now_ns - self._progress_ns < patience or not self._is_idle():
            return None
        self.since_ns, self.by_memory = self._progress_ns, self._pages()
        return self._change(True, now_ns)

    def _went_on(self, now_ns: int, batches: int, phase: Phase, cpu_ns: int | None) -> HangChange | None:
        change = self._change(False, now_ns) if self.since_ns is not None else None
        self._progress, self._progress_ns = (batches, phase), now_ns
        self.since_ns, self.by_memory, self._busy_gpu_ns = None, False, None
        self._ticks.clear()
        self._ticks.append(_Tick(now_ns, cpu_ns, None, None))
        return change

    def _is_idle(self) -> bool:
        # What was computed before the last so many seconds doesn't count: a compile may have come first.
        first, last = self._ticks[0], self._ticks[-1]
        if self._busy_gpu_ns is not None and self._busy_gpu_ns >= first.mono_ns:
            return False
        if first.cpu_ns is None or last.cpu_ns is None or last.mono_ns - first.mono_ns < self._patience_ns / 2:
            return False
        # Children that ended in between took their time with them: no sign of work, and none of the opposite.
        return abs(last.cpu_ns - first.cpu_ns) < _IDLE_SHARE * (last.mono_ns - first.mono_ns)

    def _pages(self) -> bool:
        lately = list(self._ticks)
        span_ns = max(1, lately[-1].mono_ns - lately[0].mono_ns)
        stalled_ns = 1000 * sum(tick.psi_full_us or 0 for tick in lately[1:])
        faults = sum(tick.major_faults or 0 for tick in lately[1:])
        return stalled_ns >= _STALLED_SHARE * span_ns or faults * 1e9 >= _FAULTS_PER_S * span_ns

    def _change(self, hung: bool, now_ns: int) -> HangChange:
        idle_s = (now_ns - self._progress_ns) // 10**9
        if not hung:
            text = f"It goes on, after {idle_s} s without a batch."
        elif self.by_memory:
            text = f"Stalled by memory: no batch has ended for {idle_s} s, and what it needs is being read from disk."
        else:
            text = f"Hung: no batch has ended for {idle_s} s, and nothing is computed."
        return HangChange(hung, self._progress_ns, idle_s, self.by_memory, text)
