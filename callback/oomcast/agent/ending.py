"""Everything that goes into a verdict, kept ready while the training lives, and the verdict when it is dead."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from oomcast.agent.assembler import Assembler
from oomcast.agent.evidence import Evidence
from oomcast.agent.hang import Hang, HangChange
from oomcast.agent.observer import Observer
from oomcast.agent.report import LastMinute
from oomcast.agent.resume import Resume
from oomcast.agent.verdict import Verdict, judge
from oomcast.agent.witness import Witness
from oomcast.agent.wording import signal_name
from oomcast.assessment import Assessment
from oomcast.handover import Detail, Handover
from oomcast.probes.children import ChildEnd
from oomcast.probes.death import ExitStatus, KernelLog, Kills, Standing, boot_id, exit_status, read_kills
from oomcast.sample import Event, EventKind, GpuReading, Phase, Sample
from oomcast.wire import ProcessState

__all__ = ["Ending", "left_behind_verdict"]

# How long to wait for somebody who can say how the process ended; the verdict is to be on the server within two.
_STATUS_S = 1.0
_STOPS = ("stop", "checkpoint_and_stop")
# The log's clock is not adjusted as CLOCK_MONOTONIC is: it drifts by less than a ten-thousandth.
_LOG_DRIFT, _LOG_SLACK_NS = 10_000, 5 * 10**9
# A standing is a second or two old when training and agent are killed at once.
_DEATH_NS = 10 * 10**9


class Ending:
    """The agent's memory of one training."""

    def __init__(
        self, folder: Path, handover: Handover, observer: Observer, pidfd: int | None, before: Standing | None = None
    ) -> None:
        """Begin to watch.

        Args:
            folder: the session's; whoever started the process may say in it how it ended.
            handover: what the agent was told.
            observer: what it sees.
            pidfd: of the process; None where there are none.
            before: what the agent before saw last of the kernel's counter; None: this is the first agent.
        """
        self._folder = folder
        self._handover = handover
        self._observer = observer
        self._pid = handover.source.pid
        self._pidfd = pidfd
        self._witness = Witness(self._pid, before=before or handover.standing)
        self._minute = LastMinute()
        self._hang = Hang()
        self._hung_since_ns: int | None = None
        self._hung_wall_ns: int | None = None
        self._hung_by_memory = False
        self._assessment: Assessment | None = None
        self._stopped: str | None = None  # what was done before memory ran out
        self.boot = boot_id()

    @property
    def standing(self) -> Standing:
        """Where the counter of out-of-memory kills of the process's own cgroup stood when it was last looked at."""
        return self._witness.standing

    @property
    def hung_since_wall_ns(self) -> int | None:
        """As `Status.hung_since_ns`."""
        return self._hung_wall_ns

    def look(self, now_ns: int) -> None:
        """Once a poll, as long as the process lives."""
        self._witness.look(now_ns)

    def follow(self, row: Sample | Event) -> None:
        """Take a row that was made."""
        if isinstance(row, Sample):
            self._minute.add(row)
        else:
            self._minute.follow(row)
            self._follow_action(row)

    def _follow_action(self, event: Event) -> None:
        alone = (self._handover.source.world_size or 1) == 1  # one of several ranks saves, and trains on
        if event.kind is EventKind.TRAIN_BEGIN:
            self._stopped = None
        elif event.kind is EventKind.ACTION and alone and event.detail.get("action") in _STOPS:
            self._stopped = str(event.detail.get("text") or "") or None

    def assessed(self, assessment: Assessment) -> None:
        """Take what was thought of its memory last."""
        self._assessment = assessment

    def tick(
        self, tick: Sample, batches: int, phase: Phase, gpus: Sequence[GpuReading]
    ) -> list[tuple[EventKind, Detail]]:
        """Once a second: what happened that is worth a row of its own.

        Args:
            tick: the newest tick's sample.
            batches: that have ended so far.
            phase: the one under way.
            gpus: the newest readings of the devices.
        """
        now_ns = tick.mono_ns
        happened = [told for end in self._observer.children.ended() if (told := self._child(end, now_ns))]
        change = self._hang.tick(
            now_ns,
            batches,
            phase,
            cpu_ns=self._observer.cpu_ns,
            batch_ns=self._minute.batch_ns,
            major_faults=tick.major_faults,
            psi_full_us=tick.psi_full_us,
            gpu_percent=max(
                (gpu.utilization_percent for gpu in gpus if gpu.utilization_percent is not None), default=None
            ),
        )
        if change is not None:
            happened.append(self._take_hang(change, tick))
        return happened

    def _child(self, end: ChildEnd, now_ns: int) -> tuple[EventKind, Detail] | None:
        dead = self._witness.child(end, now_ns)
        if not dead.counted and not dead.signal and not dead.code:
            return None  # it did its work
        if dead.counted:
            text = f"{dead.label} was killed by the kernel: out of memory."
        elif dead.signal:
            text = f"{dead.label} ended by {signal_name(dead.signal)}."
        else:
            text = f"{dead.label} ended with exit code {dead.code}."
        ending = "oom killed" if dead.counted else "killed" if dead.signal else "exited"
        return EventKind.CHILD, {
            "pid": dead.pid,
            "name": dead.name,
            "ending": ending,
            "signal": dead.signal,
            "code": dead.code,
            "rss_bytes": end.child.rss_bytes,
            "text": text,
        }

    def _take_hang(self, change: HangChange, tick: Sample) -> tuple[EventKind, Detail]:
        self._hung_by_memory = change.by_memory
        if change.hung:
            self._hung_since_ns = change.since_ns
            self._hung_wall_ns = max(0, tick.wall_ns - (tick.mono_ns - change.since_ns))
        else:
            self._hung_since_ns = self._hung_wall_ns = None
        kind = EventKind.HANG if change.hung else EventKind.RESUME
        return kind, {"text": change.text, "idle_s": change.idle_s}

    def processes(self) -> list[ProcessState]:
        """The biggest processes of its cgroup."""
        limit = self._observer.killing
        free = limit.headroom_bytes / limit.limit_bytes if limit and limit.limit_bytes else None
        return self._witness.processes(time.monotonic_ns(), free)

    async def judge(self, assembler: Assembler, *, detached: bool) -> Verdict:
        """The verdict, once the training is gone; a second at most.

        Args:
            assembler: knows what the process said itself.
            detached: nobody watches any more, and it goes on.
        """
        said = Evidence(
            closed=assembler.closed,
            open_phase=assembler.where is not None,
            exception=assembler.exception,
            outside=self._handover.outside,
            detached=detached,
        )
        if not detached and (said.closed is None or self._handover.outside):
            said = dataclasses.replace(said, status=await self._wait_for_status())
        now_ns = time.monotonic_ns()
        for end in self._observer.children.ended():
            self._witness.child(end, now_ns)
        said = dataclasses.replace(
            said,
            limit=self._observer.killing or self._observer.last.limit,
            limits=self._observer.limits,
            report=self._minute.report(),
            assessment=self._assessment,
            hung_s=None if self._hung_since_ns is None else (now_ns - self._hung_since_ns) // 10**9,
            hung_by_memory=self._hung_by_memory,
            stopped_for_memory=self._stopped,
            gpus=bool(self._observer.devices),
            launcher=self._handover.source.launcher,
        )
        return judge(self._witness.testify(said, now_ns))

    async def _wait_for_status(self) -> ExitStatus | None:
        # Until its parent has waited for it, or at once while it is a zombie that we may ask.
        deadline = time.monotonic() + _STATUS_S
        while (status := self._status()) is None and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        return status

    def _status(self) -> ExitStatus | None:
        status = exit_status(self._pid, self._pidfd)
        if status is None:
            with contextlib.suppress(OSError, ValueError):
                return ExitStatus.of_wait(int((self._folder / "exit").read_text()))
        return status

    def close(self) -> None:
        """Give everything back."""
        self._witness.close()


