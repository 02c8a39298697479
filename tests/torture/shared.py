"""The database that several servers share, as the oracle sees it."""

from __future__ import annotations

import contextlib
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from tests.torture.oracle import Standing, Store
from tests.torture.rolled import wrong_rollups

__all__ = ["SharedStore"]


class SharedStore(Store):
    """A PostgreSQL database, at this moment. Made for any number of threads."""

    def __init__(self, url: str) -> None:
        """Connect to nothing yet."""
        address = sa.make_url(url).set(drivername="postgresql+psycopg")
        self._engine = sa.create_engine(address, isolation_level="AUTOCOMMIT")
        self.names: dict[int, str] = {}
        """Pid → whose it is: trainings may share a run, so a run's name doesn't tell them apart."""

    def close(self) -> None:
        """Leave it."""
        self._engine.dispose()

    def ask(self, question: str, *values: Any) -> list[tuple[Any, ...]]:
        """One query, written as for SQLite.

        Raises:
            DBAPIError: it can't be read now.
        """
        with self._engine.connect() as connection:
            rows = connection.exec_driver_sql(question.replace("?", "%s"), values)
            return [tuple(row) for row in rows]

    def standings(self) -> dict[str, Standing]:
        """Training's name → how far it is; empty where nothing can be read now."""
        question = "SELECT pid, watermark, coalesce(batch, -1), ended_ns IS NOT NULL FROM sources"
        with contextlib.suppress(DBAPIError):
            return {self.names[pid]: Standing(*rest) for pid, *rest in self.ask(question) if pid in self.names}
        return {}

    def wrong(self) -> list[str]:
        """What doesn't fit together of all that is stored: runs and their rows, sources and their rollups."""
        faults = []
        question = """
            SELECT r.name, r.samples, count(s.seq), r.sources,
                (SELECT count(*) FROM sources WHERE run_pk = r.pk)
            FROM runs r LEFT JOIN samples s ON s.run_pk = r.pk GROUP BY r.pk
        """
        for name, said, rows, said_sources, sources in self.ask(question):
            if (said, said_sources) != (rows, sources):
                faults.append(f"{name}: {said} samples of {said_sources} sources; there are {rows} of {sources}")
        for run_pk, source_pk, watermark in self.ask("SELECT run_pk, pk, watermark FROM sources ORDER BY pk"):
            with self._engine.connect() as connection:
                found = wrong_rollups(connection, (run_pk, source_pk), watermark)
            faults += [f"source {source_pk}: {text}" for text in found]
        return faults
