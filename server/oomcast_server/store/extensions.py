"""Citus and TimescaleDB, used where the database has them when its tables are made.

Citus spreads the tables of rows over its workers by run; TimescaleDB keeps samples in chunks of a week, and compresses
those that are over. Written after their documentation (Citus 10 to 13, TimescaleDB 2.13 to 2.2x) and tested with
stand-ins that record the calls: **neither was tried on the real extension.** An extension that is installed later
changes nothing.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

__all__ = ["CITUS", "TIMESCALE", "WEEKLY", "compression", "distribute", "drop_chunks", "installed", "make_hypertables"]

CITUS = "citus"
TIMESCALE = "timescaledb"
WEEKLY = ("samples", "gpu_samples")
"""Tables that are kept by week."""

_ROWS = (*WEEKLY, "rollups", "gpu_rollups", "events", "gaps", "assessments", "verdicts")
_WEEK = "floor(extract(epoch FROM now()) / 604800)::int"


def installed(connection: Connection) -> frozenset[str]:
    """Which of the two this database has."""
    names = sa.text("SELECT extname FROM pg_extension WHERE extname IN ('citus', 'timescaledb')")
    return frozenset(connection.execute(names).scalars())


def distribute(connection: Connection) -> None:
    """Spread the tables of rows, just made, over Citus's workers, so that one run's rows lie on one of them."""
    # One connection to each worker: the same transaction has made these tables, and will attach their partitions.
    connection.execute(sa.text("SET LOCAL citus.multi_shard_modify_mode TO 'sequential'"))
    first, *others = _ROWS
    connection.execute(sa.text(f"SELECT create_distributed_table('{first}', 'run_pk')"))
    for table in others:
        connection.execute(sa.text(f"SELECT create_distributed_table('{table}', 'run_pk', colocate_with => '{first}')"))


def make_hypertables(connection: Connection) -> None:
    """Make the weekly tables, just made and not partitioned, TimescaleDB's; compressed where its licence has that."""
    # It can't know by itself what a number of weeks is now.
    connection.execute(
        sa.text(f"CREATE FUNCTION oomcast_week() RETURNS integer LANGUAGE sql STABLE AS 'SELECT {_WEEK}'")
    )
    free = connection.scalar(sa.text("SELECT current_setting('timescaledb.license', true)")) == "apache"
    for table in WEEKLY:
        connection.execute(
            sa.text(f"SELECT create_hypertable('{table}', by_range('week', 1), create_default_indexes => false)")
        )
        connection.execute(sa.text(f"SELECT set_integer_now_func('{table}', 'oomcast_week')"))
        if not free:
            for statement in compression(table):
                connection.execute(sa.text(statement))


def compression(table: str) -> tuple[str, str]:
    """What has TimescaleDB compress the weeks of `table` that are over, a source's rows with each other."""
    order = "seq" if table == "samples" else "seq, device"
    return (
        f"ALTER TABLE {table} SET (timescaledb.compress, "
        f"timescaledb.compress_segmentby = 'run_pk, source_pk', timescaledb.compress_orderby = '{order}')",
        # Rows come by the database's own clock: once a week is over, nothing is added to it.
        f"SELECT add_compression_policy('{table}', BIGINT '1')",
    )


def drop_chunks(connection: Connection, table: str, week: int) -> list[str]:
    """Have TimescaleDB drop what holds nothing of `week` or later: the names of what was dropped."""
    dropped = sa.text("SELECT drop_chunks(CAST(:name AS regclass), older_than => CAST(:week AS integer))")
    return [str(name) for name in connection.execute(dropped, {"name": table, "week": week}).scalars()]
