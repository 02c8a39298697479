"""The pure modules of the page, tested by Node's own runner (`*.test.js` beside this file)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast

HERE = Path(__file__).parent
# The first release of line 20 that takes ES modules from plain `.js` files, as browsers do, without a package.json.
OLDEST = (20, 19)


def node_version(node: str) -> tuple[int, int]:
    text = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    major, minor = re.findall(r"\d+", text)[:2]
    return int(major), int(minor)


@pytest.mark.parametrize("path", sorted(HERE.glob("*.test.js")), ids=lambda path: path.name)
def test_pure_modules_under_node(path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the page's pure modules are tested where node >= 20.19 is")
    if node_version(node) < OLDEST:
        pytest.skip(f"node >= {'.'.join(map(str, OLDEST))} is needed, found {'.'.join(map(str, node_version(node)))}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NODE_")}
    done = subprocess.run(
        [node, "--no-warnings", "--test", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"(# |ℹ )pass [1-9]", done.stdout), done.stdout
