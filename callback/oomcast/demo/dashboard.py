"""The demo's server: the one that listens already, or one that is started and lives as long as the demo."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oomcast import console, local_server
from oomcast.demo.scenarios import DemoError
from oomcast.places import make_private, places, read_or_create_token
from oomcast.settings import LOOPBACK, Settings, inherited_environment

__all__ = ["Dashboard", "dashboard", "open_browser"]

_START_S = 30.0
_STOP_S = 10.0


class Dashboard:
    """A server that answers."""

    def __init__(self, address: str, token: str, process: subprocess.Popen[bytes] | None = None) -> None:
        """Talk to the server at `address`; `process` is it if it is ours."""
        self.address = address
        self._token = token
        self._process = process

    @property
    def is_ours(self) -> bool:
        """Whether it was started here, and ends here."""
        return self._process is not None

    def link(self, run_id: str | None = None) -> str:
        """The address that signs a browser in."""
        return console.link(self.address, self._token, run_id)

    def answers(self) -> bool:
        """Whether an oomcast server that takes our token listens there.

        Raises:
            DemoError: something else does.
        """
        try:
            return "version" in self._get("/api/server")
        except urllib.error.HTTPError as error:
            raise DemoError(self._refusal(error)) from None
        except (http.client.HTTPException, json.JSONDecodeError, TypeError):
            raise DemoError(self._stranger()) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, ConnectionRefusedError):
                return False
            raise DemoError(f"{self.address} can't be asked ({error.reason}): is OOMCAST_SERVER right?") from None
        except OSError:  # it took the connection and then said nothing, or nothing that is HTTP
            raise DemoError(self._stranger()) from None

    def _refusal(self, error: urllib.error.HTTPError) -> str:
        with error:
            if error.code not in (401, 403):
                return self._stranger()
        return (
            f"the server at {self.address} doesn't take this token: give its own in OOMCAST_TOKEN, or another address "
            "in OOMCAST_SERVER"
        )

    def _stranger(self) -> str:
        return (
            f"something other than an oomcast server listens at {self.address}: stop it, or give another address, such "
            "as OOMCAST_SERVER=http://127.0.0.1:6663"
        )

    def find_run(self, name: str, patience_s: float) -> dict[str, Any] | None:
        """The run of that name, if possible once it has ended; None if the server doesn't know it in that time."""
        deadline = time.monotonic() + patience_s
        found: dict[str, Any] | None = None
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
                listed = [run for run in self._get("/api/runs?limit=50")["runs"] if run["name"] == name]
                found = self._get(f"/api/runs/{listed[0]['id']}") if listed else None
            if (found and found.get("ended_ms") is not None) or time.monotonic() > deadline:
                return found
            time.sleep(0.1)

    def _get(self, path: str) -> Any:
        headers = {"Authorization": f"Bearer {self._token}"}
        request = urllib.request.Request(self.address + path, headers=headers)  # noqa: S310  http(s), see settings
        # A proxy that the environment names is for other hosts than this one.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=5) as answer:
            return json.load(answer)

    def wait(self) -> int:
        """Until the server that was started here ends by itself; its exit status."""
        assert self._process is not None
        return self._process.wait()


@contextlib.contextmanager
def dashboard(settings: Settings) -> Iterator[Dashboard]:
    """A server at the settings' address, started first if there is none; only then is it stopped at the block's end.

    Raises:
        DemoError: there can't be one; the text says why.
        SettingsError: a folder that can't be written.
    """
    folders = places(settings.home)
    token = settings.token or read_or_create_token(folders.config)
    if Dashboard(settings.server, token).answers():
        yield Dashboard(settings.server, token)
        return
    log = make_private(folders.state) / "demo-server.log"
    process = _start(settings, token, log)
    try:
        ours = Dashboard(settings.server, token, process)
        _wait_until_it_answers(ours, process, log)
        yield ours
    finally:
        _stop(process)


def _start(settings: Settings, token: str, log: Path) -> subprocess.Popen[bytes]:
    address = settings.server
    parts = urllib.parse.urlsplit(address)
    if parts.hostname not in LOOPBACK or parts.scheme != "http":
        raise DemoError(f"nothing answers at {address}, and a server can only be started on this machine: start it")
    if not local_server.is_installed():
        raise DemoError("the server is not installed: `pip install 'oomcast[tensorflow,server]'` brings it")
    command = [sys.executable, "-m", "oomcast_server", "serve", "--host", parts.hostname, "--port"]
    ours = {"OOMCAST_TOKEN": token} | ({"OOMCAST_HOME": settings.home} if settings.home else {})
    with open(log, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as output:
        return subprocess.Popen(
            [*command, str(parts.port or 80)],
            env=inherited_environment() | ours,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is the demo's, which stops the server last
        )


def _wait_until_it_answers(ours: Dashboard, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while not ours.answers():
        if process.poll() is not None:
            last = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            raise DemoError(f"the server did not start ({last.removeprefix('oomcast: ')}); its log is {log}")
        if time.monotonic() > deadline:
            raise DemoError(f"the server did not answer within {_START_S:.0f} s; its log is {log}")
        time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    # Its whole group, which is its own session.
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
            return


def open_browser(link: str) -> bool:
    """Open `link` where there is a screen to open it on; whether it was tried."""
    environment = inherited_environment()
    if sys.platform == "linux" and not (environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY")):
        return False
    with contextlib.suppress(webbrowser.Error, OSError):
        # A browser that draws in this terminal is of that exact class, and would cover what is printed here.
        return type(browser := webbrowser.get()) is not webbrowser.GenericBrowser and browser.open(link)
    return False
