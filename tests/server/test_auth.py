"""Nobody gets in without the token; each class of hole that hit a peer stays closed (see the names)."""

from __future__ import annotations

import asyncio
from http.cookies import SimpleCookie

import httpx
import pytest
from starlette.routing import Route, WebSocketRoute
from tests.server.conftest import RunningServer
from tests.server.parts import RUN, TOKEN
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from oomcast_server.auth import Gate, Secret

pytestmark = pytest.mark.fast

BEARER = {"Authorization": f"Bearer {TOKEN}"}

WRONG_HOSTS = [
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example:6662",
    "evil.example@127.0.0.1",
    "localhost.",
    "127.0.0.1:6662:80",
    "[::1",
    "127.0.0.2",
    "0.0.0.0",
    "localhost/evil",
    "127.1",
    "",
]
WRONG_ORIGINS = [
    "null",
    "",
    "http://evil.example",
    "https://127.0.0.1:{port}",
    "http://127.0.0.1",
    "http://127.0.0.1:1",
    "http://localhost:{port}",
    "http://127.0.0.1:{port}.evil.example",
    "http://127.0.0.1.evil.example:{port}",
    "http://evil-127.0.0.1:{port}",
    "http://127.0.0.1:{port}/",
    "http://127.0.0.1:{port} http://evil.example",
    "HTTP://127.0.0.1:{port}",
    "file://",
]


def ask(server: RunningServer, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    return httpx.request(method, server.base + path, headers=headers, timeout=20, trust_env=False)


async def handshake(server: RunningServer, path: str, headers: dict[str, str], origin: str | None = None) -> int:
    """The status of a websocket handshake: 101 if let in."""
    more = headers if origin is None else {**headers, "Origin": origin}
    try:
        async with connect(f"ws://127.0.0.1:{server.port}{path}", additional_headers=more, proxy=None):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


OPEN = ("/healthz", "/readyz")  # for whoever watches over the process; they say nothing


def routes(gate: Gate) -> list[Route | WebSocketRoute]:
    found: list[Route | WebSocketRoute] = []
    pending = list(gate.app.routes)  # type: ignore[attr-defined]
    while pending:
        route = pending.pop()
        if hasattr(route, "path") and hasattr(route, "endpoint"):
            found.append(route)
        else:
            pending += getattr(getattr(route, "original_router", None) or route, "routes", [])
    return found


async def test_every_route_is_denied_by_default_marimo_cve_2026_39987(server: RunningServer) -> None:
    found = routes(server.app)
    paths = {getattr(route, "path") for route in found}  # noqa: B009
    assert {"/", "/runs/{run_id}", "/api/runs", "/api/ingest", "/api/live", "/assets/{path:path}"} <= paths
    for route in found:
        path = route.path.replace("{run_id}", RUN).replace("{path:path}", "x.js")
        if path in OPEN:
            assert ask(server, path).text == "ok\n"
        elif "GET" in (getattr(route, "methods", None) or ()):
            assert ask(server, path).status_code == 401, path
        elif not hasattr(route, "methods"):
            assert await handshake(server, path, {}) == 403, path


@pytest.mark.parametrize(
    "path", ["/nothing", "/login/", "//login", "/login%2f", "/api//runs", "/docs", "/openapi.json"]
)
async def test_paths_that_don_t_exist_are_denied_too(server: RunningServer, path: str) -> None:
    assert ask(server, path).status_code == 401


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
async def test_other_methods_are_denied_too(server: RunningServer, method: str) -> None:
    assert ask(server, "/api/runs", method).status_code == 401


@pytest.mark.parametrize("value", ["", "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"])
async def test_a_wrong_token_is_denied(server: RunningServer, value: str) -> None:
    assert ask(server, "/api/runs", Authorization=value).status_code == 401
    assert await handshake(server, "/api/ingest", {"Authorization": value}) == 403


@pytest.mark.parametrize("value", ["", TOKEN, Secret("other" * 8).session, Secret(TOKEN).session[:-1]])
async def test_a_wrong_cookie_is_denied(server: RunningServer, value: str) -> None:
    cookie = {"Cookie": f"oomcast_session={value}"}
    assert ask(server, "/api/runs", **cookie).status_code == 401
    assert await handshake(server, "/api/live", cookie, server.base) == 403


async def test_the_token_and_the_cookie_let_in(server: RunningServer) -> None:
    assert ask(server, "/api/runs", **BEARER).status_code == 200
    assert ask(server, "/api/runs", **server.cookie).status_code == 200
    assert await handshake(server, "/api/live", BEARER) == 101
    assert await handshake(server, "/api/live", server.cookie, server.base) == 101
    assert await handshake(server, "/api/ingest", BEARER) == 101


async def test_a_cookie_without_origin_opens_no_websocket(server: RunningServer) -> None:
    assert await handshake(server, "/api/live", server.cookie) == 403


async def test_a_browser_s_cookie_never_writes(server: RunningServer) -> None:
    assert await handshake(server, "/api/ingest", server.cookie, server.base) == 403


@pytest.mark.parametrize("host", WRONG_HOSTS)
async def test_a_foreign_host_name_is_refused_glances_cve_2026_32632_dns_rebinding(
    server: RunningServer, host: str
) -> None:
    assert ask(server, "/api/runs", Host=host, **BEARER).status_code == 400
    assert ask(server, f"/login?token={TOKEN}", Host=host).status_code == 400


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:6662", "box.example:9"])
async def test_this_server_s_names_are_taken_on_any_port(tmp_path, make_running, host: str) -> None:  # type: ignore[no-untyped-def]
    server = make_running(allowed_hosts="box.example")
    assert ask(server, "/api/runs", Host=host, **BEARER).status_code == 200


@pytest.mark.parametrize("origin", WRONG_ORIGINS)
async def test_a_foreign_origin_is_refused_bokeh_cve_2026_21883_gradio_cve_2024_47165(
    server: RunningServer, origin: str
) -> None:
    origin = origin.format(port=server.port)
    assert await handshake(server, "/api/live", server.cookie, origin) == 403
    assert await handshake(server, "/api/live", BEARER, origin) == 403
    assert ask(server, "/api/runs", "POST", Origin=origin, **BEARER).status_code == 403


async def test_two_origins_or_hosts_are_refused(server: RunningServer) -> None:
    def raw(*headers: tuple[str, str]) -> int:
        all_headers = [("Authorization", f"Bearer {TOKEN}"), *headers]
        return httpx.post(server.base + "/api/runs", headers=all_headers, trust_env=False).status_code

    assert raw(("Origin", server.base), ("Origin", "http://evil.example")) == 403
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        f"GET /api/runs HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
    )
    status = await reader.readline()
    writer.close()
    await writer.wait_closed()
    assert b" 400 " in status


