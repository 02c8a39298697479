"""What the page gets, over REST and live (pure). Times are milliseconds of the wall clock, missing is null."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = [
    "EventJson",
    "GpuJson",
    "GpuSeries",
    "LimitJson",
    "Outcome",
    "Problem",
    "ProcessJson",
    "RowsMessage",
    "RunDetail",
    "RunList",
    "RunSummary",
    "Series",
    "ServerInfo",
    "SourceDetail",
    "Span",
    "StatusJson",
    "StoreInfo",
    "TickRows",
    "TickSeries",
    "Tightest",
    "Verdict",
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


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How a source ended, or a run by the gravest of its sources'.

    `ending` and `grade` are the agent's own words, of which there may be new ones: "finished", "stopped", "exception",
    "allocation failed", "oom killed", "killed", "crashed", "vanished"; "confirmed", "probable", "unknown".
    """

    ending: str
    grade: str
    text: str  # one or two sentences
    inferred: bool  # by the server, from silence: it goes when the agent comes back
    source: str  # whose it is
    detail: dict[str, str | int | None] | None = None  # all that the agent said; in a run's detail only


class Tightest(msgspec.Struct, frozen=True, kw_only=True):
    """The source with the smallest share of its limit left."""

    id: str
    host: str
    rank: int | None
    limit_bytes: int
    working_set_bytes: int
    headroom_bytes: int
    headroom_share: float  # of the limit; below 0 where it is exceeded


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One run on the list: its main source's last known figures, and the state of all its sources.

    The main source is the lowest rank that has shown a batch; where none has, the lowest rank, or the first to come.
    A source that had ended before the newest one began is an earlier attempt, and counts no more.
    """

    id: str
    project: str
    name: str
    tags: list[str]
    state: str  # live, silent, finished, stopped, failed, died
    host: str  # of the main source, and so the pid
    pid: int
    sources: int
    main_source: str | None  # its id
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
    samples: int  # of all sources
    outcome: Outcome | None
    verdict: Verdict | None  # null while nothing ended that matters to the run
    tightest: Tightest | None  # null where that is the main source
    trouble: str | None  # "hung" or "critical", of a source that lives


class GpuJson(msgspec.Struct, frozen=True):
    """A GPU that a source could see."""

    device: int
    uuid: str
    name: str
    total_bytes: int | None
    index: int | None = None  # NVML's own, of the card
    instance: str | None = None  # of a MIG slice, such as "1g.10gb"; null: the whole card
    ordinal: int | None = None  # the framework's number for it; null: hidden from it, or not known


class LimitJson(msgspec.Struct, frozen=True, kw_only=True):
    """One limit at the last look."""

    kind: str
    limit_bytes: int
    used_bytes: int
    binds: bool


class ProcessJson(msgspec.Struct, frozen=True, kw_only=True):
    """One process at the last look."""

    pid: int
    name: str
    role: str  # training, child, other (of the same cgroup)
    rss_bytes: int | None
    swap_bytes: int | None


class StatusJson(msgspec.Struct, frozen=True, kw_only=True):
    """What a source said last of what matters only as of now."""

    time_ms: float
    limits: list[LimitJson]
    processes: list[ProcessJson]
    pressure: str | None  # whose PSI the samples carry: "cgroup /job" or "system"; null: there is none
    hung_since_ms: float | None  # the last batch end, where nothing has gone on since


class SourceDetail(msgspec.Struct, frozen=True, kw_only=True):
    """One monitored process of a run."""

    id: str
    host: str
    pid: int
    kind: str  # callback, watch, run, attach
    main: bool  # the run's own figures are this one's
    state: str  # live, silent, finished, stopped, failed, died
    connected: bool  # its agent, now
    rank: int | None
    local_rank: int | None
    world_size: int | None
    launcher: str | None  # "slurm 4711", "torchrun abc"
    user: str | None
    command: str | None
    python: str | None
    platform: str | None
    backend: str | None
    gpus: list[GpuJson]
    gpu_note: str | None
    watermark: int
    started_ms: float
    last_ms: float  # last arrival, by the server's clock
    ended_ms: float | None
    phase: str | None
    epoch: int | None
    batch: int | None
    step: int | None
    rss_bytes: int | None
    peak_bytes: int | None
    swap_bytes: int | None
    limit_bytes: int | None
    limit_kind: str | None
    working_set_bytes: int | None
    headroom_bytes: int | None
    verdict: Verdict | None
    status: StatusJson | None


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
    """A run with its sources and newest events. Its verdict, and its sources', have their `detail`."""

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
    """One device over its readings, in time's order; the largest of each bucket.

    Two kinds of readings stand in one series: NVML's at ticks (the figures up to `reserved_bytes`, and `ecc_errors`),
    and the framework's allocator's at batch ends (the rest). What a reading has not is null.
    """

    device: int
    time_ms: Column
    batch: Column
    used_bytes: Column
    total_bytes: Column
    process_bytes: Column
    utilization_percent: Column
    reserved_bytes: Column
    allocated_bytes: Column
    allocated_peak_bytes: Column
    pool_bytes: Column
    allocator_limit_bytes: Column
    ecc_errors: Column


class TickSeries(msgspec.Struct, frozen=True, kw_only=True):
    """What only the agent's clock measures, over ticks alone, whatever x is; as many points as any series."""

    columns: dict[str, Column]  # batch (the last that had ended; null before the first), time_ms, seq
    metrics: dict[str, Span]


class TickRows(msgspec.Struct, frozen=True, kw_only=True):
    """The same of new rows."""

    columns: dict[str, Column]
    metrics: dict[str, Column]


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
    ticks: TickSeries
    gpus: list[GpuSeries]


class RowsMessage(msgspec.Struct, frozen=True, kw_only=True, tag="rows", tag_field="type"):
    """What was committed since the last such message of this source."""

    run: str
    source: str
    from_seq: int
    to_seq: int
    columns: dict[str, Column]
    metrics: dict[str, Column]
    ticks: TickRows
    gpus: list[GpuSeries]
    events: list[EventJson]
    status: StatusJson | None  # the newest, where one came with these rows
    summary: RunSummary
    sent_ms: float


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error as RFC 9457 has it."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"
