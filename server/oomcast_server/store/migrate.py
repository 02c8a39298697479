"""Brings a database to this code's schema, and refuses one that it must not touch."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from oomcast_server.errors import StoreRefused

__all__ = ["check", "upgrade"]

_SCRIPTS = Path(__file__).with_name("migrations")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def check(path: Path) -> None:
    """Look at an existing file without writing to it.

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
    if version is None and tables:
        raise StoreRefused(f"{path} is another program's SQLite database: give another file with --store")
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if version is not None and version not in known:
        raise StoreRefused(
            f"{path} was written by a newer oomcast (schema {version}): "
            "upgrade with `pip install -U oomcast[server]`, or give another file with --store"
        )


def _look(path: Path) -> tuple[str | None, set[str]]:
    uri = f"{path.resolve().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "alembic_version" not in tables:
            return None, tables
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return (str(row[0]) if row else None), tables


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Run the migrations that are missing up to `revision`, inside the transaction of `connection`."""
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
