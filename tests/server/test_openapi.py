"""The OpenAPI document, the page that is made of it, and a fuzzer that holds the server to both."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.server.conftest import RunningServer
from tests.server.parts import TOKEN, a_frame, a_hello, a_sample, an_end, an_event

from oomcast.sample import EventKind
from oomcast_server.charts.series import ALL
from oomcast_server.rest.glossary import METRICS, describe
from oomcast_server.rest.openapi import STRUCTS
from oomcast_server.rest.reference import page

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[2]
METHODS = {"get", "put", "post", "patch", "delete"}


@pytest.fixture
def document(server: RunningServer) -> dict[str, Any]:
    answer = server.get("/api/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    return dict(answer.json())


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, item[method]) for path, item in document["paths"].items() for method in item]


def test_every_operation_says_what_it_is_for(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        assert method in METHODS
        assert operation["summary"], path
        assert len(operation["description"]) > 20, path
        for parameter in operation.get("parameters", []):
            assert parameter["description"].endswith("."), (path, parameter)


def test_every_answer_has_a_type(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        for status, response in operation["responses"].items():
            for media_type, content in response.get("content", {}).items():
                assert content["schema"], (path, method, status)
                if not status.startswith("2"):
                    assert media_type == "application/problem+json"
                    assert content["schema"] == {"$ref": "#/components/schemas/Problem"}


def test_errors_that_follow_from_a_route_are_told(document: dict[str, Any]) -> None:
    run = document["paths"]["/api/runs/{run_id}"]
    assert {"200", "304", "400", "401", "404", "422", "503"} <= set(run["get"]["responses"])
    assert {"403", "413", "415", "422"} <= set(run["patch"]["responses"])
    assert "403" not in run["get"]["responses"]


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    names = set(re.findall(r'"#/components/schemas/(\w+)"', msgspec.json.encode(document).decode()))
    assert names == set(document["components"]["schemas"])


def test_operations_have_ids_of_their_own(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    assert "get_runs_run_id_series" in ids


def test_only_the_token_lets_in(document: dict[str, Any]) -> None:
    assert document["security"] == [{"token": []}]
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


def test_the_websockets_are_described(document: dict[str, Any]) -> None:
    assert "/api/live" in document["info"]["description"]
    assert "/api/ingest" in document["info"]["description"]


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_every_field_is_explained(struct: type[msgspec.Struct], document: dict[str, Any]) -> None:
    if struct.__name__ in document["components"]["schemas"]:
        for field in msgspec.structs.fields(struct):
            assert describe(struct.__name__, field.name), field.name


def test_every_metric_is_explained() -> None:
    assert set(METRICS) == set(ALL) - {"gpus"}


def test_both_addresses_show_the_page(server: RunningServer) -> None:
    first, second = server.get("/api"), server.get("/api/docs")
    assert first.status_code == second.status_code == 200
    assert first.headers["content-type"].startswith("text/html")
    assert first.text == second.text


def test_the_page_needs_nothing_else_and_runs_nothing(server: RunningServer) -> None:
    answer = server.get("/api")
    assert "<script" not in answer.text
    assert not re.search(r'\b(src|href)="(?!/|#|data:,)', answer.text)
    assert not re.search(r"\son\w+=", answer.text)
    rules = answer.headers["content-security-policy"]
    assert rules.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'self'")


def test_the_page_shows_every_operation(server: RunningServer, document: dict[str, Any]) -> None:
    text = server.get("/api").text
    for path, _, operation in operations(document):
        assert f'<section id="{operation["operationId"]}">' in text
        assert f"<code>{path}</code>" in text
        for parameter in operation.get("parameters", []):
            assert f"<code>{parameter['name']}</code>" in text
    assert f"curl &#x27;{server.base}/api/server&#x27;" in text


def test_what_stands_in_the_document_can_be_no_markup(document: dict[str, Any]) -> None:
    evil = "<img src=x onerror=alert(1)>"
    for _, _, operation in operations(document):
        operation["summary"] = operation["description"] = evil
    text = page(document, "http://localhost")
    assert "<img" not in text


def test_the_page_is_for_those_who_may_come_in(server: RunningServer) -> None:
    for path in ("/api", "/api/docs", "/api/openapi.json"):
        assert httpx.get(server.base + path, trust_env=False).status_code == 401


# The runs that the parameters' examples name.
EXAMPLES = [("cjnbi3e6nvsnotjh", "6vk4jz5f2q7m3xta"), ("ovdw4y2t6l3kq5ab", "sourcesource2")]


async def test_a_fuzzer_finds_nothing_that_the_document_doesn_t_say(server: RunningServer, tmp_path: Path) -> None:
    """schemathesis asks for what the document allows and for what it doesn't: some 700 requests, always the same."""
    for run, source in EXAMPLES:
        end = [an_event(200, EventKind.EPOCH_END), an_end(201, "finished")]
        samples = [a_sample(seq) for seq in range(1, 200)]
        await server.store_frames(a_frame(samples, end), hello=a_hello(run, source))
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.base}/api/openapi.json", "--no-color"]
    options = ["-H", f"Authorization: Bearer {TOKEN}", "--generation-deterministic", "--max-examples", "8"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "SCHEMATHESIS_HOOKS": "tests.server.fuzz_hooks",
        "NO_PROXY": "*",
    }
    found = await asyncio.to_thread(
        subprocess.run, [*command, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=150
    )
    assert found.returncode == 0, found.stdout[-8_000:] + found.stderr[-2_000:]
    generated = re.search(r"(\d+) generated", found.stdout)
    assert generated, found.stdout
    assert int(generated[1]) > 400
    assert server.get("/api/server").status_code == 200
