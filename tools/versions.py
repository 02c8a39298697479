"""Runs the fast tests from the wheel on each supported Python that this machine has: `python tools/versions.py`."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from check_wheel import ROOT, build, python_of

VERSIONS = ("3.10", "3.11", "3.12", "3.13")


def find(version: str, pyenv: Path = Path("~/.pyenv/versions")) -> str | None:
    """A Python of that minor version on PATH or among pyenv's; None if there is none that runs."""
    return next((python for python in _candidates(version, pyenv.expanduser()) if _is(python, version)), None)


def _candidates(version: str, pyenv: Path) -> Iterator[str]:
    if found := shutil.which(f"python{version}"):
        yield found
    yield from sorted(
        (str(path) for path in pyenv.glob(f"{version}.*/bin/python{version}")), key=_numbers, reverse=True
    )


def _numbers(path: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path)]


def _is(python: str, version: str) -> bool:
    # Asked, since pyenv's shims stand on PATH for versions that are not active, and some lack venv.
    script = f"import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != {version!r})"
    return subprocess.run([python, "-c", script], capture_output=True, check=False).returncode == 0


def _test(version: str, python: str, wheel: Path) -> bool:
    environment = ROOT / ".venvs" / version
    own = str(python_of(environment))
    pip = [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in (
        [python, "-m", "venv", str(environment)],
        [*pip, "--upgrade", "pip>=25.1"],
        [*pip, "--group", "test", f"{wheel}[server]"],
        [*pip, "--force-reinstall", "--no-deps", str(wheel)],  # the same version number, but perhaps other content
    ):
        subprocess.run(command, check=True, cwd=ROOT, stdin=subprocess.DEVNULL)
    print(f"\n---- Python {version} ({python})", flush=True)
    command = [own, "-m", "pytest", "-m", "fast", "-n", "2", "--dist", "loadgroup", "-q", *sys.argv[1:]]
    return subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode == 0


def _main() -> int:
    pythons = {version: find(version) for version in VERSIONS}
    outcome = {}
    with tempfile.TemporaryDirectory(prefix="oomcast-wheel-") as folder:
        wheel = build(Path(folder))
        for version, python in pythons.items():
            if python is None:
                outcome[version] = "not on this machine, so not tested"
                continue
            try:
                outcome[version] = "passed" if _test(version, python, wheel) else "FAILED"
            except subprocess.CalledProcessError as error:
                outcome[version] = f"FAILED: {' '.join(map(str, error.cmd))}"
    print()
    for version, text in outcome.items():
        print(f"Python {version}: {text}")
    tested = [text for text in outcome.values() if not text.startswith("not ")]
    return 0 if tested and all(text == "passed" for text in tested) else 1


if __name__ == "__main__":
    raise SystemExit(_main())
