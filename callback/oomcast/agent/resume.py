"""Where an agent stands, written down at every step, so that another goes on exactly there if it is killed.

A step is: take records from the ring, make rows of them, journal the rows. A kill may come between any two of these.
So a step's rows are first written here, together with the state *after* it, by one rename; then they are journalled.
The next agent journals them again if the journal does not have them yet, and reads the ring on from there: every row
once, none twice.

The file lies in the session's folder, beside the ring.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import msgspec

from oomcast.agent.assembler import AssemblerState
from oomcast.agent.journal import JournalFrame
from oomcast.probes.death import Standing
from oomcast.probes.limits import Limit
from oomcast.sample import Count

__all__ = ["Resume", "read_resume", "write_resume"]

_NAME = "resume"


class Resume(msgspec.Struct, array_like=True):
    """One agent's standing after a step."""

    ring_number: int = 1  # of the first record that is not in any row yet
    notes_offset: int = 0
    threaded: bool = False  # batch ends have come out of order
    assembler: AssemblerState = msgspec.field(default_factory=AssemblerState)
    frames: list[tuple[int, int, bytes]] = []  # the newest step's, as they go into the journal
    wall_ns: Count = 0
    # What was seen last, for a verdict in case nobody is there to see the end.
    standing: Standing | None = None
    limit: Limit | None = None  # of those that kill, the one with the least headroom
    boot: str | None = None  # counters of another boot prove nothing

    @property
    def journal_frames(self) -> list[JournalFrame]:
        """`frames` as the journal takes them."""
        return [JournalFrame(*frame) for frame in self.frames]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Resume)
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def read_resume(folder: Path) -> Resume | None:
    """What the agent before left; None where there was none, or it can't be read."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return _decoder.decode((folder / _NAME).read_bytes())
    return None


def write_resume(folder: Path, resume: Resume) -> None:
    """Put `resume` in the place of the one before, whole or not at all.

    Raises:
        OSError: the folder is gone or full; the one before stands.
    """
    # By plain system calls: pathlib's would be a tenth of all that the agent does.
    place = f"{folder}/{_NAME}"
    draft = f"{place}.new"
    data = _encoder.encode(resume)
    fd = os.open(draft, _FLAGS, 0o600)
    try:
        written = os.write(fd, data)
    finally:
        os.close(fd)
    if written != len(data):
        os.unlink(draft)
        raise OSError(errno.ENOSPC, "no space left for the agent's standing", draft)
    os.replace(draft, place)