def left_behind_verdict(assembler: Assembler, before: Resume, handover: Handover) -> Verdict:
    """The verdict on a training that was gone together with its agent, by what both have left.

    Args:
        assembler: knows what the process said itself.
        before: where its agent stood last.
        handover: what its agent was told.
    """
    boot = before.boot or handover.boot
    same_boot = boot is not None and boot == boot_id()
    standing = before.standing or handover.standing or Standing(0, None, None)
    # What is counted or logged later than their common death is another's.
    fresh = same_boot and time.monotonic_ns() - standing.mono_ns < _DEATH_NS
    after = read_kills(Path(standing.cgroup)) if fresh and standing.cgroup else None
    log = KernelLog(past=True)
    slack_ns = standing.mono_ns // _LOG_DRIFT + _LOG_SLACK_NS
    since_ns, until_ns = standing.mono_ns - slack_ns, standing.mono_ns + slack_ns + _DEATH_NS
    victims = [
        victim
        for victim in (log.victims() if same_boot else ())
        if victim.pid == handover.source.pid and since_ns <= victim.mono_ns <= until_ns
    ]
    log.close()
    limit = before.limit
    return judge(
        Evidence(
            closed=assembler.closed,
            open_phase=assembler.where is not None,
            exception=assembler.exception,
            kills_before=Kills(standing.kills, None),
            kills_after=Kills(after, None),
            victim=victims[0] if victims else None,
            limit=limit,
            limits=(limit,) if limit else (),
            launcher=handover.source.launcher,
            agent_died=True,
        )
    )
