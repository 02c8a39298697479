"""Saving a model's weights and optimizer where hardly any memory is left, and going on from there.

Keras's own ways need memory that is no longer there. With a model of 274 MiB, optimizer included and 61 MiB of it one
variable (keras 3.15), saving took this much on top: `save` of a `.keras` file 337 MiB on TensorFlow and 798 on JAX;
`save_weights` 123 on both, twice the largest variable. Here one variable after the other is read in small pieces, which
go to the disk at once and leave the page cache: 1 MiB.

The file is a plain `.npz`, so that it can be read without oomcast too: `weights/0`, `weights/1` … in the order of
`model.variables`, `optimizer/0` … in that of `model.optimizer.variables`, and `oomcast.json`, which says what they are.
What numpy has no name for (bfloat16, float8) is stored as whole numbers of the same bits.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
import numpy as np
from numpy.lib import format as npy

from oomcast.errors import OomcastError
from oomcast.variables import PIECE_BYTES, groups, pieces, plain_type, slots

__all__ = ["Checkpoint", "CheckpointError", "Place", "load_checkpoint", "obstacle", "save_checkpoint"]

_FORMAT = 1
_CONTENTS = "oomcast.json"
# Written pages count against a cgroup's limit until the disk has them, and against its page cache thereafter.
_SYNC_BYTES = 16 << 20
_MOST_NAMES = 1000


class CheckpointError(OomcastError):
    """A checkpoint that can't be read, or is not of this model."""


class Place(NamedTuple):
    """Where the training stands."""

    epoch: int  # under way, from 0 as Keras counts
    batches: int | None  # of it that the weights have seen; None: all of them
    rank: int | None = None  # where several processes train one model

    @property
    def initial_epoch(self) -> int:
        """What to give to `fit` to go on: an epoch that was begun is gone through again."""
        return max(0, self.epoch) + (self.batches is None)

    def __str__(self) -> str:
        """For people, who count epochs from 1, as Keras shows them."""
        if self.batches is None:
            return f"the end of epoch {self.epoch + 1}"
        return f"epoch {self.epoch + 1} after {self.batches} batch{'' if self.batches == 1 else 'es'}"


class Checkpoint(NamedTuple):
    """What a checkpoint says of itself."""

    path: Path
    run: str  # its name
    epoch: int  # that was under way, from 0
    batches: int | None  # of it that the weights have seen; None: all of them
    initial_epoch: int  # for `fit`
    saved_ns: int  # wall clock


class _Variable(msgspec.Struct, frozen=True):
    path: str  # for people: names may differ in another process
    shape: tuple[int, ...]
    dtype: str


