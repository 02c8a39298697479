"""The demo's training: `python -m oomcast.demo.training`, a process of its own inside its own memory limit."""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oomcast.demo.box import Walls, enter
from oomcast.demo.facts import FactsWriter
from oomcast.demo.scenarios import Scenario

if TYPE_CHECKING:
    from oomcast.demo.network import Images

__all__ = ["Order", "main"]

_BATCH_SIZE = 32
_WARM_BATCHES = 8
_CORES = 2
_PR_SET_PDEATHSIG = 1  # prctl(2)
# What one image takes at its peak on its way through the network, forward only; measured, TensorFlow 2.21 on a CPU.
_FORWARD_BYTES = 700_000


@dataclasses.dataclass(frozen=True)
class Order:
    """What the demo asks of its training."""

    scenario: Scenario
    headroom_bytes: int
    swap_bytes: int
    seconds: float
    run_name: str
    ticket: str
    facts: Path

    def arguments(self) -> list[str]:
        """The command line that says it."""
        return [
            *("--scenario", self.scenario.value, "--headroom", str(self.headroom_bytes)),
            *("--swap", str(self.swap_bytes), "--seconds", str(self.seconds), "--run-name", self.run_name),
            *("--box", self.ticket, "--facts", str(self.facts)),
        ]


def _parse(arguments: list[str]) -> Order:
    parser = argparse.ArgumentParser(prog="python -m oomcast.demo.training")
    parser.add_argument("--scenario", dest="scenario", type=Scenario, required=True)
    parser.add_argument("--headroom", dest="headroom_bytes", type=int, required=True)
    parser.add_argument("--swap", dest="swap_bytes", type=int, required=True)
    parser.add_argument("--seconds", dest="seconds", type=float, required=True)
    parser.add_argument("--run-name", dest="run_name", required=True)
    parser.add_argument("--box", dest="ticket", required=True)
    parser.add_argument("--facts", dest="facts", type=Path, required=True)
    return Order(**vars(parser.parse_args(arguments)))


def main(arguments: list[str]) -> None:
    """Enter the box, then train."""
    order = _parse(arguments)
    _die_with_parent()
    walls = enter(order.ticket)
    # Only now: what TensorFlow takes at import is to be charged to the box.
    from oomcast.demo.network import limit_cores, make_images, make_model

    limit_cores(_CORES)
    model, images = make_model(), make_images(512, seed=1)
    _Training(order, walls, model, images, _seconds_per_batch(model, images)).fit()


def _die_with_parent() -> None:
    # A training nobody watches would otherwise go on when the demo is killed outright.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _seconds_per_batch(model: Any, images: Images) -> float:
    batch = images[0][:_BATCH_SIZE], images[1][:_BATCH_SIZE]
    for _ in range(2):
        model.train_on_batch(*batch)  # builds the graph and the optimizer's slots
    started = time.monotonic()
    for _ in range(5):
        model.train_on_batch(*batch)
    return (time.monotonic() - started) / 5


