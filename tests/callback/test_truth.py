"""The figures are right: known allocations, known page touches and real swap, seen through the whole chain."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oomcast.sample import Kind, Sample
from tests.support import batches, memory_box, recorded, run_script, why_no_box

pytestmark = pytest.mark.fast

MIB = 1 << 20
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's clear_refs and statm")

# Huge pages would fault in 2 MiB at once.
TOUCH = """
import ctypes, mmap, sys
from oomcast import watch

def touched(size):
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        area.madvise(mmap.MADV_NOHUGEPAGE)
    for page in range(0, size, 4096):
        area[page] = 1
    return area

MIB = 1 << 20
"""


@linux
def test_the_peak_inside_a_batch_shows_what_its_end_does_not(home: Path) -> None:
    code = f"""{TOUCH}
with watch(run_name="peak") as run:
    for batch in range(20):
        area = touched(64 * MIB) if batch == 10 else None
        if area is not None:
            area.close()
        run.step(batch)
"""
    assert run_script(code, home, OOMCAST_MODE="offline").returncode == 0
    rows = batches(recorded(home, "peak"))
    extra = {row.batch: row.peak_bytes - row.rss_bytes for row in rows if row.peak_bytes and row.rss_bytes}
    assert len(extra) == 20
    assert 62 * MIB <= extra[10] <= 66 * MIB
    assert max(size for batch, size in extra.items() if batch != 10) < 2 * MIB


@linux
def test_a_peak_that_comes_in_every_batch_is_seen_until_it_stops(home: Path) -> None:
    code = f"""{TOUCH}
with watch(run_name="steady peaks") as run:
    for batch in range(30):
        if batch < 15:
            touched(32 * MIB).close()
        run.step(batch)
"""
    assert run_script(code, home, OOMCAST_MODE="offline").returncode == 0
    rows = batches(recorded(home, "steady peaks"))
    extra = [row.peak_bytes - row.rss_bytes for row in rows if row.peak_bytes and row.rss_bytes]
    assert all(30 * MIB < size < 34 * MIB for size in extra[:15])
    assert all(size < 2 * MIB for size in extra[15:])


@linux
def test_growth_is_seen_in_rss_to_the_page(home: Path) -> None:
    code = f"""{TOUCH}
kept = []
with watch(run_name="growth") as run:
    for batch in range(20):
        kept.append(touched(8 * MIB))
        run.step(batch)
"""
    assert run_script(code, home, OOMCAST_MODE="offline").returncode == 0
    rss = [row.rss_bytes for row in batches(recorded(home, "growth")) if row.rss_bytes]
    # RSS counters are kept per CPU and summed up late: some dozens of pages either way.
    assert abs((rss[-1] - rss[0]) - 19 * 8 * MIB) < MIB


@linux
def test_minor_faults_are_the_pages_touched_in_that_batch(home: Path) -> None:
    code = f"""{TOUCH}
kept = []
with watch(run_name="faults") as run:
    for batch in range(12):
        if batch == 6:
            kept.append(touched(5000 * 4096))
        run.step(batch)
"""
    assert run_script(code, home, OOMCAST_MODE="offline").returncode == 0
    faults = {row.batch: row.minor_faults for row in batches(recorded(home, "faults"))}
    assert 5000 <= (faults[6] or 0) <= 5100
    assert all((count or 0) < 200 for batch, count in faults.items() if batch not in (0, 6))


@linux
def test_a_starter_that_was_larger_does_not_become_the_trainings_peak(home: Path) -> None:
    child = f"""{TOUCH}
with watch(run_name="small child") as run:
    for batch in range(5):
        run.step(batch)
"""
    # subprocess uses vfork, and the kernel then counts the starter's high-water mark as the child's own.
    code = f"""{TOUCH}
import subprocess
big = touched(300 * MIB)
subprocess.run([sys.executable, "-c", {child!r}], check=True)
"""
    assert run_script(code, home, OOMCAST_MODE="offline").returncode == 0
    peaks = [row.peak_bytes for row in batches(recorded(home, "small child"))]
    assert all(peak is not None and peak < 200 * MIB for peak in peaks)


@linux
def test_without_rearming_the_processs_own_peak_is_left_alone(home: Path) -> None:
    code = f"""{TOUCH}
import resource
touched(64 * MIB).close()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with watch(run_name="hands off") as run:
    run.step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >= before)
"""
    result = run_script(code, home, OOMCAST_MODE="offline", OOMCAST_RESET_PEAK="0")
    assert result.stdout.strip() == "True"
    assert [row.peak_bytes for row in batches(recorded(home, "hands off"))] == [None]


def _why_no_swap() -> str | None:
    if why_no_box():
        return why_no_box()
    if not shutil.which("mkswap") or not shutil.which("swapon"):
        return "needs mkswap and swapon"
    return None


@pytest.fixture
def swap(tmp_path: Path) -> Iterator[None]:
    file = tmp_path / "swap"
    with file.open("wb") as out:
        os.posix_fallocate(out.fileno(), 0, 256 * MIB)
    file.chmod(0o600)
    subprocess.run(["mkswap", file], check=True, capture_output=True)
    added = subprocess.run(["swapon", file], capture_output=True, text=True, check=False)
    if added.returncode != 0:
        pytest.skip(f"no swap file can be added: {added.stderr.strip()}")
    yield
    subprocess.run(["swapoff", file], check=True)


@pytest.fixture
def small_box() -> Iterator[Path]:
    with memory_box(96 * MIB) as box:
        yield box


@pytest.mark.skipif(_why_no_swap() is not None, reason=str(_why_no_swap()))
@pytest.mark.usefixtures("swap")
def test_swap_and_major_faults_are_what_was_swapped_and_touched_again(home: Path, small_box: Path) -> None:
    code = f"""{TOUCH}
import os, time
open({str(small_box / "cgroup.procs")!r}, "w").write(str(os.getpid()))
with watch(run_name="swapping") as run:
    run.step(0)
    area = touched(160 * MIB)
    time.sleep(1.5)
    run.step(1)
    total = sum(area[page] for page in range(0, len(area), 4096))
    time.sleep(1.5)
    run.step(2)
    area.close()
    run.step(3)
"""
    assert run_script(code, home, OOMCAST_MODE="offline").returncode == 0
    rows = recorded(home, "swapping")
    steps = {row.batch: row for row in batches(rows)}
    swapped = max(row.swap_bytes or 0 for row in rows if isinstance(row, Sample))
    # 160 MiB and the interpreter do not fit into 96.
    assert 60 * MIB < swapped < 130 * MIB
    assert (steps[1].swap_bytes or 0) > 60 * MIB
    # Read-ahead brings in eight pages with one fault.
    assert (steps[2].major_faults or 0) > 60 * MIB // 4096 // 16
    assert any(row.kind is Kind.TICK and (row.limit_bytes == 96 * MIB) for row in rows if isinstance(row, Sample))
