"""How many rows a second a server of its own process takes, stores and acknowledges.

    python tests/server/bench_ingest.py [--rows 400000] [--frame 500] [--agents 2] [--full]

Rows are a training's: of fifty one is a tick with all figures, and batches leave empty what only ticks measure;
`--full` fills every column of every row. The clock runs from the first frame that is sent to the last acknowledgement.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from oomcast.sample import Kind, Phase, Sample
from oomcast.wire import PROTOCOL, Ack, Frame, Hello, RunInfo, SourceInfo, decode_server_message, encode

TOKEN = "b" * 43
WALL_NS = 1_700_000_000_000_000_000
TICK_ONLY = {
    *("file_bytes", "virtual_bytes", "children", "children_rss_bytes", "children_swap_bytes"),
    *("tree_pss_bytes", "host_swap_bytes"),
}
IN_FLIGHT = 16


def a_row(seq: int, full: bool) -> Sample:
    """A sample whose figures are as large as real ones."""
    tick = seq % 50 == 0
    figures: dict[str, Any] = dict.fromkeys(Sample._fields, 700_000_000 + seq * 4096)
    if not full and not tick:
        figures.update(dict.fromkeys(TICK_ONLY & figures.keys()))
    told = {
        "seq": seq,
        "kind": Kind.TICK if tick else Kind.BATCH,
        "wall_ns": WALL_NS + seq * 10_000_000,
        "mono_ns": seq * 10_000_000,
        "phase": Phase.TRAIN,
        "epoch": seq // 1000,
        "batch": seq,
        "step": seq % 1000,
        "steps": 1,
    }
    return Sample(**{**figures, **told})


def frames(rows: int, per_frame: int, full: bool) -> list[bytes]:
    """Encoded ahead of time: the agent's work is not the server's."""
    made = []
    for first in range(1, rows + 1, per_frame):
        last = min(first + per_frame - 1, rows)
        samples = [a_row(seq, full) for seq in range(first, last + 1)]
        made.append(encode(Frame(first_seq=first, last_seq=last, samples=samples)))
    return made


async def deliver(port: int, number: int, made: list[bytes], last: int) -> None:
    """One agent: sends with a bounded number of frames in flight, and returns at the last acknowledgement."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    url = f"ws://127.0.0.1:{port}/api/ingest"
    async with connect(url, additional_headers=headers, proxy=None, compression=None) as websocket:
        name = f"benchrun{number}"
        source = SourceInfo(id=f"benchsource{number}", host="box", pid=1, started_ns=WALL_NS)
        run = RunInfo(id=name, project="bench", name=name)
        await websocket.send(encode(Hello(protocol=PROTOCOL, oomcast="bench", run=run, source=source)))
        await websocket.recv()
        room = asyncio.Semaphore(IN_FLIGHT)
        hearing = asyncio.create_task(hear(websocket, room, last))
        for data in made:
            await room.acquire()
            await websocket.send(data)
        await hearing


async def hear(websocket: ClientConnection, room: asyncio.Semaphore, last: int) -> None:
    while True:
        data = await websocket.recv()
        assert isinstance(data, bytes)
        answer = decode_server_message(data)
        assert isinstance(answer, Ack), answer
        room.release()
        if answer.seq == last:
            return


def start_server(home: Path) -> tuple[subprocess.Popen[str], int]:
    """The process, and its port."""
    environment = {**os.environ, "OOMCAST_HOME": str(home), "OOMCAST_TOKEN": TOKEN}
    process = subprocess.Popen(
        [sys.executable, "-m", "oomcast_server", "serve", "--port", "0"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = process.stdout.readline().split("http://", 1)[1]
    return process, int(address.split("/")[0].rsplit(":", 1)[1])


async def measure(port: int, agents: int, made: list[bytes], rows: int) -> float:
    begun = time.perf_counter()
    await asyncio.gather(*(deliver(port, number, made, rows) for number in range(agents)))
    return agents * rows / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description="rows a second, acknowledged")
    parser.add_argument("--rows", type=int, default=400_000, help="over all agents")
    parser.add_argument("--frame", type=int, default=500)
    parser.add_argument("--agents", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="every column of every row is filled")
    given = parser.parse_args()
    rows = given.rows // given.agents
    made = frames(rows, given.frame, given.full)
    with tempfile.TemporaryDirectory() as home:
        process, port = start_server(Path(home))
        try:
            rate = asyncio.run(measure(port, given.agents, made, rows))
        finally:
            process.send_signal(signal.SIGTERM)
            _, _, usage = os.wait4(process.pid, 0)
            process.returncode = 0
        size = sum(path.stat().st_size for path in Path(home).rglob("*.db*"))
    cpu_us = 1e6 * (usage.ru_utime + usage.ru_stime) / given.rows
    print(
        f"{rate:,.0f} rows/s acknowledged, {cpu_us:.1f} µs of CPU time (the server's start among it) "
        f"and {size / given.rows:.0f} B on disk for each ({len(Sample._fields)} columns)"
    )


if __name__ == "__main__":
    main()
