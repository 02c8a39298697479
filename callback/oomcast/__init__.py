"""oomcast: live memory monitoring for Keras training.

`MemoryMonitor` is the callback for `fit`, `watch` is for loops of one's own, `load_checkpoint` reads what was saved
before memory ran out. All are imported on first use, so that `import oomcast` costs next to nothing and brings no
framework with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oomcast._version import __version__

if TYPE_CHECKING:
    from oomcast.checkpoint import load_checkpoint
    from oomcast.monitor import MemoryMonitor
    from oomcast.watching import watch

__all__ = ["MemoryMonitor", "__version__", "load_checkpoint", "watch"]

_HOMES = {
    "MemoryMonitor": "oomcast.monitor",
    "load_checkpoint": "oomcast.checkpoint",
    "watch": "oomcast.watching",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'oomcast' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
