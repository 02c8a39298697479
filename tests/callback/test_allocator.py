"""The frameworks' GPU allocators: stand-ins with the frameworks' own names, and the real ones where there is no GPU."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oomcast.allocator import AllocatorReading, Allocators, decode
from oomcast.recorder import Context, Hooks, Mark, Recorder
from oomcast.ring import RingReader, RingWriter
from oomcast.sample import Phase
from tests.support import clean_environment

fast = pytest.mark.fast
MIB = 1 << 20
CONTEXT = Context(Mark.BATCH, Phase.TRAIN, 1, 2, 7, 100)


class Pool:
    """What a framework's allocator counts of one device."""

    def __init__(self) -> None:
        self.current = self.peak = self.reserved = self.retries = self.resets = 0

    def take(self, size: int, *, keep: bool = True) -> None:
        self.current += size
        self.peak = max(self.peak, self.current)
        self.reserved = max(self.reserved, self.current)
        self.current -= 0 if keep else size

    def reset(self) -> None:
        self.peak = self.current
        self.resets += 1


class TensorFlow:
    """The part of `tensorflow` that is used."""

    __file__ = __file__

    def __init__(self, *cards: list[SimpleNamespace] | None, visible: tuple[int, ...] | None = None) -> None:
        self.physical = [f"/physical_device:GPU:{index}" for index in range(len(cards))]
        self.visible = [self.physical[index] for index in visible or range(len(cards))]
        self.parts = dict(zip(self.physical, cards, strict=True))
        count = sum(len(self.parts[card] or [None]) for card in self.visible)
        self.pools = {f"GPU:{index}": Pool() for index in range(count)}
        self.error: Exception | None = None
        self.test = SimpleNamespace(is_built_with_gpu_support=lambda: True)
        self.config = SimpleNamespace(
            list_physical_devices=lambda device_type: self.physical,
            get_visible_devices=lambda device_type: self.visible,
            list_logical_devices=lambda device_type: list(self.pools),
            get_logical_device_configuration=lambda device: self.parts[device],
            experimental=SimpleNamespace(get_memory_info=self.info, reset_memory_stats=self.reset),
        )

    def info(self, device: str) -> dict[str, int]:
        if self.error:
            raise self.error
        return {"current": self.pools[device].current, "peak": self.pools[device].peak}

    def reset(self, device: str) -> None:
        self.pools[device].reset()

    def modules(self) -> dict[str, Any]:
        context = SimpleNamespace(_context=SimpleNamespace(_context_handle=object()))
        return {"tensorflow": self, "tensorflow.python.eager.context": context}


class Torch:
    """The part of `torch` that is used, with two devices."""

    __file__ = __file__

    def __init__(self, *, built: bool = True) -> None:
        self.version = SimpleNamespace(cuda="13.0" if built else None, hip=None)
        self.pools = [Pool(), Pool()]
        self.started = True
        self.fraction = 1.0
        self.cuda = SimpleNamespace(
            is_initialized=lambda: self.started,
            device_count=lambda: len(self.pools),
            memory_stats_as_nested_dict=self.stats,
            reset_peak_memory_stats=lambda device: self.pools[device].reset(),
            get_per_process_memory_fraction=lambda device: self.fraction,
            get_device_properties=lambda device: SimpleNamespace(total_memory=1000 * MIB),
        )

    def stats(self, device: int) -> dict[str, Any]:
        pool = self.pools[device]
        return {
            "num_alloc_retries": pool.retries,
            "num_ooms": 0,
            "allocated_bytes": {"all": {"current": pool.current, "peak": pool.peak}, "small_pool": {}},
            "reserved_bytes": {"all": {"current": pool.reserved, "peak": pool.reserved}, "small_pool": {}},
        }


class JaxDevice:
    """The part of `jax.Device` that is used."""

    def __init__(self, number: int, platform: str = "gpu") -> None:
        self.local_hardware_id, self.platform, self.pool = number, platform, Pool()
        self.silent = False

    def memory_stats(self) -> dict[str, int] | None:
        if self.silent:
            return None
        pool = self.pool
        limits = {"bytes_limit": 750 * MIB, "pool_bytes": 500 * MIB, "bytes_reserved": -1}
        return {"bytes_in_use": pool.current, "peak_bytes_in_use": pool.peak, **limits}


def jax_modules(*devices: JaxDevice, started: Callable[[], bool] = lambda: True) -> dict[str, Any]:
    bridge = SimpleNamespace(backends_are_initialized=started)
    jax = SimpleNamespace(local_devices=lambda: list(devices), __file__=__file__)
    return {"jax": jax, "jax._src.xla_bridge": bridge, "jax_plugins": SimpleNamespace()}


