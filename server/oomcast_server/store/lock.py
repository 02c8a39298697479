"""One server process for each database: a lock file beside it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from oomcast_server.errors import StoreRefused

__all__ = ["FileLock"]


class FileLock:
    """An exclusive lock that the kernel gives back when the process ends, however it ends."""

    def __init__(self, database: Path) -> None:
        """Take the lock of `database`.

        Raises:
            StoreRefused: another server holds it, or the file can't be made.
        """
        self._path = database.with_name(database.name + ".lock")
        self._descriptor: int | None = None
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreRefused(
                f"can't write {self._path} ({error.strerror}): give another place with --store"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise StoreRefused(
                f"another oomcast server uses {database}: stop it with `oomcast stop`, "
                "or give another file with --store"
            ) from error
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back; may be called again.

        The file stays: removing it would let two processes lock two files of one name.
        """
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
