"""What was sampled and not yet acknowledged, on disk: written before it is sent, deleted when the server has it.

One folder per source. `hello` holds the source's Hello message, `destination` where it is to go; numbered segments hold
frames, each with a mark, its length, a checksum and its first and last seq in front. A frame that was torn by a crash,
or flipped by a bad disk, is stepped over, to the next mark with a frame behind it that is whole. The folder is bounded
in bytes: beyond it, the oldest segment goes.

A lock on the folder tells whether its agent lives.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from oomcast.errors import JournalError
from oomcast.places import make_private

try:
    import fcntl
except ImportError:  # Windows: a folder's agent is then told by its pid alone
    fcntl = None  # type: ignore[assignment]

__all__ = ["Destination", "Journal", "JournalFrame", "journal_folders", "read_destination"]

_MARK = b"oomf"
_FRAME = struct.Struct("<4sIIQQ")  # mark, length, crc32 of the seqs and the payload, first seq, last seq
_SEQS = struct.Struct("<QQ")
_SEQS_AT = _FRAME.size - _SEQS.size
_SEGMENT_BYTES = 4 << 20
_LONGEST = 1 << 20


class JournalFrame(NamedTuple):
    """One frame as it is sent."""

    first_seq: int
    last_seq: int
    payload: bytes


class Destination(msgspec.Struct, frozen=True, kw_only=True):
    """Where a journal is to go: any agent of this machine that talks to that server may send it."""

    server: str
    mode: str  # "offline": only `oomcast sync` may
    folder: str | None = None  # the session's: while that is held, its own agent will come for the journal


def read_destination(folder: Path) -> Destination | None:
    """Where the journal in `folder` is to go; None if it doesn't say."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((folder / "destination").read_bytes(), type=Destination)
    return None