class _Training:
    """One scenario, sized so that on this machine it takes about as long as was asked for."""

    def __init__(self, order: Order, walls: Walls, model: Any, images: Images, seconds_per_batch: float) -> None:
        self._order = order
        self._walls = walls
        self._model = model
        self._images = images
        self._batches = max(24, round(order.seconds / seconds_per_batch))  # in the time that was asked for

    def fit(self) -> None:
        """Train; an error goes on its way, as it would in anybody's training."""
        scenarios: dict[Scenario, Callable[[], dict[str, Any]]] = {
            Scenario.HEALTHY: self._healthy,
            Scenario.LEAK: self._leak,
            Scenario.EPOCH_LEAK: self._epoch_leak,
            Scenario.VALIDATION_SPIKE: self._validation_spike,
            Scenario.CACHE_FILL: self._cache_fill,
            Scenario.SWAP: self._swap,
        }
        from oomcast import MemoryMonitor
        from oomcast.demo.habits import Pace, Reporter

        order = self._order
        asked = scenarios[order.scenario]()
        tighten = lambda: self._walls.tighten(order.headroom_bytes, order.swap_bytes)  # noqa: E731
        callbacks = [
            *asked.pop("callbacks", []),
            Reporter(FactsWriter(order.facts), tighten, _WARM_BATCHES),
            *([] if order.scenario in (Scenario.LEAK, Scenario.EPOCH_LEAK) else [Pace(order.seconds * 1.25)]),
            MemoryMonitor(
                project="demo", run_name=order.run_name, tags=[order.scenario.value]
            ),  # last, as it should be
        ]
        self._model.fit(**asked, callbacks=callbacks, verbose=1 if sys.stdout.isatty() else 2, shuffle=False)

    def _healthy(self) -> dict[str, Any]:
        return self._endless(epochs=8, total=0.85) | self._validation(self._fresh(64), _BATCH_SIZE)

    def _leak(self) -> dict[str, Any]:
        from oomcast.demo.habits import FeatureLog
        from oomcast.demo.network import FEATURE_BYTES, feature_model

        # The features of so many images that the headroom is gone in the time that was asked for.
        kept = _clamp(self._order.headroom_bytes / self._batches / FEATURE_BYTES, 1, len(self._images[0]))
        log = FeatureLog(feature_model(self._model), self._images[0][:kept])
        return self._endless(epochs=60, total=6) | {"callbacks": [log]}

    def _epoch_leak(self) -> dict[str, Any]:
        from oomcast.demo.habits import EpochSnapshots
        from oomcast.demo.network import FEATURE_BYTES, feature_model

        weights = 4 * self._model.count_params()
        kept = _clamp((self._order.headroom_bytes / 12 - weights) / FEATURE_BYTES, 8, 2048)
        snapshots = EpochSnapshots(feature_model(self._model), self._fresh(kept)[0])
        return self._endless(epochs=72, total=6 * 0.8) | {"callbacks": [snapshots]}

    def _validation_spike(self) -> dict[str, Any]:
        whole = self._fresh(_clamp(0.7 * self._order.headroom_bytes / _FORWARD_BYTES, 2 * _BATCH_SIZE, 4096))
        return self._endless(epochs=6, total=0.85) | self._validation(whole, batch_size=len(whole[0]))

    def _cache_fill(self) -> dict[str, Any]:
        from oomcast.demo.habits import cached
        from oomcast.demo.network import IMAGE_BYTES

        most = self._batches * _BATCH_SIZE // 4
        count = _clamp(0.6 * self._order.headroom_bytes / IMAGE_BYTES, _BATCH_SIZE, most)
        epochs = max(3, round(self._batches / (count / _BATCH_SIZE)))
        return {"x": cached(self._images, _BATCH_SIZE, count), "epochs": epochs}

    def _swap(self) -> dict[str, Any]:
        from oomcast.demo.habits import ImagesInMemory
        from oomcast.demo.network import IMAGE_BYTES

        order = self._order
        working_set = order.headroom_bytes + min(order.headroom_bytes, order.swap_bytes // 2)
        batches = max(2 * _WARM_BATCHES, working_set // (IMAGE_BYTES * _BATCH_SIZE))
        data = ImagesInMemory(self._images, _BATCH_SIZE, batches)
        return {"x": data, "epochs": max(3, self._batches // batches)}

    def _endless(self, epochs: int, total: float) -> dict[str, Any]:
        """`total` times the time that was asked for, in so many epochs."""
        from oomcast.demo.habits import endless

        steps = max(_WARM_BATCHES, round(self._batches * total / epochs))
        return {"x": endless(self._images, _BATCH_SIZE), "epochs": epochs, "steps_per_epoch": steps}

    def _validation(self, images: Images, batch_size: int) -> dict[str, Any]:
        return {"validation_data": images, "validation_batch_size": batch_size}

    def _fresh(self, count: int) -> Images:
        from oomcast.demo.network import make_images

        return make_images(count, seed=2)


def _clamp(value: float, least: int, most: int) -> int:
    return max(least, min(most, round(value)))


if __name__ == "__main__":
    main(sys.argv[1:])
