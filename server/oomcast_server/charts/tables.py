"""Rows to columns, as charts want them (pure)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from oomcast.sample import GPU_COLUMNS, SAMPLE_COLUMNS, EventKind, Kind, Phase
from oomcast_server.rest.shapes import Column, EventJson, GpuSeries, milliseconds

__all__ = [
    "GPU_FIGURES",
    "METRICS",
    "PER_BATCH",
    "TICK_METRICS",
    "columns_of",
    "event_json",
    "gpu_series",
    "metrics_of",
    "phase_name",
    "tick_columns_of",
    "tick_metrics_of",
]

_STALLS = ("psi_some_us", "psi_full_us", "swap_in_bytes", "swap_out_bytes", "refaults")

METRICS: tuple[str, ...] = (
    "rss_bytes",
    "peak_bytes",
    "shared_bytes",
    "swap_bytes",
    "minor_faults",
    "major_faults",
    "duration_ns",
    "limit_bytes",
    "working_set_bytes",
    "anonymous_bytes",
    *_STALLS,
)
PER_BATCH = frozenset({"minor_faults", "major_faults", "duration_ns", *_STALLS})
"""Metrics that a tick counts over another span than a batch: the two must not share a line."""

TICK_METRICS: tuple[str, ...] = (
    "file_bytes",
    "virtual_bytes",
    "children",
    "children_rss_bytes",
    "children_swap_bytes",
    "tree_pss_bytes",
    "host_swap_bytes",
    *_STALLS,
)
"""What only ticks measure, and what they count over a tick's span."""

GPU_FIGURES: tuple[str, ...] = GPU_COLUMNS[2:]
"""The figures of a GPU reading, behind its seq and device."""

_AT = {name: index for index, name in enumerate(SAMPLE_COLUMNS)}
_PHASES = {phase.value: phase.name.lower() for phase in Phase}
_KINDS = {kind.value: kind.name.lower() for kind in EventKind}

Row = Sequence[Any]


def phase_name(phase: int | None) -> str | None:
    """A stored phase in words."""
    return None if phase is None else _PHASES[phase]


def _column(rows: Sequence[Row], name: str) -> Column:
    at = _AT[name]
    return [row[at] for row in rows]


def columns_of(rows: Sequence[Row]) -> dict[str, Column]:
    """What says where each row (in the order of `SAMPLE_COLUMNS`) stands."""
    return {
        "batch": _column(rows, "batch"),
        "time_ms": [milliseconds(value) for value in _column(rows, "wall_ns")],
        "seq": _column(rows, "seq"),
        "kind": [int(value) for value in _column(rows, "kind")],
        "phase": [_PHASES[value] for value in _column(rows, "phase")],
        "epoch": _column(rows, "epoch"),
        "step": _column(rows, "step"),
        "steps": _column(rows, "steps"),
    }


def metrics_of(rows: Sequence[Row], *, blank_ticks: bool) -> dict[str, Column]:
    """What each row measured. `blank_ticks`: per-batch metrics of ticks are null, since there are batches to show."""
    metrics = {name: _column(rows, name) for name in METRICS}
    if blank_ticks:
        kinds = _column(rows, "kind")
        for name in PER_BATCH:
            metrics[name] = [
                value if kind == Kind.BATCH else None for value, kind in zip(metrics[name], kinds, strict=True)
            ]
    return metrics


def gpu_series(readings: Iterable[Row]) -> list[GpuSeries]:
    """One series for each device, from rows of device, wall_ns, batch and `GPU_FIGURES`, in any order."""
    devices: defaultdict[int, list[Row]] = defaultdict(list)
    for reading in readings:
        devices[reading[0]].append(reading)
    return [_device(device, sorted(devices[device], key=_wall_ns)) for device in sorted(devices)]


def _wall_ns(reading: Row) -> int:
    return int(reading[1])


def _device(device: int, readings: Sequence[Row]) -> GpuSeries:
    figures = {name: [reading[at] for reading in readings] for at, name in enumerate(GPU_FIGURES, 3)}
    return GpuSeries(
        device=device,
        time_ms=[milliseconds(reading[1]) for reading in readings],
        batch=[reading[2] for reading in readings],
        **figures,
    )


def tick_columns_of(ticks: Sequence[Row]) -> dict[str, Column]:
    """What says where each tick stands."""
    return {
        "batch": _column(ticks, "batch"),
        "time_ms": [milliseconds(value) for value in _column(ticks, "wall_ns")],
        "seq": _column(ticks, "seq"),
    }


def tick_metrics_of(ticks: Sequence[Row]) -> dict[str, Column]:
    """What each tick measured that batches don't, or over another span."""
    return {name: _column(ticks, name) for name in TICK_METRICS}


def event_json(source: str, row: Row, detail: Any) -> EventJson:
    """An event (its columns in the order of `EVENT_COLUMNS`) as the page takes it."""
    seq, kind, wall_ns, _, epoch, batch = row[:6]
    return EventJson(
        source=source,
        seq=seq,
        kind=_KINDS[kind],
        time_ms=milliseconds(wall_ns),
        epoch=epoch,
        batch=batch,
        detail=detail,
    )