class _Segment:
    """One file of frames; `last_seq` is that of its last complete frame, 0 while it has none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.first_seq = 0
        self.last_seq = 0
        self.size = 0

    def note(self, frame: JournalFrame) -> None:
        self.first_seq = self.first_seq or frame.first_seq
        self.last_seq = frame.last_seq
        self.size += _FRAME.size + len(frame.payload)


class Journal:
    """One source's unsent past; written and read by one process at a time."""

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        hello: bytes | None = None,
        destination: Destination | None = None,
        segment_bytes: int = _SEGMENT_BYTES,
    ) -> None:
        """Open or make the journal in `folder`.

        Args:
            folder: this source's own.
            max_bytes: beyond it the oldest segment is dropped.
            hello: the source's Hello message, kept so that another process can send this journal after our death; it is
                written with the first frame, and again tried with the next if the disk was full.
            destination: where it is to go; kept with the hello.
            segment_bytes: a segment of this size is closed and a new one begun.

        Raises:
            JournalError: another process has it open.
            SettingsError: the folder can't be made or written to.
        """
        self.folder = make_private(folder)
        self._max_bytes = max_bytes
        self._segment_bytes = min(segment_bytes, max(max_bytes // 4, 4096))
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if fcntl is not None:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(self._lock)
                raise JournalError(f"{folder} is in use by a running agent") from error
        self._segments = [segment for path in sorted(folder.glob("*.frames")) if (segment := self._scan(path))]
        self._unwritten_hello = hello
        self._destination = destination
        self._file: int | None = None
        self._cursor: tuple[Path | None, int, int] = (None, 0, 0)  # segment, offset behind the frame that ended at seq
        self.acknowledged = 0

    @staticmethod
    def _scan(path: Path) -> _Segment | None:
        segment = _Segment(path)
        for frame, _ in _frames(path, 0):
            segment.note(frame)
        if segment.last_seq == 0:
            # Nothing in it can be read, and the next segment may have to take its name.
            path.unlink(missing_ok=True)
            return None
        segment.size = path.stat().st_size
        return segment

    @property
    def hello(self) -> bytes | None:
        """The source's Hello message, or None if it was never written."""
        with contextlib.suppress(OSError):
            return (self.folder / "hello").read_bytes() or None
        return None

    def _write_hello(self) -> None:
        if self._unwritten_hello is None:
            return
        if self._destination is not None:
            self._replace("destination", msgspec.json.encode(self._destination))
        self._replace("hello", self._unwritten_hello)
        self._unwritten_hello = None

    def _replace(self, name: str, data: bytes) -> None:
        draft = self.folder / f"{name}.new"
        draft.write_bytes(data)
        draft.replace(self.folder / name)

    @property
    def last_seq(self) -> int:
        """The newest seq that was ever written, or acknowledged; 0 if none."""
        return max([self.acknowledged, *(segment.last_seq for segment in self._segments)])

    @property
    def pending(self) -> bool:
        """Whether something waits for a server."""
        return self.last_seq > self.acknowledged

    def append(self, frame: JournalFrame) -> list[tuple[int, int]]:
        """Write one frame, and drop the oldest segments if there is no room left.

        Returns:
            The (first, last) seqs of unacknowledged frames that were dropped for it.

        Raises:
            OSError: the disk won't take it; the journal is as before.
        """
        if len(frame.payload) > _LONGEST:
            raise JournalError(f"a frame of {len(frame.payload)} bytes; at most {_LONGEST} can be sent")
        self._write_hello()
        dropped = self._make_room(_FRAME.size + len(frame.payload))
        if self._file is None or self._segments[-1].size >= self._segment_bytes:
            self._new_segment(frame.first_seq)
        assert self._file is not None
        segment = self._segments[-1]
        data = _pack(frame)
        try:
            written = os.write(self._file, data)
            if written != len(data):
                raise OSError(28, "no space left on device")
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, segment.size)
            raise
        segment.note(frame)
        return dropped

    def _make_room(self, size: int) -> list[tuple[int, int]]:
        dropped = []
        while len(self._segments) > 1 and sum(s.size for s in self._segments) + size > self._max_bytes:
            oldest = self._segments.pop(0)
            if oldest.last_seq > self.acknowledged:
                dropped.append((max(oldest.first_seq, self.acknowledged + 1), oldest.last_seq))
            oldest.path.unlink(missing_ok=True)
        return dropped

    def _new_segment(self, first_seq: int) -> None:
        path = self.folder / f"{first_seq:020d}.frames"
        # Appending, so that a frame cut back after a full disk leaves no hole before the next one.
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._close_file()
        self._file = file
        self._segments.append(_Segment(path))

    def acknowledge(self, seq: int) -> None:
        """The server has everything up to `seq`: segments that hold no more than that are deleted.

        Not the one being written, or a server that keeps up would cost a new file for each frame.
        """
        self.acknowledged = max(self.acknowledged, seq)
        written = 0 if self._file is None else 1
        while len(self._segments) > written and 0 < self._segments[0].last_seq <= self.acknowledged:
            self._segments.pop(0).path.unlink(missing_ok=True)

    def next_after(self, seq: int) -> JournalFrame | None:
        """The first frame that holds anything after `seq`; None if there is none yet.

        Asked for one after the other, each costs one read of its own length.
        """
        segments = [segment for segment in self._segments if segment.last_seq > seq]
        for segment in segments:
            path, offset, given = self._cursor
            start = offset if (path, given) == (segment.path, seq) else 0
            for frame, behind in _frames(segment.path, start):
                if frame.last_seq > seq:
                    self._cursor = (segment.path, behind, frame.last_seq)
                    return frame
        return None

    def close(self) -> None:
        """Give the files back; a journal with nothing left in it is removed."""
        self._close_file()
        if not self.pending:
            with contextlib.suppress(OSError):
                for path in self.folder.iterdir():
                    path.unlink(missing_ok=True)
                self.folder.rmdir()
        os.close(self._lock)

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def journal_folders(state: Path) -> list[Path]:
    """Every source's journal under a state folder, oldest first."""
    with contextlib.suppress(OSError):
        folders = [path for path in (state / "journals").iterdir() if path.is_dir()]
        return sorted(folders, key=lambda path: path.stat().st_mtime)
    return []


def _pack(frame: JournalFrame) -> bytes:
    seqs = _SEQS.pack(frame.first_seq, frame.last_seq)
    return (
        _FRAME.pack(_MARK, len(frame.payload), zlib.crc32(seqs + frame.payload), frame.first_seq, frame.last_seq)
        + frame.payload
    )


def _frames(path: Path, offset: int) -> Iterator[tuple[JournalFrame, int]]:
    """Whole frames of a segment from `offset` on, each with the offset behind it; what is damaged is stepped over."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        while True:
            frame = _frame_at(file, offset)
            if frame is not None:
                offset += _FRAME.size + len(frame.payload)
                yield frame, offset
                continue
            found = _next_mark(file, offset + 1)
            if found is None:
                return
            offset = found


def _frame_at(file: BinaryIO, offset: int) -> JournalFrame | None:
    file.seek(offset)
    header = file.read(_FRAME.size)
    if len(header) < _FRAME.size:
        return None
    mark, length, checksum, first, last = _FRAME.unpack(header)
    if mark != _MARK or length > _LONGEST or not 0 < first <= last:
        return None
    payload = file.read(length)
    if len(payload) != length or zlib.crc32(header[_SEQS_AT:] + payload) != checksum:
        return None
    return JournalFrame(first, last, payload)


def _next_mark(file: BinaryIO, offset: int) -> int | None:
    """Where the next mark stands from `offset` on; a payload may hold one by chance, which its checksum tells."""
    file.seek(offset)
    at = file.read().find(_MARK)
    return None if at < 0 else offset + at
