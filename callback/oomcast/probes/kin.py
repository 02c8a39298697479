"""Who descends from a process, by /proc.

`/proc/<pid>/task/<tid>/children` lists what one thread has started (proc_pid_task(5); a kernel may be built without
it), and may miss some while others end at the same moment; without it, every process's stat is read for its parent.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from oomcast.probes.files import read_file
from oomcast.probes.process import Stat, parse_stat

__all__ = ["Kin", "read_stat"]

_MOST = 1000


def read_stat(proc: str, pid: int) -> Stat | None:
    """The process's stat; None where it is gone, or can't be read."""
    return parse_stat(read_file(f"{proc}/{pid}/stat"))


class Kin:
    """Descendants of a process, but for some and all that descend from them."""

    def __init__(self, proc: str = "/proc", ignore: frozenset[int] = frozenset()) -> None:
        """Look at nothing yet.

        Args:
            proc: where procfs is mounted.
            ignore: processes that are left out, with all below them; they must live as long as this is asked.
        """
        self._proc = proc
        self._ignore = ignore
        # Met below an ignored one before: should its parent end, it may turn up anywhere, as below a container's first
        # process. By pid and start time.
        self._strangers: set[tuple[int, int]] = set()

    def below(self, pid: int) -> dict[int, Stat] | None:
        """Pid → stat of the descendants, 1000 at most, zombies among them; None if the process itself has ended."""
        own = read_stat(self._proc, pid)
        if own is None or own.ended:
            return None
        scanned = None if os.path.exists(f"{self._proc}/{pid}/task/{pid}/children") else self._scan()
        found: dict[int, Stat] = {}
        seen = {pid}
        strangers: set[tuple[int, int]] = set()
        pending = [(pid, False)]
        for parent, strange in pending:  # which grows as it goes
            for child, stat in self._listed(parent) if scanned is None else scanned.get(parent, ()):
                if child in seen or len(seen) > _MOST:
                    continue
                seen.add(child)
                identity = child, stat.started
                ignored = strange or child in self._ignore or identity in self._strangers
                if ignored:
                    strangers.add(identity)
                else:
                    found[child] = stat
                pending.append((child, ignored))
        self._strangers = strangers
        return found

    def _listed(self, parent: int) -> Iterator[tuple[int, Stat]]:
        folder = f"{self._proc}/{parent}/task"
        for thread in _entries(folder):
            for word in read_file(f"{folder}/{thread}/children").split():
                if len(word) < 12 and word.isdigit():
                    child = int(word)
                    # Another parent: its number has been given anew since, or it was handed on, and is met there.
                    if (stat := read_stat(self._proc, child)) and stat.parent == parent:
                        yield child, stat

    def _scan(self) -> dict[int, list[tuple[int, Stat]]]:
        found: dict[int, list[tuple[int, Stat]]] = {}
        for entry in _entries(self._proc):
            if stat := read_stat(self._proc, entry):
                found.setdefault(stat.parent, []).append((entry, stat))
        return found


def _entries(folder: str) -> list[int]:
    try:
        return [int(entry) for entry in os.listdir(folder) if entry.isascii() and entry.isdigit()]
    except OSError:
        return []
