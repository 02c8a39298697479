"""A training that the kernel would end saves, ends cleanly instead, and goes on from there: in a real memory cgroup."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oomcast.probes.death import read_kills
from oomcast.sample import EventKind
from tests.support import LIMIT, USAGE, clean_environment, events, memory_box, recorded, why_no_box

BACKENDS = [
    pytest.param(
        name, marks=pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")
    )
    for name in ("tensorflow", "jax")
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(why_no_box() is not None, reason=str(why_no_box())),
]

MIB = 1 << 20
ROOM_MIB = 600  # what the leak may fill, above what the training needs

# The weights and slots are 240 MiB, 80 of them one variable: Keras's own ways to save would need 160 and 320 MiB, where
# some 60 are left. The limit is set when the training stands, since how large that is depends on framework and machine.
SCRIPT = """
import gc, hashlib, json, os, sys, time
box, mode, saved = sys.argv[1:4]
open(box + "/cgroup.procs", "w").write(str(os.getpid()))
import numpy as np, keras
import oomcast
from oomcast import MemoryMonitor
from oomcast.checkpoint import load_checkpoint
from oomcast.variables import groups

def model():
    net = keras.Sequential([keras.layers.Input((1024,)), keras.layers.Dense(20480, activation="relu"),
                            keras.layers.Dense(1)])
    net.compile("adam", "mse")
    return net

def sums(net):
    return {
        group: hashlib.sha256(b"".join(np.ascontiguousarray(keras.ops.convert_to_numpy(v.value)).tobytes()
                                       for v in variables)).hexdigest()
        for group, variables in groups(net).items()
    }

class Leak(keras.callbacks.Callback):
    async_safe = True
    def __init__(self):
        super().__init__()
        self.kept = []
    def on_train_batch_begin(self, batch, logs=None):
        if mode != "resume":
            self.kept.append(np.ones(LEAK_MIB << 17))
        time.sleep(0.02)  # a real step of such a size takes longer than this one

class Limit(keras.callbacks.Callback):
    async_safe = True
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1 and mode != "resume":
            gc.collect()
            used = int(open(box + "/USAGE").read())
            open(box + "/LIMIT", "w").write(str(used + ROOM_MIB * 1048576))

x, y = np.random.default_rng(0).random((64, 1024), "float32"), np.ones((64, 1), "float32")
net, leak, initial = model(), Leak(), 0
if mode == "resume":
    path, = (os.path.join(saved, name) for name in os.listdir(saved))
    found = load_checkpoint(net, path)
    initial = found.initial_epoch
    print(json.dumps({"loaded": sums(net), "iterations": int(net.optimizer.iterations),
                      "epoch": found.epoch, "batches": found.batches}), flush=True)
options = {"on_critical": "checkpoint_and_stop", "checkpoint_dir": saved} if mode == "save" else {}
monitor = MemoryMonitor(run_name=mode, **options)
net.fit(x, y, batch_size=8, epochs=initial + 1 if mode == "resume" else 200, initial_epoch=initial,
        validation_data=(x[:16], y[:16]), verbose=0, callbacks=[Limit(), leak, monitor])
leak.kept.clear()
print(json.dumps({"left": sums(net), "iterations": int(net.optimizer.iterations)}), flush=True)
"""


def train(mode: str, backend: str, home: Path, box: Path) -> tuple[subprocess.CompletedProcess[str], list[Any]]:
    """A training in the box, and what it printed."""
    script = SCRIPT.replace("LEAK_MIB", "4").replace("ROOM_MIB", str(ROOM_MIB))
    script = script.replace("USAGE", USAGE).replace("LIMIT", LIMIT)
    result = subprocess.run(
        [sys.executable, "-c", script, str(box), mode, str(home.parent / "saved")],
        env=clean_environment(home, OOMCAST_MODE="offline", KERAS_BACKEND=backend),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    return result, [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_saves_before_the_kernel_kills_and_training_goes_on_from_there(backend: str, home: Path) -> None:
    with memory_box(1 << 40) as box:
        result, printed = train("warn", backend, home, box)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert not printed
    assert "memory is nearly out at epoch" in result.stderr
    detail = events(recorded(home, "warn"), EventKind.END)[0].detail
    assert (detail["ending"], detail["grade"]) == ("oom killed", "confirmed")

    with memory_box(1 << 40) as box:
        result, printed = train("save", backend, home, box)
        assert read_kills(box) == 0
    assert result.returncode == 0, result.stderr
    assert "and stopped at" in result.stderr
    rows = recorded(home, "save")
    assert [event.detail["action"] for event in events(rows, EventKind.ACTION)] == ["checkpoint_and_stop"]
    assert events(rows, EventKind.END)[0].detail["ending"] == "stopped"
    (left,) = printed

    with memory_box(1 << 40) as box:
        result, (loaded, after) = train("resume", backend, home, box)
    assert result.returncode == 0, result.stderr
    if backend == "tensorflow":
        assert loaded["loaded"] == left["left"]
        assert loaded["iterations"] == left["iterations"]
    else:  # one more batch is trained there than was saved, unless it was the last one of an epoch
        assert left["iterations"] - loaded["iterations"] in (0, 1)
    assert loaded["iterations"] == 8 * loaded["epoch"] + (8 if loaded["batches"] is None else loaded["batches"])
    assert after["iterations"] == loaded["iterations"] + 8
