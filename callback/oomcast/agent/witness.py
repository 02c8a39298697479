"""Gathers evidence while the training lives, since much of it is gone when it is dead.

The kernel's counters say how many were killed for memory, not who and when. So they are looked at all the time, and
where they stood when the training was last seen to live is kept: what moved before that is not its own death. As the
counter moves before the signal is sent, and a big process takes its time to die, a look that finds it moved waits for
the next one, which finds the process alive or dying.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

from oomcast.agent.evidence import DeadChild, Evidence
from oomcast.agent.neighbours import Neighbours
from oomcast.probes.children import ChildEnd
from oomcast.probes.death import KernelLog, KillCounters, Standing, Victim, is_dying
from oomcast.probes.files import read_file
from oomcast.wire import ProcessState

__all__ = ["Witness"]

_SLOW_NS = 10**9
# Between two looks that settle what a move was: longer than the kernel takes from counting to sending the signal.
_SETTLE_NS = 10**7
# How an end came is known up to a second after it, and a machine that pages is slow.
_CHILD_NS = 5 * 10**9
_MOST_CHILDREN, _MOST_MOVES, _MOST_VICTIMS = 50, 100, 200
_SIGKILL = 9
# The log's clock is not disciplined as CLOCK_MONOTONIC is: it may be off by one part in so many, and some seconds.
_DRIFT, _LATE_NS = 10_000, 5 * 10**9


def _kernel_log(past: bool) -> KernelLog:
    return KernelLog(past=past)


@dataclasses.dataclass
class _Move:
    """The counter of the own cgroup went up."""

    mono_ns: int
    kills: int
    children: int = 0  # of these, how many were children's


class Witness:
    """Watches one process until it is dead; then it testifies."""

    def __init__(
        self,
        pid: int,
        root: Path = Path("/"),
        log: Callable[[bool], KernelLog] = _kernel_log,
        before: Standing | None = None,
    ) -> None:
        """Look for the first time.

        Args:
            pid: the process.
            root: the file system's root; tests pass a recorded tree.
            log: opens the kernel's, from its beginning or from its end on.
            before: how it stood when the process lived, should it be dead by now: a training may end sooner than its
                agent is there.
        """
        self._pid = pid
        self._root = root
        self._log = log(False)
        self._since_ns: int | None = None  # by the log's own clock: who was killed before is another with its number
        self._alive_ns: int | None = None  # when it was last seen to live
        self._moved_ns: int | None = None  # when a counter moved that nobody knows the victim of
        self._next_slow_ns = 0
        self._came_late = is_dying(pid, root / "proc") and before is not None
        self._membership = self._read_membership()
        cgroup = Path(before.cgroup) if before and before.cgroup and self._came_late else None
        self._counters = KillCounters(pid, root, cgroup)
        self._neighbours = Neighbours(pid, self._counters.cgroup, root)
        self._alive = self._newest = self._counters.read()
        if before is not None and self._came_late:
            self._alive = self._newest._replace(own=before.kills)
            self._moved_ns = before.mono_ns  # and is not settled, since it doesn't live
            self._since_ns = before.mono_ns - before.mono_ns // _DRIFT - _LATE_NS
            self._log.close()
            self._log = log(True)
        self._first_own = self._alive.own
        self._moves: deque[_Move] = deque(maxlen=_MOST_MOVES)
        self._victims: deque[tuple[int, Victim]] = deque(maxlen=_MOST_VICTIMS)
        self._children: deque[tuple[DeadChild, _Move | None]] = deque(maxlen=_MOST_CHILDREN)
        self._shm: tuple[int, int] | None = None

    def _read_membership(self) -> bytes:
        return read_file(f"{self._root}/proc/{self._pid}/cgroup")

    @property
    def standing(self) -> Standing:
        """Where the counter of its own cgroup stood when it was last seen to live."""
        cgroup = str(self._counters.cgroup) if self._counters.cgroup else None
        return Standing(self._alive_ns or 0, cgroup, self._alive.own)

    def look(self, now_ns: int) -> None:
        """Note where the counters stand, while the process lives: some 6 µs, and 100 once a second.

        What moves between two looks can't be told apart, so that they should come often: 20 times a second or more.

        Args:
            now_ns: monotonic.
        """
        slow = now_ns >= self._next_slow_ns
        if slow:
            self._next_slow_ns = now_ns + _SLOW_NS
            self._follow()
            self._read_log(now_ns)
            self._shm = _shared_memory(self._root)
        own = self._counters.own()
        if slow or own != self._newest.own:
            self._take(now_ns)
        elif self._moved_ns is None:
            self._alive_ns = now_ns
        if self._moved_ns is not None and now_ns - self._moved_ns >= _SETTLE_NS and not self._is_dying():
            self._alive, self._alive_ns, self._moved_ns = self._newest, now_ns, None

    def _follow(self) -> None:
        # A process can be put into another cgroup at any time.
        membership = self._read_membership()
        if not membership or membership == self._membership:
            return
        self._membership = membership
        self._counters.close()
        self._counters = KillCounters(self._pid, self._root)
        self._neighbours = Neighbours(self._pid, self._counters.cgroup, self._root)
        self._alive = self._newest = self._counters.read()
        self._first_own, self._moved_ns = self._alive.own, None
        self._moves.clear()

    def _take(self, now_ns: int) -> None:
        now = self._counters.read()
        if now == self._newest:
            if self._moved_ns is None:
                self._alive_ns = now_ns
            return
        before, self._newest = self._newest.own, now
        if before is not None and now.own is not None and now.own > before:
            self._moves.append(_Move(now_ns, now.own - before))
            self._read_log(now_ns)
        self._moved_ns = now_ns

    def _read_log(self, now_ns: int) -> None:
        for victim in self._log.victims():
            if self._since_ns is None or victim.mono_ns >= self._since_ns:
                self._victims.append((now_ns, victim))

    def _is_dying(self) -> bool:
        return is_dying(self._pid, self._root / "proc")

    def child(self, end: ChildEnd, now_ns: int) -> DeadChild:
        """A child has ended: whether it was killed for memory. It is remembered.

        Args:
            end: as the probe tells it.
            now_ns: monotonic.
        """
        signal = end.status.signal if end.status else None
        counted, move = False, None
        if signal in (_SIGKILL, None):
            self._take(now_ns)
            self._read_log(now_ns)
            named = self._named(end.child.pid, now_ns - _CHILD_NS)
            move = self._unclaimed(now_ns)
            if move and signal == _SIGKILL:
                move.children += 1
            # The log is the better witness, where it is ours to read: it knows names.
            counted = named or (signal == _SIGKILL and move is not None and not self._log_is_whole)
        code = end.status.code if end.status else None
        dead = DeadChild(end.child.pid, end.child.name, signal, code, now_ns, counted)
        self._children.append((dead, move if signal == _SIGKILL else None))
        return dead

    @property
    def _log_is_whole(self) -> bool:
        return self._log.readable and not self._log.overwritten

    def _named(self, pid: int, since_ns: int) -> bool:
        return any(victim.pid == pid and seen_ns >= since_ns for seen_ns, victim in self._victims)

    def _unclaimed(self, now_ns: int) -> _Move | None:
        lately = (move for move in self._moves if move.mono_ns >= now_ns - _CHILD_NS)
        return next((move for move in lately if move.children < move.kills), None)

    def processes(self, now_ns: int, headroom_share: float | None = None) -> list[ProcessState]:
        """The biggest processes of its cgroup, ten at most, looked at anew every five seconds.

        Args:
            now_ns: monotonic.
            headroom_share: what is left of the limit; near it they are looked at every second.
        """
        return self._neighbours.biggest(now_ns, headroom_share)

    def testify(self, said: Evidence, now_ns: int) -> Evidence:
        """`said`, with everything that was seen here; once the process is dead.

        Args:
            said: what is known from elsewhere.
            now_ns: monotonic; when it died, or shortly after.
        """
        self._read_log(now_ns)
        after = self._counters.read()
        if self._newest.own is not None and after.own is not None and after.own > self._newest.own:
            self._moves.append(_Move(now_ns, after.own - self._newest.own))
        since_ns = self._alive_ns or 0
        named = self._others_named(since_ns)
        earlier = _difference(self._first_own, self._alive.own)
        return dataclasses.replace(
            said,
            mono_ns=now_ns,
            kills_before=self._alive,
            kills_after=after,
            came_late=self._came_late,
            kills_named=len(named),
            kills_of_children=self._children_killed(since_ns, named),
            earlier_kills=earlier,
            late_kills=sum(move.kills for move in self._moves if move.mono_ns >= now_ns - _CHILD_NS),
            victim=next((victim for _, victim in self._victims if victim.pid == self._pid), None),
            children=tuple(child for child, _ in self._children),
            processes=said.processes or tuple(self._neighbours.last),
            shm_free_bytes=self._shm[0] if self._shm else None,
            shm_total_bytes=self._shm[1] if self._shm else None,
        )

    def _others_named(self, since_ns: int) -> set[int]:
        """Other processes of its cgroup that the log names, since it was last seen to live."""
        children = {child.pid for child, _ in self._children}
        return {
            victim.pid
            for seen_ns, victim in self._victims
            if victim.pid != self._pid
            and seen_ns > since_ns
            and (victim.pid in children or self._is_own_cgroup(victim.own_cgroup))
        }

    def _is_own_cgroup(self, cgroup: str | None) -> bool:
        # The log's paths are the host's, and so are those of a process of its first namespaces.
        lines = self._membership.decode("utf-8", "replace").splitlines()
        paths = {line.split(":", 2)[2] for line in lines if _is_of_memory(line)}
        return cgroup is not None and cgroup in paths

    def _children_killed(self, since_ns: int, named: set[int]) -> int:
        # One whose kill was counted before that was no part of what moved since.
        return sum(
            child.signal == _SIGKILL
            and child.pid not in named
            and (move.mono_ns > since_ns if move else child.mono_ns > since_ns)
            for child, move in self._children
        )

    def close(self) -> None:
        """Give everything back."""
        self._counters.close()
        self._log.close()


def _is_of_memory(line: str) -> bool:
    number, controllers, _ = line.split(":", 2)
    return number == "0" or "memory" in controllers.split(",")


def _difference(before: int | None, after: int | None) -> int:
    return max(0, after - before) if before is not None and after is not None else 0


def _shared_memory(root: Path) -> tuple[int, int] | None:
    """What is free of /dev/shm, and its size, in bytes."""
    if not hasattr(os, "statvfs"):
        return None
    with contextlib.suppress(OSError):
        system = os.statvfs(f"{root}/dev/shm")  # noqa: S108  looked at only
        return system.f_bavail * system.f_frsize, system.f_blocks * system.f_frsize
    return None
