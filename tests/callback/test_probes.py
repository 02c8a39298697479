"""Probes against recorded trees: the binding limit, a process's figures, GPUs that are not there."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from oomcast.probes.gpu import GpuProbe
from oomcast.probes.limits import Limit, binding, read_limits
from oomcast.probes.process import ProcessReading, parse_stat_faults, parse_statm, read_process

pytestmark = pytest.mark.fast

MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    9000000 kB\n"
UNLIMITED = "Max address space         unlimited            unlimited            bytes\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v2_tree(root: Path, *, leaf: str = "max", parent: str = "max", path: str = "/job/step") -> Path:
    return write(
        root,
        {
            "proc/self/mounts": "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n",
            "proc/7/cgroup": f"0::{path}\n",
            "proc/7/limits": UNLIMITED,
            "proc/meminfo": MEMINFO,
            "sys/fs/cgroup/job/memory.max": parent + "\n",
            "sys/fs/cgroup/job/memory.current": "900000000\n",
            "sys/fs/cgroup/job/memory.stat": "anon 5\ninactive_file 100000000\nactive_file 3\n",
            "sys/fs/cgroup/job/step/memory.max": leaf + "\n",
            "sys/fs/cgroup/job/step/memory.current": "500000000\n",
            "sys/fs/cgroup/job/step/memory.stat": "anon 5\ninactive_file 0\n",
        },
    )


def limits(root: Path, process: ProcessReading | None = None) -> list[Limit]:
    return read_limits(7, process or ProcessReading(), root)


def test_without_any_limit_the_host_binds(tmp_path: Path) -> None:
    assert limits(v2_tree(tmp_path)) == [Limit("host memory", 16_000_000 * 1024, 7_000_000 * 1024)]


def test_an_ancestor_with_less_headroom_binds_and_idle_page_cache_is_not_counted(tmp_path: Path) -> None:
    found = limits(v2_tree(tmp_path, leaf="2000000000", parent="1000000000"))
    assert found[:2] == [
        Limit("cgroup /job/step", 2_000_000_000, 500_000_000),
        Limit("cgroup /job", 1_000_000_000, 800_000_000),
    ]
    assert binding(found) == found[1]


def test_v1_limits_are_read_and_its_huge_number_means_none(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/mounts": "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n"
            "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
            "proc/7/cgroup": "4:memory:/box\n1:cpu:/\n0::/\n",
            "proc/7/limits": UNLIMITED,
            "proc/meminfo": MEMINFO,
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "1\n",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "1073741824\n",
            "sys/fs/cgroup/memory/box/memory.usage_in_bytes": "700\n",
            "sys/fs/cgroup/memory/box/memory.stat": "cache 1\ninactive_file 9\ntotal_inactive_file 200\n",
        },
    )
    assert limits(root)[:-1] == [Limit("cgroup /box", 1 << 30, 500)]


def test_in_a_container_whose_path_is_the_hosts_the_mounts_root_is_ours(tmp_path: Path) -> None:
    root = v2_tree(tmp_path, path="/docker/8d2f")
    write(root, {"sys/fs/cgroup/memory.max": "4000\n", "sys/fs/cgroup/memory.current": "1000\n"})
    assert limits(root)[0] == Limit("cgroup /", 4000, 1000)


def test_a_mount_table_longer_than_a_page_is_read_to_its_end(tmp_path: Path) -> None:
    root = v2_tree(tmp_path, leaf="2000")
    mounts = root / "proc/self/mounts"
    mounts.write_text("".join(f"overlay /some/where/{n} overlay rw 0 0\n" for n in range(500)) + mounts.read_text())
    assert limits(root)[0].kind == "cgroup /job/step"


def test_an_odd_line_is_no_reason_to_see_nothing(tmp_path: Path) -> None:
    root = v2_tree(tmp_path)
    (root / "proc/7/cgroup").write_text("what is this\n")
    assert [limit.kind for limit in limits(root)] == ["host memory"]


def test_resource_limits_bind_by_what_they_count(tmp_path: Path) -> None:
    root = v2_tree(tmp_path)
    write(
        root,
        {
            "proc/7/limits": "Limit                     Soft Limit           Hard Limit           Units\n"
            "Max data size             1000                 unlimited            bytes\n"
            "Max address space         9000                 9000                 bytes\n"
        },
    )
    found = limits(root, ProcessReading(virtual_bytes=5000, data_bytes=900))
    assert binding(found) == Limit("RLIMIT_DATA", 1000, 900)
    assert Limit("RLIMIT_AS", 9000, 5000) in found


def test_nothing_readable_is_no_limit_and_no_error(tmp_path: Path) -> None:
    assert limits(tmp_path) == []
    assert binding([]) is None


def test_headroom_is_below_zero_where_a_limit_was_lowered_under_what_is_used() -> None:
    assert Limit("a", 10, 15).headroom_bytes == -5


def test_a_cut_statm_still_gives_rss_and_shared() -> None:
    assert parse_statm(b"123456789 2000 30 1 0 9999", page_bytes=4096) == (2000 * 4096, 30 * 4096)
    assert parse_statm(b"") == (None, None)


def test_faults_are_found_behind_a_name_with_blanks_and_brackets() -> None:
    assert parse_stat_faults(b"7 (a) b (c)) S 1 2 3 4 5 6 111 8 222 10") == (111, 222)


def test_this_process_is_read(tmp_path: Path) -> None:
    reading = read_process(os.getpid())
    assert reading.rss_bytes is not None
    assert reading.rss_bytes > 5 << 20


def test_a_process_that_is_gone_has_no_figures(tmp_path: Path) -> None:
    assert read_process(7, tmp_path) == ProcessReading()


class NoDriver:
    """NVML where there is none."""

    def nvmlInit(self) -> None:
        raise OSError("NVML Shared Library Not Found")

    def nvmlShutdown(self) -> None:
        raise OSError("not initialised")


class TwoDevices:
    """NVML with two devices: one that says everything, one that says almost nothing."""

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> bytes | str:
        return b"GPU-0" if handle == 0 else "GPU-1"

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "Card"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        if handle == 1:
            raise PermissionError("Insufficient Permissions")
        return SimpleNamespace(used=300, total=1000)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=7, usedGpuMemory=200 if handle == 0 else None)]

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:
        if handle == 1:
            raise RuntimeError("Not Supported")
        return SimpleNamespace(gpu=55)


def test_no_driver_is_one_honest_word() -> None:
    probe = GpuProbe(NoDriver())
    assert probe.note == "no GPU seen (NVML Shared Library Not Found)"
    assert probe.read(1, 7) == []
    probe.close()


def test_gpus_are_read_and_what_they_do_not_say_is_unknown() -> None:
    probe = GpuProbe(TwoDevices())
    assert probe.note is None
    assert [device.uuid for device in probe.devices] == ["GPU-0", "GPU-1"]
    assert [tuple(reading) for reading in probe.read(9, 7)] == [
        (9, 0, 300, 1000, 200, 55),
        (9, 1, None, None, None, None),
    ]
    assert probe.read(9, 8)[0].process_bytes is None
