"""The tables, for SQLite and PostgreSQL.

Figures are integers in the unit that their name says (bytes, ns, µs), NULL where they could not be measured; times are
nanoseconds of the wall clock. A run comes first in the key of every table of rows, so that what belongs together lies
together, on one disk as on one shard; these tables have no foreign keys, which would cost each row a look.
"""

from __future__ import annotations

import enum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from oomcast.sample import EVENT_COLUMNS, GPU_COLUMNS, SAMPLE_COLUMNS, Kind

__all__ = [
    "COUNTED",
    "GPU_METRICS",
    "METRICS",
    "OF_RUNS",
    "ROWS",
    "SUMMED",
    "State",
    "Term",
    "assessments",
    "deliveries",
    "episodes",
    "events",
    "gaps",
    "gpu_rollups",
    "gpu_samples",
    "leases",
    "metadata",
    "projects",
    "purges",
    "receivers",
    "rollups",
    "rules",
    "runs",
    "samples",
    "sources",
    "terms",
    "verdicts",
]


class State(enum.IntEnum):
    """How a run or source stands, as stored; "silent" is computed at reading. Never renumber."""

    LIVE = 0
    FINISHED = 1
    FAILED = 2
    DIED = 3
    STOPPED = 4


class Term(enum.IntEnum):
    """What a row of `terms` is found by. Never renumber."""

    WORD = 0  # lower case, of its name, id, project, host, command or tags
    TAG = 1  # exactly as it was given


METRICS: tuple[str, ...] = ("duration_ns", *SAMPLE_COLUMNS[SAMPLE_COLUMNS.index("rss_bytes") :])
"""What a sample measures."""

COUNTED: tuple[str, ...] = (
    *("duration_ns", "minor_faults", "major_faults"),
    *("psi_some_us", "psi_full_us", "swap_in_bytes", "swap_out_bytes", "refaults"),
)
"""Metrics that count over the span since the sample of the same kind before: their sums mean something."""

SUMMED: tuple[str, ...] = (*COUNTED, "rss_bytes", "working_set_bytes")
"""Metrics whose sum a rollup keeps; with its number of rows it gives the mean."""

GPU_METRICS: tuple[str, ...] = GPU_COLUMNS[2:]
"""What a GPU reading measures."""

metadata = MetaData()

# SQLite makes only a column declared INTEGER the row's own key; PostgreSQL needs BIGINT for what is counted in ns.
_Big = BigInteger().with_variant(Integer(), "sqlite")
_REQUIRED = {"kind", "wall_ns", "mono_ns", "phase"}


def _figure(name: str) -> Column[int]:
    return Column(name, _Big, nullable=name not in _REQUIRED)


def _count(name: str) -> Column[int]:
    return Column(name, _Big, nullable=False)


