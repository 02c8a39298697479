"""What the page gets, over REST and live (pure). Times are milliseconds of the wall clock, missing is null."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = [
    "EventJson",
    "GpuJson",
    "GpuSeries",
    "Outcome",
    "Problem",
    "RowsMessage",
    "RunDetail",
    "RunList",
    "RunSummary",
    "Series",
    "ServerInfo",
    "SourceDetail",
    "Span",
    "StoreInfo",
    "milliseconds",
    "to_json",
]

Column = list[Any]

_encoder = msgspec.json.Encoder()


def to_json(value: Any) -> bytes:
    """`value` as JSON."""
    return _encoder.encode(value)


def milliseconds(nanoseconds: int) -> float:
    """A time of the wall clock as the page takes it: JavaScript's numbers can't hold nanoseconds."""
    return nanoseconds / 1e6


class Outcome(msgspec.Struct, frozen=True):
    """What ended a run, as far as it is known."""

    type: str
    message: str


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One run on the list: its last known figures."""

    id: str
    project: str
    name: str
    tags: list[str]
    state: str  # live, silent, finished, stopped, failed, died
    host: str
    pid: int
    sources: int
    created_ms: float
    last_ms: float
    ended_ms: float | None
    phase: str | None
    epoch: int | None
    epochs: int | None
    batch: int | None
    step: int | None
    steps_per_epoch: int | None
    rss_bytes: int | None
    peak_bytes: int | None
    swap_bytes: int | None
    limit_bytes: int | None
    limit_kind: str | None
    working_set_bytes: int | None
    headroom_bytes: int | None
    samples: int
    outcome: Outcome | None


class GpuJson(msgspec.Struct, frozen=True):
    """A GPU that a source could see."""

    device: int
    uuid: str
    name: str
    total_bytes: int | None


class SourceDetail(msgspec.Struct, frozen=True, kw_only=True):
    """One monitored process of a run."""

    id: str
    host: str
    pid: int
    rank: int | None
    user: str | None
    command: str | None
    python: str | None
    platform: str | None
    backend: str | None
    gpus: list[GpuJson]
    gpu_note: str | None
    watermark: int
    started_ms: float


class EventJson(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened once."""

    source: str
    seq: int
    kind: str
    time_ms: float
    epoch: int | None
    batch: int | None
    detail: Any


class RunDetail(RunSummary, frozen=True, kw_only=True):
    """A run with its sources and newest events."""

    sources_detail: list[SourceDetail]
    events: list[EventJson]


class RunList(msgspec.Struct, frozen=True):
    """The runs, live ones first."""

    runs: list[RunSummary]
    now_ms: float


class StoreInfo(msgspec.Struct, frozen=True):
    """Which engine keeps the data."""

    engine: str


class ServerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """This server."""

    version: str
    protocol: int
    store: StoreInfo
    started_ms: float
    now_ms: float


class Span(msgspec.Struct, frozen=True, omit_defaults=True):
    """One metric over the buckets; least and largest only where a bucket holds more than one row."""

    last: Column
    min: Column | None = None
    max: Column | None = None


class GpuSeries(msgspec.Struct, kw_only=True):
    """One device over its readings; the largest of each bucket."""

    device: int
    time_ms: Column
    batch: Column
    used_bytes: Column
    total_bytes: Column
    process_bytes: Column
    utilization_percent: Column


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """A source's samples at screen resolution."""

    run: str
    source: str
    x: str
    bucket: int
    rows: int
    watermark: int
    columns: dict[str, Column]
    metrics: dict[str, Span]
    gpus: list[GpuSeries]


class RowsMessage(msgspec.Struct, frozen=True, kw_only=True, tag="rows", tag_field="type"):
    """What was committed since the last such message of this source."""

    run: str
    source: str
    from_seq: int
    to_seq: int
    columns: dict[str, Column]
    metrics: dict[str, Column]
    gpus: list[GpuSeries]
    events: list[EventJson]
    summary: RunSummary
    sent_ms: float


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error as RFC 9457 has it."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"
