"""Whether an exception says that an allocation failed, and of which memory (pure).

Sources of the texts: TensorFlow's BFC allocator and `ResourceExhaustedError`, XLA's status RESOURCE_EXHAUSTED, torch's
`OutOfMemoryError` and CPU allocator, numpy's `_ArrayMemoryError`, errno 12 of the C library.
"""

from __future__ import annotations

import enum
import re

__all__ = ["Memory", "exhausted"]


class Memory(str, enum.Enum):
    """What ran out."""

    HOST = "memory"
    GPU = "GPU memory"
    SHARED = "shared memory (/dev/shm)"
    UNKNOWN = "memory (the message does not say whether the GPU's or the host's)"


_HOST_TYPES = re.compile(r"(?:^|\.)_?(?:Array)?MemoryError$")
_DEVICE_TYPES = re.compile(r"(?:^|\.)(?:ResourceExhaustedError|OutOfMemoryError)$")
_HOST_TEXTS = re.compile(
    r"DefaultCPUAllocator: (?:can't allocate|not enough) memory|^Unable to allocate [\d.]+ \w+ for an array"
    r"|\[Errno 12\]|Cannot allocate memory|std::bad_alloc"
)
_GPU_TEXTS = re.compile(
    r"(?:CUDA|HIP|MPS backend|XPU) out of memory|CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation"
    r"|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED"
)
_SHARED_TEXTS = re.compile(
    r"insufficient shared memory \(shm\)|unable to (?:write to|mmap|allocate shared memory).*/torch_"
)
_EXHAUSTED = re.compile(r"RESOURCE_EXHAUSTED|OOM when allocating")
_ON_HOST = re.compile(r"device:CPU:\d|by allocator cpu|by cpu|\bHost memory\b")
_ON_GPU = re.compile(r"device:GPU:\d|GPU_\d+_bfc|\bCUDA\b|\bcuda\b|\bGPU\b|\bHBM\b")


def exhausted(kind: str, message: str, chain: str = "", *, gpus: bool = False) -> Memory | None:
    """Which memory an exception says could not be allocated; None: it is about something else.

    Args:
        kind: its type, with the module's name.
        message: its text.
        chain: the types of those that led to it, with ";" between them: where numpy fails inside a layer, Keras's
            RuntimeError shows a shape, and only what stands behind it is a MemoryError.
        gpus: the process could see GPUs, so that a text which names no device may mean one.
    """
    if _SHARED_TEXTS.search(message):
        return Memory.SHARED
    if _GPU_TEXTS.search(message):
        return Memory.GPU
    if _HOST_TYPES.search(kind) or _HOST_TEXTS.search(message):
        return Memory.HOST
    if _DEVICE_TYPES.search(kind) or _EXHAUSTED.search(message):
        return _device(kind, message, gpus)
    return _behind(chain, message, gpus)


def _device(kind: str, message: str, gpus: bool) -> Memory:
    if _ON_HOST.search(message):
        return Memory.HOST
    if _ON_GPU.search(message) or kind.startswith("torch."):
        return Memory.GPU
    return Memory.UNKNOWN if gpus else Memory.HOST


def _behind(chain: str, message: str, gpus: bool) -> Memory | None:
    for kind in filter(None, chain.split(";")):
        if _HOST_TYPES.search(kind):
            return Memory.HOST
        if _DEVICE_TYPES.search(kind):
            return _device(kind, message, gpus)
    return None
