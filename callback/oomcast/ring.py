"""Records in shared memory: the training process writes, the agent reads, and neither ever waits for the other.

A ring is a file of fixed-size slots, mapped by both sides. Record number n (from 1) goes into slot (n − 1) mod slots,
by one slice assignment. A slot holds the record's number and a checksum over all of it, so a reader that looks while a
slot is being written sees a wrong checksum and looks again later: no lock, no system call, no wake-up. A record that
the reader did not fetch in time is overwritten; numbers without holes between them make the loss countable.

    header   magic, version, slots, slot bytes                                        64 bytes
    slot     number, three clocks, step, high-water mark, faults, context, statm      64 + 24 + 32 bytes
             crc32 of the above                                                       4 bytes, padded to 128

`context` and `statm` are opaque here: `sample.py` and the agent say what they mean.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from oomcast.errors import RingError

__all__ = [
    "CONTEXT_BYTES",
    "HEADER_BYTES",
    "SLOT_BYTES",
    "STATM_BYTES",
    "USED_BYTES",
    "Batch",
    "HotPath",
    "Record",
    "RingReader",
    "RingWriter",
]

_MAGIC = b"oomcast\0"
_VERSION = 1
_HEADER = struct.Struct("<8sIII")
HEADER_BYTES = 64
_BODY = struct.Struct("<Qqqqqqqq24s32s")
_NUMBER = struct.Struct("<Q")  # a body's first field
_CRC = struct.Struct("<I")
SLOT_BYTES = 128
USED_BYTES = _BODY.size + _CRC.size

CONTEXT_BYTES = 24
# Size, resident and shared, in pages: the first three of seven numbers, up to 10^9 pages (4 PB) each.
STATM_BYTES = 32

# A mapping keeps a low file number of its own, which a program may close and use for its own files; not from 3.13 on.
_UNTRACKED: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}

# 8192 records hold 80 s of 100 batches/s, or 1.6 s of 5 000/s, in 1 MiB.
_SLOTS = 8192

# A hook that is interrupted within its record (by a signal's handler, or memory that runs out) leaves it unfinished.
# The reader steps over it after a second or two of polls; with fewer threads than this, a later record is in sight.
_PATIENCE_READS, _READS_PER_CHECK = 20, 5
_LOOK_AHEAD = 33


class HotPath(NamedTuple):
    """What `append` is made of, for the one caller that stores a record per batch and saves the call."""

    memory: mmap.mmap
    next_number: Callable[[], int]
    pack: Callable[..., bytes]
    pack_crc: Callable[[int], bytes]
    crc32: Callable[[bytes], int]
    slots: int


class Record(NamedTuple):
    """One slot's content. Clocks in ns, high-water mark in the unit of `ru_maxrss`, -1 where not known."""

    number: int
    mono_ns: int
    wall_ns: int
    begin_ns: int
    step: int
    maxrss: int
    minor_faults: int
    major_faults: int
    context: bytes
    statm: bytes


class Batch(NamedTuple):
    """What one `RingReader.read` found."""

    records: list[Record]
    lost: int  # records overwritten before they could be read, or never finished by a writer that died


class RingWriter:
    """The training process's side. `append` may be called from several threads at once."""

    def __init__(self, path: Path, slots: int = _SLOTS) -> None:
        """Create the ring.

        Raises:
            RingError: the file can't be made, or there is no space for all of it.
        """
        size = HEADER_BYTES + slots * SLOT_BYTES
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                # Before it is mapped: a write to a hole that finds no space would kill the training with SIGBUS.
                _allocate(fd, size)
                self._map = mmap.mmap(fd, size, **_UNTRACKED)
            finally:
                os.close(fd)
        except OSError as error:
            raise RingError(f"can't make {path} of {size} bytes: {error.strerror or error}") from error
        _HEADER.pack_into(self._map, 0, _MAGIC, _VERSION, slots, SLOT_BYTES)
        # `itertools.count` hands out numbers in one C call, which the interpreter never divides between threads.
        self.hot = HotPath(self._map, itertools.count(1).__next__, _BODY.pack, _CRC.pack, zlib.crc32, slots)
        self.append = _make_append(self.hot)
        """Store one record: all fields of `Record` but the number, in order. Returns nothing, never waits."""

    def close(self) -> None:
        """Unmap. The file stays for the reader; `append` afterwards raises ValueError."""
        with contextlib.suppress(BufferError):
            self._map.close()


