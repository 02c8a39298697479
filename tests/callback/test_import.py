"""Files of runs: what is read, what is refused with which words, and the frames that are made of them."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomcast.importing import Changes, check_trace, import_trace
from oomcast.sample import EVENT_COLUMNS, SAMPLE_COLUMNS, Event, EventKind, GpuReading, Sample
from oomcast.traces.entries import Head
from oomcast.traces.format import TABLE_COLUMNS, TraceError, bare, defused
from oomcast.traces.framing import Framer
from oomcast.upload import UploadError
from oomcast.wire import MAX_MESSAGE_BYTES, Frame, SourceInfo, encode
from tests.server.parts import a_sample, an_event

pytestmark = pytest.mark.fast

SOURCE = "sourcesource1"
INFO = SourceInfo(id=SOURCE, host="box", pid=1, started_ns=1)
RUN_LINE = {"type": "run", "format": 1, "oomcast": "1", "run": {"id": "runrunrun1", "project": "p", "name": "n"}}
SOURCE_LINE = {"type": "source", "source": {"id": SOURCE, "host": "box", "pid": 1, "started_ns": 1}}


def sample_line(seq: int, **given: Any) -> dict[str, Any]:
    values = dict(zip(SAMPLE_COLUMNS, a_sample(seq), strict=True))
    return {"type": "sample", "source": SOURCE, **values, "kind": "batch", "phase": "train", **given}


def event_line(seq: int, **given: Any) -> dict[str, Any]:
    values = dict(zip(EVENT_COLUMNS, an_event(seq, EventKind.NOTICE), strict=True))
    return {"type": "event", "source": SOURCE, **values, "kind": "notice", **given}


def lines(path: Path, *rows: dict[str, Any], end: bool = True) -> Path:
    count = {"type": "end", "rows": len([row for row in rows if row["type"] in ("sample", "gpu", "event")])}
    written = [*rows, count] if end else rows
    path.write_text("".join(json.dumps(row) + "\n" for row in written))
    return path


def cells(path: Path, **given: str) -> Path:
    """A CSV of two samples; `given` goes into the second one."""
    rows = []
    for seq in (1, 2):
        words = {"project": "p", "run": "runrunrun1", "name": "n", "host": "box", "source": SOURCE, "rank": "0"}
        sample = {name: "" if value is None else str(value) for name, value in a_sample(seq)._asdict().items()}
        rows.append({**words, **sample, "kind": "batch", "phase": "train"})
    rows[1] |= given
    path.write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]) + "\n")
    return path


def refusal(path: Path) -> str:
    """In one line, without the folder."""
    with pytest.raises(TraceError) as refused:
        check_trace(path)
    text = str(refused.value)
    assert "\n" not in text
    return text.removeprefix(f"{path.parent}/")


def test_figures_that_are_left_out_are_missing(tmp_path: Path) -> None:
    short = {key: value for key, value in sample_line(1).items() if key not in ("rss_bytes", "epoch")}
    assert check_trace(lines(tmp_path / "x.jsonl", RUN_LINE, SOURCE_LINE, short)) == 1


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([sample_line(1)], "x.jsonl: line 1: expected the line of the run first, and once"),
        ([RUN_LINE, RUN_LINE], "x.jsonl: line 2: expected the line of the run first, and once"),
        ([RUN_LINE, sample_line(1)], f"x.jsonl: line 2: source {SOURCE!r}: expected its own line before its rows"),
        ([RUN_LINE], "x.jsonl: no source: expected one at least"),
        ([RUN_LINE | {"format": 2}], "x.jsonl: it is of format 2, written by oomcast 1; this one reads up to 1: `pip"),
        (
            [RUN_LINE, SOURCE_LINE, sample_line(1), sample_line(2, rss_bytes=-1)],
            "x.jsonl: line 4: rss_bytes: expected `int` >= 0",
        ),
        ([RUN_LINE, SOURCE_LINE, sample_line(1, rss_bytes=2**63)], "x.jsonl: line 3: rss_bytes: expected `int` <= 4"),
        ([RUN_LINE, SOURCE_LINE, sample_line(1, rss_bytes=1.5)], "x.jsonl: line 3: rss_bytes: expected `int | null`"),
        ([RUN_LINE, SOURCE_LINE, sample_line(1, kind="day")], "x.jsonl: line 3: kind: invalid enum value 'day'"),
        (
            [RUN_LINE, SOURCE_LINE, sample_line(2), sample_line(1)],
            "x.jsonl: line 4: seq 1: expected 3 or more",
        ),
        ([RUN_LINE, SOURCE_LINE, sample_line(1), sample_line(1)], "x.jsonl: line 4: seq 1: expected 2 or more"),
        (
            [RUN_LINE, SOURCE_LINE, {"type": "gpu", "source": SOURCE, "seq": 4, "device": 0}],
            "x.jsonl: line 3: a GPU reading of seq 4: expected it behind the sample of the same seq",
        ),
        ([RUN_LINE, SOURCE_LINE, {"type": "picture"}], "x.jsonl: line 3: type: invalid value 'picture'"),
        ([RUN_LINE, SOURCE_LINE, event_line(0)], "x.jsonl: line 3: seq 0: expected 1 or more"),
        ([RUN_LINE, SOURCE_LINE, SOURCE_LINE], f"x.jsonl: line 3: source {SOURCE!r} again: expected each once"),
    ],
)
def test_a_bad_line_is_told_with_its_number(tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    assert refusal(lines(tmp_path / "x.jsonl", *rows)).startswith(said)


def test_a_file_that_lost_its_end_is_told(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", RUN_LINE, SOURCE_LINE, sample_line(1), end=False)
    assert refusal(path).startswith("x.jsonl: it breaks off after line 3")
    path.write_text(path.read_text()[:-20])
    assert refusal(path).startswith("x.jsonl: it breaks off in line 3")


def test_rows_that_are_missing_in_the_middle_are_told(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [RUN_LINE, SOURCE_LINE, sample_line(1), {"type": "end", "rows": 2}]
    path = lines(tmp_path / "x.jsonl", *rows, end=False)
    assert refusal(path) == "x.jsonl: line 4: 2 rows were written, 1 are here: export or copy it again"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rss_bytes": "-5"}, "x.csv: line 3: rss_bytes '-5': expected a whole number, or nothing"),
        ({"rss_bytes": "1.0"}, "x.csv: line 3: rss_bytes '1.0': expected a whole number"),
        ({"rss_bytes": "NaN"}, "x.csv: line 3: rss_bytes 'NaN': expected a whole number"),
        ({"rss_bytes": "9" * 20}, f"x.csv: line 3: rss_bytes '{'9' * 20}': expected `int` <= 4"),
        ({"seq": ""}, "x.csv: line 3: seq 'None': expected `int`, got `null`"),
        ({"seq": "1"}, "x.csv: line 3: seq 1: expected 2 or more, in order and each once"),
        ({"kind": "tock"}, "x.csv: line 3: kind 'tock': expected one of batch, tick"),
        ({"run": "another0run"}, "x.csv: line 3: run 'another0run': expected runrunrun1, as before"),
        ({"source": "x"}, "x.csv: line 3: source: expected `str` matching regex"),
        ({"host": "a,b"}, "x.csv: line 3: 38 cells: expected 37, as in the header"),
    ],
)
def test_a_bad_cell_is_told_with_its_line_and_column(tmp_path: Path, changed: dict[str, str], said: str) -> None:
    assert check_trace(cells(tmp_path / "good.csv")) == 2
    assert refusal(cells(tmp_path / "x.csv", **changed)).startswith(said)


def test_a_table_program_may_add_and_drop_columns(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    names = ["run", "source", "seq", "kind", "wall_ns", "mono_ns", "phase", "rss_bytes", "my column"]
    path.write_text(f"\ufeff{','.join(names)}\nrunrunrun1,{SOURCE},1,batch,5,5,train,,a remark\n", "utf-8")
    assert check_trace(path) == 1


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "x: it is empty"),
        (b"\x89PNG\r\n", "x: no trace: expected what `oomcast export` writes"),
        (b"a,b\n1,2\n", "x: line 1: no column 'run', 'source', 'seq'"),
        (b'a,"b\n', "x: line 1: unexpected end of data"),
        (b"run,source\xff\n", "x: line 1: expected text in UTF-8"),
        (b"PAR1 and nothing else", "x: it can't be read as Parquet"),
        (gzip.compress(",".join(TABLE_COLUMNS).encode())[:-9], "x: its compressed data break off or are damaged"),
        (",".join(TABLE_COLUMNS).encode(), "x: line 1: no rows: expected at least one sample"),
    ],
)
def test_what_is_no_trace_is_told(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    assert refusal(path).startswith(said)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert refusal(tmp_path / "x") == "x can't be read: No such file or directory"


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "x").write_bytes(b"PAR1")
    assert refusal(tmp_path / "x").endswith("`pip install 'oomcast[parquet]'` brings it")


def test_another_program_s_parquet_is_told(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"a": [1]}), tmp_path / "x")
    assert refusal(tmp_path / "x").startswith("x: a Parquet file of another program")


def test_a_server_that_is_away_is_told_with_what_was_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oomcast.upload._PAUSES_S", (0.0,))
    path = lines(tmp_path / "x.jsonl", RUN_LINE, SOURCE_LINE, sample_line(1))
    told: list[str] = []
    with pytest.raises(UploadError, match=r"no server answers at .* 0 rows were sent: import it again"):
        import_trace(path, "http://127.0.0.1:9", "token", Changes(), told.append)
    assert len(told) == 1


@pytest.mark.parametrize("text", ["=1", "'=1", "''=1", "+", "-x", "@", "＋1"])
def test_a_formula_is_defused_and_the_same_again(text: str) -> None:
    assert defused(text).startswith("'")
    assert bare(defused(text)) == text


@given(st.text())
def test_any_text_is_the_same_again(text: str) -> None:
    assert bare(defused(text)) == text


def framed(rows: list[Any], **about: Any) -> list[Frame]:
    framer = Framer(Head(INFO, **about), "x.jsonl")
    return [frame for row in rows for frame in framer.take(row)] + list(framer.close())


def is_taken(frame: Frame) -> bool:
    """As `oomcast_server.intake.salvage` has it, in words of its own."""
    seqs = sorted([row.seq for row in frame.samples] + [event.seq for event in frame.events])
    if seqs == list(range(frame.first_seq, frame.last_seq + 1)):
        return True
    (event,) = frame.events
    ends = (event.detail["from"], event.detail["to"])
    return not frame.samples and event.kind is EventKind.GAP and ends == (frame.first_seq, frame.last_seq)


rows_strategy = st.lists(
    st.tuples(
        st.integers(1, 5),
        st.sampled_from(["sample", "event", "gap", "gpus"]),
        st.integers(0, 4),
    ),
    min_size=1,
    max_size=40,
)


@given(rows_strategy, st.booleans(), st.integers(1, 60))
def test_every_seq_is_framed_once_whatever_is_missing(
    drawn: list[tuple[int, str, int]], has_events: bool, kept_from: int
) -> None:
    rows: list[Sample | Event | GpuReading] = []
    seq, through = 0, 0
    for step, kind, span in drawn:
        seq = max(seq, through) + step
        if kind == "event":
            rows.append(an_event(seq, EventKind.NOTICE))
        elif kind == "gap":
            through = seq + span
            lost: dict[str, Any] = {"from": max(1, seq - span), "to": through, "reason": "x"}
            rows.append(an_event(seq, EventKind.GAP, **lost))
        else:
            rows.append(a_sample(seq, epoch=seq // 7))
            if kind == "gpus":
                rows += [GpuReading(seq, device, 1, 1, 1, 1) for device in range(span)]
    frames = framed(rows, has_events=has_events, kept_from=kept_from)
    assert all(map(is_taken, frames))
    ends = [0, *(frame.last_seq for frame in frames)]
    assert [frame.first_seq for frame in frames] == [end + 1 for end in ends[:-1]]
    assert [row for frame in frames for row in frame.samples] == [row for row in rows if isinstance(row, Sample)]
    assert [row for frame in frames for row in frame.gpus] == [row for row in rows if isinstance(row, GpuReading)]
    told = {event.seq for row in frames for event in row.events}
    assert {row.seq for row in rows if isinstance(row, Event)} <= told
    last = frames[-1].events[-1]
    assert (last.kind, last.seq) == (EventKind.END, frames[-1].last_seq)


def test_what_retention_removed_is_told_so() -> None:
    (gap, rest) = framed([a_sample(17)], kept_from=17)
    assert gap.events[0].detail == {"from": 1, "to": 16, "reason": "removed by retention before the export"}
    assert rest.first_seq == 17


def test_frames_are_small_enough_for_a_message() -> None:
    rows: list[Any] = []
    largest: dict[str, Any] = dict.fromkeys(SAMPLE_COLUMNS[5:], 2**62)
    figures: list[Any] = [*[2**62] * 3, 100, *[2**62] * 6]
    for seq in range(1, 3_000):
        rows.append(a_sample(seq, **largest))
        rows += [GpuReading(seq, device, *figures) for device in range(16)]
    sizes = [len(encode(frame)) for frame in framed(rows)]
    assert max(sizes) < MAX_MESSAGE_BYTES