class _Contents(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    run: str
    epoch: int
    batches: int | None
    initial_epoch: int
    saved_ns: int
    model: str | None
    optimizer: str | None
    variables: dict[str, list[_Variable]]  # "weights" and "optimizer"


def obstacle(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str | None:
    """Why a checkpoint could not be saved there when memory is nearly out; None if nothing speaks against it.

    Args:
        folder: need not exist yet.
        mounts: what is mounted: proc_pid_mounts(5).
    """
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not there.is_dir():
        return f"{there} is no folder"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{there} can't be written"
    return "it lies in memory (tmpfs)" if _file_system(there.resolve(), mounts) in ("tmpfs", "ramfs") else None


def _file_system(folder: Path, mounts: Path) -> str | None:
    found = None
    with contextlib.suppress(OSError, ValueError):
        longest = -1
        for line in mounts.read_text(errors="replace").splitlines():
            _, point, kind, *_ = line.split(" ")
            place = Path(point.replace("\\040", " "))
            if (folder == place or place in folder.parents) and len(place.parts) >= longest:
                found, longest = kind, len(place.parts)
    return found


def save_checkpoint(model: Any, folder: Path, run: str, place: Place) -> Path:
    """Write weights, random seeds and optimizer of a Keras model to a new file, which is there whole or not at all.

    On JAX the state must be in the variables (`jax_state_sync`).

    Args:
        model: the model.
        folder: where to; made if it is not there.
        run: the run's name.
        place: where the training stands.

    Returns:
        the file; its name has run, epoch and batch in it. None that exists is overwritten.

    Raises:
        OSError: it can't be written: no space, no permission.
        MemoryError: not even that little was left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{os.getpid()}-{time.monotonic_ns()}.partial"
    try:
        with open(unfinished, "xb") as file:
            _write(file, model, run, place)
            file.flush()
            os.fsync(file.fileno())
        path = _give_name(unfinished, folder, _stem(run, place))
    finally:
        unfinished.unlink(missing_ok=True)
    _sync_folder(folder)
    return path


def _write(file: BinaryIO, model: Any, run: str, place: Place) -> None:
    written: dict[str, list[_Variable]] = {}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for group, variables in groups(model).items():
            written[group] = []
            for number, variable in enumerate(variables):
                with archive.open(f"{group}/{number}.npy", "w", force_zip64=True) as member:
                    written[group].append(_write_variable(member, variable, file))
        contents = _Contents(
            format=_FORMAT,
            run=run,
            epoch=place.epoch,
            batches=place.batches,
            initial_epoch=place.initial_epoch,
            saved_ns=time.time_ns(),
            model=_text(getattr(model, "name", None)),
            optimizer=_text(getattr(getattr(model, "optimizer", None), "name", None)),
            variables=written,
        )
        archive.writestr(_CONTENTS, msgspec.json.encode(contents))


def _write_variable(member: Any, variable: Any, file: BinaryIO) -> _Variable:
    shape = tuple(int(length) for length in variable.shape)
    rest = pieces(variable)
    first = next(rest)
    plain = plain_type(first.dtype)
    npy.write_array_header_1_0(member, {"descr": npy.dtype_to_descr(plain), "fortran_order": False, "shape": shape})
    unsynced = _write_piece(member, first)
    for piece in rest:
        unsynced += _write_piece(member, piece)
        if unsynced >= _SYNC_BYTES:
            unsynced = 0
            _leave_cache(file)
    if unsynced > PIECE_BYTES:
        _leave_cache(file)
    return _Variable(str(getattr(variable, "path", variable.name)), shape, first.dtype.name)


def _write_piece(member: Any, piece: np.ndarray[Any, Any]) -> int:
    member.write(piece.view(np.uint8).data)
    return piece.nbytes


def _leave_cache(file: BinaryIO) -> None:
    file.flush()
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.fdatasync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _stem(run: str, place: Place) -> str:
    name = re.sub(r"[^\w.-]+", "-", run).strip("-.")[:100] or "run"
    batch = "" if place.batches is None else f"-batch{place.batches}"
    rank = "" if place.rank is None else f"-rank{place.rank}"
    return f"{name}-epoch{place.epoch + 1}{batch}{rank}"


def _give_name(unfinished: Path, folder: Path, stem: str) -> Path:
    for number in range(1, _MOST_NAMES):
        path = folder / (f"{stem}.npz" if number == 1 else f"{stem}-{number}.npz")
        try:
            os.link(unfinished, path)  # unlike a rename, it fails where there is one of that name
        except FileExistsError:
            continue
        except OSError:  # a file system without links
            if path.exists():
                continue
            os.rename(unfinished, path)
        return path
    raise FileExistsError(f"{folder} has {_MOST_NAMES} checkpoints named {stem}")


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # Windows opens no folders
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def load_checkpoint(model: Any, path: str | os.PathLike[str]) -> Checkpoint:
    """Put what `on_critical="checkpoint_and_stop"` saved into a model, to go on from there.

    ```python
    model = build_model()            # built and compiled as before
    saved = oomcast.load_checkpoint(model, "checkpoints/brave-otter-epoch3-batch120.npz")
    model.fit(x, y, epochs=10, initial_epoch=saved.initial_epoch, callbacks=[MemoryMonitor()])
    ```

    Weights, random seeds, the optimizer's slots, iterations and learning rate are as they were. Keras begins epochs
    only at their start: the one that was under way is gone through again.

    Args:
        model: of the same layers, built; compiled with the same optimizer, if the saved one was compiled.
        path: the checkpoint.

    Raises:
        CheckpointError: it can't be read; or it is of another model, which is then left as it was.
    """
    file = Path(path)
    try:
        with zipfile.ZipFile(file) as archive:
            contents = _contents(archive, file)
            targets = _targets(model, contents, file)
            for group, variables in targets.items():
                for number, variable in enumerate(variables):
                    saved = contents.variables[group][number]
                    variable.assign(_read(archive, f"{group}/{number}.npy", saved))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, msgspec.MsgspecError) as error:
        raise CheckpointError(f"{file} can't be read: {error}; expected a checkpoint of oomcast's") from error
    return Checkpoint(file, contents.run, contents.epoch, contents.batches, contents.initial_epoch, contents.saved_ns)


def _contents(archive: zipfile.ZipFile, file: Path) -> _Contents:
    contents = msgspec.json.decode(archive.read(_CONTENTS), type=_Contents)
    if contents.format > _FORMAT:
        raise CheckpointError(f"{file} is of a newer oomcast (format {contents.format}): upgrade it here")
    return contents


def _targets(model: Any, contents: _Contents, file: Path) -> dict[str, list[Any]]:
    """The model's variables, in the order of the saved ones; the optimizer's are made if it has not trained yet."""
    if not getattr(model, "built", True):
        raise CheckpointError(f"{file} needs a model that is built: call it on a batch once, or give it an Input")
    saved = contents.variables
    optimizer = getattr(model, "optimizer", None)
    if saved["optimizer"] and optimizer is None:
        raise CheckpointError(f"{file} has an optimizer ({contents.optimizer}), the model has none: compile it first")
    if optimizer is not None and len(slots(optimizer)) != len(saved["optimizer"]):
        optimizer.build(model.trainable_variables)
    targets = groups(model)
    if not saved["optimizer"]:
        targets["optimizer"] = []
    for group, variables in targets.items():
        _compare(group, variables, saved[group], file)
    return targets


def _compare(group: str, variables: list[Any], saved: list[_Variable], file: Path) -> None:
    if len(variables) != len(saved):
        raise CheckpointError(
            f"{file} is of another model: {len(saved)} variables of its {group}, not {len(variables)} as here"
        )
    for variable, theirs in zip(variables, saved, strict=True):
        shape = tuple(int(length) for length in variable.shape)
        if shape != theirs.shape:
            raise CheckpointError(f"{file} is of another model: {theirs.path} has shape {theirs.shape}, not {shape}")


def _read(archive: zipfile.ZipFile, name: str, saved: _Variable) -> np.ndarray[Any, Any]:
    with archive.open(name) as member:
        array = npy.read_array(member, allow_pickle=False)
    return array if array.dtype.name == saved.dtype else array.view(np.dtype(saved.dtype))
