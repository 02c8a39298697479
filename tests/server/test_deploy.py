"""What a server is deployed with: docker-compose.yml, its Dockerfile, and nginx in front of several."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.server.conftest import RunningServer
from tests.server.parts import RUN, TOKEN, a_hello, a_stretch
from tests.torture.nginx import Nginx, why_no_nginx
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

yaml = pytest.importorskip("yaml", reason="needs PyYAML")
TOP = Path(__file__).resolve().parents[2]
needs_nginx = pytest.mark.skipif(why_no_nginx() is not None, reason=why_no_nginx() or "")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((TOP / "docker-compose.yml").read_text()))


def started(compose: dict[str, Any], *profiles: str) -> set[str]:
    """The services that `docker compose up` starts with these profiles."""
    services = compose["services"].items()
    return {name for name, service in services if not service.get("profiles") or set(service["profiles"]) & {*profiles}}


@pytest.mark.fast
def test_a_single_server_is_the_default_and_the_rest_a_profile(compose: dict[str, Any]) -> None:
    assert started(compose) == {"server"}
    assert started(compose, "scale") - started(compose) == {"postgres", "replica-1", "replica-2", "proxy"}
    assert compose["services"]["server"]["volumes"] == ["data:/data"]


@pytest.mark.fast
def test_no_secret_stands_in_the_files_and_none_has_a_default(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            if name in ("OOMCAST_TOKEN", "POSTGRES_PASSWORD", "OOMCAST_STORE"):
                assert "${" in value, name
    assert compose["services"]["server"]["environment"]["OOMCAST_TOKEN"].startswith("${OOMCAST_TOKEN:?")
    assert "TOKEN=" not in instructions("ENV")


@pytest.mark.fast
def test_nobody_but_this_machine_reaches_it_unless_told_otherwise(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(published) == 2
    assert all(":-127.0.0.1:" in port for port in published)


@pytest.mark.fast
def test_each_service_is_watched_and_waits_for_what_it_needs(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert "/healthz" in instructions("HEALTHCHECK")
    for name in ("postgres", "proxy", "replica-1", "replica-2"):
        assert services[name]["healthcheck"]["test"], name
    assert services["replica-1"] == services["replica-2"]
    assert "/readyz" in str(services["replica-1"]["healthcheck"])
    assert services["replica-1"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert set(services["proxy"]["depends_on"]) == {"replica-1", "replica-2"}


def instructions(name: str) -> str:
    """The lines of the Dockerfile's instruction, its last ones first."""
    text = (TOP / "server" / "Dockerfile").read_text().replace("\\\n", " ")
    return "\n".join(line for line in reversed(text.splitlines()) if line.startswith(name))


@pytest.mark.fast
def test_the_image_runs_as_nobody_special() -> None:
    assert instructions("USER") == "USER oomcast"
    assert "--uid 10001" in instructions("RUN")


@pytest.mark.fast
def test_what_the_image_is_built_of_reaches_the_builder() -> None:
    let_through = {line[1:] for line in (TOP / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {word for line in instructions("COPY").splitlines() for word in line.split()[1:-1]}
    assert copied == let_through
    assert all((TOP / name).exists() for name in copied)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def proxy(server: RunningServer, tmp_path: Path) -> Iterator[Nginx]:
    """In front of a server that runs and one that doesn't."""
    nginx = Nginx(tmp_path / "nginx", free_port(), [free_port(), server.port])
    yield nginx
    nginx.close()


@needs_nginx
async def test_agents_and_pages_go_through_nginx_past_a_server_that_is_down(
    server: RunningServer, proxy: Nginx
) -> None:
    base, headers = f"http://127.0.0.1:{proxy.port}", {"Authorization": f"Bearer {TOKEN}"}
    for _ in range(4):
        assert httpx.get(f"{base}/readyz", trust_env=False).text == "ok\n"
    live = f"ws://127.0.0.1:{proxy.port}/api/live"
    async with connect(live, additional_headers=server.cookie, origin=Origin(base), proxy=None) as viewer:
        await viewer.send(f'{{"type":"watch","run":"{RUN}"}}')
        await asyncio.wait_for(viewer.recv(), 15)
        await server.store_frames(a_stretch(1, 3), hello=a_hello())
        assert '"type":"rows"' in str(await asyncio.wait_for(viewer.recv(), 15))
    assert httpx.get(f"{base}/api/runs/{RUN}", headers=headers, trust_env=False).json()["samples"] == 3


async def refusal(address: str, server: RunningServer, origin: str, **more: Any) -> int:
    try:
        async with connect(address, additional_headers=server.cookie, origin=Origin(origin), proxy=None, **more):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


@needs_nginx
@pytest.mark.parametrize("origin", ["http://evil.example", "https://127.0.0.1:{port}", "null", "http://127.0.0.1"])
async def test_another_site_s_page_gets_no_further_than_without_nginx(
    server: RunningServer, proxy: Nginx, origin: str
) -> None:
    address = f"ws://127.0.0.1:{proxy.port}/api/live"
    assert await refusal(address, server, origin.format(port=proxy.port)) == 403


@needs_nginx
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
async def test_where_tls_ends_at_nginx_a_page_of_its_own_is_let_in_and_no_other(
    server: RunningServer, tmp_path: Path
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = ("-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost")
    command = ["openssl", "req", *made, "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key)]
    subprocess.run([*command, "-out", str(certificate)], check=True, capture_output=True)
    tls = f" ssl; ssl_certificate {certificate}; ssl_certificate_key {key}"
    nginx = Nginx(tmp_path / "nginx", free_port(), [server.port], tls)
    try:
        trusted = ssl.create_default_context(cafile=certificate)
        address, own = f"wss://127.0.0.1:{nginx.port}/api/live", f"https://127.0.0.1:{nginx.port}"
        assert await refusal(address, server, own, ssl=trusted) == 101
        for other in (
            f"http://127.0.0.1:{nginx.port}x",
            "https://127.0.0.1",
            f"{own}.evil.example",
            f"https://x {own}",
        ):
            assert await refusal(address, server, other, ssl=trusted) == 403, other
    finally:
        nginx.close()
