"""What the training's user reads in the terminal: single lines on stderr that begin with "oomcast:"."""

from __future__ import annotations

import contextlib
import getpass
import socket
import sys
import urllib.parse

from oomcast import local_server
from oomcast import settings as settings_module
from oomcast.handover import Detail
from oomcast.places import places, read_token
from oomcast.settings import DEFAULT_SERVER, Settings
from oomcast.wire import RunInfo

__all__ = ["link", "say", "say_end", "say_start", "ssh_line", "token_for"]


def say(text: str) -> None:
    """One line. A terminal that is gone is no reason to fail."""
    with contextlib.suppress(Exception):
        print(f"oomcast: {text}", file=sys.stderr, flush=True)


def say_start(run: RunInfo, settings: Settings) -> None:
    """Where to look, or why there is nothing to look at yet."""
    if settings.mode == "offline":
        say(f"recording {run.name} offline; `oomcast sync` sends it to a server later")
        return
    if (
        settings.server == DEFAULT_SERVER
        and not local_server.is_installed()
        and not local_server.listens(DEFAULT_SERVER)
    ):
        say(
            f"recording {run.name} offline, since this machine has no dashboard: `pip install 'oomcast[server]'` "
            "brings it, OOMCAST_SERVER names one elsewhere; `oomcast sync` sends the run later"
        )
        return
    say(f"watching {run.name} at {link(settings.server, token_for(settings), run.id)}")
    if line := ssh_line(settings.server):
        say(f"from your own machine: {line}")


# By the outcome; what has no colour needs no attention.
_COLOURS = {"finished": "32", "stopped": "33", "failed": "31", "died": "31"}


def say_end(verdict: Detail) -> None:
    """How a training ended; and of a death, on what that rests."""
    text, evidence, colour = str(verdict.get("text") or ""), verdict.get("evidence"), None
    with contextlib.suppress(Exception):
        colour = _COLOURS.get(str(verdict.get("outcome"))) if sys.stderr.isatty() else None
    say(f"\x1b[{colour}m{text}\x1b[0m" if colour and settings_module.wants_colour() else text)
    if evidence and verdict.get("outcome") == "died":
        say(f"  {evidence}")


def token_for(settings: Settings) -> str | None:
    """The token to show to the server: what the user set, or for a server on this machine the one in its folder."""
    on_this_machine = urllib.parse.urlsplit(settings.server).hostname in settings_module.LOOPBACK
    return settings.token or (read_token(places(settings.home).config) if on_this_machine else None)


def link(server: str, token: str | None, run_id: str | None = None) -> str:
    """The address to open in a browser; with the token in it, it signs the browser in."""
    page = f"/runs/{run_id}" if run_id else "/"
    if not token:
        return server + page
    query = {"token": token} | ({"run": run_id} if run_id else {})
    return f"{server}/login?{urllib.parse.urlencode(query)}"


def ssh_line(server: str) -> str | None:
    """The command that brings a loopback dashboard to the machine that one came from by SSH; None if not on SSH."""
    parts = urllib.parse.urlsplit(server)
    if settings_module.ssh_connection() is None or parts.hostname not in settings_module.LOOPBACK:
        return None
    user = "you"
    with contextlib.suppress(Exception):
        user = getpass.getuser()
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"ssh -L {port}:127.0.0.1:{port} {user}@{socket.gethostname()}"
