"""GPUs through NVML: a stand-in of `pynvml` that is made of its own constants, structures and errors."""

# ruff: noqa: N803  the arguments are named as in pynvml

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pynvml
import pytest

from oomcast.probes.gpu import GpuFault, GpuProbe, gpu_limits
from oomcast.probes.visibility import Card, visible
from oomcast.sample import GpuReading
from oomcast.wire import GpuDevice, LimitState

pytestmark = pytest.mark.fast

GIB = 1 << 30
A, B, C = "GPU-aaaa1111-0", "GPU-aabb2222-0", "GPU-cccc3333-0"


class Handle:
    """A device of the stand-in; what is None is not supported."""

    def __init__(self, uuid: str, name: str = "NVIDIA H100", *, slices: list[Handle | None] | None = None) -> None:
        self.uuid, self.name, self.slices = uuid, name, slices
        self.mig = slices is not None
        self.instance = 0
        self.total, self.reserved, self.used = 80 * GIB, GIB // 2, 10 * GIB
        self.compute: list[tuple[int, int | None]] | None = []
        self.graphics: list[tuple[int, int | None]] | None = []
        self.busy: int | None = 55
        self.ecc: int | None = 0
        self.v2 = True
        self.error: int | None = None  # what every question is answered with


class Nvml:
    """The part of `pynvml` that is used, with its signatures; all else is its own."""

    def __init__(self, *handles: Handle | int, init: int | None = None) -> None:
        self.handles, self.init = handles, init
        self.events: list[tuple[Handle, int, int]] = []
        self.registered: list[Handle] = []
        self.freed = self.shut = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(pynvml, name)

    @staticmethod
    def give(value: Any, handle: Handle | None = None) -> Any:
        if handle is not None and handle.error is not None:
            raise pynvml.NVMLError(handle.error)
        if value is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return value

    def nvmlInit(self) -> None:
        if self.init is not None:
            raise pynvml.NVMLError(self.init)

    def nvmlShutdown(self) -> None:
        self.shut += 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.handles)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Handle:
        handle = self.handles[index]
        if isinstance(handle, int):
            raise pynvml.NVMLError(handle)
        return handle

    def nvmlDeviceGetUUID(self, handle: Handle) -> str:
        return str(self.give(handle.uuid, handle))

    def nvmlDeviceGetName(self, handle: Handle) -> str:
        return str(self.give(handle.name, handle))

    def nvmlDeviceGetMigMode(self, device: Handle) -> list[int]:
        return [int(device.mig), int(device.mig)]

    def nvmlDeviceGetMaxMigDeviceCount(self, device: Handle) -> int:
        return len(device.slices or ())

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: Handle, index: int) -> Handle:
        part = (device.slices or [])[index]
        if part is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return part

    def nvmlDeviceGetGpuInstanceId(self, device: Handle) -> int:
        return device.instance

    def nvmlDeviceGetAttributes(self, device: Handle) -> Any:
        return pynvml.c_nvmlDeviceAttributes(gpuInstanceSliceCount=3, memorySizeMB=40192)

    def nvmlDeviceGetMemoryInfo(self, handle: Handle, version: int | None = None) -> Any:
        free = handle.total - handle.used - handle.reserved
        self.give(free, handle)
        if version is None:
            return pynvml.c_nvmlMemory_t(total=handle.total, free=free, used=handle.used + handle.reserved)
        self.give(handle.v2 or None)
        return pynvml.c_nvmlMemory_v2_t(
            version=version, total=handle.total, reserved=handle.reserved, free=free, used=handle.used
        )

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Handle) -> list[Any]:
        return [_process(*one) for one in self.give(handle.compute, handle)]

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: Handle) -> list[Any]:
        return [_process(*one) for one in self.give(handle.graphics, handle)]

    def nvmlDeviceGetUtilizationRates(self, handle: Handle) -> Any:
        return pynvml.c_nvmlUtilization_t(gpu=self.give(handle.busy, handle), memory=1)

    def nvmlDeviceGetTotalEccErrors(self, handle: Handle, errorType: int, counterType: int) -> int:
        assert (errorType, counterType) == (pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC)
        return int(self.give(handle.ecc, handle))

    def nvmlEventSetCreate(self) -> object:
        return self.events

    def nvmlDeviceGetSupportedEventTypes(self, handle: Handle) -> int:
        return int(self.give(pynvml.nvmlEventTypeXidCriticalError | pynvml.nvmlEventTypeClock, handle))

    def nvmlDeviceRegisterEvents(self, handle: Handle, eventTypes: int, eventSet: object) -> None:
        assert (eventTypes, eventSet) == (pynvml.nvmlEventTypeXidCriticalError, self.events)
        self.registered.append(handle)

    def nvmlEventSetWait_v2(self, eventSet: object, timeoutms: int) -> Any:
        assert timeoutms == 0
        if not self.events:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        handle, xid, instance = self.events.pop(0)
        kind = pynvml.nvmlEventTypeXidCriticalError
        # As `c_nvmlEventData_t`, whose device would be a pointer.
        fields = {"device": handle, "eventType": kind, "eventData": xid, "gpuInstanceId": instance}
        return pynvml.nvmlFriendlyObject(fields)

    def nvmlEventSetFree(self, eventSet: object) -> None:
        self.freed += 1


