"""What a request carries: parameters that are known and given once, a short body of JSON; and HEAD as GET."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oomcast_server.rest.problems import Refused

__all__ = ["MOST_BODY_BYTES", "HeadAsGet", "check_query", "read_json"]

MOST_BODY_BYTES = 64 << 10
"""Of a body of JSON."""

_Body = TypeVar("_Body")


class HeadAsGet:
    """Middleware: HEAD is answered by whatever answers GET, without the body (RFC 9110, section 9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self.app({**scope, "method": "GET"}, receive, send_head)


def check_query(request: Request) -> None:
    """Refuse a parameter that the route hasn't, or that is given twice: a filter that is misspelt must not pass all.

    Raises:
        Refused: 422.
    """
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known:
            expected = f"expected {', '.join(known)}" if known else "expected none"
            raise Refused(422, f"there is no parameter {name[:40]!r} here: {expected}", name[:40])
        if given.count(name) > 1:
            raise Refused(422, f"{name} is given {given.count(name)} times: expected once", name)


async def read_json(request: Request, kind: type[_Body]) -> _Body:
    """The request's body, checked.

    Raises:
        Refused: 415, 413, 400 or 422; the text says what was expected.
        ClientDisconnect: it broke off.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Refused(415, f"content type {media_type[:60] or 'none'!r}: expected application/json")
    body = await _read(request)
    try:
        return msgspec.convert(_whole(msgspec.json.decode(body)), kind)
    except msgspec.ValidationError as error:
        said, _, where = str(error).partition(" - at ")
        name = where.strip("`").removeprefix("$.")
        raise Refused(422, f"{name or 'the body'}: {said[:1].lower()}{said[1:]}", name or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, f"the body is no JSON: {error}") from None


def _whole(value: Any) -> Any:
    """Numbers such as 7.0 as the integers that they are to JSON Schema, and to any program that knows but one kind."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(inner) for inner in value]
    return {name: _whole(inner) for name, inner in value.items()} if isinstance(value, dict) else value


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BODY_BYTES:
            raise Refused(413, f"the body is too long: expected {MOST_BODY_BYTES >> 10} KiB at most")
    return bytes(body)
