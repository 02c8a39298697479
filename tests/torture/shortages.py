"""What is taken away: the line to the server, the space on a disk, the room in a journal."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterator

from tests.torture.disks import SmallDisk
from tests.torture.oracle import judge
from tests.torture.proxy import Line, Proxy
from tests.torture.report import Report
from tests.torture.tap import Tap
from tests.torture.world import Plan, World

__all__ = ["full_disk_agent", "full_disk_server", "overflow", "partition"]

_MOST_CUTS = 12
_CALM_S = 10.0
_FILLS_S = 60.0
_LONGEST_LATER_CUT_S = 15.0
_SMALL_JOURNAL_BYTES = 128 << 10
# What one row takes of the store and its write-ahead log together, and more than enough of it.
_STORED_ROW_BYTES = 600


def partition(plan: Plan) -> Report:
    """The line is cut in three ways, the first time for long; the training must not feel it."""
    with World.made(plan, "partition") as world, _proxied(world) as proxy:
        world.start()
        calm, _ = _step_cost(world, min(plan.partition_s, _CALM_S))
        cut: list[float] = []
        for number in itertools.islice(world.rounds(), _MOST_CUTS):
            line = (Line.DROP, Line.STALL, Line.RESET)[number % 3]
            longest = min(plan.partition_s, _LONGEST_LATER_CUT_S)
            seconds = plan.partition_s if number == 0 else world.random.uniform(longest / 5, longest)
            proxy.set(line)
            world.report.kills += 1
            median, stored = _step_cost(world, seconds)
            cut.append(median)
            if stored and line is not Line.STALL and seconds > 2:
                world.report.faults.append(f"{stored} rows came through a line that was cut ({line.value})")
            _heal(world, lambda: proxy.set(Line.OPEN), f"{line.value} for {seconds:.0f} s")
        world.report.notes["a step's median, µs"] = f"{calm:.2f}; {statistics.median(cut):.2f} when cut"
        world.report.notes["a step while the line is cut, of one before"] = statistics.median(cut) / calm
        return world.finish()


@contextlib.contextmanager
def _proxied(world: World) -> Iterator[Proxy]:
    proxy = Proxy(world.server.port)
    world.environment["OOMCAST_SERVER"] = f"http://127.0.0.1:{proxy.port}"
    try:
        yield proxy
    finally:
        proxy.close()


def _step_cost(world: World, seconds: float) -> tuple[float, int]:
    """The median cost of a step in µs over the next seconds, and how many rows were stored in the last half of them."""
    before = {training.name: training.tally for training in world.living()}
    world.pause(seconds / 2)
    marks = world.marks()
    world.pause(seconds / 2)
    medians = [cost for t in world.living() if (cost := t.tally.median_us(before[t.name])) is not None]
    stored = sum(now - marks.get(name, 0) for name, now in world.marks().items())
    return statistics.median(medians), stored


def _heal(world: World, mend: Callable[[], object], what: str) -> None:
    """Mend it, and note how long it takes until a new row is stored, and until nothing waits any more."""
    world.report.back_is = "from when it is mended until a new row is stored"
    before = world.marks()
    goals = {training.name: training.tally.steps for training in world.living()}
    reached = world.reached()
    backlog = sum(goals.values()) - sum(reached.get(name, 0) for name in goals)
    mend()
    mended = time.monotonic()
    if (back := world.back(before)) is not None:
        world.report.back_s.append(back)
    if world.caught_up(goals) is not None:
        took = time.monotonic() - mended
        world.report.notes[f"caught up after {what}"] = f"{took:.1f} s, with {backlog} rows behind"


def full_disk_agent(plan: Plan) -> Report:
    """The journals' disk is full, at first with a server and then without; then there is space again."""
    with World.made(plan, "full_disk_agent") as world:
        disk = SmallDisk(world.home / "state", 64 << 20)
        if disk.problem:
            world.report.skipped = disk.problem
            return world.report
        disk.fill()
        world.start()
        for number in world.rounds():
            if number:
                disk.fill()
            world.report.kills += 1
            world.pause(world.random.uniform(0.5, 2))
            world.server.kill()
            world.pause(world.random.uniform(1, 4))
            if number % 2:
                disk.free()  # before the server comes: what memory holds is written
                world.pause(0.5)
            _heal(world, world.start_server, f"full disk {number}")
            disk.free()
            world.pause(world.random.uniform(0.2, 1))
        if not all("the journal can't be written" in training.said for training in world.trainings):
            world.report.faults.append("an agent has not noticed that its disk was full, so nothing was shown")
        return world.finish()


def full_disk_server(plan: Plan) -> Report:
    """The store's disk is full, and then isn't; every third time the server is killed while it is full."""
    with World.made(plan, "full_disk_server") as world:
        most = (256 << 20) + int(plan.n * 10 * plan.rate * _STORED_ROW_BYTES)
        disk = SmallDisk(world.store_folder, most)
        if disk.problem:
            world.report.skipped = disk.problem
            return world.report
        world.start()
        for number in world.rounds():
            world.pause(world.random.uniform(0.5, 2))
            disk.fill()
            world.report.kills += 1
            # What it has allocated already may still take some.
            world.until(world.stands_still(1), _FILLS_S, "a server that can store no more")
            world.pause(world.random.uniform(0, 3))
            if number % 3 == 2:
                world.server.kill()
                disk.free()
                _heal(world, world.start_server, f"full disk {number} and a kill")
            else:
                _heal(world, disk.free, f"full disk {number}")
        return world.finish()


def overflow(plan: Plan) -> Report:
    """The server is away for longer than the journal has room: what is missing then is what the gaps say, exactly."""
    with World.made(plan, "overflow") as world:
        world.environment["OOMCAST_JOURNAL_MAX"] = str(_SMALL_JOURNAL_BYTES)
        tap = Tap(world.home / "state", world.home / "tap")
        world.meanwhile = tap.look
        world.start()
        for number in world.rounds():
            world.pause(world.random.uniform(0.2, 1))
            world.server.kill()
            world.report.kills += 1
            # Some 160 bytes a row: full after a second at 1 000 rows/s.
            world.pause(world.random.uniform(1, 3) * _SMALL_JOURNAL_BYTES / 160 / (plan.rate / plan.trainings))
            _heal(world, world.start_server, f"overflow {number}")
        report = world.finish(may_lose=True)
        _judge_gaps(world, tap)
        return report


def _judge_gaps(world: World, tap: Tap) -> None:
    report = world.report
    missing = gaps = 0
    for training in world.trainings:
        finding = judge(world.store, training.name, training.tally.steps, killed=training.killed)
        lost, faults = tap.judge(world.store, training.name, finding.produced, finding.gaps)
        missing, gaps = missing + lost, gaps + len(finding.gaps)
        report.faults += [f"{training.name}: {text}" for text in faults]
    report.notes["missing, each in a gap that says so"] = f"{missing} rows, {gaps} gaps"
    if not missing:
        report.faults.append("the journal did not overflow, so nothing was shown")
