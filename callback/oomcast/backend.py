"""What is asked of Keras and of the framework that computes for it; only what is imported already is asked."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

__all__ = ["backend_name", "model_name", "number", "stops_at_end"]


def number(params: Any, name: str) -> int:
    """One of the numbers that Keras gives a callback, -1 where it does not know it."""
    value = (params or {}).get(name)
    return int(value) if value is not None else -1


def model_name(model: Any) -> str | None:
    """The model's name, where it has one."""
    name = getattr(model, "name", None)
    return name if isinstance(name, str) else None


def stops_at_end() -> bool:
    """Whether every hook runs in the thread that trains, so that the end of a batch is the place to stop."""
    keras = sys.modules.get("keras") or sys.modules.get("tf_keras")
    return keras is None or bool(keras.backend.backend() == "tensorflow")


def backend_name() -> str | None:
    """The framework that computes, with its version."""
    with contextlib.suppress(Exception):
        keras = sys.modules.get("keras") or sys.modules.get("tf_keras")
        assert keras is not None
        name = keras.backend.backend()
        version = getattr(sys.modules.get(name), "__version__", "")
        return f"Keras {keras.__version__}, {name} {version}".strip()
    return None
