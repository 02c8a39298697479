"""GPUs as the driver sees them, through NVML: memory, the process's own share, load, errors.

No GPU, no driver, no permission: one honest word, no exception, no zero. NVML is the part of the driver that
`nvidia-smi` asks: https://docs.nvidia.com/deploy/nvml-api/
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from oomcast.probes.gpu_limits import gpu_limits
from oomcast.probes.visibility import Card, visible
from oomcast.probes.xid import GpuFault, XidWatch, xid_text
from oomcast.sample import GpuReading
from oomcast.wire import GpuDevice

__all__ = ["GpuFault", "GpuProbe", "gpu_limits"]

# `nvmlReturn_t`: what the user can do something about, in words.
_REASONS = {
    4: "no permission to ask the NVIDIA driver",
    9: "the NVIDIA driver is not loaded",
    12: "no NVIDIA driver: its library NVML is not there",
    18: "the NVIDIA driver and its library are of different versions: restart after an update",
}
# PROC_PID_INIT_INO of the kernel's include/linux/proc_ns.h: the pid namespace of the host itself.
_HOST_PIDS = "pid:[4026531836]"


class _Memory(NamedTuple):
    """Of one device, in bytes; None where it isn't told."""

    used: int | None = None
    total: int | None = None
    reserved: int | None = None


class _Watched(NamedTuple):
    """One device that the training may use."""

    device: GpuDevice
    handle: Any
    card_uuid: str
    gpu_instance: int | None  # NVML's number of the slice's GPU instance; None: the whole card


