"""The API page in a real browser: it fits, it breaks no rule of its own policy, and it shows what it is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.conftest import ServerProcess

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_and_is_quiet(server: ServerProcess, chromium: Any, width: int, scheme: str) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    login = context.new_page()
    login.goto(server.link())
    login.wait_for_url(server.base + "/")
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{server.base}/api")
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("link", name="A chart's data").click()
    assert page.locator("section:target h2").inner_text() == "A chart's data"
    assert page.locator("section:target").get_by_text("psi_some_us").first.is_visible()
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(251, 250, 247)") == (scheme == "light")
    assert [url.partition("#")[0] for url in asked if not url.startswith("data:")] == [f"{server.base}/api"]
    assert said == []
    context.close()
