"""Trainings in trouble: agents that say when memory is nearly out and when it isn't any more, and count how often.

They have the real sender, and a script in place of a training. What they say stands until someone has noticed, so that
each time must make one episode.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from oomcast._version import __version__
from oomcast.agent.journal import JournalFrame
from oomcast.agent.outbox import Outbox
from oomcast.agent.sender import Sender
from oomcast.sample import Event, EventKind, Kind, Phase, Sample
from oomcast.wire import PROTOCOL, Frame, Hello, RunInfo, SourceInfo, encode
from tests.torture.oracle import Store

__all__ = ["Alarms"]

_TICK_S = 0.2
_PATIENCE_S = 60.0


class _Agent:
    """One run. `killed`: its end is a kill for memory."""

    def __init__(self, number: int, base: str, token: str, store: Store, *, killed: bool) -> None:
        self.name = f"trouble-{number}"
        self._killed = killed
        self._store = store
        self._seq = 0
        self._outbox = Outbox(None)
        run = RunInfo(id=f"troubletrouble{number}", project="trouble", name=self.name)
        source = SourceInfo(id=f"troublesource{number}", host="box", pid=1, started_ns=time.time_ns())
        hello = encode(Hello(protocol=PROTOCOL, oomcast=__version__, run=run, source=source))
        self._sender = Sender(self._outbox, hello, base, token, lambda _: None)
        self.raised = 0
        self.noticed_s: list[float] = []
        self.faults: list[str] = []

    async def play(self, over: Callable[[], bool]) -> None:
        """Trouble again and again until it is `over`, then the end; returns when all of it is stored and noticed."""
        sending = asyncio.create_task(self._sender.run())
        ticking = asyncio.create_task(self._tick())
        while not self.faults and not (self.raised and over()):
            self._say(EventKind.CRITICAL)
            self.raised += 1
            await self._noticed("critical", True)
            self._say(EventKind.CLEAR)
            await self._noticed("critical", False)
        ticking.cancel()
        ending = {"outcome": "died", "ending": "oom killed", "grade": "confirmed", "text": "Killed by the kernel."}
        self._say(EventKind.END, **(ending if self._killed else {"outcome": "finished"}))
        if self._killed:
            await self._noticed("oom_killed", True)
        await self._until(lambda: not self._outbox.pending, "all was acknowledged")
        sending.cancel()
        await asyncio.gather(sending, ticking, return_exceptions=True)

    async def _tick(self) -> None:
        while True:
            now = time.time_ns()
            sample = Sample(self._next(), Kind.TICK, now, now, Phase.TRAIN, *([None] * (len(Sample._fields) - 5)))
            self._put(Frame(first_seq=self._seq, last_seq=self._seq, samples=[sample]))
            await asyncio.sleep(_TICK_S)

    def _say(self, kind: EventKind, **detail: str | int | None) -> None:
        now = time.time_ns()
        event = Event(self._next(), kind, now, now, None, None, detail)
        self._put(Frame(first_seq=self._seq, last_seq=self._seq, events=[event]))

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def _put(self, frame: Frame) -> None:
        self._outbox.append(JournalFrame(frame.first_seq, frame.last_seq, encode(frame)))

    async def _noticed(self, rule: str, is_open: bool) -> None:
        question = """
            SELECT count(*) FROM episodes e JOIN runs r ON r.pk = e.run_pk
            WHERE r.name = ? AND e.rule = ? AND e.resolved_ns IS NULL
        """
        begun = time.monotonic()
        what = f"an episode {rule} that is {'open' if is_open else 'over'}"
        await self._until(lambda: (self._store.ask(question, self.name, rule)[0][0] > 0) is is_open, what)
        self.noticed_s.append(time.monotonic() - begun)

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + _PATIENCE_S
        while not await asyncio.to_thread(condition):
            if time.monotonic() > until:
                self.faults.append(f"{self.name}: {what} did not come within {_PATIENCE_S:.0f} s")
                return
            await asyncio.sleep(0.05)

    def judged(self) -> list[str]:
        """What is wrong of what is stored of it."""
        rows = "SELECT count(*), count(DISTINCT seq) FROM (SELECT source_pk, seq FROM samples UNION ALL "
        rows += "SELECT source_pk, seq FROM events) AS x JOIN sources s ON s.pk = source_pk "
        rows += "JOIN runs r ON r.pk = s.run_pk WHERE r.name = ?"
        kinds = "SELECT rule, count(*) FROM episodes e JOIN runs r ON r.pk = e.run_pk WHERE r.name = ? GROUP BY rule"
        faults = list(self.faults)
        if self._store.ask(rows, self.name) != [(self._seq, self._seq)]:
            faults.append(f"{self.name}: {self._store.ask(rows, self.name)} rows and seqs, not {self._seq}")
        expected = {"critical": self.raised} | ({"oom_killed": 1} if self._killed else {})
        if (found := dict(self._store.ask(kinds, self.name))) != expected:
            faults.append(f"{self.name}: episodes {found}, not {expected}")
        return faults


class Alarms:
    """Some of them, on a thread of their own; the first is killed in the end."""

    def __init__(self, base: str, token: str, store: Store, count: int) -> None:
        """They begin at once."""
        self._agents = [_Agent(number, base, token, store, killed=number == 0) for number in range(count)]
        self._store = store
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._play()), name="alarms")
        self._thread.start()

    async def _play(self) -> None:
        await asyncio.gather(*(agent.play(self._over.is_set) for agent in self._agents))

    def close(self) -> None:
        """Let each end what it is in, and wait for that."""
        self._over.set()
        self._thread.join()

    @property
    def raised(self) -> int:
        """How often there was trouble."""
        return sum(agent.raised for agent in self._agents)

    @property
    def noticed_s(self) -> list[float]:
        """From each beginning and end of trouble until the episode said so."""
        return [seconds for agent in self._agents for seconds in agent.noticed_s]

    def judged(self) -> list[str]:
        """What is wrong, of these and of the episodes of any other run: those have none."""
        faults = [fault for agent in self._agents for fault in agent.judged()]
        names = [agent.name for agent in self._agents]
        others = self._store.ask("SELECT r.name, e.rule FROM episodes e JOIN runs r ON r.pk = e.run_pk")
        return faults + [f"{name}: an episode {rule} of nothing" for name, rule in others if name not in names]
