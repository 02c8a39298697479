"""The API page: the OpenAPI document as a person reads it, made on the server, without a script or any other file."""

from __future__ import annotations

import functools
import importlib.resources
import json
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import HTMLResponse, Response

from oomcast_server.rest.etags import answer, unchanged, weak_tag
from oomcast_server.rest.openapi import document
from oomcast_server.rest.shapes import to_json

__all__ = ["make_router", "page"]

_CSP = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; img-src data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_CODE = re.compile(r"`([^`]+)`")
_MOST_OPEN = 8  # fields that are shown without being asked for

Json = Mapping[str, Any]


def make_router(app: FastAPI) -> APIRouter:
    """The page of what `app` answers, and the document for programs."""
    router = APIRouter(prefix="/api", include_in_schema=False)

    @functools.cache  # of the routes as they are at the first request: by then all are there
    def whole() -> dict[str, Any]:
        return document(app.routes)

    @router.get("/openapi.json")
    async def openapi(request: Request) -> Response:
        body = to_json(whole())
        tag = weak_tag("openapi", body)
        return unchanged(request.headers, tag) or answer(body, tag)

    @router.get("")
    @router.get("/docs")
    async def docs(request: Request) -> Response:
        base = f"{request.url.scheme}://{request.headers['host']}"  # a name that the gate knows
        return HTMLResponse(page(whole(), base), headers={"Content-Security-Policy": _CSP})

    return router


def page(found: Json, base: str) -> str:
    """The page of an OpenAPI document, for a server that is reached at `base`."""
    operations = [(path, method, item[method]) for path, item in found["paths"].items() for method in item]
    schemas = found["components"]["schemas"]
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">',
        f"<title>oomcast API</title><style>{_style()}</style></head><body><div class=page>",
        '<header class=bar><a class=brand href="/">oom<i>cast</i></a>',
        f"<span>API, version {escape(found['info']['version'])}</span>",
        '<a href="/">Dashboard</a><a href="/api/openapi.json">OpenAPI document</a></header>',
        "<div class=body>",
        *_contents(operations),
        f"<main><div class=about><h1>API</h1>{_text(found['info']['description'])}",
        f"<pre>export OOMCAST_TOKEN=$(oomcast token)\n{escape(_curl(base, '/api/server', 'get', {}))}</pre></div>",
        *(_operation(path, method, operation, schemas, base) for path, method, operation in operations),
        "</main></div></div></body></html>",
    ]
    return "".join(parts)


@functools.cache
def _style() -> str:
    return importlib.resources.files("oomcast_server.rest").joinpath("reference.css").read_text("utf-8")


def _contents(operations: list[tuple[str, str, Any]]) -> Iterator[str]:
    yield "<nav aria-label=Contents><h2>Read</h2><ul>"
    yield from (_link(operation) for _, method, operation in operations if method == "get")
    writes = [operation for _, method, operation in operations if method != "get"]
    if writes:
        yield "</ul><h2>Change</h2><ul>"
        yield from map(_link, writes)
    yield "</ul></nav>"


def _link(operation: Json) -> str:
    return f'<li><a href="#{escape(operation["operationId"])}">{escape(operation["summary"])}</a></li>'


def _operation(path: str, method: str, operation: Json, schemas: Json, base: str) -> str:
    style = "read" if method == "get" else "write"
    parts = [
        f'<section id="{escape(operation["operationId"])}"><h2>{escape(operation["summary"])}</h2>',
        f"<div class=path><b class={style}>{method.upper()}</b><code>{escape(path)}</code></div>",
        _text(operation.get("description", "")),
    ]
    if parameters := operation.get("parameters"):
        parts += ["<h3>Parameters</h3><dl class=fields>", *map(_parameter, parameters), "</dl>"]
    if body := operation.get("requestBody"):
        parts += ["<h3>Body</h3>", *(_content(body["content"], schemas))]
    parts.append(f"<h3>Example</h3><pre>{escape(_curl(base, path, method, operation))}</pre>")
    parts += _responses(operation["responses"], schemas)
    return "".join([*parts, "</section>"])


def _parameter(parameter: Json) -> str:
    schema = parameter["schema"]
    needed = "required" if parameter.get("required") else ""
    notes = [f"Default <code>{escape(str(schema['default']))}</code>."] if schema.get("default") is not None else []
    notes += [f"Example <code>{escape(str(_example(parameter)))}</code>."] if _example(parameter) is not None else []
    kind = " · ".join(filter(None, [_kind(schema).removesuffix(" or null"), needed]))
    return _field(parameter["name"], escape(kind), parameter.get("description", ""), " ".join(notes))


