"""Keeps the episodes of alerts: each condition of a run fires once, and is resolved once.

Of several servers on one database, the one that holds a run's lease looks at it; should two believe so for a moment,
the table takes one open episode for each run and rule.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from oomcast_server.alerts.conditions import Condition, conditions_of
from oomcast_server.errors import StoreUnavailable
from oomcast_server.intake.pipeline import Pipeline
from oomcast_server.runs.presence import Presence
from oomcast_server.runs.query import Standing, standings_of
from oomcast_server.store import leases
from oomcast_server.store.base import Store
from oomcast_server.store.schema import State, episodes, runs
from oomcast_server.store.upsert import insert_if_new

__all__ = ["Evaluator"]

_log = logging.getLogger("oomcast_server")

_EVERY_S = 1.0
_LEASE_NS = 6_000_000_000  # so late an alert may be whose server was killed
_RENEW_NS = 2_000_000_000
_ENDED_NS = 3_600_000_000_000  # a run that ended so lately is still looked at: its server may have been away
_QUIET_NS = 10_000_000_000  # an agent sends each second
_MOST = 5_000
_MOST_BOUND = 500  # values in one statement; SQLite takes 999 at least


class Evaluator:
    """Looks at the runs of this server's leases each second."""

    def __init__(
        self, store: Store, pipeline: Pipeline, presence: Presence, holder: str, wall_ns: Callable[[], int]
    ) -> None:
        """`holder` tells this server from others on the database."""
        self._store = store
        self._pipeline = pipeline
        self._presence = presence
        self._holder = holder
        self._wall_ns = wall_ns
        self._held: set[int] = set()
        self._asked: set[int] = set()  # whose lease was asked for at the last renewal
        self._settled: dict[int, int] = {}  # versions of runs of which nothing can change but by a new version
        self._renewed_ns = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; on the event loop."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End, and leave the runs to others."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._store.shared:
            with contextlib.suppress(StoreUnavailable):
                await self._pipeline.change(lambda connection: leases.release(connection, self._holder))

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except StoreUnavailable:
                pass  # the pipeline has said so
            except Exception:
                _log.exception("alerts could not be evaluated")
            await asyncio.sleep(_EVERY_S)

    async def look(self) -> None:
        """Compare what is so with the open episodes, once."""
        now_ns = self._wall_ns()
        seen = await asyncio.to_thread(self._read, now_ns)
        await self._lease(seen.keys(), now_ns)
        wanted = {pk: seen[pk] for pk in self._held & seen.keys()}
        now_so = {pk: conditions_of(run, sources, now_ns, self._presence) for pk, (run, sources) in wanted.items()}
        if await asyncio.to_thread(self._differs, now_so):
            await self._pipeline.change(lambda connection: _bring_up_to_date(connection, now_so, now_ns))
        for pk, (run, _) in wanted.items():
            if run.state != State.LIVE or any(condition.rule == "vanished" for condition in now_so[pk]):
                self._settled[pk] = run.version

    def unsettled(self, now_ns: int) -> set[int]:
        """The pks of the runs that a look would read now."""
        return set(self._read(now_ns))

    def _read(self, now_ns: int) -> Mapping[int, Standing]:
        """The runs of which something may have changed: few, however many live, have died, or vanished once."""
        live, last_ns = runs.c.state == int(State.LIVE), runs.c.last_ns
        suspect = sa.or_(runs.c.trouble.is_not(None), runs.c.verdict.is_not(None), last_ns < now_ns - _QUIET_NS)
        lately = last_ns > now_ns - _ENDED_NS
        noted = runs.c.pk.in_(sa.select(episodes.c.run_pk).where(episodes.c.resolved_ns.is_(None)))
        told = sa.or_(runs.c.state == int(State.DIED), noted)
        worth = sa.or_(sa.and_(live, sa.or_(suspect, noted)), sa.and_(lately, told))
        query = sa.select(runs.c.pk, runs.c.version).where(worth).order_by(last_ns.desc()).limit(_MOST)
        with self._store.read() as connection:
            versions = {row.pk: row.version for row in connection.execute(query)}
            self._settled = {pk: version for pk, version in self._settled.items() if versions.get(pk) == version}
            pks = [pk for pk in versions if pk not in self._settled]
            return {run.pk: (run, sources) for run, sources in standings_of(connection, pks)}

    async def _lease(self, run_pks: Iterable[int], now_ns: int) -> None:
        wanted = set(run_pks)
        if not self._store.shared:
            self._held = wanted
        elif wanted - self._asked or (wanted and now_ns - self._renewed_ns >= _RENEW_NS):
            names = {f"run:{pk}": pk for pk in wanted}

            def acquire(connection: Connection) -> set[str]:
                return leases.acquire(connection, names.keys(), self._holder, now_ns, _LEASE_NS)

            held = await self._pipeline.change(acquire)
            self._held, self._asked, self._renewed_ns = {names[name] for name in held}, wanted, now_ns

    def _differs(self, now_so: Mapping[int, Sequence[Condition]]) -> bool:
        with self._store.read() as connection:
            still_open = _open_episodes(connection, now_so.keys())
        return still_open.keys() != {_key(pk, condition) for pk, found in now_so.items() for condition in found}


def _key(run_pk: int, condition: Condition) -> str:
    return f"{run_pk}:{condition.rule}"


def _open_episodes(connection: Connection, run_pks: Iterable[int]) -> dict[str, int]:
    """The open episodes of these runs, by their dedup keys."""
    found: dict[str, int] = {}
    for pks in _chunks(run_pks):
        mine = (episodes.c.run_pk.in_(pks), episodes.c.resolved_ns.is_(None))
        found |= {
            row[0]: row[1] for row in connection.execute(sa.select(episodes.c.dedup_key, episodes.c.pk).where(*mine))
        }
    return found


def _chunks(run_pks: Iterable[int]) -> Iterator[Sequence[int]]:
    pks = list(run_pks)
    return (pks[begin : begin + _MOST_BOUND] for begin in range(0, len(pks), _MOST_BOUND))


def _bring_up_to_date(connection: Connection, now_so: Mapping[int, Sequence[Condition]], now_ns: int) -> None:
    still_open = _open_episodes(connection, now_so.keys())
    existing: set[int] = set()
    for pks in _chunks(now_so):
        existing.update(connection.execute(sa.select(runs.c.pk).where(runs.c.pk.in_(pks))).scalars())
    rows = []
    for run_pk in sorted(existing):  # in one order for every server, so that no two of them wait for each other
        for condition in now_so[run_pk]:
            if still_open.pop(_key(run_pk, condition), None) is None:
                rows.append(_row(run_pk, condition, now_ns))
    insert_if_new(connection, episodes, rows)
    for pk in sorted(still_open.values()):
        over = {"state": "resolved", "resolved_ns": now_ns}
        connection.execute(sa.update(episodes).where(episodes.c.pk == pk).values(over))


def _row(run_pk: int, condition: Condition, now_ns: int) -> dict[str, object]:
    return {
        "run_pk": run_pk,
        "rule": condition.rule,
        "dedup_key": _key(run_pk, condition),
        "severity": condition.severity,
        "state": "firing",
        "started_ns": now_ns,
        "fired_ns": now_ns,
        "detail": msgspec.json.encode({"text": condition.text}).decode(),
    }
