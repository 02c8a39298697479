"""The errors that the server raises on purpose.

OomcastError
└── ServerError
    ├── StoreRefused       a database that this server must not open (newer, foreign, or another server's)
    ├── StoreUnavailable   the database can't be written or read now (full disk, I/O error); later it may
    └── StartError         the server can't start as asked (port in use, address not allowed)

Each text is one line: what was given, what was expected, what to do.
"""

from __future__ import annotations

from oomcast.errors import OomcastError

__all__ = ["ServerError", "StartError", "StoreRefused", "StoreUnavailable"]


class ServerError(OomcastError):
    """The base of them all."""


class StoreRefused(ServerError):  # noqa: N818 - a refusal is what it says
    """A database that this server must not open."""


class StoreUnavailable(ServerError):  # noqa: N818
    """The database can't be written or read now."""


class StartError(ServerError):
    """The server can't start as asked."""
