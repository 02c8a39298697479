"""Recorded pieces of /proc and of cgroups, as trees of small files."""

from __future__ import annotations

import re
from pathlib import Path

_HEADING = re.compile(r"^==> (.+) <==\n", re.MULTILINE)
TREES = Path(__file__).parent / "data/trees"


def write(root: Path, files: dict[str, str]) -> Path:
    """A tree of these files below `root`, which is returned."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def read_tree(name: str) -> dict[str, str]:
    """The files of a recorded tree, which is kept as `head -n -0 FILE…` prints it."""
    parts = _HEADING.split((TREES / f"{name}.txt").read_text())
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def unpack(name: str, root: Path) -> Path:
    """A recorded tree below `root`, which is returned."""
    return write(root, read_tree(name))