def _process(pid: int, size: int | None) -> Any:
    return pynvml.nvmlFriendlyObject({"pid": pid, "usedGpuMemory": size, "gpuInstanceId": 0xFFFFFFFF})


def test_the_stand_in_has_the_signatures_of_pynvml() -> None:
    names = [name for name in vars(Nvml) if name.startswith("nvml")]
    assert len(names) > 15
    for name in names:
        real = list(inspect.signature(getattr(pynvml, name)).parameters)
        assert list(inspect.signature(getattr(Nvml, name)).parameters)[1:] == real, name


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A root whose processes have the host's pids."""
    return a_root(tmp_path, "pid:[4026531836]")


def a_root(path: Path, pids: str) -> Path:
    namespaces = path / "proc/self/ns"
    namespaces.mkdir(parents=True)
    (namespaces / "pid").symlink_to(pids)
    return path


def test_a_card_is_read_with_what_the_driver_keeps_for_itself(host: Path) -> None:
    card = Handle(A)
    card.compute = [(7, 3 * GIB), (8, GIB), (9, 5 * GIB)]
    card.ecc = 2
    probe = GpuProbe(Nvml(card), root=host)
    assert probe.note is None
    assert probe.devices == [
        GpuDevice(device=0, uuid=A, name="NVIDIA H100", total_bytes=80 * GIB, index=0, instance=None, ordinal=0)
    ]
    assert probe.read(5, {7, 8}) == [
        GpuReading(5, 0, 10 * GIB, 80 * GIB, 4 * GIB, 55, reserved_bytes=GIB // 2, ecc_errors=2)
    ]


def test_a_driver_that_counts_the_reserved_part_as_used_says_the_same(host: Path) -> None:
    class Older(Nvml):
        def nvmlDeviceGetMemoryInfo(self, handle: Handle, version: int | None = None) -> Any:
            memory = super().nvmlDeviceGetMemoryInfo(handle, version)
            memory.used += handle.reserved if version else 0
            return memory

    (reading,) = GpuProbe(Older(Handle(A)), root=host).read(1, {7})
    assert (reading.used_bytes, reading.reserved_bytes) == (10 * GIB, GIB // 2)


def test_without_the_second_version_of_the_figures_the_reserved_part_is_unknown(host: Path) -> None:
    card = Handle(A)
    card.v2 = False
    (reading,) = GpuProbe(Nvml(card), root=host).read(1, {7})
    assert (reading.used_bytes, reading.total_bytes, reading.reserved_bytes) == (10 * GIB + GIB // 2, 80 * GIB, None)


@pytest.mark.parametrize(
    ("compute", "graphics", "share"),
    [
        ([(7, 100)], [(7, 100)], 100),  # one process in both lists
        ([(7, 100)], [(8, 20)], 120),
        ([(7, None)], [], None),
        ([(7, 0)], [], None),
        ([(99, 100)], [], None),
        (None, [(8, 20)], 20),
        (None, None, None),
    ],
)
def test_the_own_share_is_known_or_unknown_but_never_zero(
    host: Path, compute: Any, graphics: Any, share: int | None
) -> None:
    card = Handle(A)
    card.compute, card.graphics = compute, graphics
    assert GpuProbe(Nvml(card), root=host).read(1, {7, 8})[0].process_bytes == share


def test_in_a_container_the_hosts_pids_mean_other_processes(tmp_path: Path) -> None:
    card = Handle(A)
    card.compute = [(7, 100)]
    root = a_root(tmp_path, "pid:[4026532999]")
    (reading,) = GpuProbe(Nvml(card), root=root).read(1, {7})
    assert (reading.process_bytes, reading.used_bytes) == (None, 10 * GIB)


def test_what_a_card_does_not_support_is_unknown(host: Path) -> None:
    card = Handle(A)
    card.busy = card.ecc = None
    (reading,) = GpuProbe(Nvml(card), root=host).read(1, {7})
    assert (reading.utilization_percent, reading.ecc_errors, reading.used_bytes) == (None, None, 10 * GIB)


def test_a_card_that_falls_off_the_bus_is_read_as_unknown(host: Path) -> None:
    card = Handle(A)
    nvml = Nvml(card)
    probe = GpuProbe(nvml, root=host)
    nvml.events.append((card, 79, 0xFFFFFFFF))
    card.error = pynvml.NVML_ERROR_GPU_IS_LOST
    assert probe.read(3, {7}) == [GpuReading(3, 0, None, None, None, None)]
    (fault,) = probe.faults()
    assert (fault.device, fault.xid) == (0, 79)
    assert "fallen off the bus" in fault.text
    probe.close()


def test_errors_of_the_driver_are_told_once_and_in_words(host: Path) -> None:
    cards = Handle(A), Handle(B), Handle(C)
    nvml = Nvml(*cards)
    probe = GpuProbe(nvml, visible="1,0", root=host)
    assert probe.xids_watched
    assert nvml.registered == [cards[1], cards[0]]
    assert probe.faults() == []
    nvml.events += [(cards[0], 48, 0xFFFFFFFF), (cards[1], 99999, 0xFFFFFFFF), (cards[2], 31, 0xFFFFFFFF)]
    assert probe.faults() == [
        GpuFault(1, 48, "the driver reported Xid 48: double-bit ECC error: memory of the GPU lost its content"),
        GpuFault(0, 99999, "the driver reported Xid 99999: see NVIDIA's Xid catalogue"),
    ]
    assert probe.faults() == []
    probe.close()
    assert (nvml.freed, nvml.shut) == (1, 1)


def a_sliced_card() -> tuple[Handle, Handle, Handle]:
    first = Handle("MIG-1111-a", "NVIDIA H100 MIG 1g.10gb")
    second = Handle("MIG-2222-a", "NVIDIA H100")
    first.instance, second.instance = 9, 2
    first.total = second.total = 10 * GIB
    first.used, first.reserved = 2 * GIB, 0
    first.busy = None
    return Handle(A, slices=[first, None, second]), first, second


def test_a_slice_is_a_device_of_its_own(host: Path) -> None:
    card, _, second = a_sliced_card()
    nvml = Nvml(card)
    probe = GpuProbe(nvml, root=host)
    # One process can use one slice: the first, unless told otherwise.
    assert [(one.uuid, one.instance, one.total_bytes, one.ordinal) for one in probe.devices] == [
        ("MIG-1111-a", "1g.10gb", 10 * GIB, 0)
    ]
    (reading,) = probe.read(1, {7})
    assert (reading.used_bytes, reading.total_bytes, reading.utilization_percent) == (2 * GIB, 10 * GIB, None)
    nvml.events += [(card, 94, 2), (card, 94, 9), (card, 62, 0xFFFFFFFF)]
    assert [fault.xid for fault in probe.faults()] == [94, 62]

    chosen = GpuProbe(nvml, visible="MIG-2222-a,MIG-1111-a", root=host)
    assert [(one.uuid, one.instance) for one in chosen.devices] == [(second.uuid, "3g.39gb")]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "no NVIDIA driver: its library NVML is not there"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "the NVIDIA driver is not loaded"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "no permission to ask the NVIDIA driver"),
        (pynvml.NVML_ERROR_UNKNOWN, "Unknown Error"),
    ],
)
def test_no_driver_is_one_honest_word(code: int, words: str) -> None:
    probe = GpuProbe(Nvml(init=code))
    assert (probe.note, probe.devices) == (f"no GPU seen ({words})", [])
    assert (probe.read(1, {7}), probe.faults()) == ([], [])
    probe.close()


