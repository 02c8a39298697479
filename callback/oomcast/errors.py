"""The errors that oomcast raises on purpose.

OomcastError
├── SettingsError     a setting that can't be used as given
├── WireError         bytes that are not a message of this protocol
├── RingError         a ring file that is not ours, or of another version
├── JournalError      a journal that can't be opened or written
├── TargetError       a process that can't be watched
├── CheckpointError   a checkpoint that can't be written or read (`checkpoint.py`)
└── ClientError       what was asked of the server was not done: Unreachable, Answered (`client.py`)

Each text says what was given, what was expected and what to do, in one line that a user can read.
"""

from __future__ import annotations

__all__ = ["JournalError", "OomcastError", "RingError", "SettingsError", "TargetError", "WireError"]


class OomcastError(Exception):
    """The base of them all."""


class SettingsError(OomcastError):
    """A setting that can't be used as given."""


class WireError(OomcastError):
    """Bytes that are not a message of this protocol."""


class RingError(OomcastError):
    """A ring file that is not ours, or of another version."""


class JournalError(OomcastError):
    """A journal that can't be opened or written."""


class TargetError(OomcastError):
    """A process that can't be watched."""
