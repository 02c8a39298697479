"""A run that has everything that a file of it must hold, and how files of runs are fetched and sent."""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from tests.server.conftest import RunningServer
from tests.server.parts import RUN, TOKEN, a_frame, a_hello, a_sample, an_event

from oomcast.importing import Changes, Imported, import_trace
from oomcast.sample import Event, EventKind, GpuReading, Kind, Phase
from oomcast.wire import Frame, GpuDevice, Hello, LimitState, ProcessState, Status

FORMULA = "=HYPERLINK(1)"
FIRST, SECOND = "sourcesource1", "sourcesource2"

_STATUS = Status(
    wall_ns=1_700_000_000_000_000_000,
    limits=[LimitState(kind="cgroup /a", limit_bytes=8_000, used_bytes=3_000, binds=True)],
    processes=[ProcessState(pid=7, name="python", role="training", rss_bytes=5)],
    pressure="system",
)


def hello_of(source: str) -> Hello:
    gpu = GpuDevice(device=1, uuid="GPU-1", name="H100", total_bytes=80 << 30, ordinal=0)
    rank = 0 if source == FIRST else 1
    about: dict[str, Any] = {"rank": rank, "user": "ann", "python": "3.11", "backend": "torch", "gpus": [gpu]}
    return a_hello(source=source, name=FORMULA, local_rank=rank, world_size=2, launcher="slurm 4711", **about)


def frames_of_first() -> list[Frame]:
    """Epochs, phases, ticks and batches with GPU readings, two kinds of gaps, and a death."""
    lost: dict[str, str | int | None] = {"from": 8, "to": 10, "reason": "journal full or damaged"}
    begin = [an_event(1, EventKind.TRAIN_BEGIN, epochs=2, steps=None), an_event(2, EventKind.EPOCH_BEGIN)]
    samples = [
        a_sample(3),
        a_sample(4, anonymous_bytes=2**62, swap_bytes=None, duration_ns=None),
        a_sample(5, Kind.TICK, rss=None, limit_bytes=None),
        a_sample(6, phase=Phase.VALIDATION, epoch=1),
    ]
    readings = [
        GpuReading(4, 1, None, None, None, None, None, 5, 6, 7, 8, None),
        GpuReading(5, 1, 9, 10, None, 100, 11, None, None, None, None, 0),
        GpuReading(5, 17, 0, 10, None, None),
    ]
    ring = an_event(7, EventKind.GAP, records=3, reason="the ring was overwritten before it was read")
    end = {"outcome": "died", "ending": "oom killed", "grade": "confirmed", "text": 'Killed, "hard"', "pid": None}
    return [
        a_frame(samples, [*begin, ring], readings, status=_STATUS),
        Frame(first_seq=8, last_seq=10, events=[Event(10, EventKind.GAP, 5, 0, None, None, lost)]),
        a_frame([a_sample(11, phase=Phase.TRAIN, epoch=2)], [an_event(12, EventKind.END, **end)]),
    ]


def frames_of_second(samples: int = 300) -> list[Frame]:
    last = samples + 1
    rows = [a_sample(seq, rss=seq * 4096) for seq in range(1, last)]
    return [a_frame(rows, [an_event(last, EventKind.END, outcome="finished")])]


async def fill(server: RunningServer) -> None:
    """Store the run on `server`."""
    await server.store_frames(*frames_of_first(), hello=hello_of(FIRST))
    await server.store_frames(*frames_of_second(), hello=hello_of(SECOND))


def fetch(server: RunningServer, form: str, run: str = RUN, **headers: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept-Encoding": "identity", **headers}
    url = f"{server.base}/api/runs/{run}/export?format={form}"
    return httpx.get(url, headers=headers, timeout=30, trust_env=False)


def exported(server: RunningServer, form: str, folder: Path, run: str = RUN) -> Path:
    """The run in a file."""
    path = folder / f"{run}.{form}"
    answer = fetch(server, form, run)
    assert answer.status_code == 200, answer.text
    path.write_bytes(answer.content)
    return path


def imported(server: RunningServer, path: Path, **changes: Any) -> Imported:
    """Send a file as `oomcast import` does, in a thread that has no event loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(import_trace, path, server.base, TOKEN, Changes(**changes)).result()


def lines_of(path: Path) -> list[dict[str, Any]]:
    with contextlib.closing(path.open()) as file:
        return [json.loads(line) for line in file]