@pytest.mark.parametrize(
    ("nvml", "listed", "words"),
    [
        (Nvml(), None, "the driver knows of none"),
        (Nvml(pynvml.NVML_ERROR_NO_PERMISSION), None, "no permission to ask the NVIDIA driver"),
        (Nvml(Handle(A), Handle(B)), "", "CUDA_VISIBLE_DEVICES='' hides all 2 of this machine"),
        (Nvml(Handle(A)), "-1", "CUDA_VISIBLE_DEVICES='-1' hides the one of this machine"),
        (Nvml(Handle(A, slices=[None])), None, "in MIG mode, and there is no slice that may be used here"),
    ],
)
def test_why_there_is_no_device_is_said(nvml: Nvml, listed: str | None, words: str) -> None:
    probe = GpuProbe(nvml, visible=listed)
    assert (probe.note, probe.read(1, {7})) == (f"no GPU seen ({words})", [])


def test_a_card_that_may_not_be_asked_does_not_hide_the_others() -> None:
    probe = GpuProbe(Nvml(pynvml.NVML_ERROR_NO_PERMISSION, Handle(B)))
    assert [(one.device, one.index, one.uuid) for one in probe.devices] == [(0, 1, B)]
    assert probe.note is None


def test_without_the_package_it_says_so() -> None:
    code = "import sys; sys.modules['pynvml'] = None\nfrom oomcast.probes.gpu import GpuProbe; print(GpuProbe().note)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "no GPU seen (nvidia-ml-py is not installed)"


