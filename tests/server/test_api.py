"""The REST interface: what may be asked for, and how errors, tags and changes are answered."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from tests.server.conftest import RunningServer
from tests.server.parts import RUN, SOURCE, TOKEN, WALL_NS, a_frame, a_hello, a_sample, a_stretch, an_end, an_event

from oomcast.sample import EventKind, Kind

pytestmark = pytest.mark.fast

BEARER = {"Authorization": f"Bearer {TOKEN}"}
OTHER = "runrunrun2"


def ask(
    server: RunningServer, method: str, path: str, headers: dict[str, str] | None = None, **given: Any
) -> httpx.Response:
    return httpx.request(
        method, server.base + path, headers=BEARER | (headers or {}), timeout=30, trust_env=False, **given
    )


def change(server: RunningServer, body: Any, run: str = RUN) -> httpx.Response:
    return ask(server, "PATCH", f"/api/runs/{run}", json=body)


def detail(answer: httpx.Response, status: int) -> str:
    """The one line of a problem."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    text = str(answer.json()["detail"])
    assert "\n" not in text
    return text


# Parameters.


async def test_filters_come_from_the_address(server: RunningServer) -> None:
    await server.store_frames(a_stretch(1, 2))
    await server.store_frames(
        a_frame([a_sample(1)], [an_end(2, "died")]), hello=a_hello(OTHER, "sourcesource2", name="x")
    )
    assert [run["id"] for run in server.get("/api/runs", state="died").json()["runs"]] == [OTHER]
    assert [run["id"] for run in server.get("/api/runs", text="calm").json()["runs"]] == [RUN]
    assert server.get("/api/runs", project="", state="", text="").json()["next"] is None
    first = server.get("/api/runs", limit=1).json()
    second = server.get("/api/runs", limit=1, cursor=first["next"]).json()
    assert [run["id"] for run in first["runs"] + second["runs"]] == [RUN, OTHER]


@pytest.mark.parametrize(
    ("path", "parameters", "name"),
    [
        ("/api/runs", {"limit": "0"}, "limit"),
        ("/api/runs", {"limit": "many"}, "limit"),
        ("/api/runs", {"state": "sleeping"}, "state"),
        ("/api/runs", {"cursor": "nonsense"}, "cursor"),
        ("/api/runs", {"projekt": "x"}, "projekt"),
        ("/api/runs", {"text": "a\0b"}, "text"),
        ("/api/runs", {"tag": "x" * 201}, "tag"),
        (f"/api/runs/{RUN}", {"points": "10"}, "points"),
        (f"/api/runs/{RUN}/series", {"points": "9"}, "points"),
        (f"/api/runs/{RUN}/series", {"from": "nan"}, "from"),
        (f"/api/runs/{RUN}/series", {"metrics": "rss_bytes,beauty"}, "metrics"),
        (f"/api/runs/{RUN}/events", {"kind": "party"}, "kind"),
        (f"/api/runs/{RUN}/events", {"cursor": "nonsense"}, "cursor"),
        ("/api/compare", {}, "runs"),
        ("/api/compare", {"runs": RUN}, "runs"),
    ],
)
async def test_a_wrong_parameter_is_named(
    server: RunningServer, path: str, parameters: dict[str, str], name: str
) -> None:
    await server.store_frames(a_stretch(1, 2))
    answer = ask(server, "GET", path, params=parameters)
    assert name in detail(answer, 422)
    assert answer.json()["parameter"] == name


def test_a_parameter_that_is_given_twice_is_refused(server: RunningServer) -> None:
    assert "2 times" in detail(ask(server, "GET", "/api/runs?limit=1&limit=2"), 422)


async def test_a_chart_can_ask_for_some_metrics(server: RunningServer) -> None:
    await server.store_frames(a_stretch(1, 5))
    answer = server.get(f"/api/runs/{RUN}/series", metrics="peak_bytes,rss_bytes").json()
    assert set(answer["metrics"]) == {"rss_bytes", "peak_bytes"}
    assert answer["gpus"] == []


# Errors.


@pytest.mark.parametrize("path", ["/api/nothing", "/nothing", "/api/runs/", "/api/runs/NO/series", "/api/runs/a%00b"])
def test_what_is_not_there_is_a_problem(server: RunningServer, path: str) -> None:
    detail(ask(server, "GET", path), 404)


