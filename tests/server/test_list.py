"""The list of runs: its order, its filters, its pages, and that none of them reads the whole table."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from tests.server.parts import WALL_NS

from oomcast_server.runs.cursors import BadCursor, decode, encode
from oomcast_server.runs.indexing import index_run, unindexed
from oomcast_server.runs.listing import Filters, page_of, statements
from oomcast_server.runs.presence import Presence
from oomcast_server.runs.projects import project_list
from oomcast_server.runs.query import run_page
from oomcast_server.runs.terms import LONGEST, MOST_WORDS, terms_of, words_of
from oomcast_server.store import schema
from oomcast_server.store.base import Store
from oomcast_server.store.schema import State, Term

pytestmark = pytest.mark.fast

NOW_NS = WALL_NS + 1_000 * 1_000_000_000
BLANK = {column.name: None for column in schema.runs.columns}


def a_run(number: int, **given: Any) -> dict[str, Any]:
    """A row of `runs` that began `number` seconds after the first, and has ended."""
    return {
        **BLANK,
        "pk": number + 1,
        "id": f"run{number:08d}",
        "project": "default",
        "name": f"calm-river-{number}",
        "tags": "[]",
        "host": "box",
        "pid": 1,
        "sources": 0,
        "state": int(State.FINISHED),
        "created_ns": WALL_NS + number * 1_000_000_000,
        "last_ns": WALL_NS,
        "samples": 0,
        "version": 1,
        **given,
    }


def put(store: Store, *rows: dict[str, Any]) -> None:
    with store.write() as connection:
        connection.execute(sa.insert(schema.runs), list(rows))
        for row in rows:
            index_run(connection, row["pk"])


def ids(store: Store, limit: int = 100, cursor: str | None = None, **filters: Any) -> list[int]:
    """The numbers of the runs on that page."""
    page = page_of(store, Filters(**filters), limit, cursor, NOW_NS)
    return [pk - 1 for pk in page.pks]


def test_live_runs_stand_first_and_each_the_newest_first(store: Store) -> None:
    live = {"state": int(State.LIVE)}
    put(store, a_run(0, **live), a_run(1), a_run(2, **live), a_run(3), a_run(4, state=int(State.DIED)))
    assert ids(store) == [2, 0, 4, 3, 1]


def test_pages_join_to_the_whole_list(store: Store) -> None:
    put(store, *(a_run(at, state=int(State.LIVE if at % 3 == 0 else State.FINISHED)) for at in range(20)))
    whole, found, cursor = ids(store), [], None
    while True:
        page = page_of(store, Filters(), 3, cursor, NOW_NS)
        found += [pk - 1 for pk in page.pks]
        cursor = page.next
        if cursor is None:
            break
    assert found == whole
    assert len(found) == 20


def test_runs_that_began_at_the_same_time_are_each_on_one_page(store: Store) -> None:
    put(store, *(a_run(at, created_ns=WALL_NS) for at in range(5)))
    first = page_of(store, Filters(), 2, None, NOW_NS)
    second = page_of(store, Filters(), 5, first.next, NOW_NS)
    assert [*first.pks, *second.pks] == [5, 4, 3, 2, 1]


def test_a_run_that_is_added_shifts_nothing(store: Store) -> None:
    put(store, *(a_run(at) for at in range(6)))
    first = page_of(store, Filters(), 3, None, NOW_NS)
    put(store, a_run(100), a_run(101, state=int(State.LIVE)))
    assert ids(store, cursor=first.next) == [2, 1, 0]


def test_a_full_last_page_says_that_it_is_the_last(store: Store) -> None:
    put(store, a_run(0), a_run(1))
    assert page_of(store, Filters(), 2, None, NOW_NS).next is None


def test_each_filter_keeps_what_it_names(store: Store) -> None:
    put(
        store,
        a_run(0, project="mnist"),
        a_run(1, host="gpu-3"),
        a_run(2, tags='["baseline","Big"]'),
        a_run(3, name="ResNet training"),
        a_run(4, state=int(State.DIED)),
    )
    assert ids(store, project="mnist") == [0]
    assert ids(store, host="gpu-3") == [1]
    assert ids(store, tag="Big") == [2]
    assert ids(store, tag="big") == []
    assert ids(store, text="resnet TRAIN") == [3]
    assert ids(store, state="died") == [4]
    assert ids(store, project="mnist", text="calm") == [0]
    assert ids(store, project="mnist", state="died") == []
    assert ids(store, project="mni") == []


def test_live_and_silent_are_apart(store: Store) -> None:
    live = {"state": int(State.LIVE)}
    put(store, a_run(0, **live, last_ns=NOW_NS), a_run(1, **live, last_ns=NOW_NS - 11_000_000_000), a_run(2))
    assert ids(store, state="live") == [0]
    assert ids(store, state="silent") == [1]
    shown = run_page(store, Presence(NOW_NS), Filters(state="silent"), 10, None, NOW_NS)
    assert [run.state for run in shown.runs] == ["silent"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("cal", [1]),  # the beginning of a word
        ("alm", []),  # not its middle
        ("river-7", [1]),
        ("7 river", [1]),  # in any order
        ("river mnist", [1]),  # words of different fields
        ("river cifar", []),
        ("train.py", [1]),
        ("STRASSE", [2]),  # letters that are written in two ways
        ("run00000002", [2]),
        ("100%", [2]),  # no wildcard
        ("_", [2, 1]),  # nothing to search for
    ],
)
def test_a_search_is_by_beginnings_of_words(store: Store, text: str, found: list[int]) -> None:
    put(store, a_run(1, name="calm-river-7", project="mnist"), a_run(2, name="Straße 100"))
    with store.write() as connection:
        values = {
            **dict.fromkeys(c.name for c in schema.sources.columns),
            "pk": 1,
            "run_pk": 2,
            "id": "sourcesource1",
        }
        numbers = dict.fromkeys(("pid", "started_ns", "state", "watermark", "batch_samples", "last_ns", "hung"), 0)
        more = {"critical": 0, "rolled": 1, "full_from": 1, "rollups_from": 1, "gpus": "[]", "kind": "callback"}
        row = values | numbers | more | {"host": "box", "command": "python /data/train.py"}
        connection.execute(sa.insert(schema.sources), [row])
        index_run(connection, 2)
    assert ids(store, text=text) == found


def test_older_runs_can_be_indexed_later(store: Store) -> None:
    with store.write() as connection:
        connection.execute(sa.insert(schema.runs), [a_run(0), a_run(1)])
    assert ids(store, text="calm") == []
    with store.write() as connection:
        pks = unindexed(connection, -1, 10)
        for pk in pks:
            index_run(connection, pk)
        assert (pks, unindexed(connection, -1, 10)) == ([1, 2], [])
    assert ids(store, text="calm") == [1, 0]


def test_projects_are_counted(store: Store) -> None:
    put(store, a_run(0), a_run(1, state=int(State.LIVE), last_ns=NOW_NS), a_run(2, project="mnist"))
    with store.write() as connection:
        values = {"name": "mnist", "created_ns": 0, "full_days": 7, "rollup_days": None}
        connection.execute(sa.insert(schema.projects), [values])
    default, mnist = project_list(store).projects
    assert (default.name, default.runs, default.live, default.last_ms) == ("default", 2, 1, NOW_NS / 1e6)
    assert (mnist.name, mnist.runs, mnist.live, mnist.retention.full_days) == ("mnist", 1, 0, 7)


# The words.


def test_words_are_cut_where_they_are_kept_and_where_they_are_searched() -> None:
    assert list(words_of(["x" * 100])) == ["x" * LONGEST]


def test_a_run_has_so_many_words_at_most_and_all_of_its_tags() -> None:
    found = terms_of("name", "idid", "p", [f"t{at}" for at in range(100)], [f"h{at}" for at in range(1000)], [])
    assert sum(kind is Term.WORD for kind, _ in found) == MOST_WORDS
    assert sum(kind is Term.TAG for kind, _ in found) == 100
    assert (Term.WORD, "name") in found


# Cursors.


def test_a_cursor_brings_its_position_back() -> None:
    assert decode("r", encode("r", 1, WALL_NS, 5), 3) == (1, WALL_NS, 5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "!",
        "x" * 1000,
        "ä",
        encode("e", 1, 2),
        encode("r", 1),
        encode("r", 1, 2, 3, 4),
        encode("r", 1, 2**63, 3),
        "WyJyIiwxLDIsInMiXQ",
        "bnVsbA",
    ],
)
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(BadCursor):
        decode("r", text, 3)


# What is read.


@pytest.fixture
def full_store(store: Store) -> Store:
    """10 000 runs: 100 of each project and machine, 30 live ones, one tag that many have and one that few have."""
    rows, terms = [], []
    for at in range(10_000):
        state = State.LIVE if at % 333 == 0 else State.DIED if at % 100 == 1 else State.FINISHED
        tags = ["common"] * (at % 2) + ["rare"] * (at % 500 == 0)
        row = a_run(
            at, state=int(state), project=f"p{at % 100}", host=f"h{at % 97}", tags=msgspec.json.encode(tags).decode()
        )
        rows.append(((row["pk"],), [[row[column.name] for column in schema.runs.columns][1:]]))
        found = terms_of(row["name"], row["id"], row["project"], tags, [row["host"]], ["python train.py"])
        terms += [((int(kind),), [(term, row["pk"])]) for kind, term in found]
    with store.write() as connection:
        store.insert(connection, schema.runs, rows)
        store.insert(connection, schema.terms, terms)
    if store.engine == "postgresql":
        with store.write() as connection:
            connection.execute(sa.text("ANALYZE"))
    return store


def plans(store: Store, filters: Filters, few: int | None) -> list[str]:
    """How the engine goes about each of the statements, as text."""
    found = []
    for _, query in statements(filters, NOW_NS, few):
        dialect = sqlite.dialect() if store.engine == "sqlite" else postgresql.dialect()  # type: ignore[no-untyped-call]
        text = str(query.limit(201).compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
        explain = "EXPLAIN QUERY PLAN " if store.engine == "sqlite" else "EXPLAIN "
        with store.read() as connection:
            rows = connection.exec_driver_sql(explain + text.replace("%", "%%")).all()
        found.append("\n".join(str(row[-1]) for row in rows))
    return found


CASES: list[tuple[Filters, int | None, tuple[str, ...]]] = [
    (Filters(), None, ("runs_by_state", "runs_by_created")),
    (Filters(project="p7"), None, ("runs_by_state", "runs_by_project")),
    (Filters(host="h7"), None, ("runs_by_state", "runs_by_host")),
    (Filters(state="died"), None, ("runs_by_state",)),
    (Filters(state="silent"), None, ("runs_by_state",)),
    (Filters(tag="rare"), 0, ("terms", "terms")),
    (Filters(tag="common"), None, ("terms", "terms")),
    (Filters(text="python"), None, ("terms", "terms")),
    (Filters(text="run00000012"), 0, ("terms", "terms")),
    (Filters(text="run0000001 pyth"), 0, ("terms", "terms")),
]


def test_every_filter_is_read_by_an_index(full_store: Store) -> None:
    for filters, few, indexes in CASES:
        for plan, index in itertools.zip_longest(plans(full_store, filters, few), indexes):
            assert index in plan, f"{filters}:\n{plan}"
            for line in plan.splitlines():
                scans = "Seq Scan" in line or (line.strip().startswith("SCAN ") and "USING" not in line)
                assert not scans, f"{filters}:\n{plan}"


def test_rare_terms_lead_to_runs_and_common_ones_are_met_on_the_way(full_store: Store) -> None:
    assert len(ids(full_store, 1000, tag="rare")) == 20
    assert len(ids(full_store, 200, tag="common")) == 200
    assert len(ids(full_store, 1000, text="python run0000001")) == 10
    assert ids(full_store, text="python run00000012") == [12]