def test_this_machine_is_asked_without_an_error() -> None:
    probe = GpuProbe()
    assert bool(probe.devices) != bool(probe.note)
    probe.read(1, {7})
    probe.close()


def cards(*names: str) -> list[Card]:
    uuids = (A, B, C)
    return [Card(GpuDevice(device=i, uuid=uuids[i], name=name, index=i)) for i, name in enumerate(names)]


def seen(cards: list[Card], listed: str | None, order: str | None = None) -> list[tuple[str, int | None]]:
    devices = visible(cards, listed, order)
    assert [device.device for device in devices] == list(range(len(devices)))
    return [(device.uuid, device.ordinal) for device in devices]


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (None, [A, B, C]),
        ("", []),
        (" ", []),
        ("1", [B]),
        ("2, 0", [C, A]),
        ("0,2,-1,1", [A, C]),  # the guide's own example
        ("1,9,0", [B]),
        ("NoDevFiles", []),
        ("1x,0", [B, A]),
        ("0,0", []),
        (f"{C},{A}", [C, A]),
        ("GPU-c, GPU-aaaa", [C, A]),
        ("GPU-c,GPU-aa,GPU-aabb", [C]),  # the beginning of two
        ("GPU-cc,GPU-cccc", []),
        ("GPU-f,GPU-c", []),
        (f"{C},0", [C]),  # one kind of name only
        ("MIG-1", []),
    ],
)
def test_what_is_listed_is_seen_in_that_order(listed: str | None, expected: list[str]) -> None:
    assert seen(cards("X", "X", "X"), listed) == [(uuid, place) for place, uuid in enumerate(expected)]