class Bench:
    """Allocators over a real recorder and ring."""

    def __init__(self, folder: Path, modules: dict[str, Any], *, every: int = 1, reset_peak: bool = True) -> None:
        self.said: list[str] = []
        self.errors: list[Exception] = []
        self.ring = RingWriter(folder / "ring", slots=256)
        self.reader = RingReader(folder / "ring")
        self.recorder = Recorder(self.ring, sample_every=every)
        self.allocators = Allocators(self.said.append, reset_peak=reset_peak, modules=modules)
        self.plain = self.recorder.batch_hooks(CONTEXT, self.errors.append)
        self.hooks = self.wrap()

    def wrap(self) -> Hooks:
        return self.allocators.wrap(self.plain, self.recorder, self.ring.append, CONTEXT, self.errors.append)

    def records(self) -> list[tuple[Mark, int]]:
        found = self.reader.read().records
        self.last = [decode(record) for record in found if Context.unpack(record.context).mark is Mark.ALLOCATOR]
        return [(Context.unpack(record.context).mark, record.step) for record in found]

    def batch(self, step: int = 0) -> list[AllocatorReading]:
        self.hooks.begin(step)
        self.hooks.end(step)
        self.records()
        assert self.errors == []
        return self.last


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(modules: dict[str, Any], **options: Any) -> Bench:
        made.append(Bench(tmp_path, modules, **options))
        return made[-1]

    yield make
    for one in made:
        one.recorder.stop()
        one.reader.close()


Make = Callable[..., Bench]


@fast
@pytest.mark.parametrize("which", ["none", "torch", "jax", "tensorflow"])
def test_without_a_gpu_the_hooks_are_the_very_same(bench: Make, which: str) -> None:
    torch = Torch(built=False)
    torch.started = False
    modules = {
        "none": {},
        "torch": {"torch": torch},
        "jax": jax_modules(JaxDevice(0, "cpu")),
        "tensorflow": TensorFlow().modules(),
    }[which]
    made = bench(modules)
    assert made.hooks is made.plain
    assert (made.said, made.errors) == ([], [])


@fast
def test_an_allocators_record_stands_before_the_one_of_its_batch_and_names_its_device(bench: Make) -> None:
    device = JaxDevice(3)
    made = bench(jax_modules(device))
    made.hooks.end(5)
    found = made.reader.read().records
    contexts = [Context.unpack(record.context) for record in found]
    assert [(context.mark, record.step) for context, record in zip(contexts, found, strict=True)] == [
        (Mark.ALLOCATOR, 5),
        (Mark.BATCH, 5),
    ]
    assert (contexts[0].serial, contexts[0].epoch, contexts[0].phase) == (7, 2, Phase.TRAIN)
    assert decode(found[0]) == AllocatorReading(3, 0, None, 500 * MIB, 750 * MIB, "JAX")


@fast
def test_tensorflow_says_what_is_given_to_tensors_and_the_peak_of_each_batch(bench: Make) -> None:
    tf = TensorFlow(None)
    pool = tf.pools["GPU:0"]
    pool.take(900 * MIB, keep=False)  # before the fit
    made = bench(tf.modules())
    pool.take(10 * MIB)
    pool.take(50 * MIB, keep=False)
    assert made.batch() == [AllocatorReading(0, 10 * MIB, 60 * MIB, None, None, "TensorFlow")]
    pool.take(5 * MIB, keep=False)
    assert made.batch(1) == [AllocatorReading(0, 10 * MIB, 15 * MIB, None, None, "TensorFlow")]


def a_part(memory_limit: int | None, ordinal: int | None = None) -> SimpleNamespace:
    """As `tf.config.LogicalDeviceConfiguration`; its limit is in MB."""
    return SimpleNamespace(memory_limit=memory_limit, experimental_priority=None, experimental_device_ordinal=ordinal)


@fast
def test_tensorflows_logical_devices_are_summed_up_by_card(bench: Make) -> None:
    tf = TensorFlow([a_part(100)], [a_part(200), a_part(300)], [a_part(None)], visible=(1, 2))
    for size, pool in enumerate(tf.pools.values(), start=1):
        pool.take(size * MIB)
    assert bench(tf.modules()).batch() == [
        AllocatorReading(1, 3 * MIB, None, None, 500 * MIB, "TensorFlow"),
        AllocatorReading(2, 3 * MIB, 3 * MIB, None, None, "TensorFlow"),
    ]


@fast
def test_tensorflows_logical_devices_may_be_numbered_otherwise(bench: Make) -> None:
    tf = TensorFlow([a_part(100, 1)], [a_part(200, 0)])
    tf.pools["GPU:0"].take(7 * MIB)
    first, second = bench(tf.modules()).batch()
    assert (first.ordinal, first.allocated_bytes, first.limit_bytes) == (1, 7 * MIB, 200 * MIB)
    assert (second.ordinal, second.allocated_bytes, second.limit_bytes) == (0, 0, 100 * MIB)


