"""Ends whatever a harness has started, also when the harness itself is killed.

All that belongs to one harness has an `OOMCAST_HOME` below its root folder in its environment: agents that outlive
their trainings too, which are nobody's children any more.

`python -m tests.torture.warden FOLDER…` waits for the end of its standard input, which the harness holds open.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from oomcast.handover import folder_parents, remove_folder

__all__ = ["Warden", "end_all", "members", "sessions"]


def members(root: Path) -> Iterator[int]:
    """The pids of living processes that belong to the harness at `root`; zombies have no environment left."""
    mark = f"OOMCAST_HOME={root}/".encode()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in Path(entry.path, "environ").read_bytes():
                    yield int(entry.name)


def sessions(root: Path) -> list[Path]:
    """The folders of sessions of the harness at `root` that are still there."""
    found = []
    for folder in (folder for parent in folder_parents() for folder in parent.glob("oomcast-*")):
        with contextlib.suppress(OSError):
            if f"{root}/".encode() in (folder / "handover.json").read_bytes():
                found.append(folder)
    return found


def end_all(*folders: Path) -> None:
    """Kill all that belongs to the first folder, unmount what is mounted below any, and remove them."""
    deadline = time.monotonic() + 10
    # Again and again: one that was just about to start another has to be found at a second look.
    while (pids := list(members(folders[0]))) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    # What is left of a session would be brought home by any other agent here, into a home that is gone.
    for folder in sessions(folders[0]):
        remove_folder(folder)
    for folder in folders:
        for place in _mounted_below(folder):
            subprocess.run(["umount", "--lazy", place], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _mounted_below(folder: Path) -> list[str]:
    with contextlib.suppress(OSError):
        places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        return [place for place in places if place.startswith(f"{folder}/")]
    return []


class Warden:
    """The process that waits for our end."""

    def __init__(self, *folders: Path) -> None:
        """Start it. Everything that is started later must be one of `members(folders[0])`."""
        self._folders = folders
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.warden", *map(str, folders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            cwd=Path(__file__).resolve().parents[2],
        )

    def close(self) -> None:
        """Let it do its work, and wait for it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end_all(*map(Path, sys.argv[1:]))
