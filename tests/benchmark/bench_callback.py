"""`make bench`: what watching costs the training per batch, and what the agent costs beside it.

Hooks are called directly, 20 000 times each, in a process that has TensorFlow loaded; the order of the callbacks is
shuffled in rounds, so that none has the machine to itself. Figures depend on the machine; the ratios less so.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import mmap
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil


class Hooks(NamedTuple):
    """One candidate: its hooks, and what the training does between them."""

    begin: Callable[..., object]
    end: Callable[..., object]
    train: Callable[[], object] = int


def time_hooks(hooks: Hooks, calls: int, start: int) -> list[int]:
    """Nanoseconds of each begin and end together."""
    (begin, end, train), clock, logs = hooks, time.perf_counter_ns, {"loss": 0.5}
    taken = []
    for step in range(start, start + calls):
        train()
        before = clock()
        begin(step, logs)
        end(step, logs)
        taken.append(clock() - before)
    return taken


def summarise(taken: list[int]) -> dict[str, float]:
    """Microseconds."""
    taken = sorted(taken)
    return {
        "median_us": statistics.median(taken) / 1000,
        "mean_us": statistics.fmean(taken) / 1000,
        "p99_us": taken[int(len(taken) * 0.99)] / 1000,
        "calls": len(taken),
    }


def psutil_by_hand() -> Hooks:
    """What people write themselves: RSS, host memory, swap."""
    process = psutil.Process()
    kept: list[tuple[int, float, float]] = []

    def end(step: int, logs: object = None) -> None:
        kept.append((process.memory_info().rss, psutil.virtual_memory().percent, psutil.swap_memory().percent))

    return Hooks(lambda step, logs=None: None, end)


def moving_memory() -> Callable[[], None]:
    """A training whose RSS is another one at every batch, which is what costs us most."""
    area, shown = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), [0]

    def move() -> None:
        shown[0] = (shown[0] + 1) % 200
        if shown[0] == 0:
            area.madvise(mmap.MADV_DONTNEED)
        area[shown[0] * 4096] = 1

    return move


def candidates(folder: Path) -> tuple[dict[str, Hooks], Callable[[], None]]:
    """Every callback that is measured, ready to be called; and what ends them."""
    import keras

    from oomcast import MemoryMonitor

    class Empty(keras.callbacks.Callback):  # type: ignore[misc]  # keras ships no types
        def on_train_batch_begin(self, batch: int, logs: object = None) -> None: ...

        def on_train_batch_end(self, batch: int, logs: object = None) -> None: ...

    model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    ours, empty = MemoryMonitor(mode="offline"), Empty()
    peers = {}
    if importlib.util.find_spec("tensorboard"):
        peers["TensorBoard(update_freq=1)"] = keras.callbacks.TensorBoard(folder, update_freq=1)
    for callback in (ours, empty, *peers.values()):
        callback.set_model(model)
        callback.set_params({"epochs": 1, "steps": None, "verbose": 0})
        callback.on_train_begin()
        callback.on_epoch_begin(0)
    hooks = {
        "an empty callback": Hooks(empty.on_train_batch_begin, empty.on_train_batch_end),
        "oomcast, steady memory": Hooks(ours.on_train_batch_begin, ours.on_train_batch_end),
        "oomcast, RSS moves at each batch": Hooks(ours.on_train_batch_begin, ours.on_train_batch_end, moving_memory()),
        "psutil by hand": psutil_by_hand(),
    }
    for name, peer in peers.items():
        hooks[name] = Hooks(peer.on_train_batch_begin, peer.on_train_batch_end)
    return hooks, ours.on_train_end


def measure_hooks(calls: int) -> dict[str, dict[str, float]]:
    """Cost per batch of each candidate, in rounds."""
    folder = Path(tempfile.mkdtemp())
    try:
        hooks, finish = candidates(folder)
        taken: dict[str, list[int]] = {name: [] for name in hooks}
        rounds = 10
        for number in range(rounds):
            names = list(hooks)
            random.shuffle(names)
            for name in names:
                gc.collect()
                # A first call after another's round finds cold caches; that is in the figures, as in a training.
                taken[name] += time_hooks(hooks[name], calls // rounds, number * calls // rounds)
        finish()
        return {name: summarise(values) for name, values in taken.items()}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure_agent(seconds: float, rate: float, server: str | None) -> dict[str, float]:
    """CPU share and RSS of the agent while a loop ends `rate` batches a second."""
    from oomcast import watch

    more: dict[str, Any] = {"server": server} if server else {"mode": "offline"}
    with watch(run_name="bench", **more) as run:
        assert run._session is not None
        agent = psutil.Process(run._session.agent_pid)
        time.sleep(2)  # its start-up is not what is asked
        before, started, rss = agent.cpu_times(), time.monotonic(), []
        batch = 0
        while (now := time.monotonic() - started) < seconds:
            run.step(batch)
            batch += 1
            if batch % int(rate) == 0:
                rss.append(agent.memory_info().rss)
            time.sleep(max(0.0, batch / rate - now))
        after = agent.cpu_times()
        used = after.user + after.system - before.user - before.system
    return {
        "cpu_percent_of_a_core": 100 * used / seconds,
        "rss_mib": max(rss) / 2**20,
        "batches_per_s": batch / seconds,
        "seconds": seconds,
    }


def main() -> None:
    """Print both tables, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=100)
    parser.add_argument("--server", help="send to this server instead of the journal alone")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ.setdefault("OOMCAST_HOME", home)  # what is recorded here is nobody's run
        hooks = measure_hooks(arguments.calls)
        agent = measure_agent(arguments.seconds, arguments.rate, arguments.server)
    if arguments.json:
        print(json.dumps({"hooks": hooks, "agent": agent}))
        return
    print(f"cost per batch, both hooks, {arguments.calls} calls each (Python {sys.version.split()[0]})")
    print(f"{'':34}{'median':>10}{'mean':>10}{'p99':>10}")
    for name, row in hooks.items():
        print(f"{name:34}{row['median_us']:8.2f}µs{row['mean_us']:8.2f}µs{row['p99_us']:8.2f}µs")
    print(
        f"\nagent at {agent['batches_per_s']:.0f} batches/s for {agent['seconds']:.0f} s: "
        f"{agent['cpu_percent_of_a_core']:.1f} % of a core, {agent['rss_mib']:.0f} MiB RSS"
    )


if __name__ == "__main__":
    main()
