"""A small client of the server's REST interface, for the commands; nothing but the standard library.

It follows no redirect (the token would go where nobody said), uses no proxy from the environment, and makes of every
failure one line that a user can act on.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from oomcast import console
from oomcast.errors import OomcastError
from oomcast.places import places, read_or_create_token
from oomcast.settings import LOOPBACK, Settings

__all__ = ["Answered", "Client", "ClientError", "Unreachable", "connect", "token_for_server"]

Query: TypeAlias = str | int | float | None

_TIMEOUT_S = 30.0
_CHUNK_BYTES = 64 << 10
_MOST_BYTES = 256 << 20  # of one JSON answer
_MOST_WORDS = 300  # of an error's text, in characters


class ClientError(OomcastError):
    """What was asked of the server was not done."""


class Unreachable(ClientError):  # noqa: N818 - as in `StoreUnavailable`
    """Nothing answers at the server's address, or the answer broke off."""


class Answered(ClientError):  # noqa: N818
    """The server said no; `status` is HTTP's."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def connect(settings: Settings, timeout_s: float = _TIMEOUT_S) -> Client:
    """A client of the server that the settings name, with its token.

    Raises:
        ClientError: the server is on another machine, and nobody has said its token.
        SettingsError: the config folder can't be written.
    """
    return Client(settings.server, token_for_server(settings), timeout_s)


def token_for_server(settings: Settings) -> str:
    """The token for the server that the settings name; for one on this machine it is made if there is none yet.

    Raises:
        ClientError: the server is on another machine, and nobody has said its token.
        SettingsError: the config folder can't be written.
    """
    if found := console.token_for(settings):
        return found
    if urllib.parse.urlsplit(settings.server).hostname in LOOPBACK:
        return read_or_create_token(places(settings.home).config)
    raise ClientError(
        f"{settings.server} is another machine: set OOMCAST_TOKEN to its token (`oomcast token` prints it there)"
    )


class Client:
    """One server, asked by one thread; each request has a connection of its own."""

    def __init__(self, server: str, token: str, timeout_s: float = _TIMEOUT_S) -> None:
        """`server` as in the settings (`http://127.0.0.1:6662`); `timeout_s` is for each wait on the network.

        Raises:
            ClientError: the token can't stand in a header.
        """
        if not token.isascii() or not token.isprintable():
            raise ClientError("the token can't be used: expected printable ASCII text; see OOMCAST_TOKEN")
        self.server = server
        self._parts = urllib.parse.urlsplit(server)
        self._token = token
        self._timeout_s = timeout_s

    def get_json(self, path: str, **query: Query) -> Any:
        """What `GET path` answers.

        `path` starts with `/api/` and is percent-encoded; of the query, what is None is left out.

        Raises:
            Unreachable: no server, or no whole answer.
            Answered: the server said no.
        """
        return self._parsed(self.get_bytes(path, **query))

    def get_bytes(self, path: str, **query: Query) -> bytes:
        """The body of the same, as it is.

        Raises:
            Unreachable, Answered: as `get_json`.
        """
        with self._asked("GET", _target(path, query)) as answer:
            return self._whole(answer)

    def send_json(self, method: str, path: str, body: Any = None, **query: Query) -> Any:
        """What `method path` answers to `body` as JSON (None: no body); None where the answer has no body.

        Raises:
            Unreachable, Answered: as `get_json`.
        """
        # Without a body, too: the server takes no change of state without this content type.
        headers = {"Content-Type": "application/json"}
        data = None if body is None else json.dumps(body, allow_nan=False).encode()
        with self._asked(method, _target(path, query), headers, data) as answer:
            return self._parsed(self._whole(answer))

    def send_stream(self, method: str, path: str, chunks: Iterable[bytes], content_type: str, **query: Query) -> Any:
        """The same with a body that is sent piece by piece, whatever its length.

        Raises:
            Unreachable, Answered: as `get_json`.
        """
        with self._asked(method, _target(path, query), {"Content-Type": content_type}, chunks) as answer:
            return self._parsed(self._whole(answer))

    def stream(self, path: str, **query: Query) -> Iterator[bytes]:
        """The body of `GET path` piece by piece. It ends early only by raising.

        Raises:
            Unreachable, Answered: as `get_json`; Unreachable also from a later piece, when the answer breaks off.
        """
        with self._asked("GET", _target(path, query)) as answer:
            while chunk := answer.read(_CHUNK_BYTES):
                yield chunk
            if answer.length:  # what Content-Length promised and never came; http.client says nothing of it
                raise http.client.IncompleteRead(b"", answer.length)

    @contextlib.contextmanager
    def _asked(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, body: Any = None
    ) -> Iterator[http.client.HTTPResponse]:
        connection = self._connection()
        try:
            with contextlib.closing(connection):
                own = {"Authorization": f"Bearer {self._token}", "Accept": "application/json, */*;q=0.5"}
                answer = self._answer(connection, method, self._parts.path + target, {**own, **(headers or {})}, body)
                if not 200 <= answer.status < 300:
                    raise self._refusal(answer)
                yield answer
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error

    def _connection(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        return kind(self._parts.hostname or "", self._parts.port, timeout=self._timeout_s)

    def _answer(
        self, connection: http.client.HTTPConnection, method: str, target: str, headers: Mapping[str, str], body: Any
    ) -> http.client.HTTPResponse:
        try:
            connection.request(method, target, body, dict(headers))
        except (BrokenPipeError, ConnectionResetError):
            # A server that refuses a long body answers before it has read it all; the answer says why.
            with contextlib.suppress(OSError, http.client.HTTPException):
                return connection.getresponse()
            raise
        return connection.getresponse()

    def _whole(self, answer: http.client.HTTPResponse) -> bytes:
        body = answer.read(_MOST_BYTES + 1)
        if len(body) > _MOST_BYTES:
            raise ClientError(f"the answer of {self.server} is larger than {_MOST_BYTES >> 20} MiB: ask for less")
        if answer.length:
            raise http.client.IncompleteRead(b"", answer.length)
        return body

    def _parsed(self, body: bytes) -> Any:
        try:
            return json.loads(body) if body else None
        except ValueError:
            raise ClientError(
                f"{self.server} answers, but not as an oomcast server does: check OOMCAST_SERVER"
            ) from None

    def _refusal(self, answer: http.client.HTTPResponse) -> Answered:
        status = answer.status
        if 300 <= status < 400:
            where = _line(answer.getheader("Location") or "elsewhere")
            return Answered(status, f"{self.server} sends on to {where}: set OOMCAST_SERVER to the address itself")
        if status == 401:
            advice = "set OOMCAST_TOKEN to what `oomcast token` prints on the server's machine"
            return Answered(status, f"{self.server} doesn't take this token: {advice}")
        with contextlib.suppress(ValueError, TypeError, KeyError, OSError, http.client.HTTPException):
            return Answered(status, _line(str(json.loads(answer.read(_CHUNK_BYTES))["detail"])))
        what = f"{self.server} answers {status} {_line(answer.reason)}".rstrip()
        return Answered(status, f"{what}, not as an oomcast server does: check OOMCAST_SERVER")

    def _unreachable(self, error: Exception) -> Unreachable:
        if isinstance(error, http.client.IncompleteRead):
            return Unreachable(f"the answer of {self.server} broke off before its end: try again")
        if isinstance(error, socket.timeout):
            return Unreachable(f"{self.server} has not answered for {self._timeout_s:g} s: try again")
        reason = _line(getattr(error, "strerror", None) or str(error) or type(error).__name__)
        here = self._parts.hostname in LOOPBACK
        advice = "start one with `oomcast serve`, or name another in OOMCAST_SERVER" if here else "check OOMCAST_SERVER"
        return Unreachable(f"no oomcast server answers at {self.server} ({reason}): {advice}")


def _target(path: str, query: Mapping[str, Query]) -> str:
    given = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urllib.parse.urlencode(given)}" if given else path


def _line(text: str) -> str:
    """Text of the other side for a terminal: one line without control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:_MOST_WORDS]
