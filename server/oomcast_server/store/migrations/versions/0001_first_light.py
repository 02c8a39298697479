"""Runs, sources, samples, GPU samples and events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# Written out, not taken from the schema module: a migration must stay what it was when it was released.
_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _optional(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, _BIG) for name in names]


def _required(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, _BIG, nullable=False) for name in names]


def _texts(*names: str, nullable: bool = False) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=nullable) for name in names]


def _source_key() -> sa.Column[int]:
    return sa.Column("source_pk", _BIG, sa.ForeignKey("sources.pk", ondelete="CASCADE"), primary_key=True)


def upgrade() -> None:
    """Make the tables."""
    _make_runs()
    _make_sources()
    _make_rows()


def _make_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("pk", _BIG, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        *_texts("project", "name", "tags", "host"),
        *_required("pid", "sources"),
        sa.Column("state", sa.Integer, nullable=False),
        *_required("created_ns", "last_ns"),
        *_optional("ended_ns"),
        *_required("samples"),
        sa.Column("phase", sa.Integer),
        *_optional("epoch", "epochs", "batch", "step", "steps_per_epoch"),
        *_optional("rss_bytes", "peak_bytes", "swap_bytes", "limit_bytes", "working_set_bytes"),
        *_texts("limit_kind", "outcome_type", "outcome_message", nullable=True),
    )


def _make_sources() -> None:
    op.create_table(
        "sources",
        sa.Column("pk", _BIG, primary_key=True),
        sa.Column("run_pk", _BIG, sa.ForeignKey("runs.pk", ondelete="CASCADE"), nullable=False),
        *_texts("id", "host"),
        *_required("pid"),
        *_optional("rank"),
        *_texts("user", "command", "python", "platform", "backend", "gpu_note", nullable=True),
        *_texts("gpus"),
        *_required("started_ns"),
        sa.Column("state", sa.Integer, nullable=False),
        *_required("watermark", "batch_samples"),
        sa.UniqueConstraint("run_pk", "id"),
    )


def _make_rows() -> None:
    op.create_table(
        "samples",
        _source_key(),
        sa.Column("seq", _BIG, primary_key=True),
        *_required("kind", "wall_ns", "mono_ns", "phase"),
        *_optional("epoch", "batch", "step", "steps", "duration_ns"),
        *_optional("rss_bytes", "peak_bytes", "shared_bytes", "swap_bytes", "minor_faults", "major_faults"),
        *_optional("limit_bytes", "working_set_bytes"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "gpu_samples",
        _source_key(),
        sa.Column("seq", _BIG, primary_key=True),
        sa.Column("device", sa.Integer, primary_key=True),
        *_optional("used_bytes", "total_bytes", "process_bytes", "utilization_percent"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "events",
        _source_key(),
        sa.Column("seq", _BIG, primary_key=True),
        *_required("kind", "wall_ns", "mono_ns"),
        *_optional("epoch", "batch"),
        *_texts("detail"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Remove the tables."""
    for name in ("events", "gpu_samples", "samples", "sources", "runs"):
        op.drop_table(name)
