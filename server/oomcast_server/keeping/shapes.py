"""What is asked and answered about keeping data (pure). Times are milliseconds of the wall clock, missing is null."""

from __future__ import annotations

from typing import Annotated

import msgspec

from oomcast_server.rest.shapes import Label, Retention

__all__ = ["ProjectStorage", "PruneProgress", "PruneReport", "PruneRequest", "RetentionChange", "StorageInfo"]

Days = Annotated[int, msgspec.Meta(ge=0, le=36_500)]


class ProjectStorage(msgspec.Struct, frozen=True, kw_only=True):
    """One project's runs, and what they take."""

    name: str
    runs: int
    live: int
    samples: int  # that have come
    kept_samples: int  # rows that are still kept at full rate, events among them
    estimated_bytes: int
    retention: Retention  # what the project says itself
    full_days: int  # what is in force; 0: for ever
    rollup_days: int


class StorageInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The database on disk."""

    database_bytes: int
    unused_bytes: int | None  # of these, what the database uses before it grows; null: not known
    disk_free_bytes: int | None  # null: the database is on another machine
    full_days: int  # what projects keep that say nothing else; 0: for ever
    rollup_days: int
    projects: list[ProjectStorage]


class RetentionChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For how many days a project keeps data: 0 is for ever, null as the server says; what is left out stays."""

    full_days: Days | msgspec.UnsetType | None = msgspec.UNSET
    rollup_days: Days | msgspec.UnsetType | None = msgspec.UNSET


class PruneRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to remove that is too old."""

    project: Label | None = None  # null: of every project
    dry_run: bool = False  # only say what would go


class PruneReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is too old. The removal goes on behind this answer: see GET /api/prune."""

    dry_run: bool
    runs: int
    samples: int  # about so many rows at full rate; events among these seqs are counted, but stay
    rolled_samples: int  # so many samples lose their rollups
    estimated_bytes: int  # that the database can use again; its file gets no smaller


class PruneProgress(msgspec.Struct, frozen=True, kw_only=True):
    """What the removal of old data does now."""

    running: bool
    removed_rows: int  # since the server began, of every table
    finished_ms: float | None  # when the last round ended
    error: str | None  # why that one was broken off
