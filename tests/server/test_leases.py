"""Leases and claims: of many servers one has each, and none for longer than it said."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from tests.server.parts import WALL_NS
from tests.server.stores import open_at

from oomcast_server.store.base import Store
from oomcast_server.store.claims import WAITING, claim_deliveries, holds
from oomcast_server.store.leases import acquire, release
from oomcast_server.store.schema import deliveries, episodes, leases, receivers, runs

pytestmark = pytest.mark.fast

SECOND = 1_000_000_000


@pytest.fixture
def replicas(postgres_url: str) -> Iterator[list[Store]]:
    """Four servers on one PostgreSQL."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(open_at(postgres_url))) for _ in range(4)]


def take(store: Store, holder: str, *names: str, at_s: int = 0, for_s: int = 10) -> set[str]:
    with store.write() as connection:
        return acquire(connection, names, holder, WALL_NS + at_s * SECOND, for_s * SECOND)


def test_a_lease_is_held_by_one(store: Store) -> None:
    assert take(store, "a", "run:1", "run:2") == {"run:1", "run:2"}
    assert take(store, "b", "run:2", "run:3") == {"run:3"}


def test_no_names_are_no_leases(store: Store) -> None:
    assert take(store, "a") == set()


def test_a_holder_renews_its_lease(store: Store) -> None:
    take(store, "a", "janitor")
    assert take(store, "a", "janitor", at_s=8) == {"janitor"}
    assert take(store, "b", "janitor", at_s=12) == set()


def test_a_lease_that_has_run_out_is_anyone_s(store: Store) -> None:
    take(store, "a", "janitor")
    assert take(store, "b", "janitor", at_s=9) == set()
    assert take(store, "b", "janitor", at_s=10) == {"janitor"}
    assert take(store, "a", "janitor", at_s=11) == set()


def test_leases_are_given_back(store: Store) -> None:
    take(store, "a", "run:1", "run:2", "run:3")
    take(store, "b", "run:4")
    with store.write() as connection:
        release(connection, "a", ["run:1", "run:4"])
    assert take(store, "c", "run:1", "run:2", "run:4") == {"run:1"}
    with store.write() as connection:
        release(connection, "a")
    assert take(store, "c", "run:2", "run:3", "run:4") == {"run:2", "run:3"}


def test_hundreds_are_taken_by_a_few_statements(store: Store) -> None:
    statements = 0

    def count(*_: Any) -> None:
        nonlocal statements
        statements += 1

    with store.write() as connection:
        sa.event.listen(connection, "after_cursor_execute", count)
        held = acquire(connection, [f"run:{at}" for at in range(1_000)], "a", WALL_NS, SECOND)
    assert len(held) == 1_000
    assert statements <= 8


def test_servers_that_want_the_same_leases_get_each_once(replicas: list[Store]) -> None:
    names = [f"run:{at}" for at in range(500)]

    def want(at: int) -> set[str]:
        # Each in another order: they must not wait for each other in a ring.
        mine = names[at * 125 :] + names[: at * 125]
        return set().union(*(take(replicas[at], str(at), *mine) for _ in range(10)))

    with ThreadPoolExecutor(len(replicas)) as pool:
        held = list(pool.map(want, range(len(replicas))))
    assert sum(map(len, held)) == len(names)
    assert set().union(*held) == set(names)
    with replicas[0].read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(leases)) == len(names)


# Claims.


def add_deliveries(store: Store, count: int, state: str = WAITING, due_s: int = 0) -> None:
    texts = dict.fromkeys(("id", "project", "name", "host", "tags"), "x")
    counts = dict.fromkeys(("pid", "sources", "state", "created_ns", "last_ns", "samples"), 1)
    episode = dict.fromkeys(("rule", "dedup_key", "severity", "state", "detail"), "x")
    with store.write() as connection:
        if connection.scalar(sa.select(runs.c.pk)) is None:
            connection.execute(sa.insert(runs).values(pk=1, **texts, **counts))
            connection.execute(sa.insert(episodes).values(pk=1, run_pk=1, started_ns=1, **episode))
            connection.execute(sa.insert(receivers).values(pk=1, name="x", kind="x", url="x", created_ns=1))
        first = connection.scalar(sa.select(sa.func.count()).select_from(deliveries)) or 0
        rows = [
            {
                **{"id": f"d{at}", "episode_pk": 1, "receiver_pk": 1, "state": state, "body": "{}", "created_ns": 1},
                "due_ns": WALL_NS + due_s * SECOND,
            }
            for at in range(first, first + count)
        ]
        connection.execute(sa.insert(deliveries), rows)


