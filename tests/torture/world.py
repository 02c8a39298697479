"""One server, some trainings with their agents, and a judge at the end: what every scenario plays in."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from oomcast.agent.journal import journal_folders
from tests.support import clean_environment
from tests.torture.oracle import Finding, Store, judge
from tests.torture.processes import Server, Training, agents, memory_bytes, run_sync
from tests.torture.report import Report
from tests.torture.warden import Warden, sessions

__all__ = ["Plan", "World"]

_SHARED_MEMORY = Path("/dev/shm")
_MEMORY_EVERY_S = 0.5
_LOOK_S = 0.01
_START_S = 30.0
_BACK_S = 30.0
_STOP_S = 30.0
_HOPELESS = 3  # waits in vain
_MOST_AGENT_BYTES = 128 << 20
# A server on two cores shared with the agents takes some 20 000 rows/s.
_SETTLE_S, _ROWS_PER_S = 60.0, 5_000


Made = TypeVar("Made", bound="World")


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much of it."""

    n: int = 100  # kills, cuts or full disks
    seed: int = 7
    rate: float = 5000.0  # batches per second, of all trainings together
    trainings: int = 5
    partition_s: float = 600.0
    balancer: str = "nginx"  # or "proxy"; where there is no nginx, always that


class World:
    """What a scenario acts on. Made by `World.made`."""

    def __init__(self, plan: Plan, name: str, root: Path, memory: Path) -> None:
        self.plan = plan
        self.random = random.Random(f"{plan.seed} {name}")
        self.report = Report(name, plan.seed)
        self.root = root
        self.home = root / "agents"
        self.trainings: list[Training] = []
        self.token = secrets.token_urlsafe(32)
        self.logs = {"OOMCAST_TOKEN": self.token, "PYTHONFAULTHANDLER": "1"}
        self.store: Store
        self.environment: dict[str, str]
        self._lay_out()
        self._tallies = memory
        self._number = 0
        self._began = time.monotonic()
        self._memory_looked = 0.0
        self._waited_in_vain = 0
        self.meanwhile: Callable[[], object] = int
        """Called again and again while time passes."""

    def _lay_out(self) -> None:
        self.store_folder = self.root / "server" / "data"
        self.store_folder.mkdir(parents=True)
        store = self.store_folder / "oomcast.db"
        self.store = Store(store)
        where = clean_environment(self.root / "server", OOMCAST_STORE=str(store), **self.logs)
        self.server = Server(where, self.root / "server.log")
        self.environment = clean_environment(self.home, OOMCAST_SERVER=self.server.base, **self.logs)

    @classmethod
    @contextlib.contextmanager
    def made(cls: type[Made], plan: Plan, name: str, **given: Any) -> Iterator[Made]:
        """A world of one's own; everything in it ends with it, however the harness itself ends."""
        root = Path(tempfile.mkdtemp(prefix="torture-"))
        memory = Path(tempfile.mkdtemp(prefix="torture-", dir=_SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None))
        warden = Warden(root, memory)
        try:
            yield cls(plan, name, root, memory, **given)
        finally:
            warden.close()

    # What it is made of.

    def start(self) -> None:
        """A server that listens, and as many trainings as planned, all of which are seen by it."""
        self.start_server()
        for _ in range(self.plan.trainings):
            self.start_training()
        self._began = time.monotonic()
        names = {training.name for training in self.trainings}
        if self.until(lambda: names <= self.reached().keys(), _START_S, "a first row of each training") is None:
            raise RuntimeError(f"nothing can be shown: {next(iter(self._said()), None)}")

    def start_server(self) -> None:
        """A server, waited for until it listens."""
        self.server.start()
        self.until(lambda: self.server.listens() or not self.server.runs, _START_S, "a server that listens")
        if not self.server.runs:
            raise RuntimeError(f"the server doesn't start: {self._last_lines(self.root / 'server.log')}")

    def start_training(self) -> Training:
        """One more training; returns at once."""
        self.trainings.append(self._make_training())
        return self.trainings[-1]

    def _make_training(self, run: str | None = None, **more: str) -> Training:
        name = f"training-{self._number}"
        self._number += 1
        rate = self.plan.rate / self.plan.trainings
        tally, log = self._tallies / name, self.root / f"{name}.log"
        return Training(name, rate, self.environment | more, tally, log, run)

    def living(self) -> list[Training]:
        """The trainings that run."""
        return [training for training in self.trainings if training.process.poll() is None]

    def rounds(self) -> Iterator[int]:
        """As many as planned; fewer where nothing works any more."""
        for number in range(self.plan.n):
            if self._waited_in_vain < _HOPELESS:
                yield number

    # What time passes with.

    def until(self, condition: Callable[[], object], within_s: float, what: str) -> float | None:
        """Wait; returns the seconds that it took. Where they are not enough it is a fault, and None."""
        begun = time.monotonic()
        while not condition():
            if time.monotonic() > begun + within_s:
                self.report.faults.append(f"{what} did not come within {within_s:.0f} s")
                self._waited_in_vain += 1
                return None
            self._look()
        return time.monotonic() - begun

    def pause(self, seconds: float) -> None:
        """Let it go on like this."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._look()

    def _look(self) -> None:
        if time.monotonic() > self._memory_looked + _MEMORY_EVERY_S:
            self._memory_looked = time.monotonic()
            largest = max((memory_bytes(pid) for pid in agents(self.root)), default=0)
            self.report.agent_bytes = max(self.report.agent_bytes, largest)
        self.meanwhile()
        time.sleep(_LOOK_S)

    def reached(self) -> dict[str, int]:
        """Run name → the number of batches up to the newest that is stored now."""
        return {name: standing.newest + 1 for name, standing in self.store.standings().items()}

    def marks(self) -> dict[str, int]:
        """Run name → how many rows are stored now, of the trainings that run."""
        stored = self.store.standings()
        return {t.name: stored[t.name].watermark if t.name in stored else 0 for t in self.living()}

    def stands_still(self, seconds: float) -> Callable[[], bool]:
        """A condition: nothing new was stored for so long."""
        marks, since = self.marks(), time.monotonic()

        def still() -> bool:
            nonlocal marks, since
            if (now := self.marks()) != marks:
                marks, since = now, time.monotonic()
            return time.monotonic() > since + seconds

        return still

    def back(self, before: dict[str, int], *, every: bool = False, within_s: float = _BACK_S) -> float | None:
        """Seconds until a new row is stored, of any or of each of these runs."""
        enough = all if every else any
        return self.until(
            lambda: enough(now > before[name] for name, now in self.marks().items() if name in before),
            within_s,
            f"a new row{' of each run' if every else ''}",
        )

    def caught_up(self, goals: dict[str, int]) -> float | None:
        """Seconds until each run is stored up to so many batches."""
        reached = self.reached()
        behind = sum(goals.values()) - sum(reached.get(name, 0) for name in goals)

        def done() -> bool:
            reached = self.reached()
            return all(reached.get(name, 0) >= goal for name, goal in goals.items())

        return self.until(done, _SETTLE_S + behind / _ROWS_PER_S, "all that was done until now")

    # What is said of it.

    def finish(self, *, may_lose: bool = False) -> Report:
        """End the trainings, let all be delivered, and judge."""
        report = self.report
        report.seconds = time.monotonic() - self._began
        for training in self.living():
            training.stop()
        for training in self.trainings:
            if not training.ended(_STOP_S):
                report.faults.append(f"{training.name} did not end within {_STOP_S:.0f} s of SIGTERM")
                training.kill()
        if report.agent_bytes > _MOST_AGENT_BYTES:
            report.faults.append(f"an agent took {report.agent_bytes >> 20} MiB")
        report.notes["delivered after the end, s"] = self._settle(may_lose)
        for training in self.trainings:
            report.add(self._judge(training), may_lose=may_lose)
        if report.faults:
            report.notes["what was said"] = " | ".join(self._said())
        return report

    def _judge(self, training: Training) -> Finding:
        return judge(self.store, training.name, training.tally.steps, killed=training.killed)

    def _settle(self, may_lose: bool) -> float:
        begun = time.monotonic()
        within_s = _SETTLE_S + sum(training.tally.steps for training in self.trainings) / _ROWS_PER_S
        # Nothing may come after the judgement, neither a lost row nor one that came twice.
        self.until(lambda: not agents(self.root), within_s, "the end of all agents")
        left = [*journal_folders(self.home / "state"), *sessions(self.root)]
        if left:
            self.report.notes["journals and sessions left for `oomcast sync`"] = str(len(left))
            run_sync(self.environment, self.root / "sync.log", within_s)
            if not may_lose and (still := [*journal_folders(self.home / "state"), *sessions(self.root)]):
                self.report.faults.append(f"{len(still)} that `oomcast sync` did not deliver")
        return time.monotonic() - begun

    def _said(self) -> list[str]:
        names = ("server*.log", "sync.log", "training-*.log")
        logs = [log for name in names for log in sorted(self.root.glob(name))]
        return [f"{log.stem}: {text}" for log in logs if (text := self._last_lines(log))][:8]

    @staticmethod
    def _last_lines(log: Path) -> str:
        with contextlib.suppress(OSError):
            lines = [line for line in log.read_text(errors="replace").splitlines() if "login?token=" not in line]
            return " / ".join(lines[-3:])
        return ""
