"""What the agent sees of the training from outside: the process and its children, limits, pressure, GPUs."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence

from oomcast.agent.assembler import Outside
from oomcast.probes import process as processes
from oomcast.probes.children import Child, ChildrenProbe
from oomcast.probes.gpu import GpuFault, GpuProbe
from oomcast.probes.gpu_limits import gpu_limits
from oomcast.probes.limits import Limit, LimitProbe, killing
from oomcast.probes.pressure import PressureProbe, PressureReading
from oomcast.sample import GpuReading
from oomcast.wire import GpuDevice, LimitState, ProcessState, Status

__all__ = ["Observer"]

# smaps_rollup walks a process's pages under the lock that its page faults need: 2.3 ms at 2.5 GiB. So rarely, and
# never more than a hundredth of the time.
_PSS_EVERY_S = 5.0
_PSS_SHARE = 0.01
_MOST_PSS = 64
# What is dear to read and slow to change is not read at each poll.
_WHOLE_EVERY_S = 0.2
_FAR = 0.25
_MOST_LISTED = 16


class Observer:
    """Every probe that is pointed at one training."""

    def __init__(
        self,
        pid: int,
        visible: str | None = None,
        order: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open what stays open.

        Args:
            pid: the training's process.
            visible: its CUDA_VISIBLE_DEVICES; None where it is not set.
            order: its CUDA_DEVICE_ORDER.
            monotonic: a clock in seconds.
        """
        self._pid = pid
        self._monotonic = monotonic
        self._pulse = processes.Pulse(pid)
        self._limits = LimitProbe(pid)
        self._pressure = PressureProbe(pid)
        self.children = ChildrenProbe(pid, ignore=frozenset({os.getpid()}))
        self._gpu = GpuProbe(visible=visible, order=order)
        self._readings: dict[int, GpuReading] = {}
        self._framework: str | None = None
        self._next_pss_s = self._next_whole_s = 0.0
        self._alive = True
        self.last = Outside()

    @property
    def devices(self) -> list[GpuDevice]:
        """The GPUs that the training may use."""
        return self._gpu.devices

    @property
    def gpu_note(self) -> str | None:
        """Why there are none, in words."""
        return self._gpu.note

    @property
    def killing(self) -> Limit | None:
        """Of the limits that kill, that with the least headroom: fresh where it binds, else of the last full look."""
        limit = self.last.limit
        return limit if limit is not None and limit.kills else killing(self._limits.limits)

    @property
    def is_far_from_limit(self) -> bool:
        """Whether much is free of the limit that kills."""
        limit = self.killing
        return limit is not None and limit.headroom_bytes > _FAR * limit.limit_bytes

    @property
    def limits(self) -> tuple[Limit, ...]:
        """All of them, as of the last full look."""
        return self._limits.limits

    @property
    def cpu_ns(self) -> int | None:
        """CPU time of the process and its living children, since they began."""
        own = self.last.process.cpu_ns
        theirs = [child.cpu_ns for child in self.last.children.children if child.cpu_ns is not None]
        return None if own is None else own + sum(theirs)

    @property
    def alive(self) -> bool:
        """Whether the process was there at the last look."""
        return self._alive

    def look(self, *, anew: bool) -> Outside:
        """See what is there now.

        Args:
            anew: find limits and children anew, as once a second; else the figures of those known, which costs a tenth.
        """
        if not self._pulse.beats():
            self._alive = False
            return self.last  # what is charged now is not what was charged then: the last look stands
        now = self._monotonic()
        whole = anew or now >= self._next_whole_s
        if whole:
            self._next_whole_s = now + _WHOLE_EVERY_S
            process = processes.read_process(self._pid)
            self._alive = process.rss_bytes is not None
            if not self._alive and self.last.limit is not None:
                return self.last
        else:
            process = self.last.process
        self.last = Outside(
            process,
            self._limits.binding(process, anew=anew),
            self._pressure.read() if whole else self._stalls(),
            self.children.read() if anew else self.last.children,
            self._tree_pss() if anew else None,
        )
        return self.last

    def _stalls(self) -> PressureReading:
        some, full = self._pressure.read_psi()
        return self.last.pressure._replace(psi_some_us=some, psi_full_us=full)

    def _tree_pss(self) -> int | None:
        now = self._monotonic()
        if now < self._next_pss_s:
            return None
        pids = [self._pid, *(child.pid for child in self.last.children.children[: _MOST_PSS - 1])]
        size = processes.tree_pss(pids)
        took = self._monotonic() - now
        self._next_pss_s = now + max(_PSS_EVERY_S, took / _PSS_SHARE)
        return size

    def gpus(self, seq: int) -> list[GpuReading]:
        """Every device now.

        Args:
            seq: of the tick that the readings belong to.
        """
        pids = {self._pid, *(child.pid for child in self.last.children.children)}
        readings = self._gpu.read(seq, pids)
        self.heard(readings)
        return readings

    def heard(self, readings: Sequence[GpuReading], framework: str | None = None) -> None:
        """Take note of readings, whoever took them.

        Args:
            readings: of NVML, or of a framework's allocator.
            framework: whose; None where it is not known, or was NVML.
        """
        self._framework = framework or self._framework
        for reading in readings:
            self._readings[reading.device] = _joined(self._readings.get(reading.device), reading)

    def gpu_faults(self) -> list[GpuFault]:
        """Errors that the driver has reported since the last call."""
        return self._gpu.faults()

    def status(self, others: Sequence[ProcessState], hung_since_ns: int | None) -> Status:
        """How things stand.

        Args:
            others: the biggest processes beside it in its cgroup.
            hung_since_ns: see `Status`.
        """
        limit = self.last.limit
        limits = [
            LimitState(
                kind=one.kind, limit_bytes=one.limit_bytes, used_bytes=max(0, one.used_bytes), binds=_same(one, limit)
            )
            for one in self._limits.limits
        ]
        return Status(
            wall_ns=time.time_ns(),
            limits=[*limits, *gpu_limits(self._gpu.devices, list(self._readings.values()), self._framework)][:64],
            processes=self._processes(others),
            pressure=self._pressure.source,
            hung_since_ns=hung_since_ns,
        )

    def _processes(self, others: Sequence[ProcessState]) -> list[ProcessState]:
        process, children = self.last.process, self.last.children.children
        mine = ProcessState(
            pid=self._pid,
            name=process.name or "training",
            role="training",
            rss_bytes=process.rss_bytes,
            swap_bytes=process.swap_bytes,
        )
        known = [mine, *(_child(child) for child in children[:_MOST_LISTED])]
        pids = {one.pid for one in known}
        return [*known, *(one for one in others if one.pid not in pids and one.role == "other")][:32]

    def close(self) -> None:
        """Give everything back."""
        probes = (self.children, self._gpu, self._pressure, self._limits, self._pulse)
        for close in (probe.close for probe in probes):
            with contextlib.suppress(Exception):
                close()


def _child(child: Child) -> ProcessState:
    return ProcessState(
        pid=child.pid, name=child.name, role="child", rss_bytes=child.rss_bytes, swap_bytes=child.swap_bytes
    )


def _same(one: Limit, other: Limit | None) -> bool:
    return other is not None and (one.kind, one.limit_bytes) == (other.kind, other.limit_bytes)


def _joined(old: GpuReading | None, new: GpuReading) -> GpuReading:
    """The newest that is known of a device: NVML and the framework's allocator tell different halves."""
    if old is None:
        return new
    known = {name: value for name, value in new._asdict().items() if value is not None}
    return old._replace(**known)
