"""The frameworks' own GPU allocators, each asked in its own words.

Nothing here imports a framework or makes one start its GPU: only those are asked that are loaded and use one already.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

from oomcast.allocator import Allocator, AllocatorReading

__all__ = ["FRAMEWORKS", "JaxAllocator", "TensorFlowAllocator", "TorchAllocator", "find_allocator"]

FRAMEWORKS = ("tensorflow", "jax", "torch")
"""By the names of their modules."""

_MIB = 1 << 20


class _Peaks:
    """Peaks of a counter that can't be reset: known only where it rose."""

    def __init__(self) -> None:
        self._last: dict[int, int] = {}

    def since_last(self, ordinal: int, peak: int | None) -> int | None:
        """`peak` if it is larger than at the last call; else the batch's own was smaller, and isn't known."""
        if peak is None:
            return None
        last, self._last[ordinal] = self._last.get(ordinal, 0), peak
        return peak if peak > last else None


class TensorFlowAllocator:
    """TensorFlow's, by `tf.config.experimental.get_memory_info` and `reset_memory_stats` (GPU and TPU only)."""

    framework = "TensorFlow"

    def __init__(self, tf: Any, *, reset_peak: bool = True) -> None:
        """Look which logical devices there are, and what they may hold.

        Args:
            tf: the module, its context initialised.
            reset_peak: whether its peaks may be reset.
        """
        self.module = tf
        self._info = tf.config.experimental.get_memory_info
        self._reset = tf.config.experimental.reset_memory_stats if reset_peak else None
        self._peaks = _Peaks()
        self._devices = _tensorflow_devices(tf)

    def __bool__(self) -> bool:
        return bool(self._devices)

    def read(self) -> list[AllocatorReading]:
        """See `Allocator`. It doesn't tell the size of its pool."""
        readings = []
        for ordinal, names, limit in self._devices:
            infos = [self._info(name) for name in names]
            allocated = sum(int(info["current"]) for info in infos)
            # Parts of one card have their peaks at different times: the card's own isn't known.
            peak = int(infos[0]["peak"]) if len(infos) == 1 else None
            rose = self._peaks.since_last(ordinal, peak)
            peak = rose if self._reset is None else peak
            readings.append(AllocatorReading(ordinal, allocated, peak, None, limit, self.framework))
        self._reset_all()
        return readings

    def rearm(self) -> None:
        """See `Allocator`."""
        if self._reset is None:
            self.read()
        self._reset_all()

    def _reset_all(self) -> None:
        if self._reset is None:
            return
        try:
            for _, names, _ in self._devices:
                for name in names:
                    self._reset(name)
        except Exception:
            self._reset = None  # from now on a peak is known where it rises
            raise

    def look(self) -> None:
        """See `Allocator`: all are known from the start."""


def _tensorflow_devices(tf: Any) -> list[tuple[int, list[str], int | None]]:
    """(Place of the card among those that TensorFlow sees, names of its logical devices, their limit in bytes).

    Logical devices are numbered by card, or by `experimental_device_ordinal`: `tf.config.LogicalDeviceConfiguration`.
    """
    cards = tf.config.list_physical_devices("GPU")
    parts: list[tuple[int, int, int | None]] = []  # to sort by, card, limit in MB
    for ordinal, card in enumerate(cards):
        if card not in tf.config.get_visible_devices("GPU"):
            continue
        for part in tf.config.get_logical_device_configuration(card) or [None]:
            first = getattr(part, "experimental_device_ordinal", None) or 0
            parts.append((first, ordinal, getattr(part, "memory_limit", None)))
    parts.sort(key=lambda part: part[:2])
    logical = len(tf.config.list_logical_devices("GPU"))
    if logical != len(parts):  # some strategy has made them otherwise
        return [(index, [f"GPU:{index}"], None) for index in range(logical)]
    devices: dict[int, tuple[list[str], list[int | None]]] = {}
    for index, (_, ordinal, limit) in enumerate(parts):
        names, limits = devices.setdefault(ordinal, ([], []))
        names.append(f"GPU:{index}")
        limits.append(limit)
    return [
        (ordinal, names, None if None in limits else sum(limit or 0 for limit in limits) * _MIB)
        for ordinal, (names, limits) in devices.items()
    ]


class JaxAllocator:
    """JAX's, by `jax.Device.memory_stats()`. Its peak can't be reset."""

    framework = "JAX"

    def __init__(self, jax: Any) -> None:
        """Look which devices are this process's.

        Args:
            jax: the module, its backends initialised.
        """
        self.module = jax
        self._peaks = _Peaks()
        devices = [device for device in jax.local_devices() if device.platform in ("gpu", "cuda", "rocm")]
        self._devices = [(_jax_ordinal(device, place), device) for place, device in enumerate(devices)]

    def __bool__(self) -> bool:
        return bool(self._devices)

    def read(self) -> list[AllocatorReading]:
        """See `Allocator`. A device whose allocator says nothing (XLA_PYTHON_CLIENT_ALLOCATOR=platform) is left out."""
        return [
            AllocatorReading(
                ordinal,
                _known(stats.get("bytes_in_use")),
                self._peaks.since_last(ordinal, _known(stats.get("peak_bytes_in_use"))),
                _known(stats.get("pool_bytes")),
                _known(stats.get("bytes_limit")) or None,
                self.framework,
            )
            for ordinal, device in self._devices
            if (stats := device.memory_stats())
        ]

    def rearm(self) -> None:
        """See `Allocator`: from here on a peak counts only if it is larger than any before."""
        self.read()

    def look(self) -> None:
        """See `Allocator`: all are known from the start."""


def _jax_ordinal(device: Any, place: int) -> int:
    number = getattr(device, "local_hardware_id", None)  # "the CUDA device number"
    return number if isinstance(number, int) and number >= 0 else place


