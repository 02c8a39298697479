"""Builds the wheel into dist/, and checks it where there is no source tree: `python tools/check_wheel.py`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

__all__ = ["build", "python_of"]

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("oomcast", "oomcast_server", "oomcast_frontend")

# Run in an empty folder by the fresh environment's Python.
_IMPORTS = """
import importlib, pathlib, sys
for name in {packages!r}:
    place = pathlib.Path(importlib.import_module(name).__file__)
    assert "site-packages" in place.parts, f"{{name}} comes from {{place}}"
import oomcast, oomcast.demo, oomcast.demo.show, oomcast.agent
assert oomcast.watch
assert not {{"keras", "tensorflow"}} & set(sys.modules)
import oomcast_server.app
"""

# Run by the plain install: no server, so one line says how to get it, and the run is recorded for later.
_PLAIN = """
import pathlib, sys
from oomcast import watch
with watch(run_name="plain") as run:
    run.step()
print("recorded", len(list(pathlib.Path({home!r}).glob("state/journals/*/*.frames"))))
"""
_PLAIN_SAYS = ("pip install 'oomcast[server]'", "recorded 1")


def build(folder: Path) -> Path:
    """Build the wheel into `folder`; its path.

    Raises:
        subprocess.CalledProcessError: it can't be built.
    """
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, cwd=folder, stdin=subprocess.DEVNULL)
    return next(folder.glob("oomcast-*.whl"))


def python_of(environment: Path) -> Path:
    """The Python of a virtual environment."""
    return environment / "bin" / "python"


def missing(names: list[str], tree: list[str]) -> list[str]:
    """What of the source tree's files (paths inside the wheel) is not in it, and what no wheel of ours may lack."""
    needed = [
        "oomcast_frontend/static/index.html",
        "oomcast_frontend/static/scripts/",
        "oomcast_server/store/migrations/env.py",
        "oomcast_server/store/migrations/versions/0001",
        "oomcast/py.typed",
    ]
    gone = [start for start in needed if not any(name.startswith(start) for name in names)]
    return [*gone, *sorted(set(tree) - set(names))]


def _tree() -> list[str]:
    folders = (
        ROOT / side / package for side, package in zip(("callback", "server", "frontend"), PACKAGES, strict=True)
    )
    found = []
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found.append(path.relative_to(folder.parent).as_posix())
    return found


def _check(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    if gone := missing(names, _tree()):
        raise SystemExit(f"{wheel.name} lacks {', '.join(gone)}")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = python_of(folder / "venv")
    # Without the tree's paths, which would hide what the wheel lacks.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "OOMCAST"))}
    environment["OOMCAST_HOME"] = str(folder / "home")

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command[:4])}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "install", "--quiet", str(wheel))
    said = run(str(python), "-c", _PLAIN.format(home=environment["OOMCAST_HOME"]))
    if missing_words := [words for words in _PLAIN_SAYS if words not in said]:
        raise SystemExit(f"a training with the plain install did not say {missing_words}, but:\n{said}")
    run(*pip, "install", "--quiet", f"{wheel}[server]")
    run(*pip, "check")
    run(str(python.parent / "oomcast"), "--version")
    run(str(python), "-m", "oomcast_server", "--help")
    run(str(python), "-c", _IMPORTS.format(packages=PACKAGES))
    print(f"{wheel.name}: {len(names)} files, {wheel.stat().st_size // 1024} KiB; installs, imports and runs by itself")


def _main() -> None:
    with tempfile.TemporaryDirectory(prefix="oomcast-wheel-") as name:
        folder = Path(name)
        wheel = build(folder)
        _check(wheel, folder)
        target = ROOT / "dist" / wheel.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(wheel.read_bytes())


if __name__ == "__main__":
    _main()
