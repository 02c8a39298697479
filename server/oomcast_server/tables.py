"""Rows to columns, as charts want them (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from oomcast.sample import SAMPLE_COLUMNS, EventKind, Kind, Phase
from oomcast_server.shapes import Column, EventJson, GpuSeries, milliseconds

__all__ = ["METRICS", "PER_BATCH", "columns_of", "event_json", "gpu_series", "metrics_of", "phase_name"]

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
)
PER_BATCH = frozenset({"minor_faults", "major_faults", "duration_ns"})
"""Metrics that a tick counts over another span than a batch: the two must not share a line."""

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
    """One series for each device, from rows of device, wall_ns, batch and the four figures, in time's order."""
    devices: dict[int, GpuSeries] = {}
    for device, wall_ns, batch, used, total, process, utilization in readings:
        series = devices.get(device)
        if series is None:
            series = devices[device] = GpuSeries(
                device=device,
                time_ms=[],
                batch=[],
                used_bytes=[],
                total_bytes=[],
                process_bytes=[],
                utilization_percent=[],
            )
        series.time_ms.append(milliseconds(wall_ns))
        series.batch.append(batch)
        series.used_bytes.append(used)
        series.total_bytes.append(total)
        series.process_bytes.append(process)
        series.utilization_percent.append(utilization)
    return [devices[device] for device in sorted(devices)]


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
