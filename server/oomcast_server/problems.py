"""Errors as answers: RFC 9457 problem documents."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from oomcast_server.errors import StoreUnavailable
from oomcast_server.shapes import Problem, to_json

__all__ = ["handle_problems", "problem"]


def problem(status: int, detail: str) -> Response:
    """An error answer with one line of detail."""
    body = to_json(Problem(title=HTTPStatus(status).phrase, status=status, detail=detail))
    return Response(body, status, media_type="application/problem+json")


def handle_problems(app: FastAPI) -> None:
    """Make every error of `app` a problem document."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(StoreUnavailable, _store)
    app.add_exception_handler(Exception, _bug)


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, error.detail)


async def _validation(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return problem(422, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}")


async def _store(_: Request, error: Exception) -> Response:
    return problem(503, str(error))


async def _bug(_: Request, __: Exception) -> Response:
    return problem(500, "the server failed on this request; its log says how")
