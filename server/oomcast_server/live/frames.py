"""One live frame: what was committed of a watched source since the one before, reduced to what a screen shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from oomcast.sample import GPU_COLUMNS, SAMPLE_COLUMNS, Event, GpuReading, Kind, Sample
from oomcast.wire import Status
from oomcast_server.charts.tables import (
    GPU_FIGURES,
    METRICS,
    TICK_METRICS,
    columns_of,
    event_json,
    gpu_series,
    metrics_of,
    tick_columns_of,
    tick_metrics_of,
)
from oomcast_server.intake.pipeline import Commit
from oomcast_server.live.thinning import thin
from oomcast_server.rest.shapes import GpuSeries, RowsMessage, RunSummary, TickRows, milliseconds
from oomcast_server.runs.summary import status_json

__all__ = ["Pending", "rows_message"]

_AT = [SAMPLE_COLUMNS.index(name) for name in METRICS]
_TICK_AT = [SAMPLE_COLUMNS.index(name) for name in dict.fromkeys((*METRICS, *TICK_METRICS))]
_GPU_AT = [GPU_COLUMNS.index(name) for name in GPU_FIGURES]
_MOST_READINGS = 2 * len(_GPU_AT) + 4  # of one device and kind; a machine may have sixteen devices


@dataclasses.dataclass
class Pending:
    """What was committed of a source since its last frame, in order of seq."""

    samples: list[Sample] = dataclasses.field(default_factory=list)
    gpus: list[GpuReading] = dataclasses.field(default_factory=list)
    events: list[Event] = dataclasses.field(default_factory=list)
    status: Status | None = None
    blank_ticks: bool = False

    def take(self, commit: Commit) -> None:
        """Add what is new."""
        self.samples += commit.samples
        self.gpus += commit.gpus
        self.events += commit.events
        self.status = commit.status or self.status
        self.blank_ticks = commit.source.batch_samples > 0

    @property
    def count(self) -> int:
        """How many rows wait, of any kind."""
        return len(self.samples) + len(self.gpus) + len(self.events)


def rows_message(summary: RunSummary, source_id: str, pending: Pending, now_ns: int) -> RowsMessage:
    """The frame. `from_seq` and `to_seq` are those of all rows, also of the ones that were thinned out."""
    ticks = thin([sample for sample in pending.samples if sample[1] == Kind.TICK], _TICK_AT)
    batches = thin([sample for sample in pending.samples if sample[1] == Kind.BATCH], _AT)
    samples = sorted(ticks + batches, key=_seq) if ticks else batches
    seqs = [sample[0] for sample in pending.samples] + [event.seq for event in pending.events]
    return RowsMessage(
        run=summary.id,
        source=source_id,
        from_seq=min(seqs),
        to_seq=max(seqs),
        rows=len(pending.samples),
        columns=columns_of(samples),
        metrics=metrics_of(samples, blank_ticks=pending.blank_ticks),
        ticks=TickRows(columns=tick_columns_of(ticks), metrics=tick_metrics_of(ticks)),
        gpus=_gpus(pending.samples, pending.gpus),
        events=[event_json(source_id, event, event.detail) for event in pending.events],
        status=status_json(pending.status) if pending.status else None,
        summary=summary,
        sent_ms=milliseconds(now_ns),
    )


def _seq(sample: Sample) -> int:
    return sample[0]


def _gpus(samples: Sequence[Sample], readings: Sequence[GpuReading]) -> list[GpuSeries]:
    if not readings:
        return []
    taken = {sample[0]: sample for sample in samples}
    # A device's readings at ticks and at batch ends have different figures, and neither must crowd out the other.
    kinds: dict[tuple[int, int], list[GpuReading]] = {}
    for reading in readings:
        if reading.seq in taken:
            kinds.setdefault((reading.device, taken[reading.seq][1]), []).append(reading)
    return gpu_series(
        (reading.device, taken[reading.seq].wall_ns, taken[reading.seq].batch, *reading[2:])
        for of_kind in kinds.values()
        for reading in thin(of_kind, _GPU_AT, _MOST_READINGS)
    )