def _field(name: str, kind: str, about: str, notes: str = "") -> str:
    small = f"<small>{notes}</small>" if notes else ""
    return (
        f"<div class=field><dt><code>{escape(name)}</code><span>{kind}</span></dt><dd>{_text(about)}{small}</dd></div>"
    )


def _example(parameter: Json) -> Any:
    schema = parameter["schema"]
    given = parameter.get("examples") or schema.get("examples")
    if isinstance(given, list) and given:
        return given[0]
    return parameter.get("example")


def _responses(responses: Json, schemas: Json) -> Iterator[str]:
    good = [(status, response) for status, response in responses.items() if status.startswith("2")]
    for status, response in good:
        yield f"<h3>Answer {status}</h3>{_text(response.get('description', ''))}"
        yield from _content(response.get("content", {}), schemas)
    others = [(status, response) for status, response in responses.items() if not status.startswith("2")]
    if others:
        yield "<details><summary>Otherwise</summary><dl class=fields>"
        yield from (_field(status, "", response["description"]) for status, response in others)
        yield "</dl></details>"


def _content(content: Json, schemas: Json) -> Iterator[str]:
    for media_type, about in content.items():
        name = _referred(about.get("schema", {}))
        if name in schemas:
            yield _struct(name, schemas, opened=len(schemas[name].get("properties", {})) <= _MOST_OPEN, above=())
        else:
            yield f"<p><code>{escape(media_type)}</code></p>"


def _struct(name: str, schemas: Json, above: tuple[str, ...], *, opened: bool) -> str:
    schema = schemas[name]
    properties = schema.get("properties", {})
    fields = [_field(field, escape(_kind(about)), about.get("description", "")) for field, about in properties.items()]
    inner = dict.fromkeys(name for about in properties.values() for name in _references(about) if name in schemas)
    parts = [f"<details{' open' if opened else ''}><summary>{escape(name)}, {len(fields)} fields</summary>"]
    parts += [_text(schema.get("description", "")), "<dl class=fields>", *fields, "</dl>"]
    parts += [_struct(other, schemas, (*above, name), opened=False) for other in inner if other not in (*above, name)]
    return "".join([*parts, "</details>"])


def _kind(schema: Json) -> str:
    """A schema in a few words: "integer or null"."""
    if name := _referred(schema):
        return name
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_kind(option) for option in options))
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"] if value != "")
    kind = schema.get("type", "anything")
    if kind in ("array", "object"):
        return _container(kind, schema)
    limits = [f"from {schema['minimum']}"] if "minimum" in schema else []
    limits += [f"to {schema['maximum']}"] if "maximum" in schema else []
    return " ".join([kind, *limits])


def _container(kind: str, schema: Json) -> str:
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    values = schema.get("additionalProperties")
    return f"map to {_kind(values)}" if isinstance(values, dict) else "map"


def _referred(schema: Json) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _references(schema: Json) -> Iterator[str]:
    if name := _referred(schema):
        yield name
    for key in ("anyOf", "oneOf"):
        for option in schema.get(key, []):
            yield from _references(option)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from _references(schema[key])


def _curl(base: str, path: str, method: str, operation: Json) -> str:
    """A command for a shell, with the examples of some parameters."""
    parameters = operation.get("parameters", [])
    for parameter in parameters:
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", str(_example(parameter) or parameter["name"].upper()))
    shown = [parameter for parameter in parameters if parameter["in"] == "query" and _is_shown(parameter)]
    query = urllib.parse.urlencode({parameter["name"]: _example(parameter) for parameter in shown}, safe=",")
    parts = [f"curl {'' if method == 'get' else f'-X {method.upper()} '}'{base}{path}{'?' if query else ''}{query}'"]
    parts.append('-H "Authorization: Bearer $OOMCAST_TOKEN"')
    for media_type, about in operation.get("requestBody", {}).get("content", {}).items():
        parts += [f"-H 'Content-Type: {media_type}'", f"-d '{json.dumps(about.get('example'))}'"]
    return " \\\n  ".join(parts)


_PLAIN_EXAMPLES = ("project", "x", "points", "kind", "runs", "format")


def _is_shown(parameter: Json) -> bool:
    return _example(parameter) is not None and (bool(parameter.get("required")) or parameter["name"] in _PLAIN_EXAMPLES)


def _text(text: str) -> str:
    """Paragraphs, and what stands in backticks as code."""
    code: Callable[[re.Match[str]], str] = lambda match: f"<code>{match[1]}</code>"  # noqa: E731
    paragraphs = [_CODE.sub(code, escape(part, quote=False)) for part in re.split(r"\n\s*\n", text.strip()) if part]
    return "".join(f"<p>{part}</p>" for part in paragraphs)
