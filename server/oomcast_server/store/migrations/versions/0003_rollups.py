"""Rollups, projects, terms, gaps, assessments, verdicts, alerts; the run leads the key of each row."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from oomcast_server.store import extensions

revision = "0003"
down_revision = "0002"

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_C = sa.Text(collation="C").with_variant(sa.Text(), "sqlite")

_SAMPLE_MARKS = ("kind", "wall_ns", "mono_ns", "phase")
_SAMPLE_PLACES = ("epoch", "batch", "step", "steps")
_METRICS = (
    "duration_ns",
    "rss_bytes",
    "peak_bytes",
    "shared_bytes",
    "swap_bytes",
    "minor_faults",
    "major_faults",
    "limit_bytes",
    "working_set_bytes",
    "anonymous_bytes",
    "file_bytes",
    "virtual_bytes",
    "children",
    "children_rss_bytes",
    "children_swap_bytes",
    "tree_pss_bytes",
    "psi_some_us",
    "psi_full_us",
    "swap_in_bytes",
    "swap_out_bytes",
    "refaults",
    "host_swap_bytes",
)
_SUMMED = (
    *("duration_ns", "minor_faults", "major_faults", "psi_some_us", "psi_full_us"),
    *("swap_in_bytes", "swap_out_bytes", "refaults", "rss_bytes", "working_set_bytes"),
)
_GPU_METRICS = (
    "used_bytes",
    "total_bytes",
    "process_bytes",
    "utilization_percent",
    "reserved_bytes",
    "allocated_bytes",
    "allocated_peak_bytes",
    "pool_bytes",
    "allocator_limit_bytes",
    "ecc_errors",
)
_TICK = 1  # kind of a sample
_GAP, _END = 10, 11  # kinds of events
# Samples on PostgreSQL lie in one partition for each week of their arrival, by the server's own clock: a client's may
# be anywhere.
_THIS_WEEK = "(floor(extract(epoch FROM now()) / 604800))::int"
_ROWS = ("samples", "gpu_samples", "events")


def _optional(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, _BIG) for name in names]


def _required(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, _BIG, nullable=False) for name in names]


def _texts(*names: str, nullable: bool = False) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=nullable) for name in names]


def _key(*names: str) -> list[sa.Column[int]]:
    """The run and the source, then what tells their rows apart."""
    small = ("level", "kind", "device")
    rest = [sa.Column(name, sa.Integer if name in small else _BIG, primary_key=True) for name in names]
    return [sa.Column("run_pk", _BIG, primary_key=True), sa.Column("source_pk", _BIG, primary_key=True), *rest]


def _flag(name: str, default: str) -> sa.Column[int]:
    return sa.Column(name, _BIG, nullable=False, server_default=default)


def upgrade() -> None:
    """Make the new tables, and give the old ones their new keys."""
    _mark_runs()
    _make_lists()
    _make_rollups()
    _make_told()
    _make_alerts()
    if _on_postgresql():  # where no version before this one was released, so that these tables are empty
        for name in _ROWS:
            op.drop_table(name)
        _make_rows()
        _use_extensions()
        return
    for name in _ROWS:
        op.rename_table(name, f"{name}_before")
    op.drop_index("samples_ticks", f"{_ROWS[0]}_before")
    _make_rows()
    for name in _ROWS:
        _move(name)
    _fill()


def _on_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _use_extensions() -> None:
    found = extensions.installed(op.get_bind())
    if extensions.TIMESCALE in found:
        extensions.make_hypertables(op.get_bind())
    elif extensions.CITUS in found:
        extensions.distribute(op.get_bind())


def _mark_runs() -> None:
    op.add_column("runs", _flag("version", "0"))
    op.add_column("sources", sa.Column("rolled", sa.Integer, nullable=False, server_default="0"))
    for name in ("full_from", "rollups_from"):
        op.add_column("sources", _flag(name, "1"))
    op.create_index("runs_by_created", "runs", ["created_ns", "pk"])
    for name in ("state", "project", "host"):
        op.create_index(f"runs_by_{name}", "runs", [name, "created_ns", "pk"])
    op.create_index("runs_by_last", "runs", ["last_ns"])


def _make_lists() -> None:
    op.create_table(
        "projects",
        sa.Column("name", sa.Text, primary_key=True),
        *_required("created_ns"),
        sa.Column("full_days", sa.Integer),
        sa.Column("rollup_days", sa.Integer),
    )
    op.create_table(
        "terms",
        sa.Column("kind", sa.Integer, primary_key=True),
        sa.Column("term", _C, primary_key=True),
        sa.Column("run_pk", _BIG, primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_index("terms_by_run", "terms", ["run_pk"])
    op.create_table(
        "leases",
        sa.Column("name", sa.Text, primary_key=True),
        *_texts("holder"),
        *_required("until_ns"),
    )
    op.create_table("purges", *_key(), sqlite_with_rowid=False)


def _make_rollups() -> None:
    extent = ("rows", "day", "last_seq", "wall_ns_min", "wall_ns_max")
    op.create_table(
        "rollups",
        *_key("level", "kind", "bucket"),
        *_required(*extent),
        *_optional("batch_min", "batch_max"),
        *_required("phase"),
        *_optional("epoch", "step", "steps"),
        *_optional(*(f"{name}_{kind}" for kind in ("min", "max", "last") for name in _METRICS)),
        *_optional(*(f"{name}_sum" for name in _SUMMED)),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "gpu_rollups",
        *_key("level", "bucket", "device"),
        *_required(*extent),
        *_optional("batch_min", "batch_max"),
        *_optional(*(f"{name}_{kind}" for kind in ("min", "max", "last") for name in _GPU_METRICS)),
        sqlite_with_rowid=False,
    )


def _make_told() -> None:
    op.create_table(
        "gaps",
        *_key("first_seq"),
        *_required("last_seq", "wall_ns"),
        *_optional("batch"),
        *_texts("reason"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "assessments",
        *_key("seq"),
        *_required("wall_ns"),
        *_optional("epoch", "batch"),
        *_texts("state"),
        *_texts("shape", "cause", nullable=True),
        sa.Column("probability", sa.Float),
        *_optional(*(f"eta_batches_{quantile}" for quantile in ("p05", "p50", "p95"))),
        *(sa.Column(f"eta_s_{quantile}", sa.Float) for quantile in ("p05", "p50", "p95")),
        *_texts("detail"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "verdicts",
        *_key(),
        *_required("wall_ns"),
        *_texts("ending", "grade", "text", "detail"),
        sqlite_with_rowid=False,
    )


def _make_alerts() -> None:
    op.create_table(
        "rules",
        sa.Column("pk", _BIG, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("enabled", sa.Integer, nullable=False, server_default="1"),
        *_texts("definition"),
        *_required("created_ns", "updated_ns"),
    )
    op.create_table(
        "episodes",
        sa.Column("pk", _BIG, primary_key=True),
        sa.Column("run_pk", _BIG, sa.ForeignKey("runs.pk", ondelete="CASCADE"), nullable=False),
        sa.Column("source_pk", _BIG),
        *_texts("rule", "dedup_key", "severity", "state"),
        *_required("started_ns"),
        *_optional("fired_ns", "resolved_ns"),
        *_texts("detail"),
    )
    still_open = sa.text("resolved_ns IS NULL")
    op.create_index(
        "episodes_open", "episodes", ["dedup_key"], unique=True, sqlite_where=still_open, postgresql_where=still_open
    )
    op.create_index("episodes_by_run", "episodes", ["run_pk", "started_ns"])
    op.create_table(
        "receivers",
        sa.Column("pk", _BIG, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        *_texts("kind", "url"),
        *_texts("secret", nullable=True),
        sa.Column("enabled", sa.Integer, nullable=False, server_default="1"),
        *_required("created_ns"),
    )
    op.create_table(
        "deliveries",
        sa.Column("pk", _BIG, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("episode_pk", _BIG, sa.ForeignKey("episodes.pk", ondelete="CASCADE"), nullable=False),
        sa.Column("receiver_pk", _BIG, sa.ForeignKey("receivers.pk", ondelete="CASCADE"), nullable=False),
        *_texts("state"),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        *_required("due_ns"),
        *_texts("claimed_by", nullable=True),
        sa.Column("status", sa.Integer),
        *_texts("body"),
        *_required("created_ns"),
    )
    op.create_index("deliveries_due", "deliveries", ["state", "due_ns"])


def _make_rows() -> None:
    own = _on_postgresql() and extensions.TIMESCALE not in extensions.installed(op.get_bind())
    parts: dict[str, Any] = {"postgresql_partition_by": "RANGE (week)"} if own else {}
    op.create_table(
        "samples",
        *_key("seq"),
        *_required(*_SAMPLE_MARKS),
        *_optional(*_SAMPLE_PLACES, *_METRICS),
        *_week(),
        sqlite_with_rowid=False,
        **parts,
    )
    ticks = sa.text(f"kind = {_TICK}")
    op.create_index(
        "samples_ticks", "samples", ["run_pk", "source_pk", "seq"], sqlite_where=ticks, postgresql_where=ticks
    )
    op.create_table(
        "gpu_samples", *_key("seq", "device"), *_optional(*_GPU_METRICS), *_week(), sqlite_with_rowid=False, **parts
    )
    op.create_table(
        "events",
        *_key("seq"),
        *_required("kind", "wall_ns", "mono_ns"),
        *_optional("epoch", "batch"),
        *_texts("detail"),
        sqlite_with_rowid=False,
    )


def _week() -> list[sa.Column[int]]:
    if not _on_postgresql():
        return []
    return [sa.Column("week", sa.Integer, primary_key=True, server_default=sa.text(_THIS_WEEK))]


def _move(name: str) -> None:
    """Bring the rows of a table into the one with the run in its key."""
    before = sa.inspect(op.get_bind()).get_columns(f"{name}_before")
    names = ", ".join(column["name"] for column in before)
    op.execute(
        f"INSERT INTO {name} (run_pk, {names}) SELECT sources.run_pk, {name}_before.* FROM sources "  # noqa: S608
        f"CROSS JOIN {name}_before ON {name}_before.source_pk = sources.pk "
        f"ORDER BY sources.run_pk, sources.pk, {name}_before.seq"
    )
    op.drop_table(f"{name}_before")


def _fill() -> None:
    op.execute("INSERT INTO projects (name, created_ns) SELECT project, min(created_ns) FROM runs GROUP BY project")
    op.execute(
        "INSERT INTO gaps (run_pk, source_pk, first_seq, last_seq, wall_ns, batch, reason) "  # noqa: S608
        "SELECT run_pk, source_pk, coalesce(json_extract(detail, '$.from'), seq), "
        "coalesce(json_extract(detail, '$.to'), seq), wall_ns, batch, coalesce(json_extract(detail, '$.reason'), '') "
        f"FROM events WHERE kind = {_GAP}"
    )
    op.execute(
        "INSERT INTO verdicts (run_pk, source_pk, wall_ns, ending, grade, text, detail) "
        "SELECT run_pk, pk, coalesce(ended_ns, last_ns), "
        "coalesce(json_extract(verdict, '$.ending'), json_extract(verdict, '$.outcome'), 'died'), "
        "coalesce(json_extract(verdict, '$.grade'), 'unknown'), coalesce(json_extract(verdict, '$.text'), ''), verdict "
        "FROM sources WHERE verdict IS NOT NULL"
    )


def downgrade() -> None:
    """Refused: rollups and alerts can't be kept in the older tables, and samples may have been pruned."""
    raise NotImplementedError("schema 0003 can't be taken back: restore the copy that was made before the upgrade")