async def test_no_origin_is_ever_allowed_by_cors_glances_cve_2026_32610(server: RunningServer) -> None:
    answer = ask(server, "/api/runs", Origin="http://evil.example", **BEARER)
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


async def test_login_sets_a_strict_http_only_cookie_and_goes_on_by_itself(server: RunningServer) -> None:
    answer = ask(server, f"/login?token={TOKEN}")
    assert answer.status_code == 200
    assert 'http-equiv="refresh" content="0;url=/"' in answer.text
    (cookie,) = SimpleCookie(answer.headers["set-cookie"]).values()
    assert (cookie.key, cookie.value) == ("oomcast_session", Secret(TOKEN).session)
    assert (cookie["httponly"], cookie["samesite"].lower(), cookie["path"]) == (True, "strict", "/")
    assert not cookie["domain"]


async def test_login_leads_to_a_run_and_nowhere_else_jupyter_cve_2023_39968(server: RunningServer) -> None:
    assert f"url=/runs/{RUN}" in ask(server, f"/login?token={TOKEN}&run={RUN}").text
    for run in ("//evil.example", "https://evil.example", "x", "..%2f..", "abcdefgh%0a", '"><script>', "ABCDEFGHI"):
        assert 'content="0;url=/">' in ask(server, f"/login?token={TOKEN}&run={run}").text


@pytest.mark.parametrize("token", ["", "x", TOKEN + "x", "%ff", "%ED%A0%80"])
async def test_login_with_a_wrong_token_is_denied(server: RunningServer, token: str) -> None:
    answer = ask(server, f"/login?token={token}")
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


async def test_a_person_reads_how_to_get_in_and_a_program_a_problem(server: RunningServer) -> None:
    page = ask(server, "/", Accept="text/html,*/*;q=0.8")
    assert page.headers["content-type"].startswith("text/html")
    assert "oomcast link" in page.text
    assert ask(server, "/api/runs").headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/", "/api/runs", "/nothing", f"/login?token={TOKEN}", "/login?token=x"])
@pytest.mark.parametrize("known", [True, False])
async def test_every_answer_has_the_protecting_headers(server: RunningServer, path: str, known: bool) -> None:
    headers = ask(server, path, **(BEARER if known else {})).headers
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "server" not in headers


def test_the_token_is_not_in_the_settings_text(server: RunningServer) -> None:
    assert TOKEN not in repr(server.settings)
