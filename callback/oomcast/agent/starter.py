"""Starts the dashboard's server in the background where the user has none running yet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from oomcast import local_server
from oomcast.places import make_private
from oomcast.settings import AGENT_LIMITS, DEFAULT_SERVER, inherited_environment

__all__ = ["start_server_if_none"]


def start_server_if_none(server: str, state: Path) -> bool:
    """Start a server that outlives the training, if `server` is the default address and nothing listens there.

    Args:
        server: the address that samples go to.
        state: where the server's log goes.

    Returns:
        Whether one was started.
    """
    if server != DEFAULT_SERVER or local_server.listens(server) or not local_server.is_installed():
        return False
    with open(make_private(state) / "server.log", "ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "oomcast_server", "serve", "--quiet-if-running"],
            cwd=state,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # it prints the link, and the link has the token in it
            stderr=log,
            start_new_session=True,
        )
    return True


def _environment() -> dict[str, str]:
    # What keeps the agent small is not for the server.
    environment = inherited_environment()
    for name in AGENT_LIMITS:
        environment.pop(name, None)
    return environment
