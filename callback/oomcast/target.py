"""A running process that is to be watched: whether it can be, and as whose."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from oomcast.errors import TargetError
from oomcast.handover import folder_parents, is_held, read_handover
from oomcast.identity import Process
from oomcast.wire import RunInfo

__all__ = ["Target", "find_target", "open_pidfd", "watched_as"]


class Target(NamedTuple):
    """A process that can be watched."""

    process: Process
    pidfd: int | None  # None: the system has none
    variables: Mapping[str, str]  # its environment; empty where it can't be read
    alive: Callable[[], bool]


def find_target(pid: int) -> Target:
    """The process of that number.

    Raises:
        TargetError: there is none that can be watched; the text says why.
    """
    import psutil  # what no other command needs

    pidfd = open_pidfd(pid)  # first, so that what is read below is of the process that is watched
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            raise TargetError(f"process {pid} has ended already")
        command = " ".join(process.cmdline())
        _check(pid, command, process.username(), _owner(process))
        variables = process.as_dict(["environ"], ad_value=None)["environ"] or {}
        described = Process(pid, process.username(), command)
        return Target(described, pidfd, variables, process.is_running)
    except (psutil.Error, TargetError) as error:
        if pidfd is not None:
            os.close(pidfd)
        raise (error if isinstance(error, TargetError) else _refusal(pid, error)) from None


def _owner(process: Any) -> int | None:
    return process.uids().effective if hasattr(process, "uids") else None


def _refusal(pid: int, error: Exception) -> TargetError:
    if type(error).__name__ == "AccessDenied":
        return TargetError(f"process {pid} is not yours: run `oomcast attach` as its user")
    return TargetError(f"there is no process {pid} on this machine: `ps` lists those that there are")


def _check(pid: int, command: str, user: str, owner: int | None) -> None:
    if owner is not None and os.geteuid() not in (0, owner):
        raise TargetError(f"process {pid} belongs to {user}: run `oomcast attach` as that user")
    if pid == os.getpid() or "-m oomcast.agent" in command or "-m oomcast_server" in command:
        raise TargetError(f"process {pid} is oomcast's own: give the training's pid")
    if not command:
        raise TargetError(f"process {pid} is a thread of the kernel: give the training's pid")
    if Path(f"/proc/{os.getpid()}").exists() and str(pid) not in os.listdir("/proc"):
        raise TargetError(f"{pid} is a thread of a process, not a process: `ps` lists those that there are")


def open_pidfd(pid: int) -> int | None:
    """A file that stands for the process even when its number is given to another; None where there are none."""
    with contextlib.suppress(OSError, AttributeError):
        return os.pidfd_open(pid)
    return None


def watched_as(pid: int) -> RunInfo | None:
    """The run of a session or agent that watches `pid` now."""
    for folder in (folder for parent in folder_parents() for folder in parent.glob("oomcast-*")):
        with contextlib.suppress(Exception):  # another user's, or one that is just being made or removed
            handover = read_handover(folder)
            if handover.source.pid == pid and is_held(folder):
                return handover.run
    return None
