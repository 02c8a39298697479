"""What is killed. Each scenario plays in a world of its own and ends with a judgement."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

from tests.torture.disks import SmallDisk
from tests.torture.processes import Training
from tests.torture.replicas import replicas
from tests.torture.report import Report, spread
from tests.torture.shortages import full_disk_agent, full_disk_server, overflow, partition
from tests.torture.world import Plan, World

__all__ = ["SCENARIOS"]

_SHORTEST_S, _LONGEST_S = 0.2, 3.0  # between two kills


def _moment(world: World) -> float:
    return world.random.uniform(_SHORTEST_S, _LONGEST_S)


def server(plan: Plan) -> Report:
    """The server is killed at random moments, some of them before it is up again, and started on the same port."""
    with World.made(plan, "server") as world:
        world.start()
        world.report.back_is = "from listening until a new row is stored"
        starts: list[float] = []
        outages: list[float] = []
        everyone: list[float] = []
        for _ in world.rounds():
            world.pause(_moment(world))
            _restart_server(world)
            if world.random.random() < 0.2:
                world.pause(world.random.uniform(0, 1.5))
                _restart_server(world)
            killed, before = time.monotonic(), world.marks()
            world.until(world.server.listens, 30, "a server that listens")
            listens = time.monotonic()
            starts.append(listens - killed)
            if world.back(before) is not None:
                world.report.back_s.append(time.monotonic() - listens)
                outages.append(time.monotonic() - killed)
            if world.back(before, every=True) is not None:
                everyone.append(time.monotonic() - listens)
        _note(world, "from kill and restart to listening, s", starts)
        _note(world, "from kill and restart to the first new row, s", outages)
        _note(world, "from listening to a new row of each training, s", everyone)
        return world.finish()


def _restart_server(world: World) -> None:
    world.server.kill()
    world.report.kills += 1
    world.server.start()


def _note(world: World, what: str, seconds: list[float]) -> None:
    world.report.notes[what] = "median {}, p95 {}, max {}".format(*spread(seconds))


def agent(plan: Plan) -> Report:
    """Agents are killed; the session starts another, which goes on with the same source."""
    with World.made(plan, "agent") as world:
        world.start()
        world.report.back_is = "from the kill until a batch that was done after it is stored"
        for _ in world.rounds():
            world.pause(_moment(world) / plan.trainings)
            victim = world.random.choice(world.living())
            if _kill_agent(victim.agent()):
                world.report.kills += 1
                # Not just any new row: one that was done when the agent was dead.
                goal = {victim.name: victim.tally.steps + 1}
                if (back := world.caught_up(goal)) is not None:
                    world.report.back_s.append(back)
        return world.finish()


def _kill_agent(pid: int | None) -> bool:
    with contextlib.suppress(ProcessLookupError):
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            return True
    return False


def training(plan: Plan) -> Report:
    """Trainings are killed and others started; the agent empties the ring and tells of the end."""
    with World.made(plan, "training") as world:
        verdicts = _Verdicts(world)
        world.start()
        for _ in world.rounds():
            world.pause(_moment(world) / plan.trainings)
            _replace(world, verdicts, agent_too=False)
        world.until(verdicts.complete, 30, "each verdict")
        world.report.back_s = verdicts.seconds
        world.report.back_is = "from the kill until the verdict is stored"
        return world.finish()


class _Verdicts:
    """How long after its death each training's end was stored."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._killed: dict[str, float] = {}
        self.seconds: list[float] = []
        world.meanwhile = self._look

    def kill(self, victim: Training) -> None:
        if victim.tally.steps:
            self._killed[victim.name] = time.monotonic()
        victim.kill()

    def complete(self) -> bool:
        return not self._killed

    def _look(self) -> None:
        for name, standing in self._world.store.standings().items() if self._killed else ():
            if standing.ended and name in self._killed:
                self.seconds.append(time.monotonic() - self._killed.pop(name))


def _replace(world: World, verdicts: _Verdicts, *, agent_too: bool) -> None:
    """Kill a training, perhaps its agent a moment before or after it, and start another."""
    victim = world.random.choice(world.living())
    pid, agent_first = victim.agent(), world.random.random() < 0.5
    if agent_too and agent_first:
        _kill_agent(pid)
    verdicts.kill(victim)
    if agent_too and not agent_first:
        _kill_agent(pid)
    world.report.kills += 1
    world.start_training()


def both(plan: Plan) -> Report:
    """A training and its agent are killed together; the next agent here finds what they left."""
    with World.made(plan, "both") as world:
        verdicts = _Verdicts(world)
        world.start()
        for _ in world.rounds():
            world.pause(_moment(world) / plan.trainings)
            _replace(world, verdicts, agent_too=True)
        world.until(verdicts.complete, 60, "each verdict")
        world.report.back_s = verdicts.seconds
        world.report.back_is = "from the kill until the verdict is stored"
        return world.finish()


def full_disk_killed(plan: Plan) -> Report:
    """A training and its agent are killed together while the journals' disk is full; the server is there."""
    with World.made(plan, "full_disk_killed") as world:
        disk = SmallDisk(world.home / "state", 64 << 20)
        if disk.problem:
            world.report.skipped = disk.problem
            return world.report
        verdicts = _Verdicts(world)
        world.start()
        for _ in world.rounds():
            disk.fill()
            world.pause(_moment(world) / 3)
            _replace(world, verdicts, agent_too=True)
            world.pause(_moment(world) / 3)
            disk.free()
            world.pause(_moment(world) / 3)
            world.start_training().stop()  # one that looks for what was left behind, now that there is space
        world.until(verdicts.complete, 60, "each verdict")
        world.report.back_s = verdicts.seconds
        world.report.back_is = "from the kill until the verdict is stored"
        return world.finish()


def everything(plan: Plan) -> Report:
    """Server, agents and trainings are killed in any order and at any moment, also while another one recovers."""
    with World.made(plan, "everything") as world:
        verdicts = _Verdicts(world)
        world.start()
        for _ in world.rounds():
            world.pause(_moment(world) / 3)
            blow = world.random.choice(("server", "agent", "training", "both"))
            if blow == "server":
                _restart_server(world)
            elif blow == "agent":
                world.report.kills += _kill_agent(world.random.choice(world.living()).agent())
            else:
                _replace(world, verdicts, agent_too=blow == "both")
        world.until(verdicts.complete, 60, "each verdict")
        return world.finish()


SCENARIOS: dict[str, Callable[[Plan], Report]] = {
    scenario.__name__: scenario
    for scenario in (
        server,
        agent,
        training,
        both,
        everything,
        partition,
        full_disk_agent,
        full_disk_server,
        full_disk_killed,
        overflow,
        replicas,
    )
}
