"""The training's own memory limit, so that running out of memory endangers nothing but the training.

The best that the machine gives: a memory cgroup (v1, or v2 where it is delegated), a scope of the user's systemd, or,
where there is neither, RLIMIT_DATA. The parent makes a `Box` and removes it; the child enters it as its first act and
narrows it as soon as it knows what it needs (`Walls`).
"""

from __future__ import annotations

import abc
import contextlib
import os
import resource
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from oomcast.demo.cgroup import MemoryGroup, adopt_group, make_group, sweep
from oomcast.demo.facts import Tightened
from oomcast.probes.process import read_process

__all__ = ["Box", "GroupBox", "ResourceBox", "ScopeBox", "Walls", "choose_box", "enter"]

# What importing TensorFlow and building the model may take, page cache and all, before the limit is narrowed.
START_BYTES = 2 << 30


class Walls(abc.ABC):
    """The box from inside."""

    @abc.abstractmethod
    def tighten(self, headroom_bytes: int, swap_bytes: int) -> Tightened:
        """Allow what is charged now plus `headroom_bytes`, and `swap_bytes` of swap.

        Raises:
            OSError: refused.
        """


class _GroupWalls(Walls):
    def __init__(self, group: MemoryGroup, counter: MemoryGroup) -> None:
        self._group = group
        self._counter = counter

    def tighten(self, headroom_bytes: int, swap_bytes: int) -> Tightened:
        charged = self._group.charged_bytes()
        try:
            self._group.set_limit(charged + headroom_bytes, swap_bytes)
        except OSError:  # page cache that the kernel can't take back just now: dirty, or mapped and in use
            charged = self._group.usage_bytes()
            self._group.set_limit(charged + headroom_bytes, swap_bytes)
        return Tightened(
            charged_bytes=charged,
            limit_bytes=self._group.limit_bytes() or charged + headroom_bytes,
            group=str(self._counter.folder),
            kills=self._counter.oom_kills(),
        )


class _ResourceWalls(Walls):
    def tighten(self, headroom_bytes: int, swap_bytes: int) -> Tightened:
        charged = read_process(os.getpid()).data_bytes or 0
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = charged + headroom_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
        return Tightened(charged_bytes=charged, limit_bytes=limit, group=None, kills=None)


class Box(abc.ABC):
    """The box from outside."""

    name: str  # for people
    swaps: bool  # whether what is in it can be swapped out at its limit
    ticket: str  # what the child gives to `enter`

    def command(self, command: Sequence[str]) -> list[str]:
        """The command that starts `command` so that it can enter."""
        return list(command)

    @abc.abstractmethod
    def kills(self, tightened: Tightened | None) -> int | None:
        """How many processes the kernel has killed in it; None where nobody counts."""

    def close(self) -> None:
        """Remove it."""
        return  # where nothing was made


class GroupBox(Box):
    """A memory cgroup of our own."""

    swaps = True

    def __init__(self, group: MemoryGroup, refuge: Path) -> None:
        """Limit a new group, which `close` removes; who is still in it then goes to the group at `refuge`."""
        self._group = group
        self._refuge = refuge
        self.name = f"cgroup v{group.version}"
        self.ticket = f"group:{group.version}:{group.folder}"
        group.set_limit(START_BYTES, 0)

    @property
    def folder(self) -> Path:
        """The group's folder."""
        return self._group.folder

    def kills(self, tightened: Tightened | None) -> int | None:
        """The group's own counter."""
        return self._group.oom_kills()

    def close(self) -> None:
        """Remove the group.

        Raises:
            OSError: it can't be removed, since something in it doesn't end.
        """
        self._group.remove(self._refuge)


class ScopeBox(Box):
    """A transient scope of the user's systemd, which removes it when its last process ends."""

    swaps = True
    name = "systemd scope"
    ticket = "scope"

    def command(self, command: Sequence[str]) -> list[str]:
        """Through systemd-run. A killed process must not take the run's agent with it, hence OOMPolicy."""
        return [*_systemd_run(START_BYTES), *command]

    def kills(self, tightened: Tightened | None) -> int | None:
        """What the group above, which outlives the scope, has counted since."""
        if tightened is None or tightened.group is None or tightened.kills is None:
            return None
        now = MemoryGroup(2, Path(tightened.group)).oom_kills()
        return None if now is None else now - tightened.kills


class ResourceBox(Box):
    """RLIMIT_DATA: allocations beyond it fail, and nobody is killed."""

    swaps = False
    name = "RLIMIT_DATA"
    ticket = "rlimit"

    def kills(self, tightened: Tightened | None) -> int | None:
        """Never any."""
        return 0


def _systemd_run(limit_bytes: int) -> list[str]:
    limits = [f"MemoryMax={limit_bytes}", "MemorySwapMax=0", "OOMPolicy=continue"]
    return ["systemd-run", "--user", "--scope", "--quiet", *(word for limit in limits for word in ("-p", limit)), "--"]


def _has_scopes() -> bool:
    # Asked for, and looked at from inside: without a delegated memory controller it would be accepted and do nothing.
    script = 'cat "/sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup)/memory.max"'
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(
            [*_systemd_run(START_BYTES), "sh", "-c", script],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=10,
            check=True,
        )
        return answer.stdout.strip() == str(START_BYTES).encode()
    return False


@contextlib.contextmanager
def choose_box(has_scopes: Callable[[], bool] = _has_scopes) -> Iterator[Box]:
    """The best box that this machine gives, gone at the block's end.

    Args:
        has_scopes: whether the user's systemd gives scopes with a memory limit.
    """
    sweep(os.getpid())
    box = _make_box(has_scopes)
    try:
        yield box
    finally:
        box.close()


def _make_box(has_scopes: Callable[[], bool]) -> Box:
    if made := make_group(os.getpid()):
        group, refuge = made
        try:
            return GroupBox(group, refuge)
        except OSError:
            group.remove(refuge)
    return ScopeBox() if has_scopes() else ResourceBox()


def enter(ticket: str, pid: int | None = None) -> Walls:
    """Go into the box that `ticket` is for; the child's first act, since only what is allocated after it counts.

    Raises:
        OSError: it can't be entered.
        ValueError: no ticket of ours.
    """
    pid = os.getpid() if pid is None else pid
    kind, _, rest = ticket.partition(":")
    if kind == "group":
        version, _, folder = rest.partition(":")
        group = MemoryGroup(int(version), Path(folder))
        group.join(pid)
        return _GroupWalls(group, counter=group)
    if kind == "scope" and (adopted := adopt_group(pid)):
        return _GroupWalls(adopted, counter=MemoryGroup(2, adopted.folder.parent))
    if kind in ("scope", "rlimit"):
        return _ResourceWalls()
    raise ValueError(f"no box for {ticket!r}")
