"""The OpenAPI document of the REST interface: FastAPI's operations, msgspec's schemas, and what neither can know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from http import HTTPStatus
from types import ModuleType
from typing import Any

import msgspec
from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute

from oomcast._version import __version__
from oomcast_server.keeping import shapes as shapes_keeping
from oomcast_server.rest import shapes
from oomcast_server.rest.glossary import describe
from oomcast_server.rest.problems import MEDIA_TYPE
from oomcast_server.rest.shapes import Problem

__all__ = ["STRUCTS", "answers", "document", "takes"]

_PREFIX = "/api/"
_REFERENCE = "#/components/schemas/{name}"
_CHANGES = frozenset({"post", "put", "patch", "delete"})
_PROBLEMS = {
    400: "Malformed: no such host name, or a body that is no JSON.",
    401: "No token, or a wrong one.",
    403: "The request comes from another site.",
    404: "There is no such thing.",
    406: "Nothing is made in the format that `Accept` asks for.",
    409: "It can't be done as things stand.",
    412: "It has changed since.",
    413: "The body is too long.",
    415: "The body is not of the expected content type.",
    422: "A parameter or field can't be used; `parameter` names it.",
    503: "The database can't be read or written now; try again after `Retry-After` seconds.",
}
_ABOUT = """Everything that the dashboard shows, for programs.

Send the token as `Authorization: Bearer TOKEN` (`oomcast token` prints it on the server's machine); a browser that has
opened the login link needs none. Times end in `_ms` (milliseconds since 1970) and sizes in `_bytes`; `_ns`, `_us`, `_s`
are durations. What was not measured is null, never 0. There may be new fields, and new words such as endings and kinds
of events, in any version: ignore what you don't know.

An error is a problem document (RFC 9457, `application/problem+json`); its `detail` says in one line what was given,
what was expected and what to do. HEAD works wherever GET does. An answer with an `ETag` can be asked for again with
`If-None-Match`: 304 says that nothing has changed.

Two addresses are WebSockets, which OpenAPI can't describe. `GET /api/live` sends live updates as JSON text: say
`{"type":"watch_runs"}` to hear of the list (`{"type":"runs","runs":[...]}`), `{"type":"watch","run":ID}` to get the new
samples of a run (`{"type":"rows",...}`, the columns of a series), and `{"type":"unwatch","run":ID}`. `GET /api/ingest`
is where agents send samples (binary msgpack, versioned, acknowledged); use the `oomcast` package for that."""


def answers(kind: type[msgspec.Struct], *problems: int, tagged: bool = False) -> dict[int | str, dict[str, Any]]:
    """What a route answers, for its `responses`.

    Args:
        kind: the struct in `shapes` that it answers with.
        problems: error statuses besides those that follow from its method and parameters.
        tagged: it sends an ETag, and answers 304.
    """
    content = {"application/json": {"schema": _reference(kind)}}
    responses: dict[int | str, dict[str, Any]] = {200: {"description": _first_line(kind), "content": content}}
    if tagged:
        responses[200]["headers"] = {"ETag": {"description": "Stands for this answer.", "schema": {"type": "string"}}}
        responses[304] = {"description": "`If-None-Match` has the answer's ETag: nothing has changed."}
    return responses | {status: _problem(status) for status in problems}


def takes(kind: type[msgspec.Struct], example: Any) -> dict[str, Any]:
    """The body of JSON that a route takes, for its `openapi_extra`."""
    content = {"application/json": {"schema": _reference(kind), "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def document(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """The document (OpenAPI 3.1) of those routes that are FastAPI's and lie under `/api/`."""
    found = get_openapi(title="oomcast", version=__version__, description=_ABOUT, routes=list(routes))
    paths = {path: item for path, item in found["paths"].items() if path.startswith(_PREFIX)}
    for path, item in paths.items():
        for method, operation in item.items():
            _complete(path, method, operation)
    own = found.get("components", {}).get("schemas", {})
    schemas = _reachable(paths, {**_schemas(), **{name: own[name] for name in own if name not in _AUTOMATIC}})
    return {
        **found,
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "The server's token."}},
        },
        "security": [{"token": []}],
    }


_AUTOMATIC = frozenset({"HTTPValidationError", "ValidationError"})  # FastAPI's own form of an error, which none has


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    """Errors that follow from where an operation stands, in the form that they all have; an id that people can read."""
    operation["operationId"] = "_".join(
        [method, *path.removeprefix(_PREFIX).replace("{", "").replace("}", "").split("/")]
    )
    responses = operation["responses"]
    for status in _follows(path, method, operation):
        responses[str(status)] = _problem(status)
    for response in responses.values():
        content = response.get("content", {})
        if MEDIA_TYPE in content:
            content[MEDIA_TYPE] = {"schema": _reference(Problem)}
        if len(content) > 1 and content.get("application/json") == {"schema": {}}:
            del content["application/json"]  # FastAPI's own guess
    operation["responses"] = dict(sorted(responses.items()))


def _follows(path: str, method: str, operation: dict[str, Any]) -> Iterator[int]:
    yield from (400, 401, 503)
    if "{" in path:
        yield 404
    if "422" in operation["responses"] or operation.get("parameters") or "requestBody" in operation:
        yield 422
    if method in _CHANGES:
        yield 403
    if "requestBody" in operation:
        yield from (413, 415)


def _problem(status: int) -> dict[str, Any]:
    text = _PROBLEMS.get(status, HTTPStatus(status).phrase)
    answer: dict[str, Any] = {"description": text, "content": {MEDIA_TYPE: {"schema": _reference(Problem)}}}
    if status == 503:
        answer["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "string"}}}
    return answer


def _reference(kind: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(name=kind.__name__)}


def _first_line(kind: type[msgspec.Struct]) -> str:
    return (kind.__doc__ or "").partition("\n")[0]


def _schemas() -> dict[str, dict[str, Any]]:
    """Every struct that is answered or taken, with what its fields mean."""
    _, schemas = msgspec.json.schema_components(STRUCTS, ref_template=_REFERENCE)
    for name, schema in schemas.items():
        for field, about in schema.get("properties", {}).items():
            if text := describe(name, field):
                about["description"] = text
    return schemas


def _structs(*modules: ModuleType) -> list[type[msgspec.Struct]]:
    values = [value for module in modules for value in vars(module).values()]
    return list(
        dict.fromkeys(value for value in values if isinstance(value, type) and issubclass(value, msgspec.Struct))
    )


STRUCTS: Sequence[type[msgspec.Struct]] = _structs(shapes, shapes_keeping)
"""What answers and bodies are made of."""


def _reachable(root: Any, schemas: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Those schemas that `root` refers to, or that these refer to."""
    found: set[str] = set()
    waiting = list(_names(root))
    while waiting:
        name = waiting.pop()
        if name in schemas and name not in found:
            found.add(name)
            waiting += _names(schemas[name])
    return {name: schemas[name] for name in sorted(found)}


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(reference := value.get("$ref"), str):
            yield reference.rpartition("/")[2]
        for inner in value.values():
            yield from _names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _names(inner)
