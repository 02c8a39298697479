"""The promises of weight: what `import oomcast` loads, who reads the environment, which way the arrows point."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import oomcast

pytestmark = pytest.mark.fast

ROOT = Path(oomcast.__file__).parent
HEAVY = ("keras", "numpy", "fastapi", "pydantic", "tensorflow", "torch", "jax", "sqlalchemy", "websockets", "typer")


def modules_after(code: str) -> set[str]:
    out = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in out.stdout.split()}


def test_import_oomcast_loads_nothing_heavy() -> None:
    assert not modules_after("import oomcast") & set(HEAVY)


def test_watch_needs_no_framework() -> None:
    assert not modules_after("from oomcast import watch") & set(HEAVY)


def test_the_agent_needs_neither_framework_nor_numpy_nor_server() -> None:
    heavy = set(HEAVY) - {"websockets"}
    assert not modules_after("import oomcast.agent.loop") & (heavy | {"oomcast_server"})


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_callback_side_never_imports_the_server(path: Path) -> None:
    assert not {name for name in imports(path) if name.partition(".")[0] in ("oomcast_server", "oomcast_frontend")}


def test_only_settings_reads_the_environment() -> None:
    readers = {
        path.name
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }
    assert readers == {"settings.py"}


PURE = ("sample.py", "wire.py", "agent/assembler.py", "agent/order.py")


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_do_no_io_and_read_no_clock(name: str) -> None:
    assert not imports(ROOT / name) & {"os", "io", "time", "socket", "pathlib", "asyncio", "threading", "random"}


def test_the_public_names_are_these() -> None:
    assert sorted(oomcast.__all__) == ["MemoryMonitor", "__version__", "load_checkpoint", "watch"]
    with pytest.raises(AttributeError, match="no attribute 'Monitor'"):
        _ = oomcast.Monitor
