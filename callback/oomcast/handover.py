"""What a session hands to its agent: one file and a few names in a private folder that both know.

    handover.json   all that the agent needs to know, written before it starts
    ring            records of fixed size (`ring.py`)
    notes           JSON lines for the few things that have text: the model's name, an exception, a notice

The folder lies on tmpfs where there is one: a page of a disk file under writeback can block the very thread we watch.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import msgspec

from oomcast.assessment import Assessment
from oomcast.descriptors import out_of_the_way
from oomcast.probes.death import Standing
from oomcast.sample import EventKind
from oomcast.wire import RunInfo, SourceInfo

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "Detail",
    "Handover",
    "Note",
    "Notice",
    "folder_parents",
    "hold",
    "is_held",
    "make_folder",
    "note_line",
    "orphans",
    "read_handover",
    "readable",
    "remove_folder",
    "write_handover",
]

Detail: TypeAlias = dict[str, str | int | None]
"""What an event says beside its kind, place and time."""

_PREFIX = "oomcast-"
_STARTING_S = 3600.0
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
    critical_headroom: float = 0.05  # share of the limit below which the state is critical
    visible_gpus: str | None = None  # the training's CUDA_VISIBLE_DEVICES; None where it is not set
    gpu_order: str | None = None  # its CUDA_DEVICE_ORDER
    standing: Standing | None = None  # before the agent was born: the process may be dead by then
    boot: str | None = None  # which boot of the machine that was
    outside: bool = False  # the process was not started for us: nothing but its life says when it ends
    detachable: bool = False  # the life-line's end means that nobody watches any more, not that the training is gone


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `notes`, from the session to the agent."""

    kind: EventKind
    mono_ns: int
    wall_ns: int
    detail: Detail


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the downlink, from the agent to the session."""

    text: str | None = None  # for the user's eyes
    done: bool = False  # everything is delivered, or is safe in the journal; nothing follows
    assessment: Assessment | None = None  # whenever its state changes
    verdict: Detail | None = None  # how the training ended, as in the END event


def folder_parents() -> list[Path]:
    """Where a session's folder may be made, the better place first: a container's shared memory may be full."""
    shared = [_SHARED_MEMORY] if os.access(_SHARED_MEMORY, os.W_OK | os.X_OK) else []
    return [*shared, Path(tempfile.gettempdir())]


def make_folder(parent: Path) -> Path:
    """A new folder for one session, this user's only (0700)."""
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))


def hold(folder: Path) -> int | None:
    """Say that a process lives that needs `folder`, for as long as the file that is returned stays open."""
    if fcntl is None:
        return None
    # Held before it can be found by its name, or another's look at that moment would take it for an orphan's.
    draft = folder / "lock.new"
    lock = out_of_the_way(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    with contextlib.suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    draft.replace(folder / "lock")
    return lock


def is_held(folder: Path) -> bool:
    """Whether a session or its agent lives that needs `folder`."""
    if fcntl is None:
        return folder.exists()
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def orphans(parent: Path) -> Iterator[Path]:
    """This user's sessions' folders that nobody needs any more: training and agent were killed at once.

    Each is held against others until the next is asked for; whoever asks removes it.
    """
    if fcntl is None:
        return
    for folder in sorted(parent.glob(f"{_PREFIX}*")):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            if not (folder / "lock").exists():
                # A session that is just starting, or one that was killed as it did.
                if time.time() > folder.stat().st_mtime + _STARTING_S:
                    remove_folder(folder)
                continue
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield folder
            finally:
                os.close(lock)


def remove_folder(folder: Path) -> None:
    """Remove a session's folder; what is gone already is no error."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            path.unlink(missing_ok=True)
        folder.rmdir()


def readable(text: str) -> str:
    """Text that can be written as UTF-8, whatever bytes a file name or argument had."""
    return text.encode("utf-8", "replace").decode("utf-8")


def write_handover(folder: Path, handover: Handover) -> None:
    """Write `handover.json`, readable by this user only: the token is in it."""
    fd = os.open(folder / "handover.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.encode(handover))


def read_handover(folder: Path) -> Handover:
    """The inverse of `write_handover`."""
    return msgspec.json.decode((folder / "handover.json").read_bytes(), type=Handover)


def note_line(kind: EventKind, detail: Detail) -> bytes:
    """One line for `notes`, with this moment's clocks. Long texts are cut to what a server takes."""
    cut = {key: readable(value)[:4000] if isinstance(value, str) else value for key, value in detail.items()}
    note = Note(kind=kind, mono_ns=time.monotonic_ns(), wall_ns=time.time_ns(), detail=cut)
    return msgspec.json.encode(note) + b"\n"
