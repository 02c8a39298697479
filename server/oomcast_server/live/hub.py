"""Carries what was committed to those who watch: encoded once for each run and tick, whoever watches."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from oomcast_server.intake.pipeline import Commit
from oomcast_server.live.frames import Pending, rows_message
from oomcast_server.live.mailbox import Mailbox, Summaries
from oomcast_server.rest.shapes import Verdict, to_json
from oomcast_server.runs.presence import Presence
from oomcast_server.runs.query import Standing
from oomcast_server.runs.standing import RunState, SourceState
from oomcast_server.runs.summary import summarize, told
from oomcast_server.store.schema import State

__all__ = ["Hub"]

_log = logging.getLogger("oomcast_server")

_ROWS_EVERY_S = 0.1
_SUMMARIES_EVERY_S = 1.0
_RESYNC_EVERY_S = 1.0
# Beyond it, in a tenth of a second (a journal being caught up), fetching is cheaper than pushing.
_MOST_ROWS = 5_000
_MOST_EVENTS = 500  # texts of up to 4 KiB are among them
_MOST_SUMMARIES = 500  # of one tick; the rest come with the next
_MOST_LIVE = 10_000  # runs whose silence is watched for; of those that were heard of last


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
    pending: dict[str, Pending] = dataclasses.field(default_factory=dict)
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
        self._live: dict[str, _Standing] = {}  # silent ones too; those heard of last at the end
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

    @property
    def watched_runs(self) -> frozenset[str]:
        """The ids of the runs that someone watches."""
        return frozenset(self._watched)

    @property
    def is_listed(self) -> bool:
        """Whether someone has the list of runs open."""
        return bool(self._list_viewers)

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

    def gone(self, run_id: str) -> None:
        """The run was deleted: whoever has it on his list, or open, is told."""
        self._live.pop(run_id, None)
        self._changed.pop(run_id, None)
        watching = self._watched[run_id].viewers if run_id in self._watched else set()
        for viewer in self._list_viewers | watching:
            viewer.put_gone(run_id)

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
        while len(self._live) > _MOST_LIVE:
            del self._live[next(iter(self._live))]
        for commit in commits:
            if commit.run.id in self._watched:
                self._take(self._watched[commit.run.id], commit)
        for run_id in {commit.run.id for commit in commits if commit.run.id in self._watched}:
            self._schedule(run_id)

    def missed(self, run_id: str) -> None:
        """More was committed to a run than is worth sending: its viewers are told to fetch it."""
        if run_id in self._watched:
            self._watched[run_id].too_many = True
            self._schedule(run_id)

    def _standing(self, run: RunState, sources: Sequence[SourceState]) -> _Standing:
        return _Standing(run, sources, told(run, sources, self._wall_ns(), self._presence))

    def _take(self, watched: _Watched, commit: Commit) -> None:
        watched.newest = (commit.run, commit.sources)
        if watched.too_many:
            return
        pending = watched.pending.setdefault(commit.source.id, Pending())
        pending.take(commit)
        if pending.count > _MOST_ROWS or len(pending.events) > _MOST_EVENTS:
            watched.too_many = True
            watched.pending = {}

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
                message = to_json(rows_message(summary, source_id, rows, now_ns)).decode()
                for viewer in watched.viewers:
                    viewer.put_rows(run_id, message)

    def _send_resync(self, run_id: str, watched: _Watched) -> None:
        if watched.sent_s < watched.resync_s + _RESYNC_EVERY_S:  # the timer was set for rows, before they were too many
            self._schedule(run_id)
            return
        watched.too_many, watched.resync_s = False, watched.sent_s
        for viewer in watched.viewers:
            viewer.put_resync(run_id)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_SUMMARIES_EVERY_S)
            try:
                self._tell(self._wall_ns())
            except Exception:  # one run that can't be told must not silence all the others
                _log.exception("the runs' summaries could not be sent")

    def _tell(self, now_ns: int) -> None:
        turned = self._turned(now_ns)
        changed = dict(itertools.islice(self._changed.items(), _MOST_SUMMARIES))
        for run_id in changed:
            del self._changed[run_id]
        if not self._list_viewers:
            changed, self._changed = {}, {}
        changed.update({run_id: self._live[run_id] for run_id in turned})
        if changed:
            self._send_summaries(changed, turned, now_ns)

    def _turned(self, now_ns: int) -> set[str]:
        """The runs whose state or verdict time alone has changed, of those that someone would hear of it."""
        heard = self._live if self._list_viewers else self._live.keys() & self._watched.keys()
        return {run_id for run_id in heard if self._has_turned(self._live[run_id], now_ns)}

    def _has_turned(self, standing: _Standing, now_ns: int) -> bool:
        before, standing.told = standing.told, told(standing.run, standing.sources, now_ns, self._presence)
        return standing.told != before

    def _send_summaries(self, changed: dict[str, _Standing], turned: set[str], now_ns: int) -> None:
        summaries = {
            run_id: to_json(summarize(standing.run, standing.sources, now_ns, self._presence)).decode()
            for run_id, standing in changed.items()
        }
        everything = Summaries(summaries)
        for viewer in self._list_viewers:
            viewer.put_summaries(everything)
        # Who watches a run hears of its silence too: no row will come to tell.
        for run_id in turned & self._watched.keys():
            alone = Summaries({run_id: summaries[run_id]})
            for viewer in self._watched[run_id].viewers - self._list_viewers:
                viewer.put_summaries(alone)