class GpuProbe:
    """NVML, opened once. `note` says in words why there are no devices; None where there are some."""

    def __init__(
        self, nvml: Any = None, visible: str | None = None, order: str | None = None, root: Path = Path("/")
    ) -> None:
        """Open NVML.

        Args:
            nvml: stands in for the module `pynvml`.
            visible: the training's CUDA_VISIBLE_DEVICES; None where it is not set, which shows all.
            order: its CUDA_DEVICE_ORDER.
            root: the file system's root.
        """
        self._nvml = nvml
        self._handles: dict[str, tuple[Any, str, int | None]] = {}  # by UUID, with the card's and the GPU instance
        self._watched: list[_Watched] = []
        self._xids: XidWatch | None = None
        self._sees_pids = _sees_host_pids(root)
        self.note: str | None = None
        try:
            if self._nvml is None:
                import pynvml

                self._nvml = pynvml
            self._nvml.nvmlInit()
            self._watch(self._cards(), visible, order)
        except ImportError:
            self.note = "no GPU seen (nvidia-ml-py is not installed)"
        except Exception as error:  # NVML's own errors are made at import and can't be named before
            self.note = f"no GPU seen ({_plain(error)})"

    @property
    def devices(self) -> list[GpuDevice]:
        """The devices that the training may use: others are not its concern."""
        return [watched.device for watched in self._watched]

    @property
    def xids_watched(self) -> bool:
        """Whether the driver tells of errors."""
        return bool(self._xids and self._xids.registered)

    def _cards(self) -> list[Card]:
        cards: list[Card] = []
        count = self._nvml.nvmlDeviceGetCount()
        errors: list[Exception] = []
        for index in range(count):
            try:
                cards.append(self._card(index, self._nvml.nvmlDeviceGetHandleByIndex(index)))
            except Exception as error:  # of this card only: no permission, or it has fallen off the bus
                errors.append(error)
        if not cards:
            self.note = f"no GPU seen ({_plain(errors[0])})" if errors else "no GPU seen (the driver knows of none)"
        return cards

    def _card(self, index: int, handle: Any) -> Card:
        uuid = _text(self._nvml.nvmlDeviceGetUUID(handle))
        name = _text(self._nvml.nvmlDeviceGetName(handle))
        self._handles[uuid] = (handle, uuid, None)
        device = GpuDevice(device=index, uuid=uuid, name=name, total_bytes=self._memory(handle).total, index=index)
        sliced = False
        with contextlib.suppress(Exception):  # before Ampere there is no such mode
            sliced = self._nvml.nvmlDeviceGetMigMode(handle)[0] == self._nvml.NVML_DEVICE_MIG_ENABLE
        return Card(device, tuple(self._slices(device, handle)) if sliced else (), sliced)

    def _slices(self, card: GpuDevice, handle: Any) -> list[GpuDevice]:
        slices: list[GpuDevice] = []
        for place in range(self._nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            with contextlib.suppress(Exception):  # that place is free
                part = self._nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
                uuid = _text(self._nvml.nvmlDeviceGetUUID(part))
                self._handles[uuid] = (part, card.uuid, self._gpu_instance(part))
                slices.append(
                    GpuDevice(
                        device=card.device,
                        uuid=uuid,
                        name=card.name,
                        total_bytes=self._memory(part).total,
                        index=card.index,
                        instance=self._profile(part),
                    )
                )
        return slices

    def _gpu_instance(self, handle: Any) -> int | None:
        with contextlib.suppress(Exception):
            return int(self._nvml.nvmlDeviceGetGpuInstanceId(handle))
        return None

    def _profile(self, handle: Any) -> str:
        # "NVIDIA A100-SXM4-40GB MIG 1g.5gb"
        with contextlib.suppress(Exception):
            _, mark, profile = _text(self._nvml.nvmlDeviceGetName(handle)).rpartition(" MIG ")
            if mark and profile:
                return profile
        with contextlib.suppress(Exception):
            parts = self._nvml.nvmlDeviceGetAttributes(handle)
            return f"{parts.gpuInstanceSliceCount}g.{round(parts.memorySizeMB / 1024)}gb"
        return "slice"

    def _watch(self, cards: list[Card], listed: str | None, order: str | None) -> None:
        for device in visible(cards, listed, order):
            self._watched.append(_Watched(device, *self._handles[device.uuid]))
        if cards and not self._watched:
            self.note = f"no GPU seen ({_hidden(cards, listed)})"
        uuids = dict.fromkeys(watched.card_uuid for watched in self._watched)
        if uuids:
            self._xids = XidWatch(self._nvml, [(self._handles[uuid][0], uuid) for uuid in uuids])

    def read(self, seq: int, pids: Collection[int]) -> list[GpuReading]:
        """Every device now; what can't be read is None.

        Args:
            seq: of the tick that the readings belong to.
            pids: the processes whose share is asked for: the training and its children.
        """
        return [self._read(seq, pids, watched.device.device, watched.handle) for watched in self._watched]

    def _read(self, seq: int, pids: Collection[int], device: int, handle: Any) -> GpuReading:
        memory = self._memory(handle)
        return GpuReading(
            seq,
            device,
            used_bytes=memory.used,
            total_bytes=memory.total,
            process_bytes=self._share(handle, pids) if self._sees_pids else None,
            utilization_percent=self._busy(handle),
            reserved_bytes=memory.reserved,
            ecc_errors=self._ecc(handle),
        )

    def _memory(self, handle: Any) -> _Memory:
        with contextlib.suppress(Exception):
            memory = self._nvml.nvmlDeviceGetMemoryInfo(handle, version=self._nvml.nvmlMemory_v2)
            # Drivers differ in whether `used` has the reserved part in it; `free` is the same in all.
            used = int(memory.total) - int(memory.reserved) - int(memory.free)
            return _Memory(max(0, used), int(memory.total), int(memory.reserved))
        with contextlib.suppress(Exception):  # drivers before R510
            memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            return _Memory(int(memory.used), int(memory.total))
        return _Memory()

    def _share(self, handle: Any, pids: Collection[int]) -> int | None:
        sizes: dict[int, int] = {}  # a process that computes and draws stands in both lists, with the same figure
        for ask in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
            with contextlib.suppress(Exception):
                for process in getattr(self._nvml, ask)(handle):
                    # None under Windows' driver model, and on some slices; 0 where the driver won't say.
                    if process.pid in pids and process.usedGpuMemory:
                        sizes[process.pid] = max(sizes.get(process.pid, 0), int(process.usedGpuMemory))
        return sum(sizes.values()) or None

    def _busy(self, handle: Any) -> int | None:
        with contextlib.suppress(Exception):  # not on slices
            percent = int(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
            return percent if 0 <= percent <= 100 else None
        return None

    def _ecc(self, handle: Any) -> int | None:
        with contextlib.suppress(Exception):  # not without ECC, as on most consumer cards
            kind, since_load = self._nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, self._nvml.NVML_VOLATILE_ECC
            return int(self._nvml.nvmlDeviceGetTotalEccErrors(handle, kind, since_load))
        return None

    def faults(self) -> list[GpuFault]:
        """Errors that the driver reported of these devices since the last call, by whichever program; never waits."""
        heard = self._xids.read() if self._xids else []
        return [
            GpuFault(watched.device.device, xid, xid_text(xid))
            for uuid, instance, xid in heard
            for watched in self._watched
            if _concerns(watched, uuid, instance)
        ]

    def close(self) -> None:
        """Give NVML back."""
        if self._xids:
            self._xids.close()
        with contextlib.suppress(Exception):
            self._nvml.nvmlShutdown()


def _concerns(watched: _Watched, uuid: str, instance: int | None) -> bool:
    # A card that no longer says which it is concerns all; an error of another slice of the same card does not.
    if uuid not in ("", watched.card_uuid):
        return False
    return instance is None or watched.gpu_instance is None or instance == watched.gpu_instance


def _sees_host_pids(root: Path) -> bool:
    """Whether the pids that NVML tells, which are the host's, mean the same processes here: not in most containers."""
    try:
        return os.readlink(root / "proc/self/ns/pid") == _HOST_PIDS
    except OSError:
        return not (root / "proc/self").exists()  # Windows, where there are no such namespaces


def _hidden(cards: list[Card], listed: str | None) -> str:
    if listed is None or all(card.sliced and not card.slices for card in cards):
        return "in MIG mode, and there is no slice that may be used here"
    count = f"all {len(cards)} of this machine" if len(cards) > 1 else "the one of this machine"
    return f"CUDA_VISIBLE_DEVICES={listed[:80]!r} hides {count}"


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _plain(error: Exception) -> str:
    reason = _REASONS.get(getattr(error, "value", -1))
    return reason or str(error).strip() or type(error).__name__
