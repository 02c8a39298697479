"""A source's samples at screen resolution, with least and largest of what each point stands for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from oomcast.sample import Kind
from oomcast_server.charts.reading import Reader, Span
from oomcast_server.charts.strips import Spread, Strip, joined
from oomcast_server.charts.tables import GPU_FIGURES, METRICS, PER_BATCH, TICK_METRICS, phase_name
from oomcast_server.rest.shapes import GpuSeries, Series, TickSeries, milliseconds
from oomcast_server.rest.shapes import Span as SpanJson
from oomcast_server.runs.query import SourceKey
from oomcast_server.store.base import Store
from oomcast_server.store.schema import COUNTED

__all__ = ["ALL", "Range", "chart", "read_series"]

_BATCH, _TICK = Kind.BATCH.value, Kind.TICK.value

Range = Span

ALL: tuple[str, ...] = (*METRICS, *(name for name in TICK_METRICS if name not in METRICS), "gpus")
"""What a chart may ask for; `gpus` are the readings of all devices."""


def read_series(
    store: Store, run_id: str, source: SourceKey, wanted: Range, points: int, names: Sequence[str] = ALL
) -> Series:
    """What a chart of at most `points` points shows of the source's samples in `wanted`; only the metrics `names`.

    Raises:
        StoreUnavailable: the database can't be read, or not in time.
    """
    with store.read() as connection:
        return chart(Reader(connection, source.run_pk, source.pk), run_id, source, wanted, points, names)


def chart(
    reader: Reader, run_id: str, source: SourceKey, wanted: Range, points: int, names: Sequence[str] = ALL
) -> Series:
    """The same, by a reader of that source."""
    found = _Found.read(reader, wanted, points, frozenset(names), source.has_batches)
    shown, ticks = found.main.squeezed(points), found.ticks.squeezed(points)
    return Series(
        run=run_id,
        source=source.id,
        x="batch" if wanted.by_batch else "time",
        bucket=_mean_rows(shown),
        rows=sum(shown.rows),
        watermark=shown.seqs[-1] if len(shown) else 0,
        columns=_columns(shown),
        metrics=_metrics(shown, [name for name in METRICS if name in names]),
        ticks=TickSeries(
            columns={name: column for name, column in _columns(ticks).items() if name in _TICK_COLUMNS},
            metrics=_metrics(ticks, [name for name in TICK_METRICS if name in names]),
        ),
        gpus=[_gpu_series(device, strip.squeezed(points)) for device, strip in found.gpus.items()],
    )


_TICK_COLUMNS = ("batch", "time_ms", "seq", "rows")


@dataclasses.dataclass(frozen=True)
class _Found:
    """What was read: of what the chart shows, of ticks alone, and of each device."""

    main: Strip
    ticks: Strip
    gpus: dict[int, Strip]

    @classmethod
    def read(cls, reader: Reader, wanted: Range, points: int, names: frozenset[str], has_batches: bool) -> _Found:
        shown = [name for name in METRICS if name in names]
        ticking = [name for name in TICK_METRICS if name in names]
        if wanted.by_batch:
            main = _strip(reader, reader.seqs(wanted, [_BATCH]), wanted, _BATCH, shown, points)
            ticks = _strip(reader, reader.seqs(wanted, [_TICK]), wanted, _TICK, ticking, points)
        else:
            seqs = reader.seqs(wanted, [_BATCH, _TICK])
            both = [*shown, *(name for name in ticking if name not in shown)]
            ticks = _strip(reader, seqs, wanted, _TICK, both, points)
            # A tick counts over another span than a batch: where there are batches to show, it says nothing of that.
            among = ticks.only(shown, PER_BATCH if has_batches else ())
            main = joined([_strip(reader, seqs, wanted, _BATCH, shown, points), among]).in_order()
        gpus = {}
        if "gpus" in names and (seqs := reader.seqs(wanted, [_BATCH, _TICK])) is not None:
            gpus = reader.readings(seqs, wanted, GPU_FIGURES, points)
        return cls(main, ticks, gpus)


def _strip(
    reader: Reader, seqs: tuple[int, int] | None, wanted: Range, kind: int, names: Sequence[str], points: int
) -> Strip:
    if seqs is None:
        return Strip.of_samples(kind, [], names)
    return reader.samples(seqs, wanted, kind, names, points)


def _mean_rows(strip: Strip) -> int:
    return -(-sum(strip.rows) // len(strip)) if len(strip) else 1


def _columns(strip: Strip) -> dict[str, list[Any]]:
    columns = {
        "batch": strip.batches,
        "time_ms": [milliseconds(value) for value in strip.walls],
        "seq": strip.seqs,
        "kind": strip.kinds,
        "phase": [phase_name(value) for value in strip.places["phase"]],
        **{name: strip.places[name] for name in ("epoch", "step", "steps")},
    }
    return columns if _is_exact(strip) else {**columns, "rows": strip.rows}


def _is_exact(strip: Strip) -> bool:
    """Whether each entry is a sample."""
    return all(rows == 1 for rows in strip.rows)


def _metrics(strip: Strip, names: Sequence[str]) -> dict[str, SpanJson]:
    exact = _is_exact(strip)
    return {name: _span(name, strip.metrics[name], exact) for name in names}


def _span(name: str, metric: Spread, exact: bool) -> SpanJson:
    if exact:
        return SpanJson(last=metric.last)
    return SpanJson(
        last=metric.last, min=metric.least, max=metric.largest, sum=metric.total if name in COUNTED else None
    )


def _gpu_series(device: int, strip: Strip) -> GpuSeries:
    return GpuSeries(
        device=device,
        time_ms=[milliseconds(value) for value in strip.walls],
        batch=strip.batches,
        **{name: strip.metrics[name].largest for name in GPU_FIGURES},
    )
