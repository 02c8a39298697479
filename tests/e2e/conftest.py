"""A real server process, real trainings beside it, and a real Chromium that looks at them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import clean_environment, eventually

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


class ServerProcess:
    """`oomcast serve` as a user starts it, on a free port or a given one."""

    def __init__(self, home: Path, port: int = 0) -> None:
        self.home = home
        self._out = tempfile.TemporaryFile("w+")  # noqa: SIM115  as long as the server
        self._process = subprocess.Popen(
            [sys.executable, "-m", "oomcast_server", "serve", "--port", str(port)],
            env=clean_environment(home),
            stdout=self._out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        eventually(lambda: "login?token=" in self.output or self._process.poll() is not None, what="the server's link")
        found = re.search(r"(http://\S+)/login\?token=(\S+)", self.output)
        assert found, self.output
        self.base, self.token = found[1], found[2]
        self.port = int(self.base.rpartition(":")[2])
        eventually(lambda: self.get("/api/server").status_code == 200, what="the server's first answer")

    @property
    def output(self) -> str:
        self._out.seek(0)
        return self._out.read()

    def get(self, path: str) -> httpx.Response:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(self.base + path, headers={"Authorization": f"Bearer {self.token}"}, timeout=10)
        return httpx.Response(599)

    def run(self, name: str) -> dict[str, Any] | None:
        """The summary of the run of that name, if there is one."""
        answer = self.get("/api/runs")
        runs: list[dict[str, Any]] = answer.json()["runs"] if answer.status_code == 200 else []
        return next((run for run in runs if run["name"] == name), None)

    def wait_for(self, name: str, state: str, timeout: float = 60) -> dict[str, Any]:
        """The summary of that run, once it is in `state`."""
        eventually(lambda: (self.run(name) or {}).get("state") == state, timeout, what=f"{name} {state}")
        run = self.run(name)
        assert run is not None
        return run

    def link(self, run: str | None = None) -> str:
        return f"{self.base}/login?token={self.token}" + (f"&run={run}" if run else "")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._out.close()

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(20)
        self._out.close()


@pytest.fixture
def server(home: Path) -> Iterator[ServerProcess]:
    running = ServerProcess(home)
    yield running
    running.stop()


class Training:
    """A user's script in a process of its own, that reports to a server."""

    def __init__(self, code: str, home: Path, server: str, **environment: str) -> None:
        self._err = tempfile.TemporaryFile("w+")  # noqa: SIM115  as long as the training
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)],
            env=clean_environment(home, OOMCAST_SERVER=server, **environment),
            stdout=subprocess.DEVNULL,
            stderr=self._err,
            text=True,
        )

    @property
    def said(self) -> list[str]:
        """Our own lines in its terminal."""
        self._err.seek(0)
        return [line for line in self._err.read().splitlines() if line.startswith("oomcast:")]

    @property
    def errors(self) -> str:
        self._err.seek(0)
        return self._err.read()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._err.close()


# By the module: its event loop would be in the way of the asynchronous tests that follow in this process.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from tools.browser import find

    path = find()
    if path is None:
        pytest.skip("no Chromium here: `make test` installs one where it can")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


class Watched:
    """A page whose console and requests are kept, so that a test can say that there was nothing wrong."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        self.page = self.context.new_page()
        self.console: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", lambda message: self._note(message.type, message.text))
        self.page.on("pageerror", lambda error: self._note("error", str(error)))
        self.page.on("request", lambda request: self.hosts.add(re.sub(r"^(\w+://)?([^/]+).*", r"\2", request.url)))

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.console.append(f"{kind}: {text}")

    def open(self, url: str) -> Any:
        self.page.goto(url)
        self.page.wait_for_selector("html[data-ready=true]", state="attached", timeout=30_000)
        return self.page


@pytest.fixture
def watched(chromium: Any) -> Iterator[Watched]:
    view = Watched(chromium)
    yield view
    view.context.close()