class TorchAllocator:
    """torch's, by `torch.cuda.memory_stats_as_nested_dict`: `memory_stats` would flatten and sort it for nothing."""

    framework = "torch"

    def __init__(self, torch: Any, say: Callable[[str], None], *, reset_peak: bool = True) -> None:
        """Look which devices are used.

        Args:
            torch: the module, CUDA initialised.
            say: told when the allocator had to scrape memory together.
            reset_peak: whether its peaks may be reset.
        """
        self.module = torch
        self._say = say
        self._stats = torch.cuda.memory_stats_as_nested_dict
        self._reset = torch.cuda.reset_peak_memory_stats if reset_peak else None
        self._peaks = _Peaks()
        self._retries: dict[int, int] = {}
        self._limits: dict[int, int | None] = {}
        self.look()

    def look(self) -> None:
        """Find the devices in use anew, and their caps. One that nothing was ever allocated on has no pool."""
        devices = range(self.module.cuda.device_count())
        used = [one for one in devices if one in self._limits or _of_torch(self._stats(one), "reserved_bytes")]
        self._limits = {one: self._limit(one) for one in used}  # a new one, since others may be walking the old one

    def _limit(self, ordinal: int) -> int | None:
        with contextlib.suppress(Exception):  # torch before 2.6 can't say
            fraction = self.module.cuda.get_per_process_memory_fraction(ordinal)
            if 0 < fraction < 1:
                return int(self.module.cuda.get_device_properties(ordinal).total_memory * fraction)
        return None

    def read(self) -> list[AllocatorReading]:
        """See `Allocator`."""
        if not self._limits:
            self.look()
        readings = []
        for ordinal, limit in self._limits.items():
            stats = self._stats(ordinal)
            peak = _of_torch(stats, "allocated_bytes", "peak")
            rose = self._peaks.since_last(ordinal, peak)
            peak = rose if self._reset is None else peak
            allocated, pool = _of_torch(stats, "allocated_bytes"), _of_torch(stats, "reserved_bytes")
            readings.append(AllocatorReading(ordinal, allocated, peak, pool, limit, self.framework))
            self._hear(ordinal, stats)
        self._reset_all()
        return readings

    def _hear(self, ordinal: int, stats: Mapping[str, Any]) -> None:
        # How often an allocation failed at first, and was tried again with all that lay idle given back.
        retries, told = int(stats.get("num_alloc_retries", 0)), self._retries.get(ordinal, 0)
        if retries >= max(1, 2 * told):  # 1, 2, 4 …: not at every batch of a training that lives on the edge
            self._retries[ordinal] = retries
            times = "once" if retries == 1 else f"{retries} times"
            self._say(f"torch found GPU {ordinal} full {times} so far, and gave idle memory back to go on")

    def rearm(self) -> None:
        """See `Allocator`."""
        if self._reset is None:
            self.read()
        self._reset_all()

    def _reset_all(self) -> None:
        if self._reset is None:
            return
        try:
            for ordinal in self._limits:
                self._reset(ordinal)
        except Exception:
            self._reset = None
            raise


def _of_torch(stats: Mapping[str, Any], name: str, kind: str = "current") -> int | None:
    with contextlib.suppress(KeyError, TypeError):
        return _known(stats[name]["all"][kind])
    return None


def _known(value: Any) -> int | None:
    # JAX says -1 for what it doesn't know.
    return int(value) if value is not None and value >= 0 else None


def find_allocator(
    framework: str, modules: Mapping[str, Any], say: Callable[[str], None], *, reset_peak: bool = True
) -> tuple[Allocator | None, bool]:
    """The allocator of a framework that uses a GPU now; or None, and whether it may still begin to use one.

    Args:
        framework: one of `FRAMEWORKS`.
        modules: `sys.modules`, or what stands in for it.
        say: told what the user should know, in words.
        reset_peak: whether peaks may be reset, which others in the process may read too.

    Raises:
        Exception: whatever the framework raises.
    """
    module = modules.get(framework)
    if module is None:
        return None, False
    started, may_start = _STATES[framework](module, modules)
    if not started:
        return None, may_start
    if framework == "torch":
        return TorchAllocator(module, say, reset_peak=reset_peak), False
    if framework == "jax":
        return JaxAllocator(module) or None, False
    return TensorFlowAllocator(module, reset_peak=reset_peak) or None, False


# Whether a framework has started its devices, and whether it may start a GPU yet. Asking for the devices would start
# them, and only torch says so by a public name; where the others' private ones are gone, they are not asked at all.


def _tensorflow_state(tf: Any, modules: Mapping[str, Any]) -> tuple[bool, bool]:
    context = getattr(modules.get("tensorflow.python.eager.context"), "_context", None)
    return getattr(context, "_context_handle", None) is not None, bool(tf.test.is_built_with_gpu_support())


def _jax_state(jax: Any, modules: Mapping[str, Any]) -> tuple[bool, bool]:
    started = getattr(modules.get("jax._src.xla_bridge"), "backends_are_initialized", None)
    # TensorFlow loads JAX where it is installed, mostly a build that only computes on the CPU: GPUs come by a plug-in.
    plugin = "jax_plugins" in modules or importlib.util.find_spec("jax_plugins") is not None
    return started is not None and bool(started()), plugin


def _torch_state(torch: Any, modules: Mapping[str, Any]) -> tuple[bool, bool]:
    built = getattr(torch.version, "cuda", None) or getattr(torch.version, "hip", None)
    return bool(torch.cuda.is_initialized()), built is not None


_STATES = {"tensorflow": _tensorflow_state, "jax": _jax_state, "torch": _torch_state}
