"""What the kernel says of a death: how a process ended, and whether memory was why.

The agent is not the training's parent, so `wait` is not for it. A pidfd tells how a process ended once its parent has
waited for it (Linux 6.15: PIDFD_GET_INFO with PIDFD_INFO_EXIT, include/uapi/linux/pidfd.h); before that its zombie's
/proc/<pid>/stat does, in its last field. The counters of kills are per cgroup (v2 `memory.events.local`, v1
`memory.oom_control`, both "oom_kill") and for the host (/proc/vmstat); the kernel's log names the victim.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
from pathlib import Path
from typing import NamedTuple

from oomcast.probes.limits import memory_cgroups

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["ExitStatus", "KernelLog", "KillCounters", "Kills", "exit_status"]

_PIDFD_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, struct pidfd_info), 64 bytes in its first version
_PIDFD_INFO_EXIT = 1 << 3
_INFO_BYTES, _EXIT_OFFSET = 64, 60
# Of the first pid namespace (include/linux/proc_ns.h): only there are the log's pids ours.
_FIRST_PID_NAMESPACE = 0xEFFFFFFC
_KILLED = re.compile(rb"Killed process (\d+) ")


class ExitStatus(NamedTuple):
    """How a process ended: by a signal, or with an exit code."""

    signal: int | None
    code: int | None

    @classmethod
    def of_wait(cls, status: int) -> ExitStatus:
        """From what wait(2) gives."""
        signal = status & 0x7F
        return cls(signal, None) if signal else cls(None, status >> 8 & 0xFF)


class Kills(NamedTuple):
    """Counters of out-of-memory kills; None where they can't be read."""

    own: int | None  # of the process's own cgroup
    host: int | None


def exit_status(pid: int, pidfd: int | None, proc: Path = Path("/proc")) -> ExitStatus | None:
    """How `pid` ended; None while it lives, or if nobody says any more.

    Args:
        pid: the process.
        pidfd: opened while it lived; None where there are none.
        proc: where procfs is mounted.
    """
    if pidfd is not None and fcntl is not None:
        info = bytearray(_INFO_BYTES)
        struct.pack_into("<Q", info, 0, _PIDFD_INFO_EXIT)
        with contextlib.suppress(OSError):
            fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info, True)
            if struct.unpack_from("<Q", info, 0)[0] & _PIDFD_INFO_EXIT:
                return ExitStatus.of_wait(struct.unpack_from("<i", info, _EXIT_OFFSET)[0])
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = (proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        # The last field is 0 for whom it is none of their business; then a zombie says nothing.
        if fields[0] == b"Z" and int(fields[49]) != 0:
            return ExitStatus.of_wait(int(fields[49]))
    return None


def _kill_files(pid: int, root: Path) -> list[Path]:
    """Where the counter of the process's own cgroup may stand, the better place first."""
    names = {1: ("memory.oom_control",), 2: ("memory.events.local", "memory.events")}
    own: dict[int, Path] = {}
    for version, folder in memory_cgroups(pid, root):
        own.setdefault(version, Path(folder))  # the first of each is the process's own
    return [folder / name for version, folder in own.items() for name in names[version]]


def _count(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return None


class KillCounters:
    """The counters of one process, over its life and beyond."""

    def __init__(self, pid: int, root: Path = Path("/")) -> None:
        """Find them, and note where they stand."""
        self._vmstat = root / "proc/vmstat"
        self._files = _kill_files(pid, root)
        self.before = self.read()

    def read(self) -> Kills:
        """Where they stand now; a cgroup that is gone has no counter any more."""
        own = next((count for path in self._files if (count := _count(path)) is not None), None)
        return Kills(own, _count(self._vmstat))


class KernelLog:
    """The kernel's log from now on, where it may be read."""

    def __init__(self, path: Path = Path("/dev/kmsg"), namespace: Path = Path("/proc/self/ns/pid")) -> None:
        """Stand at its end."""
        self._fd: int | None = None
        with contextlib.suppress(OSError):
            if namespace.stat().st_ino == _FIRST_PID_NAMESPACE:
                self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                os.lseek(self._fd, 0, os.SEEK_END)

    @property
    def readable(self) -> bool:
        """Whether it can be read here, and its pids are ours."""
        return self._fd is not None

    def killed(self) -> set[int]:
        """The pids that the kernel says it killed for memory, since the last call."""
        pids: set[int] = set()
        while self._fd is not None:
            try:
                record = os.read(self._fd, 8192)
            except BrokenPipeError:
                continue  # some records were overwritten before we read them; the next ones follow
            except OSError:
                break  # nothing more for now
            if not record:
                break
            pids.update(int(pid) for pid in _KILLED.findall(record))
        return pids

    def close(self) -> None:
        """Give the file back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
