"""The page and its files."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from tests.server.conftest import RunningServer
from tests.server.parts import RUN, TOKEN

from oomcast_server.assets import Assets, load_assets

pytestmark = pytest.mark.fast


def made(folder: Path, script: str = "export const x = 1;\n" * 50) -> Assets:
    (folder / "scripts").mkdir(parents=True, exist_ok=True)
    (folder / "index.html").write_text(
        '<script type="module" src="{{assets}}/scripts/main.js"></script><b>{{plotly}}</b>'
    )
    (folder / "scripts" / "main.js").write_text(script)
    (folder / "scripts" / ".hidden").write_text("secret")
    return load_assets(folder, plotly=b"plotly " * 100)


def get(server: RunningServer, path: str, encoding: str = "identity") -> httpx.Response:
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept-Encoding": encoding}
    return httpx.get(server.base + path, headers=headers, trust_env=False)


def test_the_page_names_its_files_by_their_content(tmp_path: Path) -> None:
    assets = made(tmp_path)
    paths = re.findall(r"/assets/[0-9a-f]{16}/scripts/main\.js|/assets/plotly-[0-9a-f]{16}\.js", assets.shell.decode())
    assert len(paths) == 2
    assert set(paths) == set(assets.files)
    assert made(tmp_path, "changed").shell != assets.shell


def test_without_a_frontend_there_is_still_a_page(tmp_path: Path) -> None:
    assert b"pip install" in load_assets(tmp_path, plotly=b"").shell


def test_the_installed_chart_library_is_found() -> None:
    (bundle,) = [asset for path, asset in load_assets().files.items() if path.startswith("/assets/plotly-")]
    assert b"plotly.js" in bundle.body[:500]
    assert bundle.gzipped is not None
    assert len(bundle.gzipped) < len(bundle.body) / 2


async def test_every_page_is_the_same_shell(make_running: Callable[..., RunningServer], tmp_path: Path) -> None:
    assets = made(tmp_path / "static")
    server = make_running(assets=assets)
    for path in ("/", f"/runs/{RUN}", "/runs/%3Cscript%3E"):
        page = get(server, path)
        assert (page.status_code, page.content) == (200, assets.shell)
        assert page.headers["content-type"] == "text/html; charset=utf-8"


async def test_files_are_kept_for_ever_and_compressed_when_wanted(
    make_running: Callable[..., RunningServer], tmp_path: Path
) -> None:
    assets = made(tmp_path / "static")
    server = make_running(assets=assets)
    for path, asset in assets.files.items():
        plain, packed = get(server, path), get(server, path, "br, gzip;q=0.9")
        assert plain.content == packed.content == asset.body
        assert plain.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert plain.headers["content-type"] == "text/javascript; charset=utf-8"
        assert "content-encoding" not in plain.headers
        assert packed.headers["content-encoding"] == "gzip"
        assert gzip.decompress(asset.gzipped or b"") == asset.body
        assert "content-encoding" not in get(server, path, "gzip;q=0").headers


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../conftest.py",
        "/assets/..%2f..%2fetc%2fpasswd",
        "/assets//etc/passwd",
        "/assets/%2e%2e/%2e%2e/index.html",
        "/assets/{base}/index.html",
        "/assets/{base}/scripts/.hidden",
        "/assets/{base}/scripts/..%5c..%5cindex.html",
        "/assets/{base}/scripts/main.js%00",
        "/assets/0000000000000000/scripts/main.js",
        "/assets/",
    ],
)
async def test_no_other_path_opens_a_file_mlflow_cve_2023_1177_starlette_cve_2023_29159(
    make_running: Callable[..., RunningServer], tmp_path: Path, path: str
) -> None:
    assets = made(tmp_path / "static")
    server = make_running(assets=assets)
    base = next(iter(assets.files)).split("/")[2]
    assert get(server, path.replace("{base}", base)).status_code == 404
