"""The list of runs and a run's standing, as the page reads them."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import pytest
from tests.server.conftest import RunningServer
from tests.server.parts import RUN, WALL_NS, a_frame, a_hello, a_sample, a_stretch, an_event

from oomcast.sample import EventKind, Kind
from oomcast.wire import PROTOCOL, Hello

pytestmark = pytest.mark.fast


def the_run(server: RunningServer) -> dict[str, object]:
    (run,) = server.get("/api/runs").json()["runs"]
    return dict(run)


async def test_the_server_says_what_it_is(server: RunningServer) -> None:
    answer = server.get("/api/server").json()
    assert answer["protocol"] == PROTOCOL
    assert answer["store"] == {"engine": "sqlite"}
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
    assert set(answer.json()) == {"type", "title", "status", "detail"}
