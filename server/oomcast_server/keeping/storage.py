"""What the data take on disk, and whose they are: an estimate, since rows of many runs share the database's pages."""

from __future__ import annotations

import dataclasses
import shutil
from collections import defaultdict
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection

from oomcast_server.store import schema
from oomcast_server.store.base import Store
from oomcast_server.store.schema import State

__all__ = ["Kept", "ProjectUse", "Storage", "read_storage"]

_PAGE = 5_000
# What its rollups take of what a sample takes: measured on SQLite, 24.7 of 114 bytes where there is no GPU, 36.8 of 158
# where there is one.
_ROLLED_SHARE = 0.22
_MOST_BYTES_PER_SAMPLE = 1_000  # a small database is mostly the room that it has reserved


@dataclasses.dataclass
class Kept:
    """How much is kept, in rows: samples and events at full rate, and how many of them have rollups."""

    full: int = 0
    rolled: int = 0

    @property
    def weight(self) -> float:
        """In samples' worth of bytes."""
        return self.full + self.rolled * _ROLLED_SHARE


@dataclasses.dataclass
class ProjectUse:
    """A project and what it keeps."""

    name: str
    full_days: int | None = None
    rollup_days: int | None = None
    runs: int = 0
    live: int = 0
    samples: int = 0  # that have come, kept or not
    kept: Kept = dataclasses.field(default_factory=Kept)


@dataclasses.dataclass(frozen=True)
class Storage:
    """The database as a whole, and project by project."""

    database_bytes: int
    unused_bytes: int | None
    """Of these: pages that hold nothing now and are used before the file grows; None where the engine can't say."""
    disk_free_bytes: int | None
    """On the database's file system; None where it is on another machine."""
    projects: list[ProjectUse]

    def estimate(self, kept: Kept) -> int:
        """What the database would take less without this."""
        used = self.database_bytes - (self.unused_bytes or 0)
        whole = sum(project.kept.weight for project in self.projects)
        return round(min(used / whole, _MOST_BYTES_PER_SAMPLE) * kept.weight) if whole else 0


def read_storage(store: Store, folder: Path | None) -> Storage:
    """Look at the database, whose file is in `folder` (None: on another machine).

    Raises:
        StoreUnavailable: the database can't be read.
    """
    with store.read() as connection:
        projects = _projects(connection)
        _count_runs(connection, projects)
        after = 0
        while (last := _count_kept(connection, projects, after)) is not None:
            after = last
        unused = _unused_bytes(connection)
    free = shutil.disk_usage(folder).free if folder is not None else None
    shown = [use for use in projects.values() if use.runs or use.full_days is not None or use.rollup_days is not None]
    return Storage(store.size_bytes(), unused, free, sorted(shown, key=lambda use: use.name))


class _Projects(defaultdict[str, ProjectUse]):
    def __missing__(self, name: str) -> ProjectUse:
        self[name] = ProjectUse(name)
        return self[name]


def _projects(connection: Connection) -> _Projects:
    table = schema.projects
    found = _Projects()
    for name, full_days, rollup_days in connection.execute(
        sa.select(table.c.name, table.c.full_days, table.c.rollup_days)
    ):
        found[name] = ProjectUse(name, full_days, rollup_days)
    return found


def _count_runs(connection: Connection, projects: _Projects) -> None:
    runs = schema.runs
    live = sa.func.sum(sa.case((runs.c.state == int(State.LIVE), 1), else_=0))
    query = sa.select(runs.c.project, sa.func.count(), live, sa.func.sum(runs.c.samples)).group_by(runs.c.project)
    for name, count, lives, samples in connection.execute(query):
        use = projects[name]
        use.runs, use.live, use.samples = count, int(lives), int(samples)


def _count_kept(connection: Connection, projects: _Projects, after: int) -> int | None:
    """Count some sources; the last one's pk, or None when there are no more."""
    runs, sources = schema.runs, schema.sources
    columns = (sources.c.pk, runs.c.project, sources.c.watermark, sources.c.full_from, sources.c.rollups_from)
    query = (
        sa.select(*columns).select_from(sources.join(runs, sources.c.run_pk == runs.c.pk)).where(sources.c.pk > after)
    )
    page = connection.execute(query.order_by(sources.c.pk).limit(_PAGE)).all()
    for _, name, watermark, full_from, rollups_from in page:
        kept = projects[name].kept
        kept.full += watermark + 1 - full_from
        kept.rolled += watermark + 1 - rollups_from
    return page[-1][0] if page else None


def _unused_bytes(connection: Connection) -> int | None:
    if connection.dialect.name != "sqlite":
        return None
    free, size = (
        connection.execute(sa.text(f"PRAGMA {name}")).scalar_one() for name in ("freelist_count", "page_size")
    )
    return int(free) * int(size)
