"""The processes that share a memory cgroup with the training, the biggest of them: what the limit is spent on."""

from __future__ import annotations

import os
from pathlib import Path

from oomcast.probes.files import figure, read_file
from oomcast.probes.kin import read_stat
from oomcast.probes.process import Stat
from oomcast.wire import ProcessState

__all__ = ["Neighbours"]

_EVERY_NS, _NEAR_EVERY_NS = 5 * 10**9, 10**9
_NEAR = 0.1  # of the limit is left
_MOST_LOOKED_AT = 200  # 20 µs each
_MOST_TOLD = 10
_LONGEST_NAME = 200


class Neighbours:
    """Looks at them now and then."""

    def __init__(self, pid: int, cgroup: Path | None, root: Path = Path("/")) -> None:
        """Look at nothing yet.

        Args:
            pid: the training's process.
            cgroup: the folder of its memory cgroup; None: it has none, and only the training is told of.
            root: the file system's root; tests pass a recorded tree.
        """
        self._pid = pid
        self._proc = f"{root}/proc"
        self._procs = f"{cgroup}/cgroup.procs" if cgroup else None
        self._next_ns = 0
        self._looked_ns = 0
        self.last: list[ProcessState] = []
        """Those of the last look, the biggest first."""

    def biggest(self, now_ns: int, headroom_share: float | None) -> list[ProcessState]:
        """Ten at most; see `Witness.processes`."""
        near = headroom_share is not None and headroom_share < _NEAR
        if now_ns >= self._next_ns or (near and now_ns >= self._looked_ns + _NEAR_EVERY_NS):
            found = self._look()
            self.last = found or self.last  # once it is gone, the last look stands
            self._looked_ns, self._next_ns = now_ns, now_ns + _EVERY_NS
        return self.last

    def _look(self) -> list[ProcessState]:
        stats = {pid: stat for pid in self._pids() if (stat := read_stat(self._proc, pid)) and not stat.ended}
        if self._pid not in stats:
            return []
        # Kernel threads, which the root's cgroup has many of, hold nothing.
        held = {pid: stat for pid, stat in stats.items() if stat.rss_bytes or pid == self._pid}
        largest = sorted(held, key=lambda pid: held[pid].rss_bytes, reverse=True)[:_MOST_TOLD]
        return [self._state(pid, stats) for pid in largest]

    def _pids(self) -> list[int]:
        text = read_file(self._procs) if self._procs else b""
        # A process of another pid namespace is 0. The youngest come last, and before them what the system began with.
        others = sorted({int(word) for word in text.split() if word.isdigit()} - {0, self._pid})
        return [self._pid, *others[-(_MOST_LOOKED_AT - 1) :]]

    def _state(self, pid: int, stats: dict[int, Stat]) -> ProcessState:
        swap = figure(read_file(f"{self._proc}/{pid}/status"), b"VmSwap:")
        return ProcessState(
            pid=pid,
            name=("oomcast agent" if pid == os.getpid() else stats[pid].name)[:_LONGEST_NAME],
            role=self._role(pid, stats),
            rss_bytes=stats[pid].rss_bytes,
            swap_bytes=None if swap is None else swap * 1024,
        )

    def _role(self, pid: int, stats: dict[int, Stat]) -> str:
        if pid == self._pid:
            return "training"
        if pid == os.getpid():
            return "other"  # the agent may descend from the training, but is none of its workers
        seen: set[int] = set()
        while pid in stats and pid not in seen:
            seen.add(pid)
            pid = stats[pid].parent
            if pid == self._pid:
                return "child"
        return "other"
