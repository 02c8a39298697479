"""Whether this machine has a server: installed, and listening."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import urllib.parse

__all__ = ["is_installed", "listens"]


def is_installed() -> bool:
    """Whether `oomcast[server]` is there, without importing any of it."""
    return all(importlib.util.find_spec(name) for name in ("oomcast_server", "fastapi", "uvicorn", "sqlalchemy"))


def listens(server: str) -> bool:
    """Whether anything takes connections at that address; waits a second at most, on loopback not at all."""
    parts = urllib.parse.urlsplit(server)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    with contextlib.suppress(OSError), socket.create_connection((parts.hostname or "", port), timeout=1):
        return True
    return False