@fast
def test_an_allocator_that_can_not_be_read_is_dropped_and_said_once(bench: Make) -> None:
    tf = TensorFlow(None)
    made = bench(tf.modules())
    tf.error = RuntimeError("No allocator statistics\nand more")
    for step in range(2):
        assert made.batch(step) == []
    assert made.said == []
    made.batch(2)
    made.batch(3)
    assert made.said == ["the GPU allocator of tensorflow can't be read (RuntimeError: No allocator statistics)"]
    assert made.wrap() is made.plain


@fast
def test_a_failure_now_and_then_is_forgotten(bench: Make) -> None:
    tf = TensorFlow(None)
    made = bench(tf.modules())
    for step in range(10):
        tf.error = RuntimeError("busy") if step % 3 else None
        made.batch(step)
    assert made.said == []
    assert made.hooks is not made.plain


@fast
def test_where_peaks_can_not_be_reset_a_peak_is_known_when_it_rises(bench: Make) -> None:
    tf = TensorFlow(None)
    pool = tf.pools["GPU:0"]

    def refuse(device: str) -> None:
        raise RuntimeError("not implemented")

    made = bench(tf.modules())
    made.allocators.found[0]._reset = refuse  # type: ignore[attr-defined]  # a GPU's plug-in may lack it
    pool.take(10 * MIB)
    assert made.batch() == []
    assert [reading.peak_bytes for reading in made.batch(1)] == [None]
    pool.take(5 * MIB)
    assert [reading.peak_bytes for reading in made.batch(2)] == [15 * MIB]


@fast
@pytest.mark.parametrize("framework", ["tensorflow", "torch"])
def test_peaks_that_others_may_read_are_left_alone_if_asked_to(bench: Make, framework: str) -> None:
    tf, torch = TensorFlow(None), Torch()
    pool = tf.pools["GPU:0"] if framework == "tensorflow" else torch.pools[0]
    pool.take(10 * MIB)
    modules: dict[str, Any] = tf.modules() if framework == "tensorflow" else {"torch": torch}
    made = bench(modules, reset_peak=False)
    assert [reading.peak_bytes for reading in made.batch()] == [None]
    pool.take(5 * MIB, keep=False)
    assert [reading.peak_bytes for reading in made.batch(1)] == [15 * MIB]
    assert [reading.peak_bytes for reading in made.batch(2)] == [None]
    assert pool.resets == 0


@fast
def test_jaxs_peak_is_known_where_it_rises(bench: Make) -> None:
    device = JaxDevice(0)
    device.pool.take(100 * MIB, keep=False)
    made = bench(jax_modules(device, JaxDevice(1, "cpu")))
    device.pool.take(10 * MIB)
    assert made.batch() == [AllocatorReading(0, 10 * MIB, None, 500 * MIB, 750 * MIB, "JAX")]
    device.pool.take(95 * MIB, keep=False)
    assert made.batch(1)[0].peak_bytes == 105 * MIB
    assert made.batch(2)[0].peak_bytes is None
    device.silent = True
    assert made.batch(3) == []


@fast
def test_torch_is_asked_for_the_devices_that_it_uses(bench: Make) -> None:
    torch = Torch()
    torch.pools[1].take(10 * MIB)
    torch.pools[1].reserved = 20 * MIB
    made = bench({"torch": torch})
    torch.pools[1].take(30 * MIB, keep=False)
    assert made.batch() == [AllocatorReading(1, 10 * MIB, 40 * MIB, 40 * MIB, None, "torch")]
    torch.pools[0].take(MIB)
    torch.fraction = 0.5
    made.hooks = made.wrap()  # the next epoch
    assert [(one.ordinal, one.limit_bytes) for one in made.batch(1)] == [(0, 500 * MIB), (1, 500 * MIB)]


@fast
def test_that_torch_lives_on_the_edge_is_said_now_and_then(bench: Make) -> None:
    torch = Torch()
    torch.pools[0].take(MIB)
    made = bench({"torch": torch})
    for step in range(9):
        torch.pools[0].retries = step
        made.batch(step)
    assert [text.split(" so far")[0] for text in made.said] == [
        "torch found GPU 0 full once",
        "torch found GPU 0 full 2 times",
        "torch found GPU 0 full 4 times",
        "torch found GPU 0 full 8 times",
    ]


@fast
def test_a_framework_that_starts_within_the_first_batch_is_found_with_its_peak(bench: Make) -> None:
    torch = Torch()
    torch.started = False
    made = bench({"torch": torch})
    assert made.batch() == []
    torch.started = True
    torch.pools[0].take(30 * MIB, keep=False)
    assert [(one.allocated_bytes, one.peak_bytes) for one in made.batch(1)] == [(0, 30 * MIB)]


