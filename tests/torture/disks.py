"""A disk that is full when we say so: a tmpfs whose size is set to what is in it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

__all__ = ["SmallDisk"]

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TRIES = 50


class SmallDisk:
    """Mounted at a folder; it goes with the world that the folder lies in."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        """Mount it, with space of `size_bytes`; `problem` says why that can't be done here, or is None."""
        self._folder = folder
        self._size_bytes = size_bytes
        self.problem: str | None = "needs root, to mount a tmpfs"
        if os.geteuid() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            self.problem = self._mount(f"size={size_bytes},mode=700", "tmpfs")

    def _mount(self, options: str, device: str) -> str | None:
        command = ["mount", "-t", "tmpfs", "-o", options, device, str(self._folder)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        return None if done.returncode == 0 else f"a tmpfs can't be mounted here: {done.stderr.strip()}"

    def fill(self) -> None:
        """No byte more from now on."""
        for _ in range(_TRIES):
            space = os.statvfs(self._folder)
            used = (space.f_blocks - space.f_bfree) * space.f_frsize
            # What is written meanwhile makes it fail: then again. A size of 0 would be no limit at all.
            if self._mount(f"remount,size={max(used, _PAGE_BYTES)}", "tmpfs") is None:
                return
        raise RuntimeError(f"{self._folder} could not be filled")

    def free(self) -> None:
        """There is space again."""
        problem = self._mount(f"remount,size={self._size_bytes}", "tmpfs")
        assert problem is None, problem
