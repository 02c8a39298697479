"""Citus and TimescaleDB, by stand-ins that record the calls to their functions: the real ones can't be had here."""

from __future__ import annotations

import contextlib

import pytest
import sqlalchemy as sa
from tests.server.parts import a_sample
from tests.server.postgres import Cluster, Databases
from tests.server.stores import open_at

from oomcast_server.store import extensions, partitions
from oomcast_server.store.schema import ROWS, samples

CITUS = """
CREATE TABLE extension_calls (at serial, call text);
CREATE FUNCTION create_distributed_table(table_name regclass, distribution_column text,
    distribution_type text DEFAULT 'hash', colocate_with text DEFAULT 'default') RETURNS void LANGUAGE sql AS $$
    INSERT INTO extension_calls (call) VALUES (concat_ws(' ', table_name, distribution_column, colocate_with)) $$;
"""
TIMESCALE = """
CREATE TABLE extension_calls (at serial, call text);
CREATE TYPE dimension_info AS (column_name name, width bigint);
CREATE FUNCTION by_range(column_name name, partition_interval anyelement) RETURNS dimension_info LANGUAGE sql AS $$
    SELECT ROW(column_name, partition_interval)::dimension_info $$;
CREATE FUNCTION create_hypertable(relation regclass, dimension dimension_info,
    create_default_indexes boolean DEFAULT true) RETURNS void LANGUAGE sql AS $$
    INSERT INTO extension_calls (call)
    VALUES (concat_ws(' ', 'hypertable', relation, dimension, create_default_indexes)) $$;
CREATE FUNCTION set_integer_now_func(hypertable regclass, integer_now_func regproc) RETURNS void LANGUAGE sql AS $$
    INSERT INTO extension_calls (call) VALUES (concat_ws(' ', 'now', hypertable, integer_now_func)) $$;
CREATE FUNCTION drop_chunks(relation regclass, older_than integer) RETURNS SETOF text LANGUAGE sql AS $$
    INSERT INTO extension_calls (call) VALUES (concat_ws(' ', 'drop', relation, older_than)) RETURNING call $$;
"""


def install(cluster: Cluster, postgres: Databases, url: str, name: str, script: str) -> None:
    """Put an extension where only this cluster looks, and install it in the database at `url`."""
    if postgres.execute("SHOW server_version_num") < [("180000",)]:
        pytest.skip("needs PostgreSQL 18, which looks for extensions in other places too")
    folder = cluster.folder / "extensions" / "extension"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.control").write_text("default_version = '1.0'\nrelocatable = true\n")
    (folder / f"{name}--1.0.sql").write_text(script)
    postgres.execute(f"SET extension_control_path = '{folder.parent}'; CREATE EXTENSION {name}", url)


def calls(postgres: Databases, url: str) -> list[object]:
    return [call for (call,) in postgres.execute("SELECT call FROM extension_calls ORDER BY at", url)]


def test_citus_gets_every_table_of_rows_by_run(
    own_postgres: Cluster, postgres: Databases, empty_postgres_url: str
) -> None:
    install(own_postgres, postgres, empty_postgres_url, "citus", CITUS)
    with contextlib.closing(open_at(empty_postgres_url)) as store, store.write() as connection:
        store.insert(connection, samples, [((1, 1), [a_sample(1)])])
        assert len(partitions.weeks(connection)) == 5
    made = calls(postgres, empty_postgres_url)
    assert made[0] == "samples run_pk default"
    assert set(made[1:]) == {f"{table.name} run_pk samples" for table in ROWS if table is not samples}
    open_at(empty_postgres_url).close()
    assert calls(postgres, empty_postgres_url) == made


def test_timescale_keeps_the_weeks(own_postgres: Cluster, postgres: Databases, empty_postgres_url: str) -> None:
    install(own_postgres, postgres, empty_postgres_url, "timescaledb", TIMESCALE)
    # Compression is set by options that only the real one knows.
    name = sa.make_url(empty_postgres_url).database
    postgres.execute(f"ALTER DATABASE {name} SET timescaledb.license = 'apache'")
    with contextlib.closing(open_at(empty_postgres_url)) as store, store.write() as connection:
        store.insert(connection, samples, [((1, 1), [a_sample(1)])])
        assert partitions.weeks(connection) == []
        assert partitions.make_ahead(connection, 1) == []
        assert partitions.drop_before(connection, 2900) == ["drop samples 2900", "drop gpu_samples 2900"]
        assert connection.scalar(sa.text("SELECT week = oomcast_week() FROM samples")) is True
    assert calls(postgres, empty_postgres_url)[:4] == [
        "hypertable samples (week,1) f",
        "now samples oomcast_week",
        "hypertable gpu_samples (week,1) f",
        "now gpu_samples oomcast_week",
    ]


def test_timescale_compresses_a_source_s_rows_together() -> None:
    enabled, policy = extensions.compression("gpu_samples")
    assert enabled == (
        "ALTER TABLE gpu_samples SET (timescaledb.compress, timescaledb.compress_segmentby = 'run_pk, source_pk', "
        "timescaledb.compress_orderby = 'seq, device')"
    )
    assert policy == "SELECT add_compression_policy('gpu_samples', BIGINT '1')"


def test_a_plain_postgresql_has_neither(postgres_url: str) -> None:
    with contextlib.closing(open_at(postgres_url)) as store, store.read() as connection:
        assert extensions.installed(connection) == frozenset()
