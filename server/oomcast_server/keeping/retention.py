"""What is too old to be kept, and its removal in small steps.

Age is counted in days of the server since a row's arrival, which the finest rollups have. A source's samples go from
its first seq up to the end of the last finished bucket of level 1 that is too old, so that its rollups cover all that
is gone; then, later, its rollups. What is left of a bucket that never was finished stays until everything goes. Events,
gaps, verdicts and the run itself stay: what was said of a death is small, and what one looks for years later.

Each step removes some rows and moves `full_from` or `rollups_from` of the source along, in one transaction: whenever it
ends, these say what is there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row, Table

from oomcast.sample import Kind
from oomcast_server.intake.records import day_of
from oomcast_server.rollups.pyramids import TOP_LEVEL, width
from oomcast_server.store import schema
from oomcast_server.store.base import Store

__all__ = ["Part", "Policy", "drop_rollups", "drop_samples", "parts"]

_PAGE = 500
_WIDTH = width(1)


@dataclasses.dataclass(frozen=True)
class Policy:
    """For how many days data are kept; 0 is for ever."""

    full_days: int
    rollup_days: int

    def of_project(self, full_days: int | None, rollup_days: int | None) -> Policy:
        """The policy of a project that says so much itself. Rollups are never kept for less time than samples."""
        full = self.full_days if full_days is None else full_days
        rollup = self.rollup_days if rollup_days is None else rollup_days
        return Policy(full, 0 if 0 in (full, rollup) else max(full, rollup))


@dataclasses.dataclass(frozen=True)
class Part:
    """What of one source is too old: seqs from ... through, ends inclusive; nothing where through < from."""

    run_pk: int
    source_pk: int
    run_id: str
    project: str
    full_from: int
    full_through: int
    rollups_from: int
    rollups_through: int

    @property
    def samples(self) -> int:
        """About how many rows at full rate: events are among these seqs."""
        return max(0, self.full_through - self.full_from + 1)

    @property
    def rolled(self) -> int:
        """How many seqs have rollups that go."""
        return max(0, self.rollups_through - self.rollups_from + 1)


def parts(store: Store, default: Policy, now_ns: int, project: str | None = None) -> Iterator[Part]:
    """What is too old, of all projects or of one, source by source; read in short statements.

    Raises:
        StoreUnavailable: the database can't be read.
    """
    today, after = day_of(now_ns), 0
    while True:
        with store.read() as connection:
            page = _page(connection, after, project)
            found = [_part(connection, row, default, today) for row in page]
        yield from (part for part in found if part.samples or part.rolled)
        if len(page) < _PAGE:
            return
        after = page[-1].pk


def _page(connection: Connection, after: int, project: str | None) -> list[Row[Any]]:
    sources, runs, projects = schema.sources, schema.runs, schema.projects
    names = ("pk", "run_pk", "watermark", "last_ns", "rolled", "full_from", "rollups_from")
    query = (
        sa.select(*(sources.c[name] for name in names), runs.c.id, runs.c.project)
        .add_columns(projects.c.full_days, projects.c.rollup_days)
        .select_from(
            sources.join(runs, sources.c.run_pk == runs.c.pk).outerjoin(projects, projects.c.name == runs.c.project)
        )
        .where(sources.c.pk > after)
        .where(sa.or_(sources.c.full_from <= sources.c.watermark, sources.c.rollups_from <= sources.c.watermark))
    )
    if project is not None:
        query = query.where(runs.c.project == project)
    return list(connection.execute(query.order_by(sources.c.pk).limit(_PAGE)))


def _part(connection: Connection, row: Row[Any], default: Policy, today: int) -> Part:
    policy = default.of_project(row.full_days, row.rollup_days)
    rollups = _too_old(connection, row, row.rollups_from, today - policy.rollup_days if policy.rollup_days else None)
    full = _too_old(connection, row, row.full_from, today - policy.full_days if policy.full_days else None)
    if policy.rollup_days and day_of(row.last_ns) < today - policy.rollup_days:
        full = rollups = row.watermark  # all of it, with the bucket that was never finished
    return Part(row.run_pk, row.pk, row.id, row.project, row.full_from, max(full, rollups), row.rollups_from, rollups)


def _too_old(connection: Connection, row: Row[Any], kept_from: int, first_day: int | None) -> int:
    """The last seq whose bucket, like all before, came before `first_day`; 0: there is none."""
    if first_day is None or not row.rolled:  # without rollups, nothing would be left of its samples
        return 0
    finished = row.watermark // _WIDTH
    if day_of(row.last_ns) < first_day:
        return int(finished * _WIDTH)
    begin = (kept_from - 1) // _WIDTH
    firsts = [_first_young(connection, row, kind, begin, finished, first_day) for kind in Kind]
    return int(min(firsts) * _WIDTH)


def _first_young(connection: Connection, row: Row[Any], kind: Kind, begin: int, end: int, first_day: int) -> int:
    """The first young bucket of one kind from `begin` on, or `end`; days never go down from one bucket to the next."""
    table = schema.rollups.c
    here = (table.run_pk == row.run_pk, table.source_pk == row.pk, table.level == 1, table.kind == kind.value)
    at, young = begin, end  # the first look is at the first bucket, which is young in all but a few of the sources
    while begin < end:
        query = sa.select(table.bucket, table.day).where(*here, table.bucket >= at, table.bucket < end)
        node = connection.execute(query.order_by(table.bucket).limit(1)).one_or_none()
        if node is not None and node.day < first_day:
            begin = node.bucket + 1
        else:
            end, young = at, node.bucket if node is not None else young
        at = (begin + end) // 2
    return young


def drop_samples(connection: Connection, part: Part, most_rows: int) -> int | None:
    """Remove some of the samples that are too old, with their GPU readings: how many rows; None when none is left."""
    start = _kept_from(connection, part, "full_from")
    if start is None or start > part.full_through:
        return None
    tables = (schema.samples, schema.gpu_samples)
    ends = [_nth_seq(connection, table, part, start, most_rows) for table in tables]
    through = _end_of_step(
        start, min([part.full_through, *(end for end in ends if end is not None)]), part.full_through
    )
    rows = sum(_delete(connection, table, part, table.c.seq.between(start, through)) for table in tables)
    _move(connection, part, "full_from", through + 1)
    return rows


def _kept_from(connection: Connection, part: Part, name: str) -> int | None:
    table = schema.sources
    query = sa.select(table.c[name]).where(table.c.pk == part.source_pk, table.c.run_pk == part.run_pk)
    return connection.execute(query).scalar()


def _nth_seq(connection: Connection, table: Table, part: Part, start: int, number: int) -> int | None:
    query = sa.select(table.c.seq).where(*_here(table, part), table.c.seq >= start).order_by(table.c.seq)
    seq: int | None = connection.execute(query.offset(number - 1).limit(1)).scalar()
    return seq


def _end_of_step(start: int, wanted: int, through: int) -> int:
    """A step ends where a bucket does: charts go over to rollups there."""
    return min(through, max(wanted // _WIDTH * _WIDTH, (start - 1) // _WIDTH * _WIDTH + _WIDTH))


def drop_rollups(connection: Connection, part: Part, most_rows: int) -> int | None:
    """Remove some of the rollups that are too old, of all levels: how many rows; None when none is left."""
    start = _kept_from(connection, part, "rollups_from")
    if start is None or start > part.rollups_through:
        return None
    through = _end_of_step(start, start - 1 + most_rows * _WIDTH // 4, part.rollups_through)
    rows = _delete(connection, schema.assessments, part, schema.assessments.c.seq.between(start, through))
    for level in range(1, TOP_LEVEL + 1):
        wide = width(level)
        if wide > through:
            break
        first, last = (start - 1) // wide, through // wide - 1  # those that end in this step
        if last >= first:
            rows += _drop_level(connection, part, level, first, last)
    _move(connection, part, "rollups_from", through + 1)
    return rows


def _drop_level(connection: Connection, part: Part, level: int, first: int, last: int) -> int:
    table = schema.rollups
    rows = 0
    for kind in Kind:
        its = (table.c.level == level, table.c.kind == kind.value, table.c.bucket.between(first, last))
        rows += _delete(connection, table, part, *its)
    gpus = schema.gpu_rollups
    return rows + _delete(connection, gpus, part, gpus.c.level == level, gpus.c.bucket.between(first, last))


def _delete(connection: Connection, table: Table, part: Part, *which: Any) -> int:
    return connection.execute(sa.delete(table).where(*_here(table, part), *which)).rowcount


def _here(table: Table, part: Part) -> tuple[Any, Any]:
    return table.c.run_pk == part.run_pk, table.c.source_pk == part.source_pk


def _move(connection: Connection, part: Part, name: str, seq: int) -> None:
    table = schema.sources
    connection.execute(sa.update(table).where(table.c.pk == part.source_pk).values({name: seq}))
