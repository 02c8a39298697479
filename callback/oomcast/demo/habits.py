"""What users' code does to memory, each as users write it: the callbacks and data of the scenarios."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from oomcast.demo.facts import BatchEnd, EpochEnd, FactsWriter, Tightened
from oomcast.demo.network import SIZE, Images
from oomcast.probes.process import read_process

__all__ = ["EpochSnapshots", "FeatureLog", "ImagesInMemory", "Pace", "Reporter", "cached", "endless"]


class FeatureLog(keras.callbacks.Callback):  # type: ignore[misc]  # keras ships no types
    """Keeps what the network sees in a few images after every batch, "to plot it later"; nobody ever empties it."""

    def __init__(self, features: Any, images: np.ndarray[Any, Any]) -> None:
        super().__init__()
        self._features = features
        self._images = images
        self._log: list[np.ndarray[Any, Any]] = []

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """One more entry."""
        self._log.append(self._features.predict_on_batch(self._images))


class EpochSnapshots(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the weights and the validation images' features of every epoch, "to compare them later"."""

    def __init__(self, features: Any, images: np.ndarray[Any, Any]) -> None:
        super().__init__()
        self._features = features
        self._images = images
        self._history: list[tuple[list[np.ndarray[Any, Any]], np.ndarray[Any, Any]]] = []

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        """One more snapshot."""
        self._history.append((self.model.get_weights(), self._features.predict(self._images, verbose=0)))


class ImagesInMemory(keras.utils.PyDataset):  # type: ignore[misc]
    """Decodes each batch once and keeps it, "so that later epochs are faster": all of them stay in memory."""

    def __init__(self, images: Images, batch_size: int, batches: int) -> None:
        super().__init__()
        self._images, self._labels = images
        self._batch_size = batch_size
        self._batches = batches
        self._kept: dict[int, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = {}

    def __len__(self) -> int:
        return self._batches

    def __getitem__(self, index: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        if index not in self._kept:
            random = np.random.default_rng(index)
            rows = random.integers(0, len(self._images), self._batch_size)
            brightness = random.uniform(0.7, 1.3, (self._batch_size, 1, 1, 1)).astype(np.float32)
            self._kept[index] = (self._images[rows] * brightness, self._labels[rows])
        return self._kept[index]


def endless(images: Images, batch_size: int) -> Any:
    """Shuffled batches without end."""
    data = tf.data.Dataset.from_tensor_slices(images).shuffle(len(images[0])).repeat()
    return data.batch(batch_size).prefetch(2)


def cached(images: Images, batch_size: int, count: int) -> Any:
    """`count` augmented images, made in the first epoch and kept by `cache()` for the later ones."""
    pixels, labels = tf.constant(images[0]), tf.constant(images[1])

    def augment(index: Any) -> tuple[Any, Any]:
        row = index % len(images[0])
        image = tf.image.random_brightness(tf.cast(pixels[row], tf.float32), 40.0)
        return tf.reshape(image, (SIZE, SIZE, 3)), labels[row]

    data = tf.data.Dataset.range(count).map(augment).cache()
    return data.batch(batch_size).prefetch(2)


class Reporter(keras.callbacks.Callback):  # type: ignore[misc]
    """Leaves a fact at each batch's and epoch's end, and narrows the box once the training is warm."""

    def __init__(self, facts: FactsWriter, tighten: Callable[[], Tightened], warm_batches: int) -> None:
        super().__init__()
        self._facts = facts
        self._tighten = tighten
        self._cold = warm_batches
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        """Note which one."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """Write down the batch."""
        now = read_process(os.getpid())
        self._facts.write(BatchEnd(epoch=self._epoch, rss_bytes=now.rss_bytes or 0, swap_bytes=now.swap_bytes))
        self._cold -= 1
        if self._cold == 0:
            self._facts.write(self._tighten())

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        """Write down the epoch."""
        self._facts.write(EpochEnd())


class Pace(keras.callbacks.Callback):  # type: ignore[misc]
    """Ends the training at an epoch's end when its time is up: other work on the machine must not draw it out."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._until = time.monotonic() + seconds

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        """Whether to go on."""
        if time.monotonic() > self._until:
            self.model.stop_training = True
