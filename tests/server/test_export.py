"""What is in the file of a run, and that it makes the same run on another server."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from tests.server.conftest import RunningServer
from tests.server.parts import RUN, TOKEN, a_frame, a_hello, a_sample, a_stretch, wait_for
from tests.server.traces import FIRST, FORMULA, SECOND, exported, fetch, fill, imported, lines_of

from oomcast_server.errors import StoreUnavailable
from oomcast_server.keeping import exporting
from oomcast_server.keeping import parquet as export_parquet
from oomcast_server.keeping.formats import LinesFormat
from oomcast_server.store import schema

pytestmark = pytest.mark.fast

FORMATS = ["csv", "parquet", "jsonl"]


@pytest.fixture
async def full(server: RunningServer) -> RunningServer:
    await fill(server)
    return server


@pytest.fixture
def other(make_running: Callable[..., RunningServer], tmp_path: Path) -> RunningServer:
    return make_running(database=tmp_path / "other" / "oomcast.db")


def table_of(answer: httpx.Response) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(answer.text)))


async def test_csv_has_a_row_for_each_sample(full: RunningServer) -> None:
    rows = table_of(fetch(full, "csv"))
    assert len(rows) == 5 + 300
    assert [(row["seq"], row["kind"], row["phase"]) for row in rows[1:4]] == [
        ("4", "batch", "train"),
        ("5", "tick", "train"),
        ("6", "batch", "validation"),
    ]
    assert (rows[1]["project"], rows[1]["run"], rows[1]["source"], rows[1]["rank"]) == ("default", RUN, FIRST, "0")
    assert rows[1]["anonymous_bytes"] == str(2**62)


async def test_what_is_missing_is_empty_in_csv(full: RunningServer) -> None:
    row = table_of(fetch(full, "csv"))[2]
    assert (row["rss_bytes"], row["limit_bytes"], row["gpu1_allocated_bytes"]) == ("", "", "")


async def test_gpus_have_columns_of_their_own(full: RunningServer) -> None:
    batch, tick = table_of(fetch(full, "csv"))[1:3]
    assert (batch["gpu1_allocated_bytes"], batch["gpu17_used_bytes"]) == ("5", "")
    assert (tick["gpu1_used_bytes"], tick["gpu1_utilization_percent"], tick["gpu17_used_bytes"]) == ("9", "100", "0")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "'=1", "＝1"])
async def test_no_cell_of_csv_is_a_formula_cwe_1236(server: RunningServer, tmp_path: Path, text: str) -> None:
    await server.store_frames(a_stretch(1, 2), hello=a_hello(name=text))
    row = table_of(fetch(server, "csv"))[0]
    assert row["name"] == f"'{text}"


async def test_a_defused_name_is_the_same_again(full: RunningServer, other: RunningServer, tmp_path: Path) -> None:
    imported(other, exported(full, "csv", tmp_path))
    assert other.get(f"/api/runs/{RUN}").json()["name"] == FORMULA


async def test_parquet_is_for_pandas_and_duckdb(full: RunningServer, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(exported(full, "parquet", tmp_path))
    assert table.num_rows == 305
    assert str(table.schema.field("kind").type).startswith("dictionary<values=string")
    assert str(table.schema.field("rss_bytes").type) == "int64"
    assert table.column("rss_bytes").to_pylist()[2] is None
    assert table.column("phase").to_pylist()[3] == "validation"


async def test_json_lines_are_typed_and_in_order(full: RunningServer, tmp_path: Path) -> None:
    lines = lines_of(exported(full, "jsonl", tmp_path))
    kinds = [line["type"] for line in lines]
    assert kinds[:3] == ["run", "source", "source"]
    assert kinds[-1] == "end"
    assert lines[-1]["rows"] == len(lines) - 4
    first = [(line["type"], line["seq"]) for line in lines[3:] if line.get("source") == FIRST]
    assert first == sorted(first, key=lambda line: line[1])
    assert first[first.index(("sample", 4)) + 1] == ("gpu", 4)


@pytest.mark.parametrize("form", FORMATS)
async def test_an_export_imported_and_exported_again_is_the_same(
    full: RunningServer, other: RunningServer, tmp_path: Path, form: str
) -> None:
    path = exported(full, form, tmp_path)
    done = imported(other, path)
    assert (done.run_id, done.sources, done.known) == (RUN, 2, False)
    assert fetch(other, form).content == path.read_bytes()


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
async def test_an_imported_run_is_told_in_the_same_words(
    full: RunningServer, other: RunningServer, tmp_path: Path, form: str
) -> None:
    imported(other, exported(full, form, tmp_path))
    was, now = (server.get(f"/api/runs/{RUN}").json() for server in (full, other))
    assert without_arrival(was) == without_arrival(now)


def without_arrival(value: Any) -> Any:
    """The answer without what the server's own clock says."""
    if isinstance(value, list):
        return [without_arrival(item) for item in value]
    if isinstance(value, dict):
        return {key: without_arrival(item) for key, item in value.items() if key != "last_ms"}
    return value


