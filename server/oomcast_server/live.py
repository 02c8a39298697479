"""Carries what was committed to those who watch: encoded once for each run and tick, whoever watches."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from oomcast.sample import Event, GpuReading, Kind, Sample
from oomcast.wire import Status
from oomcast_server.mailbox import Mailbox
from oomcast_server.pipeline import Commit
from oomcast_server.presence import Presence
from oomcast_server.query import Standing
from oomcast_server.shapes import GpuSeries, RowsMessage, RunSummary, TickRows, Verdict, milliseconds, to_json
from oomcast_server.standing import RunState, SourceState
from oomcast_server.store.schema import State
from oomcast_server.summary import status_json, summarize, told
from oomcast_server.tables import (
    columns_of,
    event_json,
    gpu_series,
    metrics_of,
    tick_columns_of,
    tick_metrics_of,
)

__all__ = ["Hub"]

_ROWS_EVERY_S = 0.1
_SUMMARIES_EVERY_S = 0.5
_RESYNC_EVERY_S = 1.0
# Beyond it, in a tenth of a second (a journal being caught up), fetching is cheaper than pushing.
_MOST_ROWS = 5_000


@dataclasses.dataclass
class _Pending:
    """What was committed of a watched source since its last message."""

    samples: list[Sample] = dataclasses.field(default_factory=list)
    gpus: list[GpuReading] = dataclasses.field(default_factory=list)
    events: list[Event] = dataclasses.field(default_factory=list)
    status: Status | None = None
    blank_ticks: bool = False

    def take(self, commit: Commit) -> None:
        self.samples += commit.samples
        self.gpus += commit.gpus
        self.events += commit.events
        self.status = commit.status or self.status
        self.blank_ticks = commit.source.batch_samples > 0

    @property
    def count(self) -> int:
        return len(self.samples) + len(self.gpus) + len(self.events)


@dataclasses.dataclass
class _Standing:
    """A run as of the newest commit, and what viewers were told of it that may change without one."""

    run: RunState
    sources: Sequence[SourceState]
    told: tuple[str, Verdict | None]


@dataclasses.dataclass
class _Watched:
    """One run that someone watches."""

    viewers: set[Mailbox] = dataclasses.field(default_factory=set)
    pending: dict[str, _Pending] = dataclasses.field(default_factory=dict)
    newest: Standing | None = None
    too_many: bool = False
    sent_s: float = float("-inf")
    resync_s: float = float("-inf")
    timer: asyncio.TimerHandle | None = None


class Hub:
    """Lives on the event loop; nothing in it waits for a viewer."""

    def __init__(self, presence: Presence, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._presence = presence
        self._wall_ns = wall_ns
        self._watched: defaultdict[str, _Watched] = defaultdict(_Watched)
        self._list_viewers: set[Mailbox] = set()
        self._live: dict[str, _Standing] = {}  # silent ones too
        self._changed: dict[str, _Standing] = {}
        self._ticking: asyncio.Task[None] | None = None

    def start(self, live: Sequence[Standing] = ()) -> None:
        """Start the clock that tells of changed, silent and vanished runs; `live` are those that the store has."""
        for run, sources in live:
            self._live[run.id] = self._standing(run, sources)
        self._ticking = asyncio.create_task(self._tick())

    async def close(self) -> None:
        """Stop the clock."""
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)
        for watched in self._watched.values():
            if watched.timer is not None:
                watched.timer.cancel()

    def watch_runs(self, viewer: Mailbox) -> None:
        """`viewer` gets each run's summary when it changes."""
        self._list_viewers.add(viewer)

    def watch(self, viewer: Mailbox, run_id: str) -> None:
        """`viewer` gets the run's rows from now on; it is told to fetch what was before."""
        self._watched[run_id].viewers.add(viewer)
        viewer.put_resync(run_id)

    def unwatch(self, viewer: Mailbox, run_id: str) -> None:
        """`viewer` gets the run's rows no more."""
        if run_id not in self._watched:
            return
        watched = self._watched[run_id]
        watched.viewers.discard(viewer)
        viewer.drop(run_id)
        if not watched.viewers:
            if watched.timer is not None:
                watched.timer.cancel()
            del self._watched[run_id]

    def leave(self, viewer: Mailbox) -> None:
        """`viewer` is gone."""
        self._list_viewers.discard(viewer)
        for run_id in [run_id for run_id, watched in self._watched.items() if viewer in watched.viewers]:
            self.unwatch(viewer, run_id)

    def committed(self, commits: Sequence[Commit]) -> None:
        """Take what is on the disk now."""
        for run, sources in {commit.run.id: (commit.run, commit.sources) for commit in commits}.values():
            before = self._live.pop(run.id, None)
            self._changed[run.id] = standing = self._standing(run, sources)
            if run.state == State.LIVE:
                # What viewers were told stands until the clock compares it with what is so now.
                standing.told = before.told if before else standing.told
                self._live[run.id] = standing
        for commit in commits:
            if commit.run.id in self._watched:
                self._take(self._watched[commit.run.id], commit)
        for run_id in {commit.run.id for commit in commits if commit.run.id in self._watched}:
            self._schedule(run_id)

    def _standing(self, run: RunState, sources: Sequence[SourceState]) -> _Standing:
        return _Standing(run, sources, told(run, sources, self._wall_ns(), self._presence))

    def _take(self, watched: _Watched, commit: Commit) -> None:
        watched.newest = (commit.run, commit.sources)
        pending = watched.pending.setdefault(commit.source.id, _Pending())
        if pending.count + len(commit.samples) > _MOST_ROWS:
            watched.too_many = True
        if watched.too_many:
            watched.pending = {commit.source.id: _Pending()}
            return
        pending.take(commit)

    def _schedule(self, run_id: str) -> None:
        watched = self._watched[run_id]
        if watched.timer is not None:
            return
        loop = asyncio.get_running_loop()
        due = watched.sent_s + _ROWS_EVERY_S
        if watched.too_many:
            due = max(due, watched.resync_s + _RESYNC_EVERY_S)
        watched.timer = loop.call_later(max(0.0, due - loop.time()), self._send_rows, run_id)

    def _send_rows(self, run_id: str) -> None:
        watched = self._watched[run_id]
        watched.timer, watched.sent_s = None, asyncio.get_running_loop().time()
        pending, watched.pending = watched.pending, {}
        if watched.too_many:
            self._send_resync(run_id, watched)
            return
        if watched.newest is None:
            return
        now_ns = self._wall_ns()
        summary = summarize(*watched.newest, now_ns, self._presence)
        for source_id, rows in pending.items():
            if rows.count:
                message = to_json(_rows_message(summary, source_id, rows, now_ns))
                for viewer in watched.viewers:
                    viewer.put_rows(run_id, message)

    def _send_resync(self, run_id: str, watched: _Watched) -> None:
        watched.too_many, watched.resync_s = False, watched.sent_s
        for viewer in watched.viewers:
            viewer.put_resync(run_id)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_SUMMARIES_EVERY_S)
            now_ns = self._wall_ns()
            turned = {run_id for run_id, standing in self._live.items() if self._has_turned(standing, now_ns)}
            changed, self._changed = self._changed, {}
            changed.update({run_id: self._live[run_id] for run_id in turned})
            if changed:
                self._send_summaries(changed, turned, now_ns)

    def _has_turned(self, standing: _Standing, now_ns: int) -> bool:
        """Whether time alone has changed the run's state or verdict."""
        before, standing.told = standing.told, told(standing.run, standing.sources, now_ns, self._presence)
        return standing.told != before

    def _send_summaries(self, changed: dict[str, _Standing], turned: set[str], now_ns: int) -> None:
        for run_id, standing in changed.items():
            # Who watches a run hears of its silence too: no row will come to tell.
            watching = self._watched[run_id].viewers if run_id in turned and run_id in self._watched else set()
            viewers = self._list_viewers | watching
            if viewers:
                summary = to_json(summarize(standing.run, standing.sources, now_ns, self._presence))
                for viewer in viewers:
                    viewer.put_summary(run_id, summary)


def _rows_message(summary: RunSummary, source_id: str, rows: _Pending, now_ns: int) -> RowsMessage:
    ticks = [sample for sample in rows.samples if sample[1] == Kind.TICK]
    seqs = [sample[0] for sample in rows.samples] + [event.seq for event in rows.events]
    return RowsMessage(
        run=summary.id,
        source=source_id,
        from_seq=min(seqs),
        to_seq=max(seqs),
        columns=columns_of(rows.samples),
        metrics=metrics_of(rows.samples, blank_ticks=rows.blank_ticks),
        ticks=TickRows(columns=tick_columns_of(ticks), metrics=tick_metrics_of(ticks)),
        gpus=_gpus(rows),
        events=[event_json(source_id, event, event.detail) for event in rows.events],
        status=status_json(rows.status) if rows.status else None,
        summary=summary,
        sent_ms=milliseconds(now_ns),
    )


def _gpus(rows: _Pending) -> list[GpuSeries]:
    samples = {sample.seq: sample for sample in rows.samples} if rows.gpus else {}
    return gpu_series(
        (reading.device, samples[reading.seq].wall_ns, samples[reading.seq].batch, *reading[2:])
        for reading in rows.gpus
        if reading.seq in samples
    )
