"""GPU memory of each device, through NVML. No GPU, no driver, no permission: one honest word, no exception, no zero."""

from __future__ import annotations

import contextlib
from typing import Any

from oomcast.sample import GpuReading
from oomcast.wire import GpuDevice

__all__ = ["GpuProbe"]


class GpuProbe:
    """NVML, opened once. `note` says in words why there are no devices; None where there are some."""

    def __init__(self, nvml: Any = None) -> None:
        """Open NVML.

        Args:
            nvml: stands in for the module `pynvml`.
        """
        self._nvml = nvml
        self._handles: list[Any] = []
        self.devices: list[GpuDevice] = []
        self.note: str | None = None
        try:
            if self._nvml is None:
                import pynvml

                self._nvml = pynvml
            self._nvml.nvmlInit()
            self._find()
        except ImportError:
            self.note = "no GPU seen: nvidia-ml-py is not installed"
        except Exception as error:  # NVML's own errors are made at import and can't be named before
            self.note = f"no GPU seen ({_plain(error)})"
        if not self.devices and self.note is None:
            self.note = "no GPU seen (the driver knows of none)"

    def _find(self) -> None:
        for index in range(self._nvml.nvmlDeviceGetCount()):
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            self._handles.append(handle)
            self.devices.append(
                GpuDevice(
                    device=index,
                    uuid=_text(self._nvml.nvmlDeviceGetUUID(handle)),
                    name=_text(self._nvml.nvmlDeviceGetName(handle)),
                    total_bytes=self._memory(handle)[1],
                )
            )

    def read(self, seq: int, pid: int) -> list[GpuReading]:
        """Every device now; what can't be read is None.

        Args:
            seq: of the tick that the readings belong to.
            pid: the process whose own share is asked for; unknown in most containers, where NVML has the host's pids.
        """
        readings = []
        for device, handle in zip(self.devices, self._handles, strict=True):
            used, total = self._memory(handle)
            readings.append(GpuReading(seq, device.device, used, total, self._share(handle, pid), self._busy(handle)))
        return readings

    def _memory(self, handle: Any) -> tuple[int | None, int | None]:
        with contextlib.suppress(Exception):
            memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            return int(memory.used), int(memory.total)
        return None, None

    def _share(self, handle: Any, pid: int) -> int | None:
        with contextlib.suppress(Exception):
            for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(handle):
                # None under Windows' driver model; 0 where the driver won't say.
                if process.pid == pid and process.usedGpuMemory:
                    return int(process.usedGpuMemory)
        return None

    def _busy(self, handle: Any) -> int | None:
        with contextlib.suppress(Exception):
            return int(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        return None

    def close(self) -> None:
        """Give NVML back."""
        with contextlib.suppress(Exception):
            self._nvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _plain(error: Exception) -> str:
    return str(error).strip() or type(error).__name__
