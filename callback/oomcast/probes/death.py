"""What the kernel says of a death: how a process ended, and whether memory was why.

The agent is not the training's parent, so `wait` is not for it. A pidfd tells how a process ended once its parent has
waited for it (Linux 6.15: PIDFD_GET_INFO with PIDFD_INFO_EXIT, include/uapi/linux/pidfd.h); before that its zombie's
/proc/<pid>/stat does, in its last field. The counters of kills are per cgroup (v2 `memory.events.local`, v1
`memory.oom_control`, both "oom_kill", of victims in that very cgroup; v2 `memory.events` counts those below it, too)
and for the host (/proc/vmstat); the kernel's log names the victim. A counter goes up before the signal is sent
(mm/oom_kill.c, `__oom_kill_process`), so that it has moved when the victim is gone.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from oomcast.probes.cgroups import memory_cgroups
from oomcast.probes.files import OpenFile, figure, read_file

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "ExitStatus",
    "KernelLog",
    "KillCounters",
    "Kills",
    "Standing",
    "Victim",
    "boot_id",
    "exit_status",
    "is_dying",
    "read_kills",
]

_PIDFD_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, struct pidfd_info), 64 bytes in its first version
_PIDFD_INFO_EXIT = 1 << 3
_INFO_BYTES, _EXIT_OFFSET = 64, 60
# Of the first pid namespace (include/linux/proc_ns.h): only there are the log's pids ours.
_FIRST_PID_NAMESPACE = 0xEFFFFFFC
# A record is "priority,seq,microseconds since boot,flags;text" (Documentation/ABI/testing/dev-kmsg). A priority from 8
# up is that of a program, which could write anything.
_RECORD = re.compile(rb"([0-7]),\d+,(\d+),[^;]*;([^\n]*)")
_KILLED = re.compile(rb"[^:]*: Killed process (\d+) \((.*)\) total-vm:(.*)")
_CONSTRAINT = re.compile(rb"oom-kill:constraint=CONSTRAINT_(\w+),.*,pid=(\d+),uid=")
_CGROUPS = re.compile(rb",(oom|task)_memcg=([^,]*)(?=,)")
_SIZE = re.compile(rb"([a-z]+-rss):(\d+)kB")
# include/linux/sched.h: killed by a signal.
_PF_SIGNALED = 0x400
_SIGKILL_BIT = 1 << 8
_PENDING = re.compile(rb"^(?:SigPnd|ShdPnd):\s*([0-9a-f]+)$", re.MULTILINE)


def boot_id(root: Path = Path("/")) -> str | None:
    """Which boot of this machine it is: counters and clocks of another say nothing; None where it can't be told."""
    return read_file(f"{root}/proc/sys/kernel/random/boot_id").decode("ascii", "replace").strip() or None


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
    above: tuple[int | None, ...] = ()  # of those above it, the nearest first, each with all below it (v2 only)


class Victim(NamedTuple):
    """A process that the kernel's log says was killed for memory."""

    pid: int
    name: str
    mono_ns: int  # when, by the log's own clock, which is about CLOCK_MONOTONIC
    constraint: str | None = None  # what ran out: "memcg" (a cgroup's limit), "none" (the host), "cpuset" …
    cgroup: str | None = None  # the one whose limit it was, as the host names it
    own_cgroup: str | None = None  # the victim's own
    anonymous_bytes: int | None = None
    file_bytes: int | None = None
    shared_bytes: int | None = None  # shared memory, tmpfs


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


