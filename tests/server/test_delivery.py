"""Whatever is done to frames on their way, what is stored is what was sent, in the order of seq."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from typing import TypeAlias

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.server.conftest import Agent, RunningServer, connect_agent
from tests.server.parts import WALL_NS, a_frame, a_hello, a_sample, an_event

from oomcast.sample import SAMPLE_COLUMNS, Event, EventKind, Kind, Sample
from oomcast.wire import Ack, Frame, Hello, Welcome
from oomcast_server.charts.series import Range, read_series
from oomcast_server.runs.query import source_key
from oomcast_server.store import schema

pytestmark = pytest.mark.fast


@pytest.fixture
def server(shared_server: RunningServer) -> RunningServer:
    """On either engine."""
    return shared_server


HOUR_NS = 3600 * 10**9
Rows: TypeAlias = list[Sample | Event]

# One row: what it is, and how far the wall clock has jumped before it.
made_rows = st.lists(
    st.tuples(st.sampled_from(["batch", "tick", "event"]), st.sampled_from([0, 0, 0, -9 * HOUR_NS, 5 * HOUR_NS])),
    min_size=1,
    max_size=60,
)
# What a hostile or unlucky client does: sends any stretch on one of its connections, drops one, or opens another.
actions = st.lists(
    st.tuples(st.sampled_from(["send", "send", "send", "drop", "open"]), st.integers(0, 59), st.integers(1, 30)),
    max_size=30,
)
names = (f"deliveredrun{number}" for number in itertools.count())


def rows_of(made: Sequence[tuple[str, int]]) -> Rows:
    rows: Rows = []
    offset_ns, batch = 24 * HOUR_NS, -1
    for seq, (kind, jump_ns) in enumerate(made, 1):
        offset_ns = max(0, offset_ns + jump_ns)
        wall_ns = WALL_NS + offset_ns + seq
        if kind == "event":
            rows.append(an_event(seq, EventKind.NOTICE, text=str(seq))._replace(wall_ns=wall_ns))
            continue
        batch += kind == "batch"
        at = {"wall_ns": wall_ns, "mono_ns": seq, "batch": max(batch, 0) if kind == "batch" else None}
        rows.append(a_sample(seq, Kind.BATCH if kind == "batch" else Kind.TICK, rss=seq, **at))
    return rows


def a_slice(rows: Rows, begin: int, length: int) -> Frame:
    part = rows[begin : begin + length]
    # Within a frame too, rows may stand in any order.
    samples = [row for row in reversed(part) if isinstance(row, Sample)]
    return a_frame(samples, [row for row in part if isinstance(row, Event)])


async def misbehave(port: int, hello: Hello, rows: Rows, done: Sequence[tuple[str, int, int]]) -> None:
    """Do all that, hearing no answer but the welcomes."""
    async with contextlib.AsyncExitStack() as stack:
        agents: list[Agent] = []
        for action, begin, length in done:
            if action == "open" or not agents:
                agent = await stack.enter_async_context(connect_agent(port))
                await agent.ask(hello)
                agents.append(agent)
            if action == "drop":
                agents.pop(begin % len(agents)).websocket.transport.abort()
            elif begin < len(rows):
                await agents[length % len(agents)].say(a_slice(rows, begin, length))
        for agent in agents:
            agent.websocket.transport.abort()


async def finish(port: int, hello: Hello, rows: Rows) -> None:
    """An honest agent goes on from the watermark."""
    async with connect_agent(port) as agent:
        welcome = await agent.ask(hello)
        assert isinstance(welcome, Welcome)
        if welcome.watermark < len(rows):
            assert await agent.ask(a_slice(rows, welcome.watermark, len(rows))) == Ack(seq=len(rows))


def stored(server: RunningServer, source_pk: int) -> tuple[list[tuple[int, ...]], list[int]]:
    with server.store.read() as connection:
        columns = [schema.samples.c[name] for name in SAMPLE_COLUMNS]
        samples = connection.execute(sa.select(*columns).where(schema.samples.c.source_pk == source_pk)).all()
        seqs = sa.select(schema.events.c.seq).where(schema.events.c.source_pk == source_pk)
        events = connection.execute(seqs).scalars().all()
    return [tuple(row) for row in samples], list(events)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=made_rows, done=actions)
def test_what_is_stored_is_what_was_sent(
    server: RunningServer, made: list[tuple[str, int]], done: list[tuple[str, int, int]]
) -> None:
    rows, name = rows_of(made), next(names)
    hello = a_hello(run=name, source=f"{name}s")

    async def deliver() -> None:
        await misbehave(server.port, hello, rows, done)
        await finish(server.port, hello, rows)

    asyncio.run(deliver())
    key = source_key(server.store, name, None)
    assert key is not None
    samples, events = stored(server, key.pk)
    sent = [row for row in rows if isinstance(row, Sample)]
    assert samples == [tuple(row) for row in sent]
    assert events == [row.seq for row in rows if isinstance(row, Event)]
    by_time = read_series(server.store, name, key, Range(by_batch=False), 1000)
    by_batch = read_series(server.store, name, key, Range(by_batch=True), 1000)
    assert by_time.columns["seq"] == [row.seq for row in sent]
    assert by_batch.columns["seq"] == [row.seq for row in sent if row.kind is Kind.BATCH]
    assert by_batch.ticks.columns["seq"] == [row.seq for row in sent if row.kind is Kind.TICK]
    detail = server.get(f"/api/runs/{name}").json()
    assert (detail["samples"], detail["sources_detail"][0]["watermark"]) == (len(sent), len(rows))