@pytest.mark.parametrize("form", FORMATS)
async def test_an_imported_run_opens_as_a_chart(
    full: RunningServer, other: RunningServer, tmp_path: Path, form: str
) -> None:
    imported(other, exported(full, form, tmp_path))
    for source in (FIRST, SECOND):
        was, now = (server.get(f"/api/runs/{RUN}/series", source=source).json() for server in (full, other))
        assert was == now


async def test_importing_again_sends_nothing(full: RunningServer, other: RunningServer, tmp_path: Path) -> None:
    path = exported(full, "jsonl", tmp_path)
    assert imported(other, path).sent == 12 + 301
    again = imported(other, path)
    assert (again.sent, again.known) == (0, True)
    assert other.get(f"/api/runs/{RUN}").json()["samples"] == 305


async def test_importing_goes_on_where_it_was(full: RunningServer, other: RunningServer, tmp_path: Path) -> None:
    await other.store_frames(a_stretch(1, 100), hello=a_hello(source=SECOND))
    done = imported(other, exported(full, "jsonl", tmp_path))
    assert (done.sent, done.known) == (12 + 201, True)


async def test_as_new_is_a_run_of_its_own(full: RunningServer, tmp_path: Path) -> None:
    done = imported(full, exported(full, "jsonl", tmp_path), as_new=True, name="a copy", project="mine")
    assert done.run_id != RUN
    copy = full.get(f"/api/runs/{done.run_id}").json()
    assert (copy["name"], copy["project"], copy["samples"]) == ("a copy", "mine", 305)
    assert {source["id"] for source in copy["sources_detail"]}.isdisjoint({FIRST, SECOND})


async def test_a_csv_says_that_it_doesn_t_know_the_end(
    full: RunningServer, other: RunningServer, tmp_path: Path
) -> None:
    imported(other, exported(full, "csv", tmp_path))
    verdict = other.get(f"/api/runs/{RUN}").json()["verdict"]
    text = f"Imported from {RUN}.csv, which doesn't say how the training ended."
    assert (verdict["ending"], verdict["grade"], verdict["text"]) == ("finished", "unknown", text)


async def test_a_csv_s_epochs_are_marked_where_there_is_room(
    full: RunningServer, other: RunningServer, tmp_path: Path
) -> None:
    imported(other, exported(full, "csv", tmp_path))
    events = other.get(f"/api/runs/{RUN}").json()["events"]
    assert [(event["kind"], event["seq"]) for event in events if event["source"] == FIRST] == [
        ("train_begin", 1),
        ("epoch_begin", 2),
        ("phase_end", 7),
        ("epoch_end", 8),
        ("gap", 9),
        ("epoch_begin", 10),
        ("end", 12),
    ]


async def test_a_run_that_still_trained_ends_where_the_file_does(
    server: RunningServer, other: RunningServer, tmp_path: Path
) -> None:
    await server.store_frames(a_stretch(1, 5))
    imported(other, exported(server, "jsonl", tmp_path))
    run = other.get(f"/api/runs/{RUN}").json()
    assert run["state"] == "finished"
    assert "before the training had ended" in run["verdict"]["text"]


async def test_a_long_run_comes_in_pieces_without_a_seam(
    server: RunningServer, other: RunningServer, tmp_path: Path
) -> None:
    await server.store_frames(*(a_stretch(begin, begin + 1_999) for begin in range(1, 12_001, 2_000)))
    path = exported(server, "jsonl", tmp_path)
    assert [line["seq"] for line in lines_of(path) if line["type"] == "sample"] == list(range(1, 12_001))
    assert imported(other, path).sent == 12_001