def is_dying(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether `pid` is gone, or has been killed and is on its way out, which takes the longer the more memory it has.

    That is: a SIGKILL is pending, or has been taken (proc_pid_stat(5), "flags"); some 50 µs.
    """
    stat = read_file(f"{proc}/{pid}/stat").rpartition(b")")[2].split()
    if len(stat) < 18 or (stat[0] in (b"Z", b"X", b"x") and int(stat[17]) <= 1):
        return True
    pending = _PENDING.findall(read_file(f"{proc}/{pid}/status"))
    return bool(int(stat[6]) & _PF_SIGNALED) or any(int(mask, 16) & _SIGKILL_BIT for mask in pending)


class _Counter:
    """The line "oom_kill" of one file, which stays open: to read it costs two microseconds, to open it ten."""

    def __init__(self, path: Path) -> None:
        self._file = OpenFile(str(path))
        self.close = self._file.close

    def read(self) -> int | None:
        """Where it stands; None if there is none, as when its cgroup has been removed."""
        return figure(self._file.read(), b"oom_kill ")


# The better place first: v2 counts in `memory.events` what was killed in the cgroups below, too.
_OWN_FILES = ("memory.events.local", "memory.events", "memory.oom_control")


def _own_counter(cgroup: Path) -> _Counter | None:
    for name in _OWN_FILES:
        counter = _Counter(cgroup / name)
        if counter.read() is not None:
            return counter
        counter.close()
    return None


def read_kills(cgroup: Path) -> int | None:
    """Where the counter of one cgroup's own processes stands, by its folder; None if it is gone."""
    counter = _own_counter(cgroup)
    count = counter.read() if counter else None
    if counter:
        counter.close()
    return count


class Standing(NamedTuple):
    """Where the counter of a process's own cgroup stood while it lived, for a witness that comes late."""

    mono_ns: int  # when
    cgroup: str | None  # its folder; None: none counts
    kills: int | None

    @classmethod
    def of(cls, pid: int, mono_ns: int, root: Path = Path("/")) -> Standing:
        """Where it stands now; some 0.2 ms."""
        counters = KillCounters(pid, root)
        try:
            return cls(mono_ns, str(counters.cgroup) if counters.cgroup else None, counters.own())
        finally:
            counters.close()


class KillCounters:
    """The counters of one process, over its life and beyond."""

    def __init__(self, pid: int, root: Path = Path("/"), cgroup: Path | None = None) -> None:
        """Find and open them.

        Args:
            pid: the process.
            root: the file system's root; tests pass a recorded tree.
            cgroup: its own, where that is known; a dead process has none any more.
        """
        cgroups = memory_cgroups(pid, root)
        own: dict[int, Path] = {}
        for version, folder in cgroups:
            own.setdefault(version, Path(folder))  # the first of each is the process's own
        self.cgroup: Path | None = None  # the process's own, where one counts
        self._own: _Counter | None = None
        for place in [cgroup] if cgroup else own.values():
            if self._own is None and (counter := _own_counter(place)):
                self.cgroup, self._own = place, counter
        self._above = [_Counter(Path(folder) / "memory.events") for folder in _ancestors(cgroups)]
        self._host = _Counter(root / "proc/vmstat")

    def own(self) -> int | None:
        """That of the process's own cgroup alone, some 3 µs; None where there is none, or the cgroup is gone."""
        return self._own.read() if self._own else None

    def read(self) -> Kills:
        """Where all of them stand now; a cgroup that is gone has no counter any more."""
        return Kills(self.own(), self._host.read(), tuple(counter.read() for counter in self._above))

    def close(self) -> None:
        """Give the files back."""
        for counter in (self._own, self._host, *self._above):
            if counter:
                counter.close()


def _ancestors(cgroups: list[tuple[int, str]]) -> list[str]:
    # On v1 a cgroup counts its own processes only, so that those above it say nothing.
    return [folder for version, folder in cgroups if version == 2][1:]


class KernelLog:
    """The kernel's log, where it may be read."""

    def __init__(
        self, path: Path = Path("/dev/kmsg"), namespace: Path = Path("/proc/self/ns/pid"), *, past: bool = False
    ) -> None:
        """Stand at its end.

        Args:
            path: of the log.
            namespace: this process's pid namespace; only in the first one are the log's pids ours.
            past: stand at its beginning, to find what happened when nobody watched.
        """
        self._fd: int | None = None
        self._constraints: dict[int, tuple[str, str | None, str | None]] = {}
        self.overwritten = False  # some records went unread
        with contextlib.suppress(OSError):
            if namespace.stat().st_ino == _FIRST_PID_NAMESPACE:
                self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                os.lseek(self._fd, 0, os.SEEK_SET if past else os.SEEK_END)

    @property
    def readable(self) -> bool:
        """Whether it can be read here, and its pids are ours."""
        return self._fd is not None

    def victims(self) -> list[Victim]:
        """Whom the kernel says it killed for memory, since the last call."""
        return [victim for record in self._records() if (victim := self._victim(record))]

    def _records(self) -> Iterator[bytes]:
        while self._fd is not None:
            try:
                record = os.read(self._fd, 8192)
            except BrokenPipeError:
                self.overwritten = True
                continue  # some records were overwritten before we read them; the next ones follow
            except OSError:
                break  # nothing more for now
            if not record:
                break
            yield record

    def _victim(self, record: bytes) -> Victim | None:
        parts = _RECORD.match(record)
        if parts is None:
            return None
        text = parts[3]
        if constraint := _CONSTRAINT.match(text):
            cgroups = {which: _text(path) for which, path in _CGROUPS.findall(text)}
            known = _text(constraint[1]).lower(), cgroups.get(b"oom"), cgroups.get(b"task")
            self._constraints = {int(constraint[2]): known}
            return None
        killed = _KILLED.match(text)
        if killed is None:
            return None
        why, cgroup, own_cgroup = self._constraints.get(int(killed[1]), (None, None, None))
        sizes = {_text(name): int(kib) * 1024 for name, kib in _SIZE.findall(killed[3])}
        return Victim(
            pid=int(killed[1]),
            name=_text(killed[2]),
            mono_ns=int(parts[2]) * 1000,
            constraint=why,
            cgroup=cgroup,
            own_cgroup=own_cgroup,
            anonymous_bytes=sizes.get("anon-rss"),
            file_bytes=sizes.get("file-rss"),
            shared_bytes=sizes.get("shmem-rss"),
        )

    def close(self) -> None:
        """Give the file back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