def test_among_unlike_cards_an_index_means_something_only_in_the_order_of_the_bus() -> None:
    unlike = cards("X", "Y")
    assert seen(unlike, None) == [(A, None), (B, None)]
    assert seen(unlike, "0") == [(A, None), (B, None)]
    assert seen(unlike, "-1") == []
    assert seen(unlike, "1", "PCI_BUS_ID") == [(B, 0)]
    assert seen(unlike, "1", "FASTEST_FIRST") == [(A, None), (B, None)]
    assert seen(unlike, "GPU-aab") == [(B, 0)]


def test_slices_stand_for_their_card() -> None:
    one, two = (GpuDevice(device=0, uuid=f"MIG-{n}", name="X", index=0, instance="1g.5gb") for n in "12")
    card = Card(GpuDevice(device=0, uuid=A, name="X", index=0), (one, two), sliced=True)
    plain = Card(GpuDevice(device=1, uuid=B, name="X", index=1))
    assert seen([card], None) == [("MIG-1", 0)]
    assert seen([card], "0") == [("MIG-1", 0)]
    assert seen([card], "GPU-aaaa") == [("MIG-1", 0)]
    assert seen([card], "MIG-2") == [("MIG-2", 0)]
    assert seen([card], f"MIG-{A}/1/0") == []
    assert seen([card, plain], "1") == [(B, 0)]
    assert seen([card, plain], None) == [("MIG-1", None), (B, None)]


def a_reading(device: int = 0, **figures: int | None) -> GpuReading:
    nvml = {"used_bytes": 60, "total_bytes": 100, "process_bytes": None, "utilization_percent": None}
    return GpuReading(1, device, **{**nvml, **figures})


DEVICES = [
    GpuDevice(device=0, uuid=A, name="X", ordinal=0),
    GpuDevice(device=1, uuid="MIG-1", name="X", instance="1g.5gb"),
]


def test_a_device_that_is_not_known_to_be_used_is_no_limit() -> None:
    assert gpu_limits(DEVICES, [a_reading(0), a_reading(1)]) == []


def test_a_device_that_is_used_is_a_limit_without_its_reserved_part() -> None:
    found = gpu_limits(DEVICES, [a_reading(0, process_bytes=5, reserved_bytes=10), a_reading(1, process_bytes=5)])
    assert found == [
        LimitState(kind="GPU 0", limit_bytes=90, used_bytes=60),
        LimitState(kind="GPU 1 (MIG 1g.5gb)", limit_bytes=100, used_bytes=60),
    ]


def test_what_the_allocator_has_taken_and_not_given_away_is_not_used() -> None:
    used = [
        a_reading(0, used_bytes=95, allocated_bytes=20, pool_bytes=75),  # JAX: 20 of others and of its own context
        a_reading(0, used_bytes=95, allocated_bytes=20, process_bytes=90),  # TensorFlow, and others have 5
        a_reading(0, used_bytes=95, allocated_bytes=20),  # TensorFlow in a container
    ]
    assert [gpu_limits(DEVICES, [one])[0].used_bytes for one in used] == [40, 25, 20]


def test_the_frameworks_cap_is_a_limit_of_its_own() -> None:
    capped = {"allocated_bytes": 20, "pool_bytes": 30, "allocator_limit_bytes": 50}
    found = gpu_limits(DEVICES, [a_reading(0, **capped), a_reading(1, **capped)], "JAX")
    assert [(one.kind, one.limit_bytes, one.used_bytes) for one in found] == [
        ("GPU 0", 100, 50),
        ("GPU 0 (JAX's cap)", 50, 20),
        ("GPU 1 (MIG 1g.5gb)", 100, 50),
        ("GPU 1 (MIG 1g.5gb, JAX's cap)", 50, 20),
    ]
    (unseen,) = gpu_limits([], [a_reading(0, used_bytes=None, total_bytes=None, **capped)])
    assert unseen.kind == "GPU 0 (the framework's cap)"
