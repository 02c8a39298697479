"""`oomcast list`, `show` and `compare` as a user runs them, against a real server."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from tests.server.conftest import RunningServer
from tests.server.parts import RUN, SOURCE, TOKEN, a_frame, a_hello, a_sample, a_stretch, an_end, an_event

from oomcast.run_tables import compared, listed, shown
from oomcast.sample import EventKind

pytestmark = pytest.mark.fast

OTHER = "otherrun22"


def oomcast(server: RunningServer, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OOMCAST_")}
    return subprocess.run(
        [sys.executable, "-c", "from oomcast.cli import main; main()", *arguments],
        env={**kept, "OOMCAST_SERVER": server.base, "OOMCAST_TOKEN": TOKEN, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def fill(server: RunningServer) -> None:
    """A run that lives, and one that died."""
    begin = an_event(1, EventKind.TRAIN_BEGIN, epochs=5, steps=100)
    await server.store_frames(a_frame([a_sample(at, rss=10**9 + at) for at in range(2, 50)], [begin]))
    end = an_end(20, "died", ending="oom killed", grade="confirmed", text="Killed by the kernel: out of memory.")
    hello = a_hello(OTHER, "sourcesource2", name="big \x1b[31mbatch")
    await server.store_frames(a_frame([a_sample(at) for at in range(1, 20)], [end]), hello=hello)


async def test_list_shows_the_runs_and_filters_them(server: RunningServer) -> None:
    await fill(server)
    every = oomcast(server, "list")
    assert every.returncode == 0, every.stderr
    head, live, died = every.stdout.splitlines()
    assert head.split()[:2] == ["STATE", "NAME"]
    assert live.split()[:4] == ["live", "calm-river-7", "954", "MiB"]
    assert died.startswith("died")
    assert "\x1b" not in every.stdout
    only = oomcast(server, "list", "--state", "died", "--limit", "1").stdout.splitlines()[1:]
    assert [line.split() for line in only] == [died.split()]
    assert "of more" in oomcast(server, "list", "--limit", "1").stdout


async def test_json_is_what_the_server_says(server: RunningServer) -> None:
    await fill(server)
    assert json.loads(oomcast(server, "list", "--json", "--tag", "a").stdout)["runs"][0]["id"] == RUN
    assert json.loads(oomcast(server, "show", OTHER[:5], "--json").stdout)["verdict"]["ending"] == "oom killed"
    runs = json.loads(oomcast(server, "compare", OTHER, "calm-river-7", "--json").stdout)["runs"]
    assert [run["id"] for run in runs] == [OTHER, RUN]


async def test_show_tells_a_run_s_end_and_figures(server: RunningServer) -> None:
    await fill(server)
    said = oomcast(server, "show", OTHER).stdout
    for part in ("died", "Killed by the kernel: out of memory.", f"{server.base}/runs/{OTHER}", "batches", "default"):
        assert part in said


async def test_compare_puts_runs_side_by_side(server: RunningServer) -> None:
    await fill(server)
    lines = oomcast(server, "compare", RUN, OTHER).stdout.splitlines()
    assert next(line.split() for line in lines if line.split()[:1] == ["batches"]) == ["batches", "49", "19"]


async def test_what_is_missing_says_what_to_do(server: RunningServer) -> None:
    empty = oomcast(server, "list")
    assert (empty.returncode, empty.stderr) == (0, "")
    assert "`oomcast run -- COMMAND`" in empty.stdout
    assert "without filters" in oomcast(server, "list", "--project", "nothing").stdout
    await fill(server)
    for arguments, said in [
        (("show", "nothing"), "no run of"),
        (("compare", RUN), "expected 2 to 10"),
        (("list", "--state", "asleep"), "expected 'live', 'silent'"),
    ]:
        answer = oomcast(server, *arguments)
        assert answer.returncode != 0
        assert answer.stderr.startswith("oomcast: ")
        assert said in answer.stderr
        assert len(answer.stderr.splitlines()) == 1
    wrong = oomcast(server, "list", OOMCAST_TOKEN="wrong")
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (1, 1)


# How it looks.


def drawn(width: int, *parts: Any, colour: bool = False) -> list[str]:
    """The lines on a terminal of that width."""
    file = io.StringIO()
    system = {"color_system": "standard"} if colour else {}
    console = Console(file=file, width=width, force_terminal=colour, highlight=False, markup=False, **system)  # type: ignore[arg-type]
    for part in parts:
        console.print(part)
    return file.getvalue().splitlines()


async def rest(server: RunningServer) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The list, a run and the comparison."""
    await fill(server)
    name = "ein sehr langer Name 漢字漢字漢字漢字漢字 " * 3
    await server.store_frames(a_stretch(1, 3), hello=a_hello("longrun333", "sourcesource3", name=name))
    comparison = server.get("/api/compare", runs=f"{RUN},{OTHER},longrun333").json()
    return server.get("/api/runs").json(), server.get(f"/api/runs/{OTHER}").json(), comparison


@pytest.mark.parametrize("width", [30, 60, 80, 120, 200])
async def test_no_line_is_wider_than_the_terminal(server: RunningServer, width: int) -> None:
    runs, run, comparison = await rest(server)
    figures = server.get(f"/api/runs/{OTHER}/summary").json()
    table = drawn(width, listed(runs["runs"], runs["now_ms"], width))
    assert len(table) == 4  # a line for each run
    assert "died" in "".join(table)
    everything = [*shown(run, figures, "http://localhost:6662/runs/x"), *compared(comparison["runs"], width)]
    assert all(cell_len(line) <= width for line in (*table, *drawn(width, *everything)))


async def test_a_wide_terminal_shows_more(server: RunningServer) -> None:
    runs, _, _ = await rest(server)
    titles = [drawn(width, listed(runs["runs"], runs["now_ms"], width))[0].split() for width in (30, 80, 250)]
    assert len(titles[0]) < len(titles[1]) < len(titles[2])
    assert titles[2][-1] == "ID"


async def test_colours_are_for_states_and_names_are_no_markup(server: RunningServer) -> None:
    runs, run, _ = await rest(server)
    run["name"] = "[red]x[/red]"
    run["sources_detail"] = [dict(run["sources_detail"][0], id=SOURCE, host="[b]") for _ in range(20)]
    figures = server.get(f"/api/runs/{OTHER}/summary").json()
    assert any("\x1b[1;31m" in line for line in drawn(120, listed(runs["runs"], runs["now_ms"], 120), colour=True))
    text = "\n".join(drawn(120, *shown(run, figures, "")))
    assert "[red]x[/red]" in text
    assert "[b]" in text
    assert "and 4 more" in text