@fast
def test_a_framework_that_never_starts_is_looked_for_a_few_times_only(bench: Make) -> None:
    looks: list[int] = []

    def started() -> bool:
        looks.append(1)
        return False

    made = bench(jax_modules(started=started))
    for step in range(20):
        made.batch(step)
    assert len(looks) == 1 + 8
    assert made.wrap() is made.plain


@fast
def test_only_sampled_batches_ask_and_the_last_one_is_not_forgotten(bench: Make) -> None:
    tf = TensorFlow(None)
    made = bench(tf.modules(), every=3)
    for step in range(5):
        tf.pools["GPU:0"].take((5 - step) * MIB, keep=False)
        made.hooks.end(step)
    assert made.records() == [(Mark.ALLOCATOR, 2), (Mark.BATCH, 2)]
    assert made.last[0].peak_bytes == 5 * MIB
    made.hooks.flush()
    made.hooks.flush()
    assert made.records() == [(Mark.ALLOCATOR, 4), (Mark.BATCH, 4)]
    assert made.last[0].peak_bytes == 2 * MIB


@fast
def test_batches_that_end_at_once_do_not_wait_for_each_other(bench: Make) -> None:
    tf = TensorFlow(None)
    made = bench(tf.modules())
    inside, go_on = threading.Event(), threading.Event()
    info = made.allocators.found[0]._info  # type: ignore[attr-defined]

    def slow(device: str) -> Any:
        inside.set()
        assert go_on.wait(10)
        return info(device)

    made.allocators.found[0]._info = slow  # type: ignore[attr-defined]
    thread = threading.Thread(target=made.hooks.end, args=(0,))
    thread.start()
    assert inside.wait(10)
    made.hooks.end(1)
    go_on.set()
    thread.join()
    assert made.records() == [(Mark.BATCH, 1), (Mark.ALLOCATOR, 0), (Mark.BATCH, 0)]


@fast
def test_what_a_signals_handler_raises_inside_is_not_ours_to_keep(bench: Make) -> None:
    tf = TensorFlow(None)
    made = bench(tf.modules())
    tf.__file__ = "/elsewhere/tensorflow/__init__.py"
    tf.error = TimeoutError("the user's alarm")
    made.hooks.end(0)
    assert made.errors == [tf.error]
    assert made.records() == [(Mark.BATCH, 0)]


@fast
def test_after_the_end_nothing_is_asked(bench: Make) -> None:
    tf = TensorFlow(None)
    made = bench(tf.modules())
    made.allocators.stop()
    tf.error = RuntimeError("CUDA in a forked child")
    assert made.batch() == []
    assert made.wrap() is made.plain


REAL = """
import json, sys, warnings
import {framework} as framework
from oomcast.allocator import Allocators
warnings.simplefilter("error")
said, loaded = [], set(sys.modules)
allocators = Allocators(said.append)
allocators.look()
started = {started}
new = sorted(set(sys.modules) - loaded)
{start}
allocators.look()
print(json.dumps([started, new, said, len(allocators.found), allocators._pending]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "started", "start"),
    [
        ("tensorflow", "sys.modules['tensorflow.python.eager.context']._context is not None", "framework.constant(1)"),
        ("jax", "framework._src.xla_bridge.backends_are_initialized()", "framework.numpy.ones(3)"),
    ],
)
def test_a_real_framework_without_a_gpu_is_not_started_and_nothing_is_found(
    home: Path, framework: str, started: str, start: str
) -> None:
    pytest.importorskip(framework, reason=f"{framework} is not installed")
    code = REAL.format(framework=framework, started=started, start=start)
    environment = clean_environment(home, JAX_PLATFORMS="cpu")
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    was_started, new, said, found, pending = json.loads(run.stdout)
    assert (was_started, said, found, pending) == (False, [], 0, False)
    assert new == ["oomcast.frameworks"]


@pytest.mark.slow
def test_the_stand_in_has_the_signatures_of_tensorflow() -> None:
    tf = pytest.importorskip("tensorflow", reason="tensorflow is not installed")
    ours = TensorFlow(None)
    for name in ("list_physical_devices", "get_visible_devices", "list_logical_devices"):
        assert "device_type" in inspect.signature(getattr(tf.config, name)).parameters
    assert list(inspect.signature(tf.config.get_logical_device_configuration).parameters) == ["device"]
    for name in ("get_memory_info", "reset_memory_stats"):
        real = inspect.signature(getattr(tf.config.experimental, name)).parameters
        assert list(inspect.signature(getattr(ours.config.experimental, name)).parameters) == list(real)
    assert tf.config.LogicalDeviceConfiguration(memory_limit=5)._asdict() == vars(a_part(5))
    assert tf.config.get_logical_device_configuration(tf.config.list_physical_devices("CPU")[0]) is None
