"""The list of runs and a run's standing, as the page reads them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.server.conftest import RunningServer
from tests.server.parts import (
    RUN,
    SOURCE,
    WALL_NS,
    a_frame,
    a_hello,
    a_sample,
    a_stretch,
    an_end,
    an_event,
    wait_for,
)

from oomcast.sample import EventKind, Kind
from oomcast.wire import PROTOCOL, GpuDevice, Hello, LimitState, ProcessState, Status

pytestmark = pytest.mark.fast


@pytest.fixture
def server(shared_server: RunningServer) -> RunningServer:
    """On either engine."""
    return shared_server


def the_run(server: RunningServer) -> dict[str, Any]:
    (run,) = server.get("/api/runs").json()["runs"]
    return dict(run)


def the_detail(server: RunningServer) -> dict[str, Any]:
    return dict(server.get(f"/api/runs/{RUN}").json())


async def test_the_server_says_what_it_is(server: RunningServer) -> None:
    answer = server.get("/api/server").json()
    assert answer["protocol"] == PROTOCOL
    assert answer["store"] == {"engine": server.store.engine}
    assert answer["started_ms"] <= answer["now_ms"]


async def test_a_run_shows_its_last_known_figures(server: RunningServer) -> None:
    begin = an_event(1, EventKind.TRAIN_BEGIN, epochs=5, steps=100)
    limit = an_event(2, EventKind.LIMIT, kind="cgroup /a", limit_bytes=9_000)
    samples = [a_sample(3, rss=700, peak_bytes=5_000), a_sample(4, rss=900, limit_bytes=None, working_set_bytes=None)]
    await server.store_frames(a_frame(samples, [begin, limit]))
    run = the_run(server)
    assert run["state"] == "live"
    assert (run["phase"], run["epoch"], run["epochs"], run["steps_per_epoch"]) == ("train", 0, 5, 100)
    assert (run["batch"], run["step"], run["samples"]) == (3, 3, 2)
    assert (run["rss_bytes"], run["peak_bytes"]) == (900, 5_000)
    assert (run["limit_kind"], run["limit_bytes"], run["working_set_bytes"]) == ("cgroup /a", 8_000, 3_000)
    assert run["headroom_bytes"] == 5_000
    assert (run["created_ms"], run["ended_ms"], run["outcome"]) == (WALL_NS / 1e6, None, None)


async def test_what_was_never_measured_is_null(server: RunningServer) -> None:
    blank = a_sample(1, rss=None, swap_bytes=None, limit_bytes=None, working_set_bytes=None)
    await server.store_frames(a_frame([blank]))
    run = the_run(server)
    names = ("rss_bytes", "peak_bytes", "swap_bytes", "limit_bytes", "working_set_bytes", "headroom_bytes")
    assert [run[name] for name in names] == [None] * 6


@pytest.mark.parametrize("outcome", ["finished", "failed", "died"])
async def test_an_end_sets_the_state(server: RunningServer, outcome: str) -> None:
    await server.store_frames(a_frame([a_sample(1)], [an_event(2, EventKind.END, outcome=outcome)]))
    run = the_run(server)
    assert run["state"] == outcome
    assert run["ended_ms"] == (WALL_NS + 20_000_000) / 1e6


async def test_a_failed_run_says_what_was_raised(server: RunningServer) -> None:
    raised = an_event(1, EventKind.EXCEPTION, type="ResourceExhaustedError", message="OOM when allocating")
    await server.store_frames(a_frame(events=[raised, an_event(2, EventKind.END, outcome="failed")]))
    assert the_run(server)["outcome"] == {"type": "ResourceExhaustedError", "message": "OOM when allocating"}


async def test_an_exception_that_training_survived_is_no_outcome(server: RunningServer) -> None:
    raised = an_event(1, EventKind.EXCEPTION, type="ValueError", message="x")
    await server.store_frames(a_frame(events=[raised, an_event(2, EventKind.END, outcome="finished")]))
    assert the_run(server)["outcome"] is None


async def test_a_source_that_goes_on_after_its_end_is_live_again(server: RunningServer) -> None:
    await server.store_frames(a_frame([a_sample(1)], [an_event(2, EventKind.END, outcome="finished")]))
    assert the_run(server)["state"] == "finished"
    await server.store_frames(a_stretch(3, 4))
    run = the_run(server)
    assert (run["state"], run["ended_ms"]) == ("live", None)


async def test_a_hello_with_nothing_new_doesn_t_bring_an_ended_source_to_life(server: RunningServer) -> None:
    await server.store_frames(a_frame(events=[an_event(1, EventKind.END, outcome="finished")]))
    await server.store_frames()
    assert the_run(server)["state"] == "finished"


async def test_a_run_lives_as_long_as_one_of_its_sources(server: RunningServer) -> None:
    end = a_frame(events=[an_event(1, EventKind.END, outcome="finished")])
    died = a_frame(events=[an_event(1, EventKind.END, outcome="died")])
    async with (
        server.agent(a_hello(source="source000a")) as first,
        server.agent(a_hello(source="source000b")) as second,
    ):
        await first.ask(end)
        assert the_run(server)["state"] == "live"
        await second.ask(died)
        assert the_run(server)["state"] == "died"


async def test_a_run_is_silent_after_10_s_without_data(make_running: Callable[..., RunningServer]) -> None:
    clock = [time.time_ns()]
    server = make_running(wall_ns=lambda: clock[0])
    await server.store_frames(a_stretch(1, 2))
    clock[0] += 9_000_000_000
    assert the_run(server)["state"] == "live"
    clock[0] += 1_000_000_000
    assert the_run(server)["state"] == "silent"


VERDICTS = {
    # text: how a source ended
    "finished": an_end(2, "finished", ending="finished", grade="confirmed", text="finished"),
    "stopped": an_end(2, "stopped", ending="stopped", grade="confirmed", text="stopped"),
    "raised": an_end(2, "failed", ending="exception", grade="confirmed", text="raised", type="E", message="raised"),
    "killed": an_end(2, "died", ending="killed", grade="unknown", text="killed", type="killed", message="killed"),
    "probably": an_end(2, "died", ending="oom killed", grade="probable", text="probably"),
    "certainly": an_end(2, "died", ending="oom killed", grade="confirmed", text="certainly", peak_bytes=5),
    "eaten": an_end(2, "eaten", ending="eaten by a grue", grade="legendary", text="eaten"),
}


def shown(run: dict[str, Any], *names: str) -> list[Any]:
    return [run[name] for name in names]


async def test_a_verdict_is_kept_whole(server: RunningServer) -> None:
    await server.store_frames(a_frame([a_sample(1)], [VERDICTS["certainly"]]))
    run, detail = the_run(server), the_detail(server)
    said = {"ending": "oom killed", "grade": "confirmed", "text": "certainly", "inferred": False, "source": SOURCE}
    assert run["verdict"] == said
    assert detail["verdict"] == {**said, "detail": VERDICTS["certainly"].detail}
    assert detail["sources_detail"][0]["verdict"] == detail["verdict"]


async def test_an_ending_that_this_server_doesn_t_know_is_a_death(server: RunningServer) -> None:
    await server.store_frames(a_frame([a_sample(1)], [VERDICTS["eaten"]]))
    run = the_run(server)
    assert run["state"] == "died"
    assert (run["verdict"]["ending"], run["verdict"]["grade"]) == ("eaten by a grue", "legendary")


async def test_an_older_agent_s_end_has_a_verdict_in_a_word(server: RunningServer) -> None:
    await server.store_frames(a_frame([a_sample(1)], [an_end(2, "finished")]))
    assert the_run(server)["verdict"]["text"] == "Finished."


@pytest.mark.parametrize(
    ("endings", "gravest"),
    [
        (["finished", "stopped"], "stopped"),
        (["stopped", "raised", "finished"], "raised"),
        (["raised", "killed"], "killed"),
        (["killed", "probably"], "probably"),
        (["probably", "killed", "certainly", "raised"], "certainly"),
    ],
)
async def test_the_gravest_verdict_is_the_run_s(server: RunningServer, endings: list[str], gravest: str) -> None:
    for rank, ending in enumerate(endings):
        hello = a_hello(source=f"source000{rank}", rank=rank)
        await server.store_frames(a_frame([a_sample(1)], [VERDICTS[ending]]), hello=hello)
    run = the_run(server)
    assert run["verdict"]["text"] == gravest
    assert run["verdict"]["source"] == f"source000{endings.index(gravest)}"
    assert run["main_source"] == "source0000"
    assert (run["outcome"] or {"message": None})["message"] == VERDICTS[gravest].detail.get("message")


async def test_of_a_live_run_only_a_source_that_came_to_grief_is_told(server: RunningServer) -> None:
    live = a_hello(source="source000a", rank=0)
    await server.store_frames(a_stretch(1, 1), hello=live)
    await server.store_frames(a_frame([a_sample(1)], [VERDICTS["finished"]]), hello=a_hello(source="source000b"))
    assert shown(the_run(server), "state", "verdict") == ["live", None]
    await server.store_frames(a_frame([a_sample(1)], [VERDICTS["certainly"]]), hello=a_hello(source="source000c"))
    run = the_run(server)
    assert (run["state"], run["verdict"]["text"]) == ("live", "certainly")


async def test_rows_after_an_end_take_its_verdict_back(server: RunningServer) -> None:
    await server.store_frames(a_frame([a_sample(1)], [VERDICTS["killed"]]))
    again = an_event(3, EventKind.AGENT, text="another agent goes on")
    await server.store_frames(a_frame([a_sample(4)], [again]))
    assert shown(the_run(server), "state", "verdict", "ended_ms") == ["live", None, None]


async def test_a_training_that_is_started_again_is_judged_by_its_last_attempt(server: RunningServer) -> None:
    await server.store_frames(a_frame([a_sample(1, rss=1)], [VERDICTS["certainly"]]))
    again = a_hello(source="source000b", started_ns=WALL_NS + 3600 * 10**9)
    await server.store_frames(a_frame([a_sample(1, rss=2)]), hello=again)
    assert shown(the_run(server), "state", "verdict", "rss_bytes") == ["live", None, 2]
    await server.store_frames(a_frame(events=[VERDICTS["finished"]]), hello=again)
    run = the_run(server)
    assert (run["state"], run["verdict"]["text"], run["sources"]) == ("finished", "finished", 2)
    assert [source["state"] for source in the_detail(server)["sources_detail"]] == ["died", "finished"]


async def test_only_the_main_source_moves_the_run_s_figures(server: RunningServer) -> None:
    async with (
        server.agent(a_hello(source="source000b", rank=1, host="second")) as second,
        server.agent(a_hello(source="source000a", rank=0, host="first")) as first,
    ):
        names = ("main_source", "host", "rss_bytes", "peak_bytes", "batch", "samples")
        await second.ask(a_frame([a_sample(1, Kind.TICK, rss=5)]))
        assert shown(the_run(server), *names) == ["source000a", "first", None, None, None, 1]  # none has shown a batch
        await second.ask(a_frame([a_sample(2, rss=6, peak_bytes=9_000)]))
        assert shown(the_run(server), *names) == ["source000b", "second", 6, 9_000, 1, 2]
        await first.ask(a_frame([a_sample(1, rss=7, peak_bytes=70)]))
        await second.ask(a_frame([a_sample(3, rss=8)]))
        assert shown(the_run(server), *names) == ["source000a", "first", 7, 70, 0, 4]
    details = the_detail(server)["sources_detail"]
    assert [shown(source, "id", "main", "rss_bytes", "peak_bytes") for source in details] == [
        ["source000b", False, 8, 9_000],
        ["source000a", True, 7, 70],
    ]
    assert server.get(f"/api/runs/{RUN}/series").json()["source"] == "source000a"


async def test_the_source_with_the_least_headroom_is_named_if_it_is_not_the_main_one(server: RunningServer) -> None:
    async with (
        server.agent(a_hello(source="source000a", rank=0)) as main,
        server.agent(a_hello(source="source000b", rank=1, host="other")) as other,
    ):
        await main.ask(a_frame([a_sample(1, limit_bytes=1_000, working_set_bytes=500)]))
        assert the_run(server)["tightest"] is None
        await other.ask(a_frame([a_sample(1, limit_bytes=8_000, working_set_bytes=6_000)]))
        assert the_run(server)["tightest"] == {
            "id": "source000b",
            "host": "other",
            "rank": 1,
            "limit_bytes": 8_000,
            "working_set_bytes": 6_000,
            "headroom_bytes": 2_000,
            "headroom_share": 0.25,
        }
        await main.ask(a_frame([a_sample(2, limit_bytes=1_000, working_set_bytes=900)]))
        assert the_run(server)["tightest"] is None


async def test_what_is_wrong_with_a_source_that_lives_is_told_until_it_is_over(server: RunningServer) -> None:
    async with server.agent(a_hello()) as agent:
        await agent.ask(a_frame([a_sample(1)]))
        seen = [the_run(server)["trouble"]]
        kinds = (EventKind.CRITICAL, EventKind.HANG, EventKind.RESUME, EventKind.CLEAR, EventKind.HANG)
        for seq, kind in enumerate(kinds, start=2):
            await agent.ask(a_frame(events=[an_event(seq, kind, text="t")]))
            seen.append(the_run(server)["trouble"])
        await agent.ask(a_frame(events=[an_event(7, EventKind.END, outcome="died")]))
        seen.append(the_run(server)["trouble"])
    assert seen == [None, "critical", "hung", "critical", None, "hung", None]


async def test_what_a_source_says_of_itself_is_kept(server: RunningServer) -> None:
    gpu = GpuDevice(device=0, uuid="MIG-1", name="H100", total_bytes=8, index=3, instance="1g.10gb", ordinal=0)
    hello = a_hello(kind="run", rank=1, local_rank=0, world_size=4, launcher="slurm 4711", gpus=[gpu])
    status = Status(
        wall_ns=WALL_NS,
        limits=[LimitState(kind="host", limit_bytes=9, used_bytes=1, binds=True)],
        processes=[ProcessState(pid=1, name="python", role="training", rss_bytes=5)],
        hung_since_ns=WALL_NS,
    )
    await server.store_frames(a_frame([a_sample(1)], status=Status(wall_ns=1)), hello=hello)
    await server.store_frames(a_frame([a_sample(2)], status=status), a_stretch(3, 3), hello=hello)
    (source,) = the_detail(server)["sources_detail"]
    assert shown(source, "kind", "rank", "local_rank", "world_size", "launcher") == ["run", 1, 0, 4, "slurm 4711"]
    assert shown(source, "main", "state", "headroom_bytes") == [True, "live", 5_000]
    assert source["gpus"] == [msgspec.structs.asdict(gpu)]
    assert source["status"] == {
        "time_ms": WALL_NS / 1e6,
        "limits": [{"kind": "host", "limit_bytes": 9, "used_bytes": 1, "binds": True}],
        "processes": [{"pid": 1, "name": "python", "role": "training", "rss_bytes": 5, "swap_bytes": None}],
        "pressure": None,
        "hung_since_ms": WALL_NS / 1e6,
    }


@pytest.mark.parametrize(
    ("used", "grade", "text"),
    [
        (7_760, "probable", "Vanished 3 min ago with 97 % of its limit in use: probably killed for memory"),
        (3_000, "unknown", "Vanished 3 min ago with 38 % of its limit in use: the machine, its network or the whole"),
        (None, "unknown", "Vanished 3 min ago: the machine, its network or the whole job ended"),
    ],
)
async def test_a_source_whose_agent_is_gone_for_a_minute_has_vanished(
    make_running: Callable[..., RunningServer], used: int | None, grade: str, text: str
) -> None:
    clock = [time.time_ns()]
    server = make_running(wall_ns=lambda: clock[0])
    async with server.agent(a_hello()) as agent:
        await agent.ask(a_frame([a_sample(1, working_set_bytes=used)]))
        clock[0] += 180 * 10**9
        assert shown(the_run(server), "state", "verdict") == ["silent", None]  # connected: it may be stuck in swap
    wait_for(lambda: the_run(server)["verdict"])
    run = the_run(server)
    assert shown(run["verdict"], "ending", "grade", "inferred", "source") == ["vanished", grade, True, SOURCE]
    assert run["verdict"]["text"].startswith(text)
    assert shown(run, "state", "ended_ms", "outcome") == ["silent", None, None]
    (source,) = the_detail(server)["sources_detail"]
    assert (source["verdict"], source["connected"], source["state"]) == (run["verdict"], False, "silent")
    async with server.agent(a_hello()) as agent:
        wait_for(lambda: the_run(server)["verdict"] is None)
        await agent.ask(a_stretch(2, 2))
        assert the_run(server)["state"] == "live"


async def test_an_end_that_is_found_later_takes_the_place_of_what_was_inferred(
    make_running: Callable[..., RunningServer],
) -> None:
    clock = [time.time_ns()]
    server = make_running(wall_ns=lambda: clock[0])
    await server.store_frames(a_stretch(1, 1))
    clock[0] += 600 * 10**9
    wait_for(lambda: the_run(server)["verdict"])
    await server.store_frames(a_frame(events=[VERDICTS["certainly"]]))
    run = the_run(server)
    assert (run["state"], run["verdict"]["text"], run["verdict"]["inferred"]) == ("died", "certainly", False)


@pytest.mark.parametrize(
    ("ending", "text"), [("certainly", "certainly"), ("raised", "raised"), ("stopped", "Vanished")]
)
async def test_nothing_inferred_takes_the_place_of_a_death_or_failure_that_was_seen(
    make_running: Callable[..., RunningServer], ending: str, text: str
) -> None:
    clock = [time.time_ns()]
    server = make_running(wall_ns=lambda: clock[0])
    await server.store_frames(a_frame([a_sample(1)], [VERDICTS[ending]]), hello=a_hello(source="source000a"))
    await server.store_frames(a_stretch(1, 1), hello=a_hello(source="source000b"))
    clock[0] += 61 * 10**9
    wait_for(lambda: the_run(server)["verdict"]["text"].startswith(text))


async def test_live_runs_stand_first_then_newer_ones(server: RunningServer) -> None:
    end = a_frame(events=[an_event(1, EventKind.END, outcome="finished")])

    def hello(name: str, minutes: int) -> Hello:
        said = a_hello(run=name)
        started_ns = WALL_NS + minutes * 60_000_000_000
        return msgspec.structs.replace(said, source=msgspec.structs.replace(said.source, started_ns=started_ns))

    await server.store_frames(a_stretch(1, 1), hello=hello("liveoldrun", 0))
    await server.store_frames(end, hello=hello("endedoldrun", 1))
    await server.store_frames(end, hello=hello("endednewrun", 2))
    runs = server.get("/api/runs").json()["runs"]
    assert [run["id"] for run in runs] == ["liveoldrun", "endednewrun", "endedoldrun"]
    assert len(server.get("/api/runs", limit=1).json()["runs"]) == 1


async def test_a_run_in_detail_has_sources_and_events_in_order(server: RunningServer) -> None:
    events = [an_event(2, EventKind.EPOCH_BEGIN), an_event(1, EventKind.TRAIN_BEGIN, epochs=None)]
    await server.store_frames(a_frame([a_sample(3, Kind.TICK)], events))
    detail = server.get(f"/api/runs/{RUN}").json()
    assert [event["kind"] for event in detail["events"]] == ["train_begin", "epoch_begin"]
    (source,) = detail["sources_detail"]
    assert (source["host"], source["pid"], source["command"], source["rank"]) == ("box", 4242, "train.py", None)
    assert (source["watermark"], source["gpus"]) == (3, [])


@pytest.mark.parametrize(
    ("path", "parameters", "status"),
    [
        ("/api/runs/nosuchrun1", {}, 404),
        ("/api/runs/nosuchrun1/series", {}, 404),
        ("/api/nothing", {}, 404),
        ("/api/runs", {"limit": 0}, 422),
        ("/api/runs", {"limit": 1001}, 422),
        (f"/api/runs/{RUN}/series", {"points": 9}, 422),
        (f"/api/runs/{RUN}/series", {"from": "nan"}, 422),
        (f"/api/runs/{RUN}/series", {"x": "volume"}, 422),
        (f"/api/runs/{RUN}/series", {"source": ".."}, 422),
        (f"/api/runs/{RUN}/series", {"source": "anothersource"}, 404),
    ],
)
async def test_errors_are_problem_documents(
    server: RunningServer, path: str, parameters: dict[str, object], status: int
) -> None:
    await server.store_frames(a_stretch(1, 2))
    answer = server.get(path, **parameters)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert set(answer.json()) == {"type", "title", "status", "detail", "parameter"}
