"""What the tests of this folder build messages from."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any

from oomcast.sample import Event, EventKind, GpuReading, Kind, Phase, Sample
from oomcast.wire import PROTOCOL, Frame, Hello, RunInfo, SourceInfo, Status

TOKEN = "t" * 43
RUN = "runrunrun1"
SOURCE = "sourcesource1"
WALL_NS = 1_700_000_000_000_000_000
NOW_NS = WALL_NS + 3_600_000_000_000


def wait_for(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Return once `condition` holds."""
    until = time.monotonic() + timeout_s
    pause = iter(itertools.chain([0.001] * 10, itertools.repeat(0.01)))
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(next(pause))


def a_hello(
    run: str = RUN, source: str = SOURCE, protocol: int = PROTOCOL, name: str = "calm-river-7", **given: Any
) -> Hello:
    """`given`: more of its source."""
    about: dict[str, Any] = {"host": "box", "pid": 4242, "started_ns": WALL_NS, "command": "train.py", **given}
    return Hello(
        protocol=protocol,
        oomcast="0.0.1",
        run=RunInfo(id=run, project="default", name=name, tags=["a"]),
        source=SourceInfo(id=source, **about),
    )


def a_sample(seq: int, kind: Kind = Kind.BATCH, rss: int | None = 1000, **given: int | None) -> Sample:
    batch = seq - 1
    sample = Sample(
        seq=seq,
        kind=kind,
        wall_ns=WALL_NS + seq * 10_000_000,
        mono_ns=seq * 10_000_000,
        phase=Phase.TRAIN,
        epoch=batch // 100,
        batch=batch,
        step=batch % 100,
        steps=1,
        duration_ns=9_000_000,
        rss_bytes=rss,
        peak_bytes=None if rss is None else rss + 500,
        shared_bytes=10,
        swap_bytes=0,
        minor_faults=seq % 7,
        major_faults=0,
        limit_bytes=8_000,
        working_set_bytes=3_000,
    )
    return sample._replace(**given)  # type: ignore[arg-type]


def an_event(seq: int, kind: EventKind, /, **detail: str | int | None) -> Event:
    return Event(seq, kind, WALL_NS + seq * 10_000_000, seq * 10_000_000, 0, None, detail)


def an_end(seq: int, outcome: str, **detail: str | int | None) -> Event:
    return an_event(seq, EventKind.END, outcome=outcome, **detail)


def a_frame(
    samples: Iterable[Sample] = (),
    events: Iterable[Event] = (),
    gpus: Iterable[GpuReading] = (),
    status: Status | None = None,
) -> Frame:
    rows, marks = list(samples), list(events)
    seqs = [row.seq for row in rows] + [mark.seq for mark in marks]
    first, last = min(seqs), max(seqs)
    return Frame(first_seq=first, last_seq=last, samples=rows, events=marks, gpus=list(gpus), status=status)


def a_stretch(first: int, last: int) -> Frame:
    """A frame of batch samples from seq `first` to `last`."""
    return a_frame(a_sample(seq) for seq in range(first, last + 1))
