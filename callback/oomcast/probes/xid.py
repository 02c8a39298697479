"""Errors that the NVIDIA driver reports of its devices: Xids, through NVML's events."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any, NamedTuple

__all__ = ["GpuFault", "XidWatch", "xid_text"]

# The better known ones, after NVIDIA's Xid catalogue: https://docs.nvidia.com/deploy/xid-errors/
_TEXTS = {
    13: "graphics engine exception, mostly a program's access out of bounds",
    31: "GPU memory page fault, mostly a program's access to memory that is not its own",
    32: "invalid or corrupted push buffer stream",
    38: "driver firmware error",
    43: "GPU stopped processing: a program made an error and was ended, the GPU itself is well",
    45: "preemptive clean-up: a program ended, or was ended, with work still on the GPU",
    48: "double-bit ECC error: memory of the GPU lost its content",
    61: "internal micro-controller breakpoint or warning",
    62: "internal micro-controller halt",
    63: "ECC page retirement or row remapping was recorded: a bad place in the GPU's memory is taken out of use",
    64: "ECC page retirement or row remapping could not be recorded",
    69: "graphics engine class error",
    74: "NVLink error",
    79: "GPU has fallen off the bus: it can't be reached any more",
    92: "high rate of single-bit ECC errors",
    94: "contained ECC error: only the programs that used that memory are affected",
    95: "uncontained ECC error: all programs on the GPU are affected, it must be reset",
    109: "context switch timeout",
    119: "the GPU's system processor (GSP) doesn't answer",
    120: "error of the GPU's system processor (GSP)",
    121: "chip-to-chip link (C2C) error",
    140: "unrecovered ECC error",
    154: "the driver says that the GPU needs a recovery action",
}
_NO_INSTANCE = 0xFFFFFFFF
# So many at once are a storm, and the rest of it says nothing new.
_MOST_FAULTS = 16


class GpuFault(NamedTuple):
    """One error that the driver reported."""

    device: int  # `GpuDevice.device`
    xid: int
    text: str


def xid_text(xid: int) -> str:
    """What an Xid means, in words."""
    meaning = _TEXTS.get(xid, "see NVIDIA's Xid catalogue")
    return f"the driver reported Xid {xid}: {meaning}"


class XidWatch:
    """NVML's event set for some cards. Where it isn't supported (Windows, some virtual GPUs), nothing is ever heard."""

    def __init__(self, nvml: Any, cards: Iterable[tuple[Any, str]]) -> None:
        """Register.

        Args:
            nvml: the module `pynvml`, initialised.
            cards: (handle, UUID) of each card, whole cards also where a slice is used.
        """
        self._nvml = nvml
        self._set: Any = None
        self.registered = 0  # cards that are watched
        with contextlib.suppress(Exception):
            self._set = nvml.nvmlEventSetCreate()
        for handle, _ in cards if self._set is not None else ():
            with contextlib.suppress(Exception):
                wanted = nvml.nvmlEventTypeXidCriticalError
                if nvml.nvmlDeviceGetSupportedEventTypes(handle) & wanted:
                    nvml.nvmlDeviceRegisterEvents(handle, wanted, self._set)
                    self.registered += 1

    def read(self) -> list[tuple[str, int | None, int]]:
        """(UUID of the card, GPU instance id or None, Xid) of each error since the last call; never waits."""
        heard: list[tuple[str, int | None, int]] = []
        # Ends with NVML's timeout error when there is none, or with whatever else is wrong.
        with contextlib.suppress(Exception):
            while self.registered and len(heard) < _MOST_FAULTS:
                event = self._nvml.nvmlEventSetWait_v2(self._set, 0)
                if event.eventType == self._nvml.nvmlEventTypeXidCriticalError:
                    heard.append((self._uuid(event), _instance(event), int(event.eventData)))
        return heard

    def _uuid(self, event: Any) -> str:
        with contextlib.suppress(Exception):  # a card that has fallen off the bus may not even say its name
            uuid = self._nvml.nvmlDeviceGetUUID(event.device)
            return uuid.decode() if isinstance(uuid, bytes) else str(uuid)
        return ""

    def close(self) -> None:
        """Give the event set back."""
        if self._set is not None:
            with contextlib.suppress(Exception):
                self._nvml.nvmlEventSetFree(self._set)


def _instance(event: Any) -> int | None:
    number = getattr(event, "gpuInstanceId", _NO_INSTANCE)
    return None if number == _NO_INSTANCE else int(number)
