"""The variables of a Keras model, read in small pieces: whole copies may need more memory than there is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

__all__ = ["PIECE_BYTES", "groups", "pieces", "plain_type", "slots"]

PIECE_BYTES = 4 << 20
"""What a piece takes, at most."""


def groups(model: Any) -> dict[str, list[Any]]:
    """A model's variables, random seeds too, and its optimizer's, each in its own order."""
    optimizer = getattr(model, "optimizer", None)
    return {"weights": _unique(model.variables), "optimizer": [] if optimizer is None else slots(optimizer)}


def slots(optimizer: Any) -> list[Any]:
    """An optimizer's variables: slots, iterations, learning rate. Most come with the first batch."""
    variables = optimizer.variables
    return _unique(variables() if callable(variables) else variables)  # Keras 2 had a method


def _unique(variables: Iterable[Any]) -> list[Any]:
    return list({id(variable): variable for variable in variables}.values())


def pieces(variable: Any) -> Iterator[np.ndarray[Any, Any]]:
    """A variable's values in flat arrays of a few MiB; one empty array for an empty variable."""
    value = getattr(variable, "value", variable)
    flat = _flat(value() if callable(value) else value)
    count = math.prod(int(length) for length in variable.shape)
    width = getattr(flat.dtype, "itemsize", None) or flat.dtype.size  # numpy's and torch's, or TensorFlow's word for it
    step = PIECE_BYTES // max(1, width)
    for start in range(0, max(count, 1), step):
        yield _array(flat[start : start + step])


def _flat(value: Any) -> Any:
    """One dimension, without a copy: of a tensor of TensorFlow or torch, else of the array that numpy makes of it."""
    framework = type(value).__module__.partition(".")[0]
    if framework == "torch":
        return value.detach().reshape(-1)
    if framework == "tensorflow":
        import tensorflow as tf  # it is there already: the variable is its own

        return tf.reshape(value, [-1])
    return np.asarray(value).reshape(-1)  # JAX on a CPU lends its buffer


def _array(piece: Any) -> np.ndarray[Any, Any]:
    if type(piece).__module__.partition(".")[0] != "torch":
        return np.ascontiguousarray(piece)
    import keras

    array: np.ndarray[Any, Any] = keras.ops.convert_to_numpy(piece)  # knows how torch says bfloat16
    return np.ascontiguousarray(array)


def plain_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A type that numpy's file format knows, of the same size."""
    return np.dtype(f"u{dtype.itemsize}") if dtype.kind == "V" else dtype
