"""What a training has really done, counted by itself in memory that outlives it.

A file of 64-bit words, mapped by the training and read by the oracle:

    0        steps that are done: `run.step(batch)` has returned for each batch below this number
    1 …      how long those calls took: a histogram, in quarters of a microsecond

A training that is killed between a step and its count has done one step more than it says, never two.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import NamedTuple

__all__ = ["Tallied", "Tally", "read_tally"]

_BUCKETS = 4096
_BUCKET_NS = 250
_WORDS = 1 + _BUCKETS
_BYTES = 8 * _WORDS


class Tallied(NamedTuple):
    """A tally as it stood at one moment."""

    steps: int
    histogram: tuple[int, ...]

    def median_us(self, since: Tallied | None = None) -> float | None:
        """What a step cost in the median, of those since an earlier reading; None if there were none."""
        counts = self.histogram
        if since is not None:
            counts = tuple(now - before for now, before in zip(counts, since.histogram, strict=True))
        middle, seen = sum(counts) / 2, 0
        for bucket, count in enumerate(counts):
            seen += count
            if count and seen >= middle:
                return (bucket + 0.5) * _BUCKET_NS / 1000
        return None


class Tally:
    """The training's side. One store of 8 aligned bytes per figure, so that no reader ever sees half of one."""

    def __init__(self, path: Path) -> None:
        """Map the file, which `read_tally` understands from the first moment on."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(fd, 0, _BYTES)
            self._words = memoryview(mmap.mmap(fd, _BYTES)).cast("Q")
        finally:
            os.close(fd)

    def count(self, steps: int, took_ns: int) -> None:
        """One more step is done, `steps` in total."""
        words = self._words
        words[0] = steps
        words[1 + min(took_ns // _BUCKET_NS, _BUCKETS - 1)] += 1


def read_tally(path: Path) -> Tallied:
    """How far the training is, or was; nothing done where it has made no file yet."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    words = struct.unpack(f"={_WORDS}Q", data.ljust(_BYTES, b"\0"))
    return Tallied(words[0], words[1:])
