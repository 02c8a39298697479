"""Two servers on one PostgreSQL behind a balancer, of which one is killed again and again."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

from tests.server.postgres import open_databases, why_no_postgres
from tests.support import clean_environment
from tests.torture.alarms import Alarms
from tests.torture.audience import Audience
from tests.torture.nginx import Nginx, why_no_nginx
from tests.torture.oracle import Finding, judge
from tests.torture.processes import Server, Training, free_port
from tests.torture.proxy import Proxy
from tests.torture.report import Report, spread
from tests.torture.shared import SharedStore
from tests.torture.world import Plan, World

__all__ = ["replicas"]

_REPLICAS = 2
_TOGETHER = "together"  # the run of the last two trainings
_SHORTEST_S, _LONGEST_S = 0.5, 4.0  # from when all replicas serve until one is killed
_ALARMS = 3
_START_S = 30.0


class _World(World):
    """Two servers in place of one."""

    store: SharedStore

    def __init__(self, plan: Plan, name: str, root: Path, memory: Path, url: str) -> None:
        self._url = url
        super().__init__(plan, name, root, memory)

    def _lay_out(self) -> None:
        self.store = SharedStore(self._url)
        self.servers = []
        for number in range(_REPLICAS):
            where = clean_environment(self.root / f"server-{number}", OOMCAST_STORE=self._url, **self.logs)
            self.servers.append(Server(where, self.root / f"server-{number}.log"))
        self.balancer = self._make_balancer([server.port for server in self.servers])
        self.base = f"http://127.0.0.1:{self.balancer.port}"
        self.environment = clean_environment(self.home, OOMCAST_SERVER=self.base, **self.logs)

    def _make_balancer(self, ports: list[int]) -> Proxy | Nginx:
        if self.plan.balancer == "proxy" or why_no_nginx():
            self.report.notes["balancer"] = "a TCP proxy, in turn"
            return Proxy(*ports)
        self.report.notes["balancer"] = "nginx, with server/nginx.conf"
        return Nginx(self.root / "nginx", free_port(), ports)

    def start_server(self) -> None:
        for server in self.servers:
            server.start()
        self.until(lambda: all(server.serves() for server in self.servers), _START_S, "servers that serve")

    def start_training(self) -> Training:
        shared = len(self.trainings) >= self.plan.trainings - 2
        more = {"OOMCAST_RUN_ID": f"{_TOGETHER}-{self.root.name}"} if shared else {}
        training = self._make_training(_TOGETHER if shared else None, **more)
        self.store.names[training.process.pid] = training.name
        self.trainings.append(training)
        return training

    def _judge(self, training: Training) -> Finding:
        steps, pid = training.tally.steps, training.process.pid
        finding = judge(self.store, training.run, steps, killed=training.killed, pid=pid)
        return dataclasses.replace(finding, name=training.name)

    def close(self) -> None:
        self.balancer.close()
        self.store.close()


@contextlib.contextmanager
def _made(plan: Plan) -> Iterator[_World]:
    with open_databases() as databases:
        url = databases.make()
        with _World.made(plan, "replicas", url=url) as world, contextlib.closing(world):
            yield world


def replicas(plan: Plan) -> Report:
    """One of two servers is killed at random moments and started again, while agents and viewers go to the other."""
    if why := why_no_postgres():
        return Report("replicas", plan.seed, skipped=why)
    with _made(plan) as world:
        world.start()
        runs = [row[0] for row in world.store.ask("SELECT id FROM runs ORDER BY pk")]
        with contextlib.closing(Audience(world.base, world.token, runs)) as audience:
            world.until(audience.all_see, _START_S, "rows to each viewer")
            with contextlib.closing(Alarms(world.base, world.token, world.store, _ALARMS)) as alarms:
                _kill(world)
                world.until(audience.all_back, _START_S, "rows to each viewer again")
        report = world.finish()
        _tell(report, world, audience, alarms)
        return report


def _kill(world: _World) -> None:
    outages: list[float] = []
    starts: list[float] = []
    begun = time.monotonic()
    for _ in world.rounds():
        world.pause(world.random.uniform(_SHORTEST_S, _LONGEST_S))
        victim = world.random.choice(world.servers)
        victim.kill()
        killed, before = time.monotonic(), world.marks()
        world.report.kills += 1
        victim.start()
        if world.back(before, every=True) is not None:
            outages.append(time.monotonic() - killed)
        # One that is killed while the other one isn't there yet would show nothing of two.
        if world.until(victim.serves, _START_S, "a server that serves") is not None:
            starts.append(time.monotonic() - killed)
    world.report.notes["from one kill to the next, s"] = (time.monotonic() - begun) / max(1, world.report.kills)
    _note(world.report, "until the one that was killed serves again, or later, s", starts)
    _note(world.report, "from kill to a new row of each training, s", outages)


def _note(report: Report, what: str, seconds: list[float]) -> None:
    report.notes[what] = "median {}, p95 {}, max {}".format(*spread(seconds))


def _tell(report: Report, world: _World, audience: Audience, alarms: Alarms) -> None:
    report.back_s = audience.back_s
    report.back_is = "from a viewer's loss of its connection until rows come to it again"
    report.notes["viewers' connections lost"] = float(audience.losses)
    report.notes["the longest that a viewer was without rows, s"] = audience.longest_s
    report.notes["rows that came to a viewer without those before"] = float(audience.skipped)
    report.notes["conditions raised, each of one episode"] = float(alarms.raised)
    _note(report, "from a condition, or its end, to its episode, s", alarms.noticed_s)
    if audience.doubled:
        report.faults.append(f"rows came to viewers twice, {audience.doubled} times")
    begun = time.monotonic()
    report.faults += alarms.judged() + world.store.wrong()
    report.notes["all rollups compared, s"] = time.monotonic() - begun
    if report.faults:
        report.notes.setdefault("what was said", " | ".join(world._said()))
