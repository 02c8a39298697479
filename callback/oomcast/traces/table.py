"""Reads a run from the rows of a flat table, which CSV and Parquet share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from oomcast.sample import GPU_COLUMNS, SAMPLE_COLUMNS, GpuReading, Kind, Phase, Sample
from oomcast.traces.format import GPU_FIGURES, KINDS, ORIGIN, PHASES, TABLE_COLUMNS, TraceError, gpu_column

__all__ = ["Columns"]

_NEEDED = ("run", "source", "seq", "kind", "wall_ns", "mono_ns", "phase")
_GPU = re.compile(r"gpu([0-9]{1,4})_([a-z_]+)")
_WORDS: dict[str, Mapping[str, int]] = {
    "kind": {word: value for value, word in KINDS.items()},
    "phase": {word: value for value, word in PHASES.items()},
}
_KIND, _PHASE = SAMPLE_COLUMNS.index("kind"), SAMPLE_COLUMNS.index("phase")


class Columns:
    """Which value of a row is what, by the table's own header."""

    def __init__(self, names: Sequence[str]) -> None:
        """Look through the header.

        Raises:
            TraceError: columns are missing, or there twice.
        """
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise TraceError(f"column {twice[0]!r} is there twice: expected each once")
        missing = [name for name in _NEEDED if name not in names]
        if missing:
            raise TraceError(f"no column {', '.join(map(repr, missing))}: expected what `oomcast export` writes")
        at = {name: index for index, name in enumerate(names)}
        self.unknown = [name for name in names if name not in TABLE_COLUMNS and not _is_gpu(name)]
        """Columns that mean nothing here."""
        self._origin = [at.get(name) for name in ORIGIN]
        self._sample = [at.get(name) for name in SAMPLE_COLUMNS]
        devices = sorted({int(match[1]) for match in map(_GPU.fullmatch, names) if match and _is_gpu(match[0])})
        self._gpus = {device: [at.get(gpu_column(device, name)) for name in GPU_FIGURES] for device in devices}

    def origin(self, row: Sequence[Any]) -> dict[str, Any]:
        """Where the row comes from; None for what the table doesn't say."""
        return {name: _at(row, index) for name, index in zip(ORIGIN, self._origin, strict=True)}

    def sample(self, row: Sequence[Any]) -> Sample:
        """The sample in the row.

        Raises:
            TraceError: a value that a sample can't have, with the name of its column.
        """
        values = [_at(row, index) for index in self._sample]
        values[_KIND] = Kind(_value("kind", values[_KIND]))
        values[_PHASE] = Phase(_value("phase", values[_PHASE]))
        sample: Sample = _converted(values, Sample, SAMPLE_COLUMNS)
        return sample

    def gpus(self, row: Sequence[Any], seq: int) -> Iterable[GpuReading]:
        """The readings in the row: of devices of which it has any figure.

        Raises:
            TraceError: as for `sample`.
        """
        for device, indices in self._gpus.items():
            figures = [_at(row, index) for index in indices]
            if any(figure is not None for figure in figures):
                names = ("seq", "device", *(gpu_column(device, name) for name in GPU_FIGURES))
                yield _converted([seq, device, *figures], GpuReading, names)


def _is_gpu(name: str) -> bool:
    match = _GPU.fullmatch(name)
    return match is not None and match[2] in GPU_COLUMNS[2:]


def _at(row: Sequence[Any], index: int | None) -> Any:
    return None if index is None else row[index]


def _value(column: str, word: Any) -> int:
    try:
        return _WORDS[column][word]
    except (KeyError, TypeError):
        raise TraceError(f"{column} {str(word)[:40]!r}: expected one of {', '.join(_WORDS[column])}") from None


def _converted(values: Sequence[Any], kind: Any, names: Sequence[str]) -> Any:
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        said, _, where = str(error).partition(" - at ")
        match = re.search(r"\[(\d+)\]", where)
        name = names[int(match[1])] if match else "row"
        given = f" {str(values[int(match[1])])[:40]!r}" if match else ""
        raise TraceError(f"{name}{given}: {said[:1].lower()}{said[1:]}") from None
