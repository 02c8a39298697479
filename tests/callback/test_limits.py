"""Which limit binds: against recorded trees of machines and containers, and in a real cgroup."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oomcast.probes.cgroups import find_cgroups
from oomcast.probes.limits import Limit, LimitProbe, binding, killing, memory_cgroups, read_limits
from oomcast.probes.process import ProcessReading, read_process
from tests.support import LIMIT, memory_box, why_no_box
from tests.trees import read_tree, unpack, write

pytestmark = pytest.mark.fast

MIB = 1 << 20
MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    9000000 kB\n"
UNLIMITED = "Max address space         unlimited            unlimited            bytes\n"
V2_MOUNT = "31 24 0:27 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
boxed = pytest.mark.skipif(why_no_box() is not None, reason=str(why_no_box()))


def v2_tree(root: Path, *, leaf: str = "max", parent: str = "max", path: str = "/job/step", shown: str = "/") -> Path:
    return write(
        root,
        {
            "proc/self/mountinfo": V2_MOUNT.format(root=shown),
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


def host(root: Path) -> Limit:
    return limits(root)[-1]


def names(root: Path) -> list[str]:
    return [cgroup.name for cgroup in find_cgroups(7, root)]


def test_without_any_limit_the_host_binds(tmp_path: Path) -> None:
    assert limits(v2_tree(tmp_path)) == [Limit("host memory", 16_000_000 * 1024, 7_000_000 * 1024)]


def test_an_ancestor_with_less_headroom_binds_and_idle_page_cache_is_not_counted(tmp_path: Path) -> None:
    found = limits(v2_tree(tmp_path, leaf="2000000000", parent="1000000000"))
    assert found[:2] == [
        Limit("cgroup /job/step", 2_000_000_000, 500_000_000),
        Limit("cgroup /job", 1_000_000_000, 800_000_000),
    ]
    assert binding(found) == found[1]


def test_a_pods_own_limit_below_its_containers_binds(tmp_path: Path) -> None:
    container = "cgroup /kubepods.slice/kubepods-pod1.slice/cri-containerd-8d2f.scope"
    found = limits(unpack("v2-pod", tmp_path))
    assert found == [
        Limit(container, 4 << 30, 1_710_000_000),
        Limit(f"{container} (memory.high)", 3_865_470_566, 1_710_000_000, kills=False),
        Limit("cgroup /kubepods.slice/kubepods-pod1.slice", 2 << 30, 1_800_000_000),
        Limit("cgroup /kubepods.slice/kubepods-pod1.slice (with swap)", (2 << 30) + 6_000_000 * 1024, 1_800_000_000),
        Limit("cgroup /kubepods.slice", 60_000_000_000, 20_200_000_000),
        Limit("cgroup /kubepods.slice (with swap)", 60_000_000_000 + 6_000_000 * 1024, 20_200_000_000),
        Limit("host memory", 65_000_000 * 1024, 25_000_000 * 1024),
    ]
    assert binding(found) == found[2]


def test_what_throttles_may_bind_and_does_not_kill(tmp_path: Path) -> None:
    found = limits(unpack("v2-desktop", tmp_path))
    scope = "cgroup /user.slice/run-u5.scope"
    assert binding(found) == Limit(f"{scope} (memory.high)", 3_000_000_000, 2_500_000_000, kills=False)
    assert killing(found) == Limit(scope, 4_000_000_000, 2_500_000_000)


def test_with_swap_a_cgroup_of_v2_reaches_as_far_as_both_let_it(tmp_path: Path) -> None:
    found = {limit.kind: limit for limit in limits(unpack("v2-desktop", tmp_path))}
    kind = "cgroup /user.slice/run-u5.scope (with swap)"
    assert found[kind] == Limit(kind, 5_000_000_000, 2_700_000_000)


def test_the_hosts_swap_counts_where_the_process_may_swap(tmp_path: Path) -> None:
    assert host(unpack("v2-desktop", tmp_path)) == Limit(
        "host memory and swap", 20_000_000 * 1024, (7_000_000 + 1_000_000) * 1024
    )


@pytest.mark.parametrize("folder", ["user.slice", "user.slice/run-u5.scope"])
def test_no_swap_for_any_cgroup_above_is_none_for_the_process(tmp_path: Path, folder: str) -> None:
    write(unpack("v2-desktop", tmp_path), {f"sys/fs/cgroup/{folder}/memory.swap.max": "0\n"})
    assert host(tmp_path) == Limit("host memory", 16_000_000 * 1024, 7_000_000 * 1024)


def test_v1_limits_are_read_and_its_huge_number_means_none(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/mountinfo": "32 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
            "38 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
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


def test_on_v1_memory_and_swap_together_bind_where_they_have_less_left(tmp_path: Path) -> None:
    found = limits(unpack("v1-docker", tmp_path))
    assert found[:2] == [
        Limit("cgroup /", 1 << 30, 500_000_000),
        Limit("cgroup / (with swap)", 1 << 30, 600_000_000),
    ]
    assert binding(found) == found[1]


@pytest.mark.parametrize(
    ("memsw", "swappiness", "kind"),
    [
        ("1073741824", "60", "host memory"),
        ("2147483648", "60", "host memory and swap"),
        ("2147483648", "0", "host memory"),
    ],
)
def test_on_v1_memsw_and_swappiness_say_whether_the_hosts_swap_counts(
    tmp_path: Path, memsw: str, swappiness: str, kind: str
) -> None:
    root = unpack("v1-docker", tmp_path)
    write(
        root,
        {
            "sys/fs/cgroup/memory/memory.memsw.limit_in_bytes": memsw,
            "sys/fs/cgroup/memory/memory.swappiness": swappiness,
        },
    )
    assert host(root).kind == kind


@pytest.mark.parametrize(
    ("swap_free_kib", "swappiness", "reach"),
    [
        ("3000000", "60", 2 << 30),  # as far as memsw lets it
        ("100000", "60", (1 << 30) + 100_000_000 + 100_000 * 1024),  # as far as the host has swap
        ("3000000", "0", (1 << 30) + 100_000_000),  # what is swapped already
    ],
)
def test_on_v1_memsw_reaches_no_further_than_there_is_swap(
    tmp_path: Path, swap_free_kib: str, swappiness: str, reach: int
) -> None:
    root = unpack("v1-docker", tmp_path)
    meminfo = (root / "proc/meminfo").read_text().replace("3000000", swap_free_kib)
    write(
        root,
        {
            "proc/meminfo": meminfo,
            "sys/fs/cgroup/memory/memory.memsw.limit_in_bytes": str(2 << 30),
            "sys/fs/cgroup/memory/memory.swappiness": swappiness,
        },
    )
    assert limits(root)[1] == Limit("cgroup / (with swap)", reach, 600_000_000)


def test_on_v1_without_swap_on_the_host_memory_alone_is_the_limit(tmp_path: Path) -> None:
    root = unpack("v1-docker", tmp_path)
    write(
        root,
        {
            "proc/meminfo": MEMINFO + "SwapTotal: 0 kB\nSwapFree: 0 kB\n",
            "sys/fs/cgroup/memory/memory.memsw.limit_in_bytes": str(2 << 30),
            "sys/fs/cgroup/memory/memory.memsw.usage_in_bytes": "700000000\n",
        },
    )
    assert [limit.kind for limit in limits(root)] == ["cgroup /", "host memory"]


def test_in_a_container_whose_path_is_the_hosts_the_mounts_root_is_ours(tmp_path: Path) -> None:
    root = v2_tree(tmp_path, path="/docker/8d2f", shown="/docker/8d2f")
    write(root, {"sys/fs/cgroup/memory.max": "4000\n", "sys/fs/cgroup/memory.current": "1000\n"})
    assert limits(root)[0] == Limit("cgroup /", 4000, 1000)
    (root / "proc/7/cgroup").write_text("0::/docker/8d2f/job/step\n")
    assert names(root) == ["/job/step", "/job", "/"]


def test_a_path_that_the_mount_table_does_not_explain_is_followed_as_far_as_it_is_there(tmp_path: Path) -> None:
    assert names(v2_tree(tmp_path, path="/docker/8d2f")) == ["/"]
    assert names(v2_tree(tmp_path, path="/job/gone/deeper (deleted)")) == ["/job", "/"]


def test_a_cgroup_outside_of_what_is_mounted_is_not_taken_for_ours(tmp_path: Path) -> None:
    assert names(v2_tree(tmp_path, path="/docker/other", shown="/docker/8d2f")) == []
    assert names(v2_tree(tmp_path, path="/../other")) == []


def test_a_mount_that_begins_above_the_namespace_shows_its_top(tmp_path: Path) -> None:
    assert names(v2_tree(tmp_path, path="/", shown="/../..")) == ["/"]
    assert names(v2_tree(tmp_path, path="/../../job/step", shown="/../..")) == ["/job/step", "/job", "/"]


def test_of_two_mounts_the_one_that_shows_more_is_read(tmp_path: Path) -> None:
    root = v2_tree(tmp_path)
    part = "40 24 0:27 /job /mnt/part rw - cgroup2 cgroup2 rw\n"
    write(root, {"proc/self/mountinfo": part + V2_MOUNT.format(root="/"), "mnt/part/step/memory.max": "1\n"})
    assert names(root) == ["/job/step", "/job", "/"]


def test_blanks_and_letters_of_any_language_in_names_are_followed(tmp_path: Path) -> None:
    root = v2_tree(tmp_path, path="/größe 1")
    mount = "31 24 0:27 / /mnt/my\\040cgroups rw - cgroup2 cgroup2 rw\n"
    write(root, {"proc/self/mountinfo": mount, "mnt/my cgroups/größe 1/memory.max": "1000\n"})
    write(root, {"mnt/my cgroups/größe 1/memory.current": "10\n"})
    assert limits(root)[0] == Limit("cgroup /größe 1", 1000, 10)


def test_a_mount_table_longer_than_a_page_is_read_to_its_end(tmp_path: Path) -> None:
    root = v2_tree(tmp_path, leaf="2000")
    mounts = root / "proc/self/mountinfo"
    mounts.write_text("".join(f"{n} 1 0:3 / /at/{n} rw - overlay o rw\n" for n in range(500)) + mounts.read_text())
    assert limits(root)[0].kind == "cgroup /job/step"


def test_without_mountinfo_the_older_mount_table_does(tmp_path: Path) -> None:
    root = v2_tree(tmp_path)
    (root / "proc/self/mountinfo").unlink()
    write(root, {"proc/self/mounts": "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n"})
    assert memory_cgroups(7, root)[0] == (2, str(root / "sys/fs/cgroup/job/step"))


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


def test_where_half_the_files_are_missing_the_rest_is_read(tmp_path: Path) -> None:
    assert limits(unpack("gvisor", tmp_path)) == [Limit("host memory", 4_000_000 * 1024, 1_000_000 * 1024)]


def test_nothing_readable_is_no_limit_and_no_error(tmp_path: Path) -> None:
    assert limits(tmp_path) == []
    assert binding([]) is None
    assert killing([Limit("slow", 1, 0, kills=False)]) is None


def test_headroom_is_below_zero_where_a_limit_was_lowered_under_what_is_used() -> None:
    assert Limit("a", 10, 15).headroom_bytes == -5


def test_the_cheap_look_reads_the_one_that_bound_and_keeps_the_others_as_they_were(tmp_path: Path) -> None:
    root = v2_tree(tmp_path, leaf="2000000000", parent="1000000000")
    probe = LimitProbe(7, root)
    assert probe.limits == ()
    first = probe.binding(ProcessReading(), anew=True)
    write(root, {"sys/fs/cgroup/job/memory.current": "950000000\n", "proc/meminfo": "MemTotal: 5 kB\n"})
    again = probe.binding(ProcessReading(), anew=False)
    assert (first, again) == (
        Limit("cgroup /job", 1_000_000_000, 800_000_000),
        Limit("cgroup /job", 1_000_000_000, 850_000_000),
    )
    assert first in probe.limits
    assert len(probe.limits) == 3
    probe.close()


def test_a_limit_that_is_lifted_or_moved_is_seen(tmp_path: Path) -> None:
    root = v2_tree(tmp_path, leaf="600000000")
    probe = LimitProbe(7, root)
    probe.binding(ProcessReading(), anew=True)
    write(root, {"sys/fs/cgroup/job/step/memory.max": "max\n"})
    assert probe.binding(ProcessReading(), anew=False) == Limit("host memory", 16_000_000 * 1024, 7_000_000 * 1024)
    write(root, {"sys/fs/cgroup/job/memory.max": "900000000\n"})
    assert probe.binding(ProcessReading(), anew=True) == Limit("cgroup /job", 900_000_000, 800_000_000)
    probe.close()


@boxed
def test_the_limit_of_a_real_cgroup_binds_follows_it_and_is_gone_with_it() -> None:
    with memory_box(64 * MIB) as box:
        held = subprocess.Popen(
            [sys.executable, "-c", f"open({str(box / 'cgroup.procs')!r}, 'w').write('0'); print(); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert held.stdin
        assert held.stdout
        try:
            held.stdout.readline()
            probe = LimitProbe(held.pid)
            bound = probe.binding(read_process(held.pid), anew=True)
            assert bound
            assert bound.kind == f"cgroup /{box.name}"
            assert bound.limit_bytes == 64 * MIB
            assert 0 < bound.used_bytes < 64 * MIB
            (box / LIMIT).write_text(str(96 * MIB))
            moved = probe.binding(read_process(held.pid), anew=False)
            assert moved
            assert moved.limit_bytes == 96 * MIB
        finally:
            held.communicate(b"\n")
    last = probe.binding(read_process(os.getpid()), anew=False)
    assert last is None or last.kind != f"cgroup /{box.name}"
    probe.close()


def test_by_psutil_the_host_is_the_limit() -> None:
    (limit,) = LimitProbe(os.getpid(), portable=True).read(ProcessReading())
    assert limit.kind == "host memory"
    assert 0 < limit.used_bytes < limit.limit_bytes


TREES = {name: read_tree(name) for name in ("v2-pod", "v2-desktop", "v1-docker", "gvisor")}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(data=st.data())
def test_garbage_in_any_file_never_raises(tmp_path: Path, data: st.DataObject) -> None:
    tree = TREES[data.draw(st.sampled_from(sorted(TREES)))]
    root = write(tmp_path / "tree", tree)
    for name in data.draw(st.lists(st.sampled_from(sorted(tree)), min_size=1, max_size=4)):
        text = tree[name].encode()
        cut = data.draw(st.integers(0, len(text)))
        (root / name).write_bytes(text[:cut] + data.draw(st.binary(max_size=60)) + text[cut:])
    probe = LimitProbe(7, root)
    for anew in (True, False):
        found = probe.binding(ProcessReading(virtual_bytes=1, data_bytes=1), anew=anew)
        assert found is None or 0 <= found.limit_bytes < 1 << 62
    probe.close()
    for limit in probe.limits:
        limit.kind.encode()
