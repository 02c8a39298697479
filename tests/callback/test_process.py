"""One process's figures: by /proc, by psutil, and of a tree of processes together."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oomcast.probes.process import (
    PAGE_BYTES,
    ProcessReading,
    parse_stat,
    parse_stat_faults,
    parse_statm,
    parse_status,
    read_by_psutil,
    read_process,
    tree_pss,
)
from tests.trees import unpack, write

pytestmark = pytest.mark.fast

MIB = 1 << 20
STAT = "7 (a) b (c)) S 1 2 3 4 5 6 111 8 222 10 250 50 0 0 20 0 3 0 4711 900 25 18446744073709551615\n"
STATUS = (
    "Name:\tpython\nVmPeak:\t 9000 kB\nVmSize:\t 8000 kB\nVmRSS:\t 600 kB\nRssAnon:\t 300 kB\nRssFile:\t 200 kB\n"
    "RssShmem:\t 100 kB\nVmData:\t 700 kB\nVmSwap:\t 50 kB\nThreads:\t3\n"
)


def test_a_cut_statm_still_gives_rss_and_shared() -> None:
    assert parse_statm(b"123456789 2000 30 1 0 9999", page_bytes=4096) == (2000 * 4096, 30 * 4096)
    assert parse_statm(b"") == (None, None)


def test_faults_are_found_behind_a_name_with_blanks_and_brackets() -> None:
    assert parse_stat_faults(b"7 (a) b (c)) S 1 2 3 4 5 6 111 8 222 10") == (111, 222)


def test_a_stat_says_who_it_is_and_what_it_has_used() -> None:
    stat = parse_stat(STAT.encode())
    assert stat
    assert (stat.name, stat.state, stat.parent, stat.threads, stat.started) == ("a) b (c)", "S", 1, 3, 4711)
    assert stat.cpu_ns == 300 * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    assert stat.rss_bytes == 25 * PAGE_BYTES


def test_a_process_has_not_ended_whose_first_thread_left_before_the_others() -> None:
    alone, others = (parse_stat(f"7 (a) Z 1 {'0 ' * 15}{n} 0 4711 0 0".encode()) for n in (1, 2))
    assert alone
    assert others
    assert (alone.ended, others.ended) == (True, False)


def test_what_the_kernel_tells_of_a_process_is_read(tmp_path: Path) -> None:
    write(tmp_path, {"7/status": STATUS, "7/stat": STAT})
    assert read_process(7, tmp_path) == ProcessReading(
        rss_bytes=600 * 1024,
        shared_bytes=300 * 1024,
        swap_bytes=50 * 1024,
        virtual_bytes=8000 * 1024,
        data_bytes=700 * 1024,
        minor_faults=111,
        major_faults=222,
        anonymous_bytes=300 * 1024,
        file_bytes=200 * 1024,
        cpu_ns=300 * 1_000_000_000 // os.sysconf("SC_CLK_TCK"),
        name="a) b (c)",
    )


def test_what_an_emulated_proc_does_not_tell_is_none(tmp_path: Path) -> None:
    reading = read_process(7, unpack("gvisor", tmp_path) / "proc")
    assert (reading.rss_bytes, reading.virtual_bytes, reading.name) == (500_000 * 1024, 900_000 * 1024, "python")
    assert (reading.swap_bytes, reading.shared_bytes, reading.anonymous_bytes) == (None, None, None)


def test_this_process_is_read() -> None:
    with mmap.mmap(-1, 16 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        before = read_process(os.getpid())
        area.write(b"x" * (16 * MIB))
        after = read_process(os.getpid())
    assert before.anonymous_bytes is not None
    assert after.anonymous_bytes is not None
    assert after.anonymous_bytes - before.anonymous_bytes > 14 * MIB
    assert after.rss_bytes is not None
    assert after.rss_bytes >= after.anonymous_bytes
    assert after.cpu_ns is not None
    assert after.cpu_ns > 0


def test_a_process_that_is_gone_has_no_figures(tmp_path: Path) -> None:
    assert read_process(7, tmp_path) == ProcessReading()


def test_shared_pages_of_a_tree_count_once(tmp_path: Path) -> None:
    rollup = "00400000-7ffd rollup\nRss:  {rss} kB\nPss:  {pss} kB\nPss_Dirty: 1 kB\n"
    write(tmp_path, {"7/smaps_rollup": rollup.format(rss=900, pss=500)})
    write(tmp_path, {"8/smaps_rollup": rollup.format(rss=900, pss=400)})
    assert tree_pss([7, 8, 9], tmp_path) == 900 * 1024
    assert tree_pss([9], tmp_path) is None
    assert tree_pss([], tmp_path) is None


@pytest.mark.skipif(not os.access("/proc/self/smaps_rollup", os.R_OK), reason="no smaps_rollup here")
def test_the_real_share_is_below_rss() -> None:
    share, reading = tree_pss([os.getpid()]), read_process(os.getpid())
    assert share is not None
    assert reading.rss_bytes is not None
    assert 0 < share <= reading.rss_bytes + MIB


def test_by_psutil_the_rest_is_read() -> None:
    reading = read_by_psutil(os.getpid())
    assert reading.rss_bytes is not None
    assert abs(reading.rss_bytes - (read_process(os.getpid()).rss_bytes or 0)) < 4 * MIB
    assert reading.cpu_ns is not None
    assert reading.name == psutil.Process().name()
    assert (reading.swap_bytes, reading.anonymous_bytes, reading.file_bytes) == (None, None, None)
    assert read_by_psutil(2**31 - 2) == ProcessReading()


@pytest.mark.parametrize(
    ("memory", "faults", "expected"),
    [
        ({"pfaults": 5, "pageins": 3}, None, (5, 3)),  # macOS
        ({"num_page_faults": 9}, None, (9, None)),  # Windows
        ({}, None, (None, None)),  # Linux before psutil 8
        ({}, (5, 3), (5, 3)),  # psutil 8
    ],
)
def test_page_faults_are_taken_from_wherever_psutil_has_them(
    memory: dict[str, int], faults: tuple[int, int] | None, expected: tuple[int | None, int | None]
) -> None:
    class Process:
        def __init__(self, pid: int) -> None:
            if faults:
                self.page_faults = lambda: SimpleNamespace(minor=faults[0], major=faults[1])

        def memory_info(self) -> Any:
            return SimpleNamespace(rss=1, vms=2, **memory)

        def cpu_times(self) -> Any:
            raise psutil.AccessDenied

        def name(self) -> str:
            return "python"

    reading = read_by_psutil(7, SimpleNamespace(Process=Process, Error=psutil.Error))
    assert (reading.minor_faults, reading.major_faults) == expected
    assert (reading.rss_bytes, reading.cpu_ns, reading.name) == (1, None, "python")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(data=st.data())
def test_garbage_never_raises(tmp_path: Path, data: st.DataObject) -> None:
    files = {"7/status": STATUS, "7/stat": STAT, "7/smaps_rollup": "Pss:  5 kB\n"}
    for name, text in files.items():
        cut = data.draw(st.integers(0, len(text)))
        (tmp_path / "7").mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text[:cut].encode() + data.draw(st.binary(max_size=60)) + text[cut:].encode())
    reading = read_process(7, tmp_path)
    assert all(value is None or isinstance(value, str) or 0 <= value < 1 << 62 for value in reading)
    tree_pss([7], tmp_path)
    garbage = data.draw(st.binary(max_size=200))
    parse_statm(garbage)
    parse_stat(garbage)
    parse_stat_faults(garbage)
    parse_status(garbage)
