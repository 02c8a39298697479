"""Rows put into a store as the pipeline puts them there, without a server around it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from tests.server.parts import RUN, a_hello

from oomcast.wire import Frame, Hello
from oomcast_server.charts.series import ALL, Range, read_series
from oomcast_server.intake.batch import Batch
from oomcast_server.intake.known import Known
from oomcast_server.rest.shapes import Series
from oomcast_server.runs.query import SourceKey, source_key
from oomcast_server.store.base import Store


def store_frames(
    store: Store,
    frames: Iterable[Frame],
    hello: Hello | None = None,
    known: Known | None = None,
    now_ns: int | None = None,
) -> None:
    """Each frame in a transaction of its own; without `known` as by a server that was restarted before it."""
    hello = hello or a_hello()
    for frame in frames:
        memory = known or Known()
        with store.write() as connection:
            batch = Batch(store, connection, memory, time.time_ns() if now_ns is None else now_ns)
            batch.hold([], [hello])
            source = batch.register(hello)
            held = batch.run(source.run_pk)
            assert held is not None
            new = batch.new_rows(source, frame)
            if new is not None:
                batch.add(held, source, new)
            batch.write()
        memory.keep(batch.touched)


def key_of(store: Store, run: str = RUN) -> SourceKey:
    key = source_key(store, run, None)
    assert key is not None
    return key


def read(store: Store, wanted: Range, points: int, names: Sequence[str] = ALL, run: str = RUN) -> Series:
    return read_series(store, run, key_of(store, run), wanted, points, names)
