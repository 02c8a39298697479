"""What the page gets, over REST and live (pure). Times are milliseconds of the wall clock, missing is null."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

__all__ = [
    "Comparison",
    "EventJson",
    "EventPage",
    "GpuJson",
    "GpuSeries",
    "LimitJson",
    "Outcome",
    "Problem",
    "ProcessJson",
    "ProjectJson",
    "ProjectList",
    "Retention",
    "RowsMessage",
    "RunChange",
    "RunDetail",
    "RunFigures",
    "RunList",
    "RunSummary",
    "Series",
    "ServerInfo",
    "SourceDetail",
    "SourceFigures",
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
# Of which something is left when it is cleaned (`text.clean`) and trimmed.
_SEEN = r"[^\s\x00-\x1f\x7f-\xa0\u061c\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff]"
Label = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=_SEEN)]

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
    """A page of the runs: live ones first, and the newest first."""

    runs: list[RunSummary]
    now_ms: float
    next: str | None = None  # the cursor of the next page; null: that was all


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
    sum: Column | None = None  # of what is counted from sample to sample (faults, stalls, durations)


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
    """What was committed since the last such message of this source.

    Where that were many samples, only those are here with the least and the largest value of each figure. A message
    whose `from_seq` doesn't follow on the `to_seq` before it shows that one was missed: what was in it can be fetched.
    """

    run: str
    source: str
    from_seq: int  # of all that was committed, whatever is left of it here
    to_seq: int
    rows: int  # samples that were committed, of which these columns show as many as a screen needs
    columns: dict[str, Column]
    metrics: dict[str, Column]
    ticks: TickRows
    gpus: list[GpuSeries]
    events: list[EventJson]
    status: StatusJson | None  # the newest, where one came with these rows
    summary: RunSummary
    sent_ms: float


class EventPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a run's events: source by source, in the order in which these came, and by seq."""

    events: list[EventJson]
    next: str | None  # the cursor of the next page; null: that was all


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """For how many days a project's data are kept; null: as the server's settings say."""

    full_days: int | None  # every sample
    rollup_days: int | None  # least, largest and last of buckets of samples


class ProjectJson(msgspec.Struct, frozen=True, kw_only=True):
    """The runs of one project, counted."""

    name: str
    runs: int
    live: int  # of the runs: those that have not ended
    last_ms: float | None  # newest arrival of a sample of any of them
    retention: Retention


class ProjectList(msgspec.Struct, frozen=True, kw_only=True):
    """The projects, the one with the newest activity first."""

    projects: list[ProjectJson]


class SourceFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What one source came to, from its start until now or its end. What can't be told is null."""

    id: str
    host: str
    rank: int | None
    main: bool
    state: str
    complete: bool  # false: the figures are of what is still kept, the oldest data are gone
    samples: int
    batches: int | None  # that have ended
    epochs: int | None  # that have begun
    duration_s: float | None  # from its start to its end, or to its newest sample
    batches_per_s: float | None  # between the first and the last batch, by the clock on the wall
    rss_mean_bytes: float | None  # over its batches; over ticks where it has none
    rss_max_bytes: int | None
    peak_bytes: int | None
    limit_bytes: int | None  # the last
    peak_share: float | None  # of the last limit
    growth_bytes_per_batch: float | None  # slope of RSS over batches, by weighted least squares over means of buckets
    minor_faults: int | None
    major_faults: int | None
    swap_in_bytes: int | None
    swap_out_bytes: int | None
    stall_share: float | None  # of the time between first and last batch: some task waited for memory (PSI "some")


class RunFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What a run came to, source by source: figures to compare runs by."""

    id: str
    project: str
    name: str
    tags: list[str]
    state: str
    created_ms: float
    ended_ms: float | None
    verdict: Verdict | None
    main_source: str | None  # its id: whose figures stand for the run
    sources: list[SourceFigures]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Runs side by side, in the order in which they were asked for."""

    runs: list[RunFigures]


class RunChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to change of a run; what is left out stays."""

    name: Label | msgspec.UnsetType = msgspec.UNSET
    tags: Annotated[list[Label], msgspec.Meta(max_length=100)] | msgspec.UnsetType = msgspec.UNSET


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error as RFC 9457 has it."""

    title: str
    status: int
    detail: str  # one line: what was given, what was expected, what to do
    type: str = "about:blank"
    parameter: str | None = None  # the name of the parameter or field that is wrong; null: it is none of these
