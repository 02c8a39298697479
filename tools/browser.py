"""The browser that tests drive: the system's Chromium or Chrome, else Playwright's own, else Debian's package.

`find()` only looks; `python tools/browser.py` installs one where there is none, and prints its path, or one line on
stderr that says why there is none (exit status 1).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = ["find", "install"]

VARIABLE = "OOMCAST_TEST_BROWSER"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Inside .venv, so that it goes away with it and needs no home folder.
DOWNLOADS = Path(sys.prefix) / "browsers"


def find(environ: Mapping[str, str] = os.environ, downloads: Path = DOWNLOADS) -> str | None:
    """The path of a browser that runs, or None."""
    if given := environ.get(VARIABLE):
        return given
    return next((path for path in _candidates(environ, downloads) if _runs(path)), None)


def _candidates(environ: Mapping[str, str], downloads: Path) -> Iterator[str]:
    for name in NAMES:
        if path := shutil.which(name, path=environ.get("PATH")):
            yield path
    yield from sorted(str(path) for path in downloads.glob("chromium-*/chrome-linux*/chrome"))
    yield from sorted(str(path) for path in downloads.glob("chromium-*/chrome-mac*/*.app/Contents/MacOS/*"))


def _runs(path: str) -> bool:
    # Ubuntu's chromium-browser is there without a Chromium behind it, and Playwright's may lack system libraries.
    try:
        return _call(path, "--version", timeout_s=30) is None
    except OSError:
        return False


def install() -> str | None:
    """Install one: Playwright's own, else Debian's. None if one runs now, else why not."""
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    why = _call(sys.executable, "-m", "playwright", "install", "chromium", timeout_s=600)
    if find():
        return None
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return f"Playwright's Chromium: {why or 'it lacks system libraries'}; apt-get: needs root on Debian or Ubuntu"
    _call("apt-get", "update", "-qq", timeout_s=300)
    refused = _call("apt-get", "install", "-y", "-qq", "chromium", timeout_s=600)
    return None if find() else f"Playwright's Chromium: {why or 'it does not run'}; apt-get: {refused}"


def _call(*command: str, timeout_s: float) -> str | None:
    """None if it went well, else its last line."""
    environment = {**os.environ, "PLAYWRIGHT_BROWSERS_PATH": str(DOWNLOADS), "DEBIAN_FRONTEND": "noninteractive"}
    try:
        subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        said: list[str] = error.stdout.decode(errors="replace").strip().splitlines()
        return said[-1] if said else f"exit status {error.returncode}"
    except subprocess.TimeoutExpired:
        return f"took more than {timeout_s:.0f} s"
    return None


def _main() -> int:
    reason = None if find() else install()
    if reason:
        print(f"no browser for the tests ({reason}): install Chromium, or set {VARIABLE}", file=sys.stderr)
        return 1
    print(find())
    return 0


if __name__ == "__main__":
    raise SystemExit(_main())
