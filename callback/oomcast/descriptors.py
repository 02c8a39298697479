"""File numbers that stay ours in a program that closes all it doesn't know.

Such a program (a launcher, one that becomes a daemon) then opens its own files, which get the lowest free numbers. If
ours were among them, we would write into the user's files.
"""

from __future__ import annotations

import os

try:
    import fcntl
    import resource
except ImportError:  # Windows
    fcntl = resource = None  # type: ignore[assignment]

__all__ = ["out_of_the_way"]

_HIGHEST, _ROOM = 4096, 256


def out_of_the_way(fd: int) -> int:
    """The same file at a number that no `open` comes to, close-on-exec; `fd` itself where there is none."""
    if fcntl is None:
        return fd
    try:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = min(soft if soft > 0 else _HIGHEST, _HIGHEST) - _ROOM
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(3, lowest))
    except (OSError, ValueError):
        return fd
    os.close(fd)
    return high
