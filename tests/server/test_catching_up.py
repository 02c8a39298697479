"""A database of an older oomcast gets the rollups and terms that it would have, had they been made as the rows came."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from tests.server.parts import NOW_NS, a_frame, a_hello, a_sample
from tests.server.storing import store_frames

from oomcast.sample import GpuReading, Kind
from oomcast_server.intake.known import Known
from oomcast_server.rollups.catching_up import catch_up
from oomcast_server.store.base import Store
from oomcast_server.store.schema import gpu_rollups, rollups, sources, terms

pytestmark = pytest.mark.fast

TABLES = (rollups, gpu_rollups, terms)


def content(store: Store) -> list[list[Any]]:
    with store.read() as connection:
        return [sorted(map(tuple, connection.execute(sa.select(table)).all())) for table in TABLES]


def as_an_older_one(store: Store) -> None:
    with store.write() as connection:
        for table in TABLES:
            connection.execute(sa.delete(table))
        connection.execute(sa.update(sources).values(rolled=0))


def test_what_an_older_database_lacks_is_made(store: Store) -> None:
    for number in range(2):
        hello, known = a_hello(run=f"olderrun{number}", source=f"oldersource{number}"), Known()
        for first in (1, 6_001, 12_001):
            ticks = range(first, first + 5_000, 10)
            samples = [a_sample(seq, Kind.TICK if seq in ticks else Kind.BATCH) for seq in range(first, first + 5_000)]
            gap = [a_sample(first + 5_999)]  # of the seqs between nothing was measured
            gpus = [GpuReading(seq, 0, seq, None, None, None) for seq in ticks]
            frame = a_frame(samples + gap, gpus=gpus)
            store_frames(store, [frame], hello, known, now_ns=NOW_NS)
    expected = content(store)
    assert all(expected)
    as_an_older_one(store)
    said: list[str] = []
    catch_up(store, NOW_NS, said.append)
    assert content(store) == expected
    assert said == ["oomcast: rolling up what 2 older sources have measured; this is done once"]


def test_it_goes_on_where_it_was_broken_off_and_is_silent_when_nothing_lacks(store: Store) -> None:
    for number in range(3):
        hello = a_hello(run=f"olderrun{number}", source=f"oldersource{number}")
        store_frames(store, [a_frame([a_sample(seq) for seq in range(1, 200)])], hello, now_ns=NOW_NS)
    expected = content(store)
    as_an_older_one(store)
    with store.write() as connection:  # one was done when the server was killed
        connection.execute(sa.update(sources).where(sources.c.id == "oldersource0").values(rolled=1))
    catch_up(store, NOW_NS)
    again: list[str] = []
    catch_up(store, NOW_NS, again.append)
    assert [row for row in content(store)[0] if row[1] > 1] == [row for row in expected[0] if row[1] > 1]
    assert again == []
