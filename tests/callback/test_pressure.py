"""PSI, swapping and refaults: whose they are, and that their totals only grow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oomcast.probes.pressure import PressureProbe, PressureReading
from oomcast.probes.process import PAGE_BYTES
from tests.trees import read_tree, unpack, write

pytestmark = pytest.mark.fast

SCOPE = "sys/fs/cgroup/kubepods.slice/kubepods-pod1.slice/cri-containerd-8d2f.scope"


def psi(some: int, full: int) -> str:
    return "".join(
        f"{kind} avg10=0.00 avg60=0.00 avg300=0.00 total={us}\n" for kind, us in (("some", some), ("full", full))
    )


def test_everything_is_the_processs_own_cgroups_where_it_is_told_there(tmp_path: Path) -> None:
    probe = PressureProbe(7, unpack("v2-pod", tmp_path))
    assert probe.source == "cgroup /kubepods.slice/kubepods-pod1.slice/cri-containerd-8d2f.scope"
    assert probe.read() == PressureReading(
        psi_some_us=1234,
        psi_full_us=567,
        swap_in_bytes=3 * PAGE_BYTES,
        swap_out_bytes=4 * PAGE_BYTES,
        refaults=42,
        host_swap_bytes=2_000_000 * 1024,
    )
    probe.close()


def test_else_the_nearest_cgroup_above_or_the_system_is_named(tmp_path: Path) -> None:
    root = unpack("v2-pod", tmp_path)
    (root / SCOPE / "memory.pressure").unlink()
    probe = PressureProbe(7, root)
    assert (probe.source, probe.read_psi()) == ("system", (777000, 555000))
    probe.close()
    write(root, {"sys/fs/cgroup/kubepods.slice/memory.pressure": psi(8, 7)})
    probe = PressureProbe(7, root)
    assert (probe.source, probe.read_psi()) == ("cgroup /kubepods.slice", (8, 7))
    probe.close()


def test_in_a_container_the_mounts_top_is_its_own_cgroup(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/mountinfo": "31 24 0:27 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
            "proc/7/cgroup": "0::/\n",
            "proc/pressure/memory": psi(100, 90),
            "sys/fs/cgroup/cgroup.type": "domain\n",
            "sys/fs/cgroup/memory.pressure": psi(10, 9),
        },
    )
    probe = PressureProbe(7, root)
    assert (probe.source, probe.read_psi()) == ("cgroup /", (10, 9))
    probe.close()


def test_v1_has_no_psi_of_its_own_and_tells_refaults_with_all_below_it(tmp_path: Path) -> None:
    root = write(unpack("v1-docker", tmp_path), {"proc/pressure/memory": psi(100, 90)})
    probe = PressureProbe(7, root)
    assert probe.source == "system"
    reading = probe.read()
    assert reading.refaults == 42
    assert (reading.swap_in_bytes, reading.swap_out_bytes) == (7 * PAGE_BYTES, 9 * PAGE_BYTES)
    probe.close()


def test_without_a_cgroup_that_tells_the_whole_hosts_count(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {"proc/vmstat": "workingset_refault 500\npswpin 7\n", "proc/meminfo": "SwapTotal: 9 kB\nSwapFree: 2 kB"},
    )
    probe = PressureProbe(7, root)
    assert probe.source is None
    assert probe.read() == PressureReading(swap_in_bytes=7 * PAGE_BYTES, refaults=500, host_swap_bytes=7 * 1024)
    probe.close()


def test_what_is_not_told_is_none(tmp_path: Path) -> None:
    for root in (tmp_path / "nothing", unpack("gvisor", tmp_path)):
        probe = PressureProbe(7, root)
        assert (probe.source, probe.read(), probe.read_psi()) == (None, PressureReading(), (None, None))
        probe.close()


def test_psi_that_is_there_but_off_is_none(tmp_path: Path) -> None:
    probe = PressureProbe(7, write(tmp_path, {"proc/pressure/memory": ""}))
    assert (probe.source, probe.read_psi()) == (None, (None, None))
    probe.close()


def test_totals_go_on_from_where_they_stood_when_the_process_moves(tmp_path: Path) -> None:
    root = unpack("v2-pod", tmp_path)
    probe = PressureProbe(7, root)
    before = probe.read()
    other = "sys/fs/cgroup/other"
    write(
        root,
        {
            "proc/7/cgroup": "0::/other\n",
            f"{other}/cgroup.type": "domain\n",
            f"{other}/memory.pressure": psi(1_000_000, 900_000),
            f"{other}/memory.stat": "inactive_file 1\nworkingset_refault_file 9000\npswpin 8000\npswpout 8000\n",
        },
    )
    assert probe.read() == before
    assert probe.source == "cgroup /other"
    write(root, {f"{other}/memory.pressure": psi(1_000_010, 900_001)})
    assert probe.read_psi() == (1244, 568)
    probe.close()


def test_of_a_process_that_is_gone_its_last_place_is_read(tmp_path: Path) -> None:
    root = unpack("v2-pod", tmp_path)
    probe = PressureProbe(7, root)
    (root / "proc/7/cgroup").write_text("")
    write(root, {f"{SCOPE}/memory.pressure": psi(2000, 600)})
    assert probe.read()[:2] == (2000, 600)
    assert probe.source == "cgroup /kubepods.slice/kubepods-pod1.slice/cri-containerd-8d2f.scope"
    probe.close()
    assert probe.read_psi() == (None, None)


@pytest.mark.skipif(not os.access("/proc/pressure/memory", os.R_OK), reason="no PSI here")
def test_the_real_psi_is_read() -> None:
    probe = PressureProbe(os.getpid())
    assert probe.source is not None
    some, full = probe.read_psi()
    assert some is not None
    assert full is not None
    assert some >= full >= 0
    later = probe.read()
    assert later.psi_some_us is not None
    assert later.psi_some_us >= some
    assert later.host_swap_bytes is not None
    assert later.refaults is not None
    probe.close()


def test_by_psutil_the_hosts_swap_is_all_there_is() -> None:
    probe = PressureProbe(os.getpid(), portable=True)
    reading = probe.read()
    assert reading.host_swap_bytes is not None
    assert reading == PressureReading(host_swap_bytes=reading.host_swap_bytes)
    assert (probe.source, probe.read_psi()) == (None, (None, None))
    probe.close()


TREES = {name: read_tree(name) for name in ("v2-pod", "v1-docker", "gvisor")}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(data=st.data())
def test_garbage_in_any_file_never_raises(tmp_path: Path, data: st.DataObject) -> None:
    tree = TREES[data.draw(st.sampled_from(sorted(TREES)))]
    spoilt = {}
    for name in data.draw(st.lists(st.sampled_from(sorted(tree)), min_size=1, max_size=4)):
        text = tree[name].encode()
        cut = data.draw(st.integers(0, len(text)))
        spoilt[name] = text[:cut] + data.draw(st.binary(max_size=60)) + text[cut:]
    root = write(tmp_path / "tree", tree)
    probe = PressureProbe(7, root)
    for name, garbage in spoilt.items():
        (root / name).write_bytes(garbage)
    for one in (probe, PressureProbe(7, root)):
        reading = one.read()
        assert all(value is None or 0 <= value < 1 << 62 for value in reading)
        one.close()