def test_a_method_that_is_not_for_an_address_says_which_are(server: RunningServer) -> None:
    answer = ask(server, "POST", f"/api/runs/{RUN}", json={})
    assert "GET or HEAD or PATCH" in detail(answer, 405)
    assert {"GET", "HEAD", "PATCH"} <= set(answer.headers["allow"].split(", "))
    assert ask(server, "POST", "/api/runs", json={}).headers["allow"] == "GET, HEAD"


def test_what_was_given_can_t_break_the_line_or_fill_it(server: RunningServer) -> None:
    assert len(detail(ask(server, "GET", "/api/runs", params={"limit": "1\n\x1b[31m" + "x" * 5000}), 422)) < 300


@pytest.mark.parametrize(
    "path", ["/api/server", "/api/runs", f"/api/runs/{RUN}", f"/api/runs/{RUN}/series", "/api", "/api/nothing", "/"]
)
async def test_head_answers_as_get_without_the_body(server: RunningServer, path: str) -> None:
    await server.store_frames(a_stretch(1, 5))
    head, got = ask(server, "HEAD", path), ask(server, "GET", path)
    assert head.status_code == got.status_code
    assert head.headers["content-type"] == got.headers["content-type"]
    assert head.content == b""
    assert int(head.headers["content-length"]) > 0


# Tags.


