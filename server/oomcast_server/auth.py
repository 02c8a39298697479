"""Who is let in: one gate before everything, for http and websocket alike, that denies unless it knows the caller."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import MutableHeaders
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oomcast_server.rest.problems import problem

__all__ = ["COOKIE", "Gate", "Secret", "unauthorized"]

COOKIE = "oomcast_session"

_OPEN_PATHS = frozenset({"/login", "/healthz", "/readyz"})  # the first checks the token itself, the others say nothing
_AGENT_PATHS = frozenset({"/api/ingest"})  # a browser's cookie is not enough to write
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]{2,45})\]|([A-Za-z0-9.\-_]{1,253}))(?::[0-9]{1,5})?")

_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_LOGIN_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>oomcast</title>
<link rel="icon" href="data:,">
<body style="font:16px/1.5 system-ui;max-width:36em;margin:4em auto;padding:0 1em">
<h1>oomcast</h1>
<p>This is an oomcast server: it shows what memory trainings use. This browser is not let in yet.</p>
<p>Open the link that <code>oomcast serve</code> or your training printed, or run <code>oomcast link</code>.</p>
"""


class Secret:
    """The server's token, and the cookie that stands for it in a browser."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self.session = hmac.new(self._token, b"session v1", hashlib.sha256).hexdigest()

    def is_token(self, given: str) -> bool:
        """Whether `given` is the token; takes the same time for every wrong one."""
        return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), self._token)

    def is_session(self, given: str) -> bool:
        """Whether `given` is the cookie's value."""
        return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), self.session.encode())


def unauthorized(accept: str) -> Response:
    """What a caller gets that isn't known: a page to read for a person, a problem document otherwise."""
    if "text/html" in accept:
        return HTMLResponse(_LOGIN_PAGE, 401)
    return problem(401, "a token is needed: send the header `Authorization: Bearer TOKEN`, or open the login link")


class Gate:
    """Pure ASGI middleware, outside of everything else. It decides on `scope["path"]` and headers alone."""

    def __init__(self, app: ASGIApp, secret: Secret, hosts: Iterable[str]) -> None:
        self.app = app
        self._secret = secret
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if scope["type"] == "http":
            answer: ASGIApp = self.app if refusal is None else refusal
            await answer(scope, receive, _with_headers(send))
        elif refusal is None:
            await self.app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})  # before accept: the client sees 403

    def _refusal(self, scope: Scope) -> Response | None:
        hosts = _values(scope, b"host")
        if len(hosts) != 1 or _host_name(hosts[0]) not in self._hosts:
            return problem(400, "this server doesn't go by that host name: add it to OOMCAST_ALLOWED_HOSTS")
        origins = _values(scope, b"origin")
        needs_origin = scope["type"] == "websocket" or scope["method"] not in _SAFE_METHODS
        if needs_origin and origins and origins != [_own_origin(scope, hosts[0])]:
            return problem(403, "this request comes from another site")
        if scope["type"] == "http" and scope["path"] in _OPEN_PATHS:
            return None
        # Only a browser has the cookie, and a browser says where such a request comes from.
        cookie_counts = scope["path"] not in _AGENT_PATHS and (not needs_origin or bool(origins))
        if self._has_token(scope) or (cookie_counts and self._has_cookie(scope)):
            return None
        return unauthorized(", ".join(_values(scope, b"accept")))

    def _has_token(self, scope: Scope) -> bool:
        values = _values(scope, b"authorization")
        if len(values) != 1:
            return False
        scheme, _, token = values[0].partition(" ")
        return scheme.lower() == "bearer" and self._secret.is_token(token.strip())

    def _has_cookie(self, scope: Scope) -> bool:
        try:
            cookies = SimpleCookie("; ".join(_values(scope, b"cookie")))
        except CookieError:
            return False
        return COOKIE in cookies and self._secret.is_session(cookies[COOKIE].value)


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


def _host_name(host: str) -> str | None:
    match = _HOST.fullmatch(host)
    return (match[1] or match[2]).lower() if match else None


def _own_origin(scope: Scope, host: str) -> str:
    scheme = {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"])
    return f"{scheme}://{host}"


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers
