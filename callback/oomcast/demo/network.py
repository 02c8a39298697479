"""The demo's model and its images: a small CNN that tells four shapes apart. Importing this imports TensorFlow."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

__all__ = [
    "FEATURE_BYTES",
    "IMAGE_BYTES",
    "SIZE",
    "Images",
    "feature_model",
    "limit_cores",
    "make_images",
    "make_model",
]

SIZE = 96
IMAGE_BYTES = SIZE * SIZE * 3 * 4  # as float32
FEATURE_BYTES = (SIZE // 4) ** 2 * 32 * 4  # of one image, in the layer called "features"
_SHAPES = 4

Images = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def limit_cores(cores: int) -> None:
    """Leave the rest of the machine alone; a GPU's memory is taken as it is needed."""
    tf.config.threading.set_intra_op_parallelism_threads(cores)
    tf.config.threading.set_inter_op_parallelism_threads(cores)
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)


def make_images(count: int, seed: int) -> Images:
    """`count` noisy images (uint8) of a disc, a square, stripes or a ring, and which one each of them is."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, _SHAPES, count)
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    for image, label in zip(images, labels, strict=True):
        mask = _shape(int(label), random)[..., None]
        colours = random.uniform(40, 215, (2, 3))
        noise = random.normal(0, 25, (SIZE, SIZE, 3))
        image[:] = np.clip(np.where(mask, colours[0], colours[1]) + noise, 0, 255)
    return images, labels


def _shape(label: int, random: np.random.Generator) -> np.ndarray[Any, Any]:
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    centre, radius = random.uniform(SIZE * 0.35, SIZE * 0.65, 2), random.uniform(SIZE * 0.15, SIZE * 0.3)
    distance = np.hypot(y - centre[0], x - centre[1])
    square = np.maximum(abs(y - centre[0]), abs(x - centre[1])) < radius
    stripes = np.sin((x + y * random.uniform(-1, 1)) * np.pi / (radius / 2)) > 0
    shapes: list[np.ndarray[Any, Any]] = [distance < radius, square, stripes, abs(distance - radius) < radius / 4]
    return shapes[label]


def make_model() -> Any:
    """A compiled CNN of 0.6 million weights that takes uint8 or float32 images."""
    layers = keras.layers
    stack: list[Any] = [keras.Input((SIZE, SIZE, 3)), layers.Rescaling(1 / 255)]
    for filters, name in ((16, "edges"), (32, "parts"), (32, "features")):
        stack += [layers.Conv2D(filters, 3, padding="same", activation="relu", name=name), layers.MaxPooling2D()]
    stack += [layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(_SHAPES)]
    model = keras.Sequential(stack, name="shapes")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(3e-4), loss=loss, metrics=["accuracy"])
    return model


def feature_model(model: Any) -> Any:
    """The part of `model` up to its last convolution."""
    return keras.Model(model.inputs, model.get_layer("features").output, name="features")


if __name__ == "__main__":
    # Run by the demo outside the box: it reads what a training reads of TensorFlow's files (see show.py).
    limit_cores(2)
    make_model().train_on_batch(*make_images(32, seed=0))
