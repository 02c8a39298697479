"""Brings a database to this code's schema, and refuses one that it must not touch."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Set
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from oomcast_server.errors import StoreRefused

__all__ = ["check", "check_schema", "upgrade"]

_SCRIPTS = Path(__file__).with_name("migrations")
_OURS = {"runs", "sources"}  # tables that each version of the schema has
# An extension may put tables of its own into the schema.
_TABLES = """
    SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(current_schema()) AND relkind IN ('r', 'p') AND
    NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e')
"""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def check(path: Path) -> None:
    """Look at an existing SQLite file without writing to it.

    Raises:
        StoreRefused: it is no oomcast database, or one of a newer oomcast, or it can't be read.
    """
    if not path.exists() or path.stat().st_size == 0:
        return
    try:
        version, tables = _look(path)
    except sqlite3.Error as error:
        raise StoreRefused(
            f"{path} can't be read as an oomcast database ({error}): give another file with --store"
        ) from error
    _judge(version, tables, str(path), "SQLite database", "file")


def _look(path: Path) -> tuple[str | None, set[str]]:
    uri = f"{path.resolve().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "alembic_version" not in tables:
            return None, tables
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return (str(row[0]) if row else None), tables


def check_schema(connection: Connection, shown: str) -> None:
    """Look at the schema that a PostgreSQL connection works in; `shown` is what to call the database.

    Raises:
        StoreRefused: its tables are another program's, or a newer oomcast's, or it can't hold ours.
    """
    schema, encoding = connection.execute(sa.text("SELECT current_schema(), current_setting('server_encoding')")).one()
    if schema is None:
        raise StoreRefused(f"{shown} has no schema to work in: create the first one of its search_path")
    if encoding != "UTF8":
        raise StoreRefused(f"{shown} is encoded in {encoding}, expected UTF8: CREATE DATABASE ... ENCODING 'UTF8'")
    tables = set(connection.execute(sa.text(_TABLES)).scalars())
    has_version = "alembic_version" in tables
    version = connection.scalar(sa.text("SELECT version_num FROM alembic_version")) if has_version else None
    _judge(version, tables, f"{shown} (schema {schema})", "PostgreSQL database", "database")


def _judge(version: str | None, tables: Set[str], shown: str, what: str, other: str) -> None:
    if tables and (version is None or not tables >= _OURS):
        raise StoreRefused(f"{shown} is another program's {what}: give another {other} with --store")
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if version is not None and version not in known:
        raise StoreRefused(
            f"{shown} was written by a newer oomcast (schema {version}): "
            f"upgrade with `pip install -U oomcast[server]`, or give another {other} with --store"
        )


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Run the migrations that are missing up to `revision`, inside the transaction of `connection`."""
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