@pytest.mark.parametrize("form", ["csv", "jsonl"])
async def test_text_is_compressed_where_it_is_accepted(full: RunningServer, form: str) -> None:
    plain = fetch(full, form)
    packed = fetch(full, form, **{"Accept-Encoding": "gzip"})
    assert (plain.headers.get("content-encoding"), packed.headers["content-encoding"]) == (None, "gzip")
    assert plain.content == packed.content


async def test_a_compressed_file_is_imported(full: RunningServer, other: RunningServer, tmp_path: Path) -> None:
    path = tmp_path / "trace.gz"
    path.write_bytes(gzip.compress(fetch(full, "csv").content))
    assert imported(other, path).rows == 305


async def test_the_file_has_a_name_that_is_safe_anywhere(full: RunningServer) -> None:
    answer = fetch(full, "csv")
    assert answer.headers["content-disposition"] == f'attachment; filename="HYPERLINK-1-{RUN}.csv"'
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"


@pytest.mark.parametrize(("run", "form", "status"), [("nonononono", "csv", 404), (RUN, "xls", 422)])
async def test_what_can_t_be_exported_is_a_problem(full: RunningServer, run: str, form: str, status: int) -> None:
    answer = fetch(full, form, run)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


async def test_without_pyarrow_the_answer_says_what_to_install(
    full: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    answer = fetch(full, "parquet")
    assert answer.status_code == 501
    assert "pip install 'oomcast[parquet]'" in answer.json()["detail"]


async def test_too_many_events_for_parquet_are_refused(full: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_parquet, "MOST_EVENTS", 2)
    answer = fetch(full, "parquet")
    assert answer.status_code == 422
    assert answer.json()["detail"].endswith("use jsonl")


async def test_an_export_holds_no_connection_while_nobody_reads(server: RunningServer) -> None:
    await server.store_frames(*(a_stretch(begin, begin + 1_999) for begin in range(1, 60_001, 2_000)))
    request = (
        f"GET /api/runs/{RUN}/export?format=jsonl HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    )
    stalled = [await asyncio.open_connection("127.0.0.1", server.port, limit=1024) for _ in range(6)]
    try:
        for _, writer in stalled:
            writer.write(request.encode())
        for reader, _ in stalled:
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        for _ in range(20):
            assert server.get(f"/api/runs/{RUN}").status_code == 200
    finally:
        for _, writer in stalled:
            writer.transport.abort()


async def test_an_export_ends_when_its_reader_goes(server: RunningServer) -> None:
    await server.store_frames(*(a_stretch(begin, begin + 1_999) for begin in range(1, 60_001, 2_000)))
    for _ in range(12):  # more than may run at once
        async with httpx.AsyncClient(trust_env=False) as client:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            async with client.stream("GET", f"{server.base}/api/runs/{RUN}/export?format=jsonl", headers=headers):
                pass
    assert len(fetch(server, "csv").text.splitlines()) == 60_001


@pytest.mark.parametrize("what", ["deleted", "pruned"])
async def test_rows_that_go_meanwhile_break_the_export_off(full: RunningServer, what: str) -> None:
    found = exporting.open_export(full.store, RUN, with_devices=False)
    assert found is not None
    chunks = exporting.chunks(full.store, found)
    next(chunks)
    table = schema.sources
    gone: Any = sa.delete(table) if what == "deleted" else sa.update(table).values(full_from=17)
    with full.store.write() as connection:
        connection.execute(gone)
    with pytest.raises(StoreUnavailable, match="while it was exported"):
        next(chunks)


async def test_what_comes_during_an_export_is_not_in_it(full: RunningServer) -> None:
    found = exporting.open_export(full.store, RUN, with_devices=False)
    assert found is not None
    await full.store_frames(a_frame([a_sample(302)]), hello=a_hello(source=SECOND))
    wait_for(lambda: full.get(f"/api/runs/{RUN}").json()["samples"] == 306)
    form = LinesFormat()
    data = form.begin(found) + b"".join(map(form.chunk, exporting.chunks(full.store, found))) + form.end()
    assert b'"seq":302' not in data
