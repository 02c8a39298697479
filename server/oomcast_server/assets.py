"""The page's files, read once at start from the packages that bring them. No client's path ever opens a file."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import importlib.resources
import importlib.util
import mimetypes
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["Asset", "Assets", "load_assets"]

_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
_NO_FRONTEND = b"""<!doctype html><meta charset="utf-8"><title>oomcast</title>
<p>The server runs, but this installation has no page: <code>pip install --force-reinstall oomcast[server]</code>.</p>
"""


@dataclasses.dataclass(frozen=True)
class Asset:
    """One file as it is served, and its gzip twin where that is smaller."""

    body: bytes
    content_type: str
    gzipped: bytes | None


@dataclasses.dataclass(frozen=True)
class Assets:
    """The page, and every file that it may load, by the path that it is asked for with."""

    shell: bytes
    files: dict[str, Asset]


def load_assets(static: Traversable | None = None, plotly: bytes | None = None) -> Assets:
    """Read the page's files.

    Args:
        static: the frontend's folder; the installed package's if None.
        plotly: the chart library; the one inside the `plotly` package if None.
    """
    files = dict(_walk(static if static is not None else _installed_static(), ""))
    shell = files.pop("index.html", _NO_FRONTEND)
    base = f"/assets/{_content_hash(files)}"
    bundle = plotly if plotly is not None else _installed_plotly()
    bundle_path = f"/assets/plotly-{hashlib.sha256(bundle).hexdigest()[:16]}.js"
    served = {f"{base}/{path}": _asset(path, body) for path, body in files.items()}
    served[bundle_path] = _asset(bundle_path, bundle)
    shell = shell.replace(b"{{assets}}", base.encode()).replace(b"{{plotly}}", bundle_path.encode())
    return Assets(shell, served)


def _installed_static() -> Traversable | None:
    if importlib.util.find_spec("oomcast_frontend") is None:
        return None
    return importlib.resources.files("oomcast_frontend") / "static"


def _installed_plotly() -> bytes:
    # Found, not imported: the Python side of plotly takes a second and is not needed.
    spec = importlib.util.find_spec("plotly")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        bundle = Path(folder) / "package_data" / "plotly.min.js"
        if bundle.is_file():
            return bundle.read_bytes()
    return b""


def _walk(folder: Traversable | None, prefix: str) -> Iterator[tuple[str, bytes]]:
    if folder is None or not folder.is_dir():
        return
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        elif not entry.name.startswith("."):
            yield prefix + entry.name, entry.read_bytes()


def _content_hash(files: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for path, body in sorted(files.items()):
        digest.update(f"{path}\0{len(body)}\0".encode() + body)
    return digest.hexdigest()[:16]


def _asset(path: str, body: bytes) -> Asset:
    # Level 5: 0.2 s for the chart library at start, 2 % larger than level 9, which takes three times as long.
    gzipped = gzip.compress(body, compresslevel=5, mtime=0)
    suffix = Path(path).suffix
    content_type = _TYPES.get(suffix) or mimetypes.guess_type(path)[0] or "application/octet-stream"
    return Asset(body, content_type, gzipped if len(gzipped) < len(body) else None)
