"""The socket, and who has it if we can't: bound by us before anything else, so that errors are ours to word."""

from __future__ import annotations

import contextlib
import errno
import http.client
import ipaddress
import json
import socket

from oomcast_server.errors import StartError
from oomcast_server.settings import ServerSettings

__all__ = ["PortInUse", "ask", "bind", "check_exposure", "is_loopback", "links"]

_LEAST_TOKEN = 32
_STALLED_MS = 60_000
_ANSWER_S = 5.0  # a server that another autostart began just now listens before it answers


class PortInUse(StartError):  # noqa: N818 - a state of the port
    """Something listens there already; `is_oomcast` if it is a server that takes our token."""

    def __init__(self, message: str, is_oomcast: bool) -> None:
        super().__init__(message)
        self.is_oomcast = is_oomcast


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def check_exposure(settings: ServerSettings) -> None:
    """Refuse to be reached from other machines by a token that the user didn't choose to be strong.

    Raises:
        StartError: the address is not this machine's own, and there is no such token.
    """
    if not is_loopback(settings.host) and len(settings.token or "") < _LEAST_TOKEN:
        raise StartError(
            f"--host {settings.host} lets other machines in: set OOMCAST_TOKEN to a secret of {_LEAST_TOKEN} "
            "characters or more, or listen on 127.0.0.1 and use `ssh -L`"
        )


def bind(settings: ServerSettings, token: str) -> socket.socket:
    """A listening socket.

    Raises:
        PortInUse: something listens there already.
        StartError: the address can't be listened on.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # Inherited by each connection: the kernel drops a peer that takes nothing for a minute, which asyncio alone
            # would keep for as long as its buffer isn't empty.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STALLED_MS)
        listener.bind((settings.host, settings.port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise _bind_error(settings, token, error) from error
    listener.setblocking(False)
    return listener


def _bind_error(settings: ServerSettings, token: str, error: OSError) -> StartError:
    where = f"{settings.host}:{settings.port}"
    if error.errno != errno.EADDRINUSE:
        return StartError(f"can't listen on {where} ({error.strerror}): give another --host or --port")
    found = ask(settings.host, settings.port, token)
    if found is not None:
        return PortInUse(
            f"an oomcast server (version {found}) listens on {where} already: use it, or give another --port", True
        )
    return PortInUse(f"another program listens on {where} already: give another --port", False)


def ask(host: str, port: int, token: str) -> str | None:
    """The version of the oomcast server there that takes our token, or None."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    connection = http.client.HTTPConnection(address, port, timeout=_ANSWER_S)
    try:
        connection.request("GET", "/api/server", headers={"Authorization": f"Bearer {token}"})
        response = connection.getresponse()
        answer = json.loads(response.read(65_536))
        return str(answer["version"]) if response.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
    finally:
        connection.close()


def links(settings: ServerSettings, port: int, token: str, user: str) -> list[str]:
    """What to print first: the dashboard's link, and on SSH how to reach it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - compared, not bound
    shown = f"[{host}]" if ":" in host else host
    lines = [f"oomcast: dashboard at http://{shown}:{port}/login?token={token}"]
    if settings.ssh_address is not None:
        lines.append(
            f"oomcast: from your own machine, first: ssh -L {port}:{shown}:{port} {user}@{settings.ssh_address}"
        )
    return lines