@pytest.mark.parametrize(
    "path",
    [
        "/api/projects",
        "/api/runs",
        f"/api/runs/{RUN}",
        f"/api/runs/{RUN}/series",
        f"/api/runs/{RUN}/summary",
        "/api/openapi.json",
    ],
)
async def test_an_answer_that_is_known_is_not_sent_again(server: RunningServer, path: str) -> None:
    await server.store_frames(a_frame([a_sample(1)], [an_end(2, "finished")]))
    tag = ask(server, "GET", path).headers["etag"]
    assert tag.startswith('W/"')
    for given in (tag, f'"other", {tag}', tag.removeprefix("W/"), "*"):
        again = ask(server, "GET", path, {"If-None-Match": given})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert ask(server, "GET", path, {"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize("path", [f"/api/runs/{RUN}", f"/api/runs/{RUN}/series"])
async def test_new_rows_change_the_tag(server: RunningServer, path: str) -> None:
    await server.store_frames(a_stretch(1, 2))
    answer = ask(server, "GET", path)
    assert answer.headers["cache-control"] == "private, no-cache"
    await server.store_frames(a_stretch(3, 4))
    again = ask(server, "GET", path, {"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 200


async def test_other_parameters_have_another_tag(server: RunningServer) -> None:
    await server.store_frames(a_stretch(1, 20))
    path = f"/api/runs/{RUN}/series"
    tags = {ask(server, "GET", path, params=query).headers["etag"] for query in ({}, {"x": "time"}, {"points": "10"})}
    assert len(tags) == 3


async def test_silence_changes_the_tag_of_a_run(make_running: Callable[..., RunningServer]) -> None:
    clock = [WALL_NS]
    server = make_running(wall_ns=lambda: clock[0])
    await server.store_frames(a_stretch(1, 2))
    tag = ask(server, "GET", f"/api/runs/{RUN}").headers["etag"]
    clock[0] += 11_000_000_000
    answer = ask(server, "GET", f"/api/runs/{RUN}", {"If-None-Match": tag})
    assert (answer.status_code, answer.json()["state"]) == (200, "silent")


def test_the_time_of_day_is_never_an_old_one(server: RunningServer) -> None:
    """A browser would show the clock of the answer that it kept."""
    assert ask(server, "GET", "/api/runs").headers["cache-control"] == "no-store"
    assert "etag" not in ask(server, "GET", "/api/server").headers


# Changes.


async def test_a_run_gets_another_name_and_is_found_by_it(server: RunningServer) -> None:
    await server.store_frames(a_stretch(1, 2))
    tag = ask(server, "GET", f"/api/runs/{RUN}").headers["etag"]
    answer = change(server, {"name": "  big batch\n2 ", "tags": ["x", "y", "x"]})
    assert answer.status_code == 200
    assert (answer.json()["name"], answer.json()["tags"]) == ("big batch 2", ["x", "y"])
    assert answer.headers["etag"] not in (tag, "")
    assert [run["name"] for run in server.get("/api/runs", text="big", tag="y").json()["runs"]] == ["big batch 2"]
    assert server.get("/api/runs", text="calm").json()["runs"] == []
    assert server.get("/api/runs", tag="a").json()["runs"] == []
    assert server.get("/api/runs", text="train.py").json()["runs"] != []


async def test_what_is_not_given_stays_and_rows_that_come_later_bring_nothing_back(server: RunningServer) -> None:
    await server.store_frames(a_stretch(1, 2))
    assert change(server, {}).json()["tags"] == ["a"]
    assert change(server, {"tags": []}).json()["name"] == "calm-river-7"
    await server.store_frames(a_stretch(3, 4))
    run = server.get(f"/api/runs/{RUN}").json()
    assert (run["tags"], run["samples"]) == ([], 4)


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({"name": ""}, 422, "name"),
        ({"name": 7}, 422, "name"),
        ({"name": "\x00\u202e "}, 422, "name"),
        ({"name": "x" * 201}, 422, "name"),
        ({"tags": ["ok", 7]}, 422, "tags"),
        ({"tags": ["x"] * 101}, 422, "tags"),
        ({"state": "died"}, 422, "state"),
        ([], 422, "the body"),
        ({"name": "x" * 70_000}, 413, "64 KiB"),
    ],
)
async def test_a_bad_change_is_told_what_is_wrong(server: RunningServer, body: Any, status: int, named: str) -> None:
    await server.store_frames(a_stretch(1, 2))
    assert named in detail(change(server, body), status)
    assert server.get(f"/api/runs/{RUN}").json()["name"] == "calm-river-7"


def test_a_body_must_be_json_and_say_so(server: RunningServer) -> None:
    path = f"/api/runs/{RUN}"
    json_type = {"Content-Type": "application/json"}
    assert "application/json" in detail(ask(server, "PATCH", path, content="name=x"), 415)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert "expected application/json" in detail(ask(server, "PATCH", path, form, content="name=x"), 415)
    assert "no JSON" in detail(ask(server, "PATCH", path, json_type, content='{"name": "x"'), 400)
    detail(ask(server, "PATCH", path, json_type, content=b'{"name": "\xff"}'), 400)
    detail(ask(server, "PATCH", path, json_type, content="[" * 10_000), 400)
    detail(ask(server, "PATCH", path, {"Content-Type": "application/json; charset=utf-8"}, content="{}"), 404)
    assert "no run" in detail(change(server, {"name": "x"}, "nosuchrun1"), 404)


async def test_a_whole_number_may_be_written_with_a_point(server: RunningServer) -> None:
    await server.store_frames(a_stretch(1, 2))
    body = {"full_days": 30.0, "rollup_days": 400}
    answer = ask(server, "PUT", "/api/projects/default", json=body)
    assert (answer.status_code, answer.json()["full_days"]) == (200, 30)
    assert "full_days" in detail(ask(server, "PUT", "/api/projects/default", json={"full_days": 1.5}), 422)


async def test_a_change_needs_the_token_or_a_browser_of_this_site(server: RunningServer) -> None:
    await server.store_frames(a_stretch(1, 2))

    def by(headers: dict[str, str]) -> int:
        url = f"{server.base}/api/runs/{RUN}"
        return httpx.patch(url, json={"name": "x"}, headers=headers, trust_env=False).status_code

    assert by({}) == 401
    assert by(server.cookie) == 401
    assert by(server.cookie | {"Origin": "http://evil.example"}) == 403
    assert by(BEARER | {"Origin": "null"}) == 403
    assert by(server.cookie | {"Origin": server.base}) == 200


async def test_a_body_that_breaks_off_leaves_the_server_well(server: RunningServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest("PATCH", f"/api/runs/{RUN}")
    for name, value in {**BEARER, "Content-Type": "application/json", "Content-Length": "1000"}.items():
        connection.putheader(name, value)
    connection.endheaders(b'{"name"')
    connection.close()
    assert server.get("/api/server").status_code == 200


# Events.


async def test_events_come_page_by_page_and_by_kind(server: RunningServer) -> None:
    events = [an_event(at, EventKind.EPOCH_END if at % 2 else EventKind.EPOCH_BEGIN) for at in range(1, 8)]
    await server.store_frames(a_frame(events=events))
    await server.store_frames(a_frame(events=[an_event(1, EventKind.NOTICE)]), hello=a_hello(source="sourcesource2"))
    path = f"/api/runs/{RUN}/events"
    pages, cursor = [], None
    while True:
        page = server.get(path, limit=3, **({"cursor": cursor} if cursor else {})).json()
        pages.append([event["seq"] for event in page["events"]])
        cursor = page["next"]
        if cursor is None:
            break
    assert pages == [[1, 2, 3], [4, 5, 6], [7, 1]]
    ends = server.get(path, kind="epoch_end", source=SOURCE).json()["events"]
    assert [event["seq"] for event in ends] == [1, 3, 5, 7]
    later = server.get(path, after=(WALL_NS + 5 * 10_000_000) / 1e6).json()["events"]
    assert [event["seq"] for event in later] == [6, 7]
    assert detail(ask(server, "GET", path, params={"source": "nosuchsource"}), 404)


# What a run came to.


@pytest.mark.parametrize("length", [3, 40, 3_000])
async def test_a_summary_is_true_to_the_samples(server: RunningServer, length: int) -> None:
    """GIVEN a run that grows by 1000 bytes a batch and waits for memory a tenth of the time."""
    rows = [a_sample(at, rss=10_000 + 1_000 * at, psi_some_us=1_000, major_faults=2) for at in range(1, length + 1)]
    await server.store_frames(a_frame(rows))
    answer = server.get(f"/api/runs/{RUN}/summary").json()
    (figures,) = answer["sources"]
    assert (answer["id"], answer["name"], answer["state"]) == (RUN, "calm-river-7", "live")
    assert (figures["id"], figures["main"], figures["complete"]) == (SOURCE, True, True)
    assert (figures["samples"], figures["batches"]) == (length, length)
    assert figures["growth_bytes_per_batch"] == pytest.approx(1_000)
    assert figures["rss_mean_bytes"] == pytest.approx(10_000 + 1_000 * (length + 1) / 2)
    assert figures["rss_max_bytes"] == 10_000 + 1_000 * length
    assert figures["peak_bytes"] == 10_500 + 1_000 * length
    assert figures["peak_share"] == pytest.approx(figures["peak_bytes"] / 8_000)
    assert figures["major_faults"] == 2 * length
    assert figures["batches_per_s"] == pytest.approx(100)
    assert figures["duration_s"] == pytest.approx(length / 100, abs=0.001)
    assert figures["stall_share"] == pytest.approx(0.1 * length / (length - 1))


async def test_what_was_not_measured_is_null_in_a_summary(server: RunningServer) -> None:
    await server.store_frames(a_frame([a_sample(1, rss=None, limit_bytes=None, minor_faults=None, psi_some_us=None)]))
    (figures,) = server.get(f"/api/runs/{RUN}/summary").json()["sources"]
    names = ("rss_mean_bytes", "peak_bytes", "peak_share", "growth_bytes_per_batch", "stall_share", "batches_per_s")
    assert [figures[name] for name in (*names, "minor_faults", "limit_bytes")] == [None] * 8


async def test_a_source_without_batches_is_summed_up_over_its_ticks(server: RunningServer) -> None:
    await server.store_frames(a_frame([a_sample(at, kind=Kind.TICK, rss=100 * at) for at in (1, 2, 3)]))
    (figures,) = server.get(f"/api/runs/{RUN}/summary").json()["sources"]
    assert (figures["samples"], figures["batches"], figures["growth_bytes_per_batch"]) == (3, None, None)
    assert figures["rss_mean_bytes"] == 200


async def test_a_run_of_which_nothing_came_has_a_summary(server: RunningServer) -> None:
    await server.store_frames()
    (figures,) = server.get(f"/api/runs/{RUN}/summary").json()["sources"]
    assert (figures["samples"], figures["duration_s"]) == (0, None)


async def test_runs_are_compared_in_the_order_asked_for(server: RunningServer) -> None:
    await server.store_frames(a_stretch(1, 5))
    await server.store_frames(a_stretch(1, 9), hello=a_hello(OTHER, "sourcesource2"))
    runs = server.get("/api/compare", runs=f"{OTHER},{RUN}").json()["runs"]
    assert [(run["id"], run["sources"][0]["batches"]) for run in runs] == [(OTHER, 9), (RUN, 5)]
    assert "nosuchrun1" in detail(ask(server, "GET", f"/api/compare?runs={RUN},nosuchrun1"), 404)


async def test_projects_are_listed(server: RunningServer) -> None:
    await server.store_frames(a_stretch(1, 2))
    (project,) = server.get("/api/projects").json()["projects"]
    assert (project["name"], project["runs"], project["live"]) == ("default", 1, 1)
