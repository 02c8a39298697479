"""On a machine with a real GPU: NVML's figures, the frameworks' allocators, and what asking them costs.

Each framework has a process of its own, since it keeps the GPU until it ends. What a query costs is printed (`-s`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oomcast.probes.gpu import GpuProbe, gpu_limits
from tests.support import clean_environment

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
SIZE = 256 * MIB
GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")


@pytest.fixture
def probe() -> Iterator[GpuProbe]:
    probe = GpuProbe(visible=os.environ.get(GPU_VARIABLES[0]), order=os.environ.get(GPU_VARIABLES[1]))
    if not probe.devices:
        pytest.skip(f"needs an NVIDIA GPU: {probe.note}")
    yield probe
    probe.close()


def test_the_devices_figures_are_plausible(probe: GpuProbe) -> None:
    for device, reading in zip(probe.devices, probe.read(1, {os.getpid()}), strict=True):
        print(f"\n{device}\n{reading}")
        assert device.uuid.startswith(("GPU-", "MIG-"))
        assert device.name
        assert device.total_bytes == reading.total_bytes
        assert reading.total_bytes is not None
        assert reading.used_bytes is not None
        assert reading.total_bytes > 1 << 30
        assert 0 <= reading.used_bytes <= reading.total_bytes
        assert reading.reserved_bytes is None or 0 <= reading.reserved_bytes < reading.total_bytes // 4
        assert reading.process_bytes is None  # this process computes nothing
    assert gpu_limits(probe.devices, probe.read(2, {os.getpid()})) == []


def test_the_drivers_errors_can_be_heard(probe: GpuProbe) -> None:
    if not probe.xids_watched:
        pytest.skip("the driver doesn't tell its errors here")
    assert isinstance(probe.faults(), list)


def test_an_empty_list_hides_all(probe: GpuProbe) -> None:
    hidden = GpuProbe(visible="")
    assert (hidden.devices, "CUDA_VISIBLE_DEVICES" in (hidden.note or "")) == ([], True)
    hidden.close()


# What every framework's script begins with: hooks over a real ring, and the GPU as NVML sees it.
COMMON = """
import json, os, statistics, sys, tempfile, time
from pathlib import Path
from oomcast.allocator import Allocators, decode
from oomcast.probes.gpu import GpuProbe
from oomcast.recorder import Context, Mark, Recorder
from oomcast.ring import RingReader, RingWriter
from oomcast.sample import Phase

path = Path(tempfile.mkdtemp()) / "ring"
ring = RingWriter(path)
reader, recorder = RingReader(path), Recorder(ring)
context = Context(Mark.BATCH, Phase.TRAIN, 1, 0, 1, -1)
said, errors = [], []
allocators = Allocators(said.append)
probe = GpuProbe(visible=os.environ.get("CUDA_VISIBLE_DEVICES"), order=os.environ.get("CUDA_DEVICE_ORDER"))

def hooks():
    return allocators.wrap(recorder.batch_hooks(context, errors.append), recorder, ring.append, context, errors.append)

def end(hooks, step):
    hooks.end(step)
    records = [record for record in reader.read().records if Context.unpack(record.context).mark is Mark.ALLOCATOR]
    return {"allocator": [decode(record) for record in records], "nvml": probe.read(step, {os.getpid()})}

def cost_us():
    read = allocators.found[0].read
    times = []
    for _ in range(2000):
        begin = time.perf_counter_ns()
        read()
        times.append(time.perf_counter_ns() - begin)
    return statistics.median(times) / 1000

def tell(**what):
    # Plain lists, whatever the classes.
    print("RESULT" + json.dumps({**what, "said": said, "errors": [repr(error) for error in errors]}))