def claim(store: Store, holder: str, at_s: int = 0, for_s: int = 30, limit: int = 10) -> list[Any]:
    with store.write() as connection:
        return list(claim_deliveries(connection, holder, WALL_NS + at_s * SECOND, for_s * SECOND, limit))


def names(claimed: list[Any]) -> list[str]:
    return [row.id for row in claimed]


def test_a_delivery_is_claimed_once(store: Store) -> None:
    add_deliveries(store, 3)
    assert names(claim(store, "a", limit=2)) == ["d0", "d1"]
    assert names(claim(store, "b")) == ["d2"]
    assert claim(store, "b") == []


def test_the_longest_due_is_claimed_first(store: Store) -> None:
    add_deliveries(store, 1, due_s=2)
    add_deliveries(store, 1, due_s=1)
    assert names(claim(store, "a", at_s=5)) == ["d1", "d0"]


def test_only_what_is_due_and_waiting_is_claimed(store: Store) -> None:
    add_deliveries(store, 1, due_s=1)
    add_deliveries(store, 1, state="sent")
    assert claim(store, "a") == []
    assert names(claim(store, "a", at_s=1)) == ["d0"]


def test_a_claim_says_whose_it_is_and_until_when(store: Store) -> None:
    add_deliveries(store, 1)
    (row,) = claim(store, "a")
    assert (row.claimed_by, row.due_ns, row.attempts) == ("a", WALL_NS + 30 * SECOND, 0)


def test_the_claims_of_a_sender_that_died_are_taken_over(store: Store) -> None:
    add_deliveries(store, 2)
    (first, _) = claim(store, "a")
    assert claim(store, "b", at_s=29) == []
    assert names(claim(store, "b", at_s=30)) == ["d0", "d1"]
    with store.write() as connection:
        assert not holds(connection, first)


def test_a_claim_stands_until_it_is_settled(store: Store) -> None:
    add_deliveries(store, 1)
    (row,) = claim(store, "a")
    with store.write() as connection:
        assert holds(connection, row)
        connection.execute(sa.update(deliveries).values(state="sent"))
    with store.write() as connection:
        assert not holds(connection, row)


def test_senders_of_many_servers_get_each_delivery_once(replicas: list[Store]) -> None:
    add_deliveries(replicas[0], 300)

    def send_all(at: int) -> list[str]:
        got: list[str] = []
        while claimed := claim(replicas[at], str(at), limit=7):
            got.extend(names(claimed))
        return got

    with ThreadPoolExecutor(len(replicas)) as pool:
        got = [name for mine in pool.map(send_all, range(len(replicas))) for name in mine]
    assert sorted(got) == sorted(f"d{at}" for at in range(300))


def test_a_sender_does_not_wait_for_another_one(replicas: list[Store]) -> None:
    add_deliveries(replicas[0], 2)
    with replicas[0].write() as connection:
        mine = claim_deliveries(connection, "a", WALL_NS, SECOND, 1)
        others = claim(replicas[1], "b")
    assert (names(list(mine)), names(others)) == (["d0"], ["d1"])


KILLED = """
import os, signal, sys
from tests.server.test_leases import claim, take
from tests.server.stores import open_at
store = open_at(sys.argv[1])
take(store, "killed", "janitor")
claim(store, "killed", limit=1)
with store.write() as connection:
    from oomcast_server.store.claims import claim_deliveries
    from oomcast_server.store.leases import acquire
    from tests.server.parts import WALL_NS
    acquire(connection, ["unfinished"], "killed", WALL_NS, 10**10)
    claim_deliveries(connection, "killed", WALL_NS, 10**10, 1)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_server_killed_by_9_gives_way_when_its_time_is_over(store_address: str) -> None:
    with contextlib.closing(open_at(store_address)) as store:
        add_deliveries(store, 2)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", KILLED, store_address], check=False, env=environment)
    assert ended.returncode == -signal.SIGKILL
    with contextlib.closing(open_at(store_address)) as store:
        # What it had not committed is free at once, what it had is when it said.
        assert take(store, "other", "janitor", "unfinished", at_s=9) == {"unfinished"}
        assert names(claim(store, "other", at_s=9)) == ["d1"]
        assert take(store, "other", "janitor", at_s=10) == {"janitor"}
        assert names(claim(store, "other", at_s=30, for_s=60)) == ["d0"]
