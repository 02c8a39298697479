"""Broken messages: refused in one line, or mended into what a database holds (`make fuzz` tries many more)."""

from __future__ import annotations

import itertools

import pytest
from tests.server.fuzz import HOSTILE, check_frame, check_hello, mutants, run, seeds
from tests.server.parts import a_hello
from tests.server.storing import store_frames

from oomcast.wire import Hello
from oomcast_server.intake.ingest import decode_hello
from oomcast_server.runs.presence import Presence
from oomcast_server.runs.query import run_list
from oomcast_server.store.base import Store

pytestmark = pytest.mark.fast

STORED = 300


@pytest.mark.parametrize("seed", [1, 2])
def test_twenty_thousand_mutants_break_nothing(seed: int) -> None:
    became = run(10_000, seed)
    assert set(became) == {"refused", "taken", "hello"}
    assert min(became.values()) > 50


def test_the_same_seed_makes_the_same_mutants() -> None:
    assert list(itertools.islice(mutants(7), 50)) == list(itertools.islice(mutants(7), 50))


def test_what_they_are_made_of_is_valid() -> None:
    full, lost, hello, _ = seeds()
    assert check_frame(full) is not None
    assert check_frame(lost) is not None
    assert check_hello(hello)
    assert len(HOSTILE) > 30


def test_whatever_is_taken_can_be_stored_and_shown(store: Store) -> None:
    taken = (frame for data in mutants(3) if (frame := check_frame(data)) is not None and frame.first_seq == 1)
    for number, frame in enumerate(itertools.islice(taken, STORED)):
        store_frames(store, [frame], a_hello(run=f"fuzzedrun{number % 40}", source=f"fuzzedsource{number}"))
    assert len(run_list(store, Presence(0), 10**18, 100)) == 40


def test_whoever_is_welcomed_can_be_stored_and_shown(store: Store) -> None:
    hellos = [decode_hello(data) for data in itertools.islice(mutants(4), 6_000) if check_hello(data)]
    assert len(hellos) > 50
    for hello in hellos:
        _greet(store, hello)
    runs = run_list(store, Presence(0), 10**18, 100)
    assert {run.id for run in runs} == {hello.run.id for hello in hellos}
    assert not any("\x00" in text for run in runs for text in (run.name, run.project, run.host, *run.tags))


def _greet(store: Store, hello: Hello) -> None:
    frame = check_frame(seeds()[0])
    assert frame is not None
    store_frames(store, [frame], hello)