"""

JAX = """
import jax, jax.numpy as jnp
one = jnp.zeros(1).block_until_ready()
batch = hooks()
before = end(batch, 0)
kept = jnp.ones(SIZE // 4, jnp.float32).block_until_ready()
held = end(batch, 1)
more = jnp.ones(SIZE // 4, jnp.float32).block_until_ready()
del more
passed = end(batch, 2)
del kept
after = end(batch, 3)
tell(before=before, held=held, passed=passed, after=after, cost_us=cost_us())
"""

TORCH = """
import torch
one = torch.zeros(1, device="cuda")
batch = hooks()
before = end(batch, 0)
kept = torch.ones(SIZE // 4, device="cuda")
held = end(batch, 1)
more = torch.ones(SIZE // 4, device="cuda")
del more
passed = end(batch, 2)
del kept
after = end(batch, 3)
tell(before=before, held=held, passed=passed, after=after, cost_us=cost_us())
"""

TENSORFLOW = """
import tensorflow as tf
if not tf.config.list_physical_devices("GPU"):
    print("RESULT" + json.dumps(None))
    sys.exit()
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("GPU")[0], [tf.config.LogicalDeviceConfiguration(memory_limit=2048)]
)
one = tf.zeros(1)
batch = hooks()
before = end(batch, 0)
kept = tf.ones(SIZE // 4)
held = end(batch, 1)
more = tf.ones(SIZE // 4)
del more
passed = end(batch, 2)
del kept
after = end(batch, 3)
tell(before=before, held=held, passed=passed, after=after, cost_us=cost_us())
"""

SCRIPTS = {"jax": JAX, "torch": TORCH, "tensorflow": TENSORFLOW}


def run(code: str, tmp_path: Path, **variables: str) -> Any:
    environment = clean_environment(tmp_path, TMPDIR=str(tmp_path), **variables)
    for name in GPU_VARIABLES:
        environment.pop(name, None)
        if name in os.environ:
            environment[name] = os.environ[name]
    paths = [str(ROOT / "callback"), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    script = f"SIZE = {SIZE}\n{COMMON}{code}"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=170, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert lines, done.stderr[-4000:]
    return json.loads(lines[-1].removeprefix("RESULT"))


def why_not(framework: str) -> str | None:
    """Why a framework can't be tried on a GPU here; None where it can."""
    if importlib.util.find_spec(framework) is None:
        return f"{framework} is not installed"
    question = {
        "jax": "import jax; print(jax.default_backend() == 'gpu')",
        "torch": "import torch; print(torch.cuda.is_available())",
        "tensorflow": "import tensorflow as tf; print(bool(tf.config.list_physical_devices('GPU')))",
    }[framework]
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", question]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return None if answer.stdout.strip().endswith("True") else f"{framework} has no GPU here"


@pytest.mark.parametrize("framework", list(SCRIPTS))
def test_the_allocator_says_what_tensors_take_and_what_a_batch_had_at_most(
    probe: GpuProbe, tmp_path: Path, framework: str
) -> None:
    if reason := why_not(framework):
        pytest.skip(reason)
    result = run(SCRIPTS[framework], tmp_path, XLA_PYTHON_CLIENT_PREALLOCATE="false")
    print(f"\n{framework}: {result['cost_us']:.1f} µs per query, {probe.devices[0].name}")
    for name in ("before", "held", "passed", "after"):
        print(f"  {name}: {result[name]}")
    assert (result["said"], result["errors"]) == ([], [])

    allocated, peak, pool, limit = range(1, 5)
    before, held, passed, after = (result[name]["allocator"][0] for name in ("before", "held", "passed", "after"))
    assert before[0] == 0
    assert SIZE <= held[allocated] - before[allocated] <= SIZE + 16 * MIB
    assert held[peak] >= held[allocated]
    assert abs(passed[allocated] - held[allocated]) <= 16 * MIB
    assert passed[peak] - held[allocated] >= SIZE
    assert held[allocated] - after[allocated] >= SIZE
    if framework == "jax":
        assert after[peak] is None  # it can't be reset, and was not exceeded
        assert after[limit] > SIZE
    else:
        assert after[peak] <= passed[peak]
    if framework == "torch":
        assert passed[pool] >= passed[allocated]
    if framework == "tensorflow":
        assert after[limit] == 2048 * MIB

    share = result["held"]["nvml"][0][4]
    assert share is None or share >= SIZE


KERAS = """
import numpy as np
import keras

class Ask(keras.callbacks.Callback):
    async_safe = True

    def on_train_begin(self, logs=None):
        batch = hooks()
        found.append(len(allocators.found))
        self.on_train_batch_begin, self.on_train_batch_end = batch.begin, batch.end

    def on_train_batch_begin(self, batch, logs=None): ...

    def on_train_batch_end(self, batch, logs=None): ...

found = []
model = keras.Sequential([keras.layers.Dense(1024, activation="relu"), keras.layers.Dense(1)])
model.compile(optimizer="adam", loss="mse")
x = np.random.rand(320, 256).astype("float32")
model.fit(x, x[:, :1], batch_size=32, verbose=0, callbacks=[Ask()])
records = [record for record in reader.read().records if Context.unpack(record.context).mark is Mark.ALLOCATOR]
tell(found=found, readings=[[record.step, decode(record)] for record in records])
"""


@pytest.mark.parametrize("backend", list(SCRIPTS))
def test_each_backend_of_keras_is_found_when_a_fit_begins(probe: GpuProbe, tmp_path: Path, backend: str) -> None:
    for module in (backend, "keras"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    if reason := why_not(backend):
        pytest.skip(reason)
    result = run(KERAS, tmp_path, KERAS_BACKEND=backend, XLA_PYTHON_CLIENT_PREALLOCATE="false")
    print(f"\n{backend}: {result}")
    assert (result["said"], result["errors"], result["found"]) == ([], [], [1])
    steps = [step for step, _ in result["readings"]]
    # On JAX and torch batches may end at once, and then one reading stands for both.
    assert len(steps) == 10 if backend == "tensorflow" else len(steps) >= 5
    assert all(reading[1] > 0 for _, reading in result["readings"])
    assert any(reading[2] is not None for _, reading in result["readings"])
