"""Compares what the server has stored with what trainings have done: every batch once, every seq once.

It reads the server's SQLite file by itself, read-only, and knows nothing of the server's code. Its questions are SQL
that PostgreSQL takes as well: see `tests.torture.shared`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

from oomcast.sample import EventKind, Kind

__all__ = ["Finding", "Gap", "Standing", "Store", "judge"]

_ONCE = (EventKind.TRAIN_BEGIN, EventKind.END)


class Standing(NamedTuple):
    """How far the store is with one run."""

    watermark: int  # summed over its sources
    newest: int  # batch; -1 before the first
    ended: bool


class Gap(NamedTuple):
    """What a gap event says of one source: these seqs are lost; or so many records, which never got a seq."""

    source: str
    first_seq: int
    last_seq: int
    records: int
    reason: str


@dataclasses.dataclass
class Finding:
    """What the store has of one run, against what its training has done."""

    name: str
    produced: int
    stored: int = 0  # different batches
    lost: int = 0
    duplicated: int = 0
    gaps: list[Gap] = dataclasses.field(default_factory=list)
    faults: list[str] = dataclasses.field(default_factory=list)


class Store:
    """The server's file, as it is at this moment; the server may be away."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ask(self, question: str, *values: Any) -> list[tuple[Any, ...]]:
        """One query.

        Raises:
            sqlite3.Error: there is no such file or table yet, or it can't be read now.
        """
        with contextlib.closing(sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            return connection.execute(question, values).fetchall()

    def standings(self) -> dict[str, Standing]:
        """Run name → how far it is; empty where nothing can be read now."""
        question = """
            SELECT r.name, sum(s.watermark), coalesce(r.batch, -1), count(r.ended_ns)
            FROM sources s JOIN runs r ON r.pk = s.run_pk GROUP BY r.pk
        """
        with contextlib.suppress(sqlite3.Error):
            return {name: Standing(mark, newest, ended > 0) for name, mark, newest, ended in self.ask(question)}
        return {}


def judge(store: Store, name: str, produced: int, *, killed: bool, pid: int | None = None) -> Finding:
    """What is lost, doubled or wrong of one run.

    Args:
        store: where it should be.
        name: the run's, which nothing else has.
        produced: steps by the training's own count.
        killed: the training was, and may have done one step more.
        pid: whose, of a run of several trainings.
    """
    finding = Finding(name, produced)
    runs = store.ask("SELECT pk FROM runs WHERE name = ?", name)
    if len(runs) != 1:
        finding.lost = produced
        if produced or len(runs) > 1:
            finding.faults.append(f"stored as {len(runs)} runs")
        return finding
    whose = "" if pid is None else f" AND pid = {pid}"
    sources = store.ask(f"SELECT pk, id, watermark FROM sources WHERE run_pk = ?{whose}", runs[0][0])
    if len(sources) != 1:
        finding.faults.append(f"{len(sources)} sources")
    _judge_batches(store, [pk for pk, _, _ in sources], finding, killed)
    for source in sources:
        finding.gaps += _gaps(store, source)
        finding.faults += _judge_seqs(store, source, finding.gaps)
    _judge_events(store, [pk for pk, _, _ in sources], finding)
    return finding


def _judge_batches(store: Store, sources: list[int], finding: Finding, killed: bool) -> None:
    where = f"FROM samples WHERE kind = {int(Kind.BATCH)} AND source_pk IN ({','.join(map(str, sources))})"
    known = finding.produced
    [(rows, different, inside, outside, odd)] = store.ask(
        f"""
        SELECT count(*), count(DISTINCT batch), count(DISTINCT CASE WHEN batch < ? THEN batch END),
            count(DISTINCT CASE WHEN batch >= ? THEN batch END), count(CASE WHEN batch = step THEN NULL ELSE 1 END)
        {where}
        """,
        known,
        known + (1 if killed else 0),
    )
    finding.stored, finding.lost, finding.duplicated = different, known - inside, rows - different
    if finding.lost:
        have = {batch for (batch,) in store.ask(f"SELECT DISTINCT batch {where}")}
        finding.faults.append(f"missing batches {ranges(sorted(set(range(known)) - have))}")
    if finding.duplicated:
        twice = store.ask(f"SELECT batch {where} GROUP BY batch HAVING count(*) > 1")
        finding.faults.append(f"doubled batches {ranges(sorted(batch for (batch,) in twice))}")
    if outside:
        finding.faults.append(f"{outside} batches that were never done")
    if odd:
        finding.faults.append(f"{odd} batches with another number than their step's")
    [(back,)] = store.ask(
        f"SELECT count(*) FROM (SELECT batch <= lag(batch) OVER (PARTITION BY source_pk ORDER BY seq) AS back {where}) "
        "AS steps WHERE back"
    )
    if back:
        finding.faults.append(f"{back} batches behind a later one")


def _gaps(store: Store, source: tuple[Any, ...]) -> list[Gap]:
    question = "SELECT seq, detail FROM events WHERE source_pk = ? AND kind = ? ORDER BY seq"
    found = []
    for seq, text in store.ask(question, source[0], int(EventKind.GAP)):
        detail = json.loads(text)
        first, last = detail.get("from", seq), detail.get("to", seq)
        found.append(Gap(source[1], first, last, detail.get("records", 0), detail.get("reason", "")))
    return found


def _judge_seqs(store: Store, source: tuple[Any, ...], gaps: list[Gap]) -> list[str]:
    """Every seq from 1 to the watermark stands for exactly one row, or lies in exactly one gap."""
    pk, name, watermark = source
    seqs = "SELECT seq FROM samples WHERE source_pk = ? UNION ALL SELECT seq FROM events WHERE source_pk = ?"
    [(rows, different, least, most)] = store.ask(
        f"SELECT count(*), count(DISTINCT seq), min(seq), max(seq) FROM ({seqs}) AS seqs", pk, pk
    )
    faults = []
    if rows != different:
        faults.append(f"{rows - different} seqs stand for two rows")
    covered = sum(gap.last_seq - gap.first_seq for gap in gaps if gap.source == name)  # one of each is the event's own
    first = min([least or 1, *(gap.first_seq for gap in gaps if gap.source == name)])
    if rows and (first, most, different + covered) != (1, watermark, watermark):
        faults.append(f"seqs {first} to {most}: {different} rows and {covered} in gaps, for a watermark of {watermark}")
    for gap in gaps:
        if gap.source == name and gap.last_seq > gap.first_seq:
            inside = f"SELECT count(*) FROM ({seqs}) AS seqs WHERE seq BETWEEN ? AND ?"
            [(count,)] = store.ask(inside, pk, pk, gap.first_seq, gap.last_seq)
            if count != 1:
                faults.append(f"{count} rows within the gap {gap.first_seq} to {gap.last_seq}, not its event alone")
    return faults


def _judge_events(store: Store, sources: list[int], finding: Finding) -> None:
    where = f"source_pk IN ({','.join(map(str, sources))})"
    counts = dict(store.ask(f"SELECT kind, count(*) FROM events WHERE {where} GROUP BY kind"))
    for kind in _ONCE:
        if finding.produced and counts.get(int(kind), 0) != 1:
            finding.faults.append(f"{counts.get(int(kind), 0)} events {kind.name}, not one")


def ranges(numbers: list[int], most: int = 6) -> str:
    """Sorted numbers as they are told: "3, 7–12, …"."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    told = [str(first) if first == last else f"{first}–{last}" for first, last in spans]
    return ", ".join([*told[:most], *(["…"] if len(told) > most else [])])
