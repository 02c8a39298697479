"""Errors as answers: RFC 9457 problem documents, each with one line that says what was given, expected, and to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match

from oomcast_server.errors import StoreUnavailable
from oomcast_server.rest.shapes import Problem, to_json
from oomcast_server.text import clean

__all__ = ["MEDIA_TYPE", "Refused", "handle_problems", "problem"]

MEDIA_TYPE = "application/problem+json"

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_MOST_SHOWN = 80  # characters of what was given
_RETRY_S = "2"


class Refused(Exception):  # noqa: N818 - it is an answer
    """What is asked for is refused; raised anywhere below a route, answered as a problem."""

    def __init__(self, status: int, detail: str, parameter: str | None = None) -> None:
        """`parameter`: the name of the parameter or field that is wrong."""
        super().__init__(detail)
        self.status, self.detail, self.parameter = status, detail, parameter


def problem(
    status: int, detail: str, parameter: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """An error answer with one line of detail."""
    title = HTTPStatus(status).phrase
    body = to_json(Problem(title=title, status=status, detail=clean(detail), parameter=parameter))
    return Response(body, status, headers, media_type=MEDIA_TYPE)


def handle_problems(app: FastAPI) -> None:
    """Make every error of `app` a problem document."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(StoreUnavailable, _store)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _bug)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, said = request.scope["path"], error.detail
    is_plain = said == HTTPStatus(error.status_code).phrase  # nobody of ours has said more
    if error.status_code == 405:
        allowed = _allowed(request)
        detail = f"{request.method} is not for {_shown(path)}: expected {' or '.join(allowed)}; see GET /api"
        return problem(405, detail, headers={"Allow": ", ".join(allowed)})
    if error.status_code == 404 and is_plain:
        return problem(404, f"there is nothing at {_shown(path)}: GET /api lists what there is")
    return problem(error.status_code, said, headers=error.headers)


def _allowed(request: Request) -> list[str]:
    """The methods that any route has for this path: each route by itself knows but its own."""
    routes: Iterable[Any] = request.app.routes
    scope = {name: value for name, value in request.scope.items() if name not in ("route", "endpoint")}
    found = [method for method in _METHODS if any(_takes(route, {**scope, "method": method}) for route in routes)]
    return ["GET", "HEAD", *found[1:]] if found[:1] == ["GET"] and "HEAD" not in found else found


def _takes(route: Any, scope: dict[str, Any]) -> bool:
    return bool(route.matches(scope)[0] is Match.FULL)


async def _validation(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = str(first["loc"][-1])
    return problem(422, f"{name}={_shown(first['input'])} can't be used: {_reason(first)}", name)


def _reason(error: Mapping[str, Any]) -> str:
    about = error.get("ctx") or {}
    if error["type"] == "string_pattern_mismatch":
        return f"expected text that matches {about.get('pattern')}"
    message = str(error["msg"])
    return f"{message[:1].lower()}{message[1:]}".replace("input should be", "expected").replace("'', ", "")


def _shown(given: Any) -> str:
    text = clean(str(given))
    return repr(text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…")


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return problem(error.status, error.detail, error.parameter)


async def _store(_: Request, error: Exception) -> Response:
    return problem(503, str(error), headers={"Retry-After": _RETRY_S})


async def _gone(_: Request, __: Exception) -> Response:
    return problem(400, "the request broke off before its end")  # nobody hears it, and no log needs it


async def _bug(_: Request, __: Exception) -> Response:
    return problem(500, "the server failed on this request; its log says how")
