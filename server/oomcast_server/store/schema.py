"""The tables. Migrations make them; a test ties the two together.

States are integers (the enums of `oomcast.sample` and `State`). Times are nanoseconds of the wall clock. Samples, GPU
readings and events of a source are keyed by its seq and stored in that order, so that a range is read at one place.
"""

from __future__ import annotations

import enum
from typing import Any

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, MetaData, Table, Text, UniqueConstraint, text

from oomcast.sample import EVENT_COLUMNS, GPU_COLUMNS, SAMPLE_COLUMNS, Kind

__all__ = ["State", "events", "gpu_samples", "metadata", "runs", "samples", "sources"]


class State(enum.IntEnum):
    """How a run or source stands, as stored; "silent" is computed at reading. Never renumber."""

    LIVE = 0
    FINISHED = 1
    FAILED = 2
    DIED = 3
    STOPPED = 4


metadata = MetaData()

# SQLite makes only a column declared INTEGER the row's own key; PostgreSQL needs BIGINT for what is counted in ns.
_Big = BigInteger().with_variant(Integer(), "sqlite")
_REQUIRED = {"kind", "wall_ns", "mono_ns", "phase"}


def _figure(name: str) -> Column[int]:
    return Column(name, _Big, nullable=name not in _REQUIRED)


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
    UniqueConstraint("run_pk", "id"),
)


def _source_key() -> Column[int]:
    return Column("source_pk", _Big, ForeignKey("sources.pk", ondelete="CASCADE"), primary_key=True)


samples = Table(
    "samples",
    metadata,
    _source_key(),
    Column("seq", _Big, primary_key=True),
    *(_figure(name) for name in SAMPLE_COLUMNS[1:]),
    # Ticks are few among many batches, and some figures come with them only.
    Index("samples_ticks", "source_pk", "seq", sqlite_where=text(f"kind = {Kind.TICK.value}")),
    sqlite_with_rowid=False,
)

gpu_samples = Table(
    "gpu_samples",
    metadata,
    _source_key(),
    Column("seq", _Big, primary_key=True),
    Column("device", Integer, primary_key=True),
    *(_figure(name) for name in GPU_COLUMNS[2:]),
    sqlite_with_rowid=False,
)

events = Table(
    "events",
    metadata,
    _source_key(),
    Column("seq", _Big, primary_key=True),
    *(_figure(name) for name in EVENT_COLUMNS[1:-1]),
    Column("detail", Text, nullable=False),  # JSON object
    sqlite_with_rowid=False,
)