def _allocate(fd: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
    else:
        os.write(fd, bytes(size))


def _make_append(hot: HotPath) -> Callable[[int, int, int, int, int, int, int, bytes, bytes], None]:
    # A closure over locals, since each attribute look-up costs as much as reading a clock.
    memory, next_number, pack, pack_crc, crc32, slots = hot

    def append(
        mono_ns: int,
        wall_ns: int,
        begin_ns: int,
        step: int,
        maxrss: int,
        minor_faults: int,
        major_faults: int,
        context: bytes,
        statm: bytes,
    ) -> None:
        number = next_number()
        body = pack(number, mono_ns, wall_ns, begin_ns, step, maxrss, minor_faults, major_faults, context, statm)
        offset = (number - 1) % slots * SLOT_BYTES + HEADER_BYTES
        memory[offset : offset + USED_BYTES] = body + pack_crc(crc32(body))

    return append


class RingReader:
    """The agent's side: one reader, in order, each record once."""

    def __init__(self, path: Path, first: int = 1) -> None:
        """Map the ring.

        Args:
            path: the file.
            first: the number of the first record to read; those before it were read by another.

        Raises:
            RingError: no such file, not a ring, or of another version.
        """
        try:
            fd = os.open(path, os.O_RDONLY)
            try:
                self._map = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
            finally:
                os.close(fd)
        except (OSError, ValueError) as error:
            raise RingError(f"can't read the ring {path}: {error}") from error
        if len(self._map) < HEADER_BYTES:
            raise RingError(f"{path} is too short to be a ring")
        magic, version, self._slots, stride = _HEADER.unpack_from(self._map, 0)
        expected = HEADER_BYTES + self._slots * SLOT_BYTES
        if magic != _MAGIC or version != _VERSION or stride != SLOT_BYTES or len(self._map) != expected:
            raise RingError(f"{path} is not a ring of version {_VERSION}")
        self._next = first
        self._waits = 0  # reads in a row that found the next record missing, and a later one there
        self._reads = 0

    @property
    def next_number(self) -> int:
        """The number of the record that is read next."""
        return self._next

    def read(self) -> Batch:
        """All records that are complete and follow each other, at most one ring full; and how many were overwritten."""
        records: list[Record] = []
        lost = 0
        while len(records) < self._slots:
            record = self._slot((self._next - 1) % self._slots)
            if record is None or record.number < self._next:
                if not self._is_stuck():
                    break  # not written yet, or being written
                lost += 1
                self._next += 1
                continue
            if record.number > self._next:
                # The writer went round. What it is about to overwrite next is given up too, or the race would be lost
                # again at once.
                ahead = record.number - self._slots + 1 + self._slots // 8
                lost += ahead - self._next
                self._next = ahead
                continue
            records.append(record)
            self._next += 1
            self._waits = 0
        return Batch(records, lost)

    def _is_stuck(self) -> bool:
        """Whether the next record was begun and never finished: a later one has been there for some reads."""
        self._reads += 1
        if self._reads % _READS_PER_CHECK:
            return False
        later = any(self._is_later(self._next + ahead) for ahead in range(1, _LOOK_AHEAD))
        self._waits = self._waits + _READS_PER_CHECK if later else 0
        return self._waits > _PATIENCE_READS

    def _is_later(self, number: int) -> bool:
        # Most slots hold what was there a round before, which their first eight bytes tell.
        index = (number - 1) % self._slots
        (found,) = _NUMBER.unpack_from(self._map, HEADER_BYTES + index * SLOT_BYTES)
        return found == number and self._slot(index) is not None

    def drain(self) -> Batch:
        """What is left once the writer is gone: every complete record, even behind one that was never finished."""
        first = self._next
        found = [slot for index in range(self._slots) if (slot := self._slot(index)) and slot.number >= first]
        found.sort(key=lambda record: record.number)
        if not found:
            return Batch([], 0)
        self._next = found[-1].number + 1
        return Batch(found, self._next - first - len(found))

    def _slot(self, index: int) -> Record | None:
        offset = HEADER_BYTES + index * SLOT_BYTES
        slot = self._map[offset : offset + USED_BYTES]
        body = slot[: _BODY.size]
        if _CRC.unpack_from(slot, _BODY.size)[0] != zlib.crc32(body):
            return None
        record = Record._make(_BODY.unpack(body))
        return record if record.number else None

    def close(self) -> None:
        """Unmap."""
        self._map.close()
