"""What of a training's GPUs can run out: device or MIG slice, and the cap of the framework's allocator (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from oomcast.sample import GpuReading
from oomcast.wire import GpuDevice, LimitState

__all__ = ["gpu_limits"]


def gpu_limits(
    devices: Sequence[GpuDevice], readings: Iterable[GpuReading], framework: str | None = None
) -> list[LimitState]:
    """The limits of the devices that the training is known to use.

    Known by its own share or by its allocator: what others fill a device with that it doesn't use will not stop it.

    Args:
        devices: all it may use.
        readings: the newest of each device, with the newest figures of the allocator in it.
        framework: whose allocator it is ("JAX"), where known.
    """
    names = {device.device: _name(device) for device in devices}
    found: list[LimitState] = []
    for reading in readings:
        if reading.process_bytes is None and reading.allocated_bytes is None:
            continue
        name = names.get(reading.device, f"GPU {reading.device}")
        found += [limit for limit in (_device(name, reading), _cap(name, reading, framework)) if limit]
    return found


def _name(device: GpuDevice) -> str:
    return f"GPU {device.device}" if device.instance is None else f"GPU {device.device} (MIG {device.instance})"


def _device(name: str, reading: GpuReading) -> LimitState | None:
    used = _used_bytes(reading)
    if reading.total_bytes is None or used is None:
        return None
    limit = reading.total_bytes - (reading.reserved_bytes or 0)
    return LimitState(kind=name, limit_bytes=limit, used_bytes=max(0, used))


def _used_bytes(reading: GpuReading) -> int | None:
    """What is used of the device, without what the allocator has taken but not given to any tensor.

    TensorFlow and JAX take most of a device at their start: that it is taken says nothing of what is left to them.
    """
    used, allocated, pool = reading.used_bytes, reading.allocated_bytes, reading.pool_bytes
    if allocated is None:
        return used
    # Where the pool isn't told (TensorFlow), the process's share is the pool and its context; without either, what
    # others use is not known, and the tensors are the least that is used.
    taken = reading.process_bytes if pool is None else pool
    if used is None or taken is None:
        return allocated
    return max(allocated, used - taken + allocated)


def _cap(name: str, reading: GpuReading, framework: str | None) -> LimitState | None:
    if reading.allocator_limit_bytes is None or reading.allocated_bytes is None:
        return None
    whose = f"{framework}'s cap" if framework else "the framework's cap"
    kind = f"{name[:-1]}, {whose})" if name.endswith(")") else f"{name} ({whose})"
    return LimitState(kind=kind, limit_bytes=reading.allocator_limit_bytes, used_bytes=reading.allocated_bytes)
