"""`python -m tests.torture.producer NAME TALLY RATE`: a training that only counts, at a fixed rate.

Each batch's number is its identity: the tally says which ones were recorded. SIGTERM ends it as a loop ends that is
done; it ends by itself when the harness is gone.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from oomcast import watch
from oomcast.watching import Watch
from tests.torture.tally import Tally

_ROUND_S = 0.005
# A training that stood still does not make good for it: a burst of this length fits the ring many times.
_MOST_LATE_S = 0.25


def produce(run: Watch, tally: Tally, rate: float) -> None:
    """Steps at `rate` per second until SIGTERM, or until the process that started this one is gone."""
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    parent, clock = os.getppid(), time.perf_counter_ns
    done, start = 0, time.monotonic()
    while not stopped and os.getppid() == parent:
        due = int((time.monotonic() - start) * rate)
        if due - done > _MOST_LATE_S * rate:
            start += (due - done) / rate
            due = done
        for batch in range(done, due):
            before = clock()
            run.step(batch)
            tally.count(batch + 1, clock() - before)
        done = max(done, due)
        time.sleep(_ROUND_S)


def main(name: str, tally: Path, rate: float) -> None:
    """One training."""
    counted = Tally(tally)
    with watch(run_name=name) as run:
        produce(run, counted, rate)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
