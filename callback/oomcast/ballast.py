"""Memory that is held so that it can be given back: what saving a model needs when nothing else is left."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap

__all__ = ["Ballast", "give_back"]


class Ballast:
    """Touched pages of this process alone. Where there is swap, the kernel may move them there in time."""

    def __init__(self, size_bytes: int) -> None:
        """Take them.

        Args:
            size_bytes: how much; 0 takes none.

        Raises:
            OSError: there is not so much.
        """
        self._area: mmap.mmap | None = None
        if size_bytes <= 0:
            return
        if hasattr(mmap, "MAP_PRIVATE"):
            # Private, since shared memory is charged to a cgroup for as long as any process has it mapped.
            self._area = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        else:
            self._area = mmap.mmap(-1, size_bytes)  # Windows
        with contextlib.suppress(AttributeError, OSError):
            self._area.madvise(mmap.MADV_DONTFORK)  # else data-loader workers would hold on to them
        for page in range(0, size_bytes, mmap.PAGESIZE):
            self._area[page] = 1

    def release(self) -> None:
        """Give them back; nothing the second time."""
        area, self._area = self._area, None
        if area is not None:
            area.close()


def give_back() -> None:
    """Give everything back to the system that Python and the C library hold for later."""
    gc.collect()
    with contextlib.suppress(Exception):  # another C library than glibc: malloc_trim(3)
        ctypes.CDLL(None).malloc_trim(0)
