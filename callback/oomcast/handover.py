"""What a session hands to its agent: one file and a few names in a private folder that both know.

    handover.json   all that the agent needs to know, written before it starts
    ring            records of fixed size (`ring.py`)
    notes           JSON lines for the few things that have text: the model's name, an exception, a notice

The folder lies on tmpfs where there is one: a page of a disk file under writeback can block the very thread we watch.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import msgspec

from oomcast.sample import EventKind
from oomcast.wire import RunInfo, SourceInfo

__all__ = ["Handover", "Note", "Notice", "make_folder", "note_line", "read_handover", "write_handover"]

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  a private folder is made in it


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the agent is told at its start."""

    run: RunInfo
    source: SourceInfo
    server: str
    mode: str
    token: str | None
    home: str | None
    journal_max: int
    autostart: bool


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `notes`, from the session to the agent."""

    kind: EventKind
    mono_ns: int
    wall_ns: int
    detail: dict[str, str | int | None]


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the downlink, from the agent to the session."""

    text: str | None = None  # for the user's eyes
    done: bool = False  # everything is delivered, or is safe in the journal; nothing follows


def make_folder() -> Path:
    """A new folder for one session, this user's only (0700)."""
    shared = _SHARED_MEMORY
    parent = shared if shared.is_dir() and os.access(shared, os.W_OK | os.X_OK) else None
    return Path(tempfile.mkdtemp(prefix="oomcast-", dir=parent))


def write_handover(folder: Path, handover: Handover) -> None:
    """Write `handover.json`, readable by this user only: the token is in it."""
    fd = os.open(folder / "handover.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.encode(handover))


def read_handover(folder: Path) -> Handover:
    """The inverse of `write_handover`."""
    return msgspec.json.decode((folder / "handover.json").read_bytes(), type=Handover)


def note_line(kind: EventKind, detail: dict[str, str | int | None]) -> bytes:
    """One line for `notes`, with this moment's clocks. Long texts are cut to what a server takes."""
    cut = {key: value[:4000] if isinstance(value, str) else value for key, value in detail.items()}
    note = Note(kind=kind, mono_ns=time.monotonic_ns(), wall_ns=time.time_ns(), detail=cut)
    return msgspec.json.encode(note) + b"\n"
