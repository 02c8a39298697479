"""Starts the dashboard's server in the background where the user has none running yet."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import urllib.parse
from pathlib import Path

from oomcast.console import server_installed
from oomcast.places import make_private
from oomcast.settings import DEFAULT_SERVER

__all__ = ["start_server_if_none"]


def start_server_if_none(server: str, state: Path) -> bool:
    """Start a server that outlives the training, if `server` is the default address and nothing listens there.

    Args:
        server: the address that samples go to.
        state: where the server's log goes.

    Returns:
        Whether one was started.
    """
    if server != DEFAULT_SERVER or _listens(server) or not server_installed():
        return False
    with open(make_private(state) / "server.log", "ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "oomcast_server", "serve", "--quiet-if-running"],
            cwd=state,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # it prints the link, and the link has the token in it
            stderr=log,
            start_new_session=True,
        )
    return True


def _listens(server: str) -> bool:
    parts = urllib.parse.urlsplit(server)
    with contextlib.suppress(OSError), socket.create_connection((parts.hostname or "", parts.port or 80), timeout=1):
        return True
    return False
