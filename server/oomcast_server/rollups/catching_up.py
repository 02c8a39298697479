"""What a database of an older oomcast lacks beside its new columns: rollups, and the terms that runs are found by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from oomcast_server.intake.batch import gpu_row, rollup_row
from oomcast_server.intake.records import day_of
from oomcast_server.rollups.nodes import GPUS, SAMPLES
from oomcast_server.rollups.pyramids import Pyramid
from oomcast_server.rollups.resuming import readings_between, samples_between
from oomcast_server.runs.indexing import index_run, unindexed
from oomcast_server.store import schema
from oomcast_server.store.base import Rows, Store

__all__ = ["catch_up"]

_CHUNK = 5_000  # seqs
_RUNS = 500  # in one transaction


def catch_up(store: Store, now_ns: int, say: Callable[[str], None] = lambda _: None) -> None:
    """Make what is missing, one source to a transaction; after a kill it goes on with the next one.

    Raises:
        StoreUnavailable: the database can't be written.
    """
    _index(store)
    sources = schema.sources
    lacking = sa.select(sources.c.run_pk, sources.c.pk, sources.c.watermark).where(sources.c.rolled == 0)
    with store.read() as connection:
        rows = connection.execute(lacking).all()
    if rows:
        say(f"oomcast: rolling up what {len(rows)} older sources have measured; this is done once")
    for run_pk, source_pk, _ in rows:
        with store.write() as connection:
            store.lock_runs(connection, [run_pk])
            still = connection.execute(lacking.where(sources.c.pk == source_pk)).one_or_none()
            if still is None:  # another server that started meanwhile has done it
                continue
            _roll_up(store, connection, (run_pk, source_pk), still.watermark, day_of(now_ns))
            connection.execute(sa.update(sources).where(sources.c.pk == source_pk).values(rolled=1))


def _index(store: Store) -> None:
    after = 0
    while True:
        with store.read() as connection:
            pks = unindexed(connection, after, _RUNS)
        if not pks:
            return
        with store.write() as connection:
            store.lock_runs(connection, pks)
            for pk in pks:
                index_run(connection, pk)
        after = pks[-1]


def _roll_up(store: Store, connection: Connection, place: tuple[int, int], watermark: int, day: int) -> None:
    for table in (schema.rollups, schema.gpu_rollups):
        connection.execute(sa.delete(table).where(table.c.run_pk == place[0], table.c.source_pk == place[1]))
    samples, gpus = Pyramid(SAMPLES), Pyramid(GPUS)
    for first, last in _chunks(connection, place, watermark):
        done = samples.take(samples_between(connection, place, first, last), last, day)
        done_gpus = gpus.take(readings_between(connection, place, first, last), last, day)
        store.insert(connection, schema.rollups, _rows(place, [rollup_row(node) for node in done]))
        store.insert(connection, schema.gpu_rollups, _rows(place, [gpu_row(node) for node in done_gpus]))


def _chunks(connection: Connection, place: tuple[int, int], watermark: int) -> Iterator[tuple[int, int]]:
    """Stretches of seqs with samples in them, up to the watermark: there may be holes of any length."""
    table = schema.samples.c
    first = 1
    while first <= watermark:
        here = (table.run_pk == place[0], table.source_pk == place[1], table.seq >= first)
        found = connection.execute(sa.select(sa.func.min(table.seq)).where(*here)).scalar()
        if found is None:
            break
        last = min(found + _CHUNK - 1, watermark)
        yield found, last
        first = last + 1


def _rows(place: tuple[int, int], rows: Sequence[Sequence[Any]]) -> list[Rows]:
    return [(place, rows)] if rows else []
