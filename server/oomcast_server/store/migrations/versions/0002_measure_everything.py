"""More figures in each row; each source's own standing, verdict and status; a run's main source."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_SAMPLES = (
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
_GPUS = (
    "reserved_bytes",
    "allocated_bytes",
    "allocated_peak_bytes",
    "pool_bytes",
    "allocator_limit_bytes",
    "ecc_errors",
)
# What a run had of its last source; now each source has its own, and the run its main source's.
_NUMBERS = ("epoch", "epochs", "batch", "step", "steps_per_epoch")
_BYTES = ("rss_bytes", "peak_bytes", "swap_bytes", "limit_bytes", "working_set_bytes")
_TEXTS = ("limit_kind", "outcome_type", "outcome_message")
_FLAGS = ("hung", "critical")
_STANDING = ("phase", *_NUMBERS, *_BYTES, *_TEXTS)

_FINISHED, _FAILED, _DIED, _STOPPED = 1, 2, 3, 4  # states, as they are stored
_END = 11  # kind of the event that says how a source ended
_TICK = 1  # kind of a sample


def _add(table: str, *columns: sa.Column[object]) -> None:
    # One by one and at the end, which rewrites no row, however many there are.
    for column in columns:
        op.add_column(table, column)


def _numbers(*names: str) -> list[sa.Column[object]]:
    return [sa.Column(name, _BIG) for name in names]


def _texts(*names: str) -> list[sa.Column[object]]:
    return [sa.Column(name, sa.Text) for name in names]


def upgrade() -> None:
    """Add the columns, and fill those whose figures were stored elsewhere."""
    _add("samples", *_numbers(*_SAMPLES))
    _add("gpu_samples", *_numbers(*_GPUS))
    _add("sources", sa.Column("kind", sa.Text, nullable=False, server_default="callback"))
    _add("sources", *_numbers("local_rank", "world_size"), *_texts("launcher"))
    _add("sources", sa.Column("last_ns", _BIG, nullable=False, server_default="0"), *_numbers("ended_ns"))
    _add("sources", sa.Column("phase", sa.Integer), *_numbers(*_NUMBERS, *_BYTES), *_texts(*_TEXTS))
    _add("sources", *_texts("status", "verdict"))
    for name in _FLAGS:
        _add("sources", sa.Column(name, sa.Integer, nullable=False, server_default="0"))
    _add(
        "runs", *_numbers("main_source_pk"), *_texts("main_source", "verdict", "verdict_source", "tightest", "trouble")
    )
    op.create_index("samples_ticks", "samples", ["source_pk", "seq"], sqlite_where=sa.text(f"kind = {_TICK}"))
    _fill()


def _fill() -> None:
    op.execute(
        "UPDATE runs SET main_source_pk = (SELECT pk FROM sources WHERE run_pk = runs.pk "
        "ORDER BY batch_samples = 0, rank IS NULL, rank, pk LIMIT 1)"
    )
    op.execute("UPDATE runs SET main_source = (SELECT id FROM sources WHERE pk = runs.main_source_pk)")
    columns = ", ".join(_STANDING)
    op.execute(
        f"UPDATE sources SET ({columns}) = (SELECT {columns} FROM runs WHERE runs.pk = sources.run_pk) "  # noqa: S608
        "WHERE pk IN (SELECT main_source_pk FROM runs)"
    )
    op.execute("UPDATE sources SET last_ns = (SELECT last_ns FROM runs WHERE runs.pk = sources.run_pk)")
    newest_end = f"FROM events WHERE source_pk = sources.pk AND kind = {_END} ORDER BY seq DESC LIMIT 1"
    op.execute(
        f"UPDATE sources SET verdict = (SELECT detail {newest_end}), "  # noqa: S608
        f"ended_ns = (SELECT wall_ns {newest_end}) WHERE state != 0"
    )
    gravity = f"CASE state WHEN {_DIED} THEN 0 WHEN {_FAILED} THEN 1 WHEN {_STOPPED} THEN 2 ELSE 3 END"
    gravest = f"FROM sources WHERE run_pk = runs.pk AND verdict IS NOT NULL ORDER BY {gravity}, pk LIMIT 1"
    op.execute(
        f"UPDATE runs SET verdict = (SELECT verdict {gravest}), verdict_source = (SELECT id {gravest}) "  # noqa: S608
        "WHERE state != 0"
    )


def downgrade() -> None:
    """Remove what was added."""
    op.drop_index("samples_ticks", "samples")
    added = {
        "samples": _SAMPLES,
        "gpu_samples": _GPUS,
        "sources": (
            *("kind", "local_rank", "world_size", "launcher", "last_ns", "ended_ns", *_STANDING, "status", "verdict"),
            *_FLAGS,
        ),
        "runs": ("main_source_pk", "main_source", "verdict", "verdict_source", "tightest", "trouble"),
    }
    for table, names in added.items():
        for name in names:
            op.drop_column(table, name)