def _word(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _standing() -> list[Column[Any]]:
    """What is known last of a source, and of a run by its main source."""
    numbers = ("epoch", "epochs", "batch", "step", "steps_per_epoch")
    sizes = ("rss_bytes", "peak_bytes", "swap_bytes", "limit_bytes", "working_set_bytes")
    texts = ("limit_kind", "outcome_type", "outcome_message")
    return [
        Column("phase", Integer),
        *(_figure(name) for name in (*numbers, *sizes)),
        *(Column(name, Text) for name in texts),
    ]


projects = Table(
    "projects",
    metadata,
    Column("name", Text, primary_key=True),
    _count("created_ns"),
    Column("full_days", Integer),  # samples are kept for so long; NULL: as the server's settings say
    Column("rollup_days", Integer),  # and rollups for so long
)

runs = Table(
    "runs",
    metadata,
    Column("pk", _Big, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("tags", Text, nullable=False),  # JSON list
    Column("host", Text, nullable=False),  # of the main source, and so the pid
    Column("pid", _Big, nullable=False),
    Column("sources", _Big, nullable=False),
    Column("state", Integer, nullable=False),
    Column("created_ns", _Big, nullable=False),  # the first source's own start
    Column("last_ns", _Big, nullable=False),  # last arrival, by the server's clock
    Column("ended_ns", _Big),
    Column("samples", _Big, nullable=False),
    *_standing(),
    Column("main_source_pk", _Big),  # whose figures stand above; no foreign key: the tables would need each other
    Column("main_source", Text),  # its id
    Column("verdict", Text),  # JSON object: the END event's detail, the gravest of its sources'
    Column("verdict_source", Text),  # whose it is
    Column("tightest", Text),  # JSON: the source with the least headroom, where that is not the main one
    Column("trouble", Text),  # "hung" or "critical", of a source that lives
    Column("version", _Big, nullable=False, server_default="0"),  # counts the changes of the run and of its sources
    Index("runs_by_created", "created_ns", "pk"),
    Index("runs_by_state", "state", "created_ns", "pk"),
    Index("runs_by_project", "project", "created_ns", "pk"),
    Index("runs_by_host", "host", "created_ns", "pk"),
    Index("runs_by_last", "last_ns"),
)

terms = Table(
    "terms",
    metadata,
    Column("kind", Integer, primary_key=True),
    Column("term", Text(collation="C").with_variant(Text(), "sqlite"), primary_key=True),
    Column("run_pk", _Big, primary_key=True),
    Index("terms_by_run", "run_pk"),
    sqlite_with_rowid=False,
)

sources = Table(
    "sources",
    metadata,
    Column("pk", _Big, primary_key=True),
    Column("run_pk", _Big, ForeignKey("runs.pk", ondelete="CASCADE"), nullable=False),
    Column("id", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", _Big, nullable=False),
    Column("rank", _Big),
    *(Column(name, Text) for name in ("user", "command", "python", "platform", "backend", "gpu_note")),
    Column("gpus", Text, nullable=False),  # JSON list
    Column("started_ns", _Big, nullable=False),
    Column("state", Integer, nullable=False),
    Column("watermark", _Big, nullable=False),  # everything up to this seq is stored
    Column("batch_samples", _Big, nullable=False),
    Column("kind", Text, nullable=False, server_default="callback"),
    Column("local_rank", _Big),
    Column("world_size", _Big),
    Column("launcher", Text),
    Column("last_ns", _Big, nullable=False, server_default="0"),  # last arrival, by the server's clock
    Column("ended_ns", _Big),
    *_standing(),
    Column("status", Text),  # JSON of the newest `wire.Status`
    Column("verdict", Text),  # JSON object: the END event's detail
    Column("hung", Integer, nullable=False, server_default="0"),  # 0 or 1
    Column("critical", Integer, nullable=False, server_default="0"),
    Column("rolled", Integer, nullable=False, server_default="0"),  # 0: its rollups are still to be made
    Column("full_from", _Big, nullable=False, server_default="1"),  # samples before this seq were pruned
    Column("rollups_from", _Big, nullable=False, server_default="1"),  # and rollups before this one
    UniqueConstraint("run_pk", "id"),
)


def _key() -> list[Column[int]]:
    return [Column("run_pk", _Big, primary_key=True), Column("source_pk", _Big, primary_key=True)]


samples = Table(
    "samples",
    metadata,
    *_key(),
    Column("seq", _Big, primary_key=True),
    *(_figure(name) for name in SAMPLE_COLUMNS[1:]),
    # Ticks are few among many batches, and some figures come with them only.
    Index(
        "samples_ticks",
        *("run_pk", "source_pk", "seq"),
        sqlite_where=text(f"kind = {Kind.TICK.value}"),
        postgresql_where=text(f"kind = {Kind.TICK.value}"),
    ),
    sqlite_with_rowid=False,
)

gpu_samples = Table(
    "gpu_samples",
    metadata,
    *_key(),
    Column("seq", _Big, primary_key=True),
    Column("device", Integer, primary_key=True),
    *(_figure(name) for name in GPU_METRICS),
    sqlite_with_rowid=False,
)

events = Table(
    "events",
    metadata,
    *_key(),
    Column("seq", _Big, primary_key=True),
    *(_figure(name) for name in EVENT_COLUMNS[1:-1]),
    Column("detail", Text, nullable=False),  # JSON object
    sqlite_with_rowid=False,
)

gaps = Table(
    "gaps",
    metadata,
    *_key(),
    Column("first_seq", _Big, primary_key=True),
    _count("last_seq"),
    _count("wall_ns"),
    Column("batch", _Big),  # the last that had ended before
    _word("reason"),
    sqlite_with_rowid=False,
)


def _extent() -> list[Column[int]]:
    """Where the rows of a bucket stand: by the server's day of their arrival, and by what a chart may ask for."""
    names = ("rows", "day", "last_seq", "wall_ns_min", "wall_ns_max")
    return [*(_count(name) for name in names), _figure("batch_min"), _figure("batch_max")]


def _spans(names: tuple[str, ...]) -> list[Column[int]]:
    return [_figure(f"{name}_{kind}") for kind in ("min", "max", "last") for name in names]


rollups = Table(
    "rollups",
    metadata,
    *_key(),
    Column("level", Integer, primary_key=True),  # from 1: a bucket of level L spans 16 · 4^(L-1) seqs
    Column("kind", Integer, primary_key=True),  # of its samples
    Column("bucket", _Big, primary_key=True),  # from 0: it begins at seq bucket · width + 1
    *_extent(),
    _count("phase"),  # of its last sample, and so the next three
    *(_figure(name) for name in ("epoch", "step", "steps")),
    *_spans(METRICS),
    *(_figure(f"{name}_sum") for name in SUMMED),
    sqlite_with_rowid=False,
)

gpu_rollups = Table(
    "gpu_rollups",
    metadata,
    *_key(),
    Column("level", Integer, primary_key=True),
    Column("bucket", _Big, primary_key=True),
    Column("device", Integer, primary_key=True),
    *_extent(),
    *_spans(GPU_METRICS),
    sqlite_with_rowid=False,
)

assessments = Table(
    "assessments",
    metadata,
    *_key(),
    Column("seq", _Big, primary_key=True),
    _count("wall_ns"),
    _figure("epoch"),
    _figure("batch"),
    _word("state"),  # steady, growing, at_risk, critical
    Column("shape", Text),
    Column("cause", Text),
    Column("probability", Float),  # of running out before the planned end
    *(_figure(f"eta_batches_{quantile}") for quantile in ("p05", "p50", "p95")),
    *(Column(f"eta_s_{quantile}", Float) for quantile in ("p05", "p50", "p95")),
    Column("detail", Text, nullable=False),  # JSON object: all that was said
    sqlite_with_rowid=False,
)

verdicts = Table(
    "verdicts",
    metadata,
    *_key(),
    _count("wall_ns"),
    _word("ending"),  # "finished", "oom killed", ... as `shapes.Verdict` has it
    _word("grade"),  # confirmed, probable, unknown
    _word("text"),
    Column("detail", Text, nullable=False),  # JSON object: the evidence with all the rest
    sqlite_with_rowid=False,
)

rules = Table(
    "rules",
    metadata,
    Column("pk", _Big, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("enabled", Integer, nullable=False, server_default="1"),
    Column("definition", Text, nullable=False),  # JSON object
    _count("created_ns"),
    _count("updated_ns"),
)

episodes = Table(
    "episodes",
    metadata,
    Column("pk", _Big, primary_key=True),
    Column("run_pk", _Big, ForeignKey("runs.pk", ondelete="CASCADE"), nullable=False),
    Column("source_pk", _Big),  # NULL: of the whole run
    _word("rule"),  # its name
    _word("dedup_key"),
    _word("severity"),  # notice, warning, critical
    _word("state"),  # pending, firing, resolved
    _count("started_ns"),
    Column("fired_ns", _Big),
    Column("resolved_ns", _Big),
    Column("detail", Text, nullable=False),  # JSON object
    # However many replicas look at a run, a rule has one open episode on it.
    Index(
        "episodes_open",
        "dedup_key",
        unique=True,
        sqlite_where=text("resolved_ns IS NULL"),
        postgresql_where=text("resolved_ns IS NULL"),
    ),
    Index("episodes_by_run", "run_pk", "started_ns"),
)

receivers = Table(
    "receivers",
    metadata,
    Column("pk", _Big, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    _word("kind"),  # standard, slack, discord, teams, pagerduty, apprise
    _word("url"),
    Column("secret", Text),  # written, never read back by anyone but the sender
    Column("enabled", Integer, nullable=False, server_default="1"),
    _count("created_ns"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("pk", _Big, primary_key=True),
    Column("id", Text, nullable=False, unique=True),  # the webhook-id, the same for every attempt
    Column("episode_pk", _Big, ForeignKey("episodes.pk", ondelete="CASCADE"), nullable=False),
    Column("receiver_pk", _Big, ForeignKey("receivers.pk", ondelete="CASCADE"), nullable=False),
    _word("state"),  # waiting, sent, dead
    Column("attempts", Integer, nullable=False, server_default="0"),
    _count("due_ns"),  # not before; while an attempt runs, when another one may claim it
    Column("claimed_by", Text),
    Column("status", Integer),  # of the last answer
    Column("body", Text, nullable=False),
    _count("created_ns"),
    Index("deliveries_due", "state", "due_ns"),
)

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),  # "run:17", "janitor"
    _word("holder"),
    _count("until_ns"),
)

purges = Table(
    "purges",
    metadata,
    *_key(),
    sqlite_with_rowid=False,
)

ROWS: tuple[Table, ...] = (samples, gpu_samples, rollups, gpu_rollups, events, gaps, assessments, verdicts)
"""What is kept of a source, row by row; keyed by run and source."""

OF_RUNS: tuple[Table, ...] = (sources, terms)
"""What goes with a run at once when it is deleted."""
