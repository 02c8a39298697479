"""A store of each engine, for tests that must hold on both."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from oomcast_server.settings import load
from oomcast_server.store.base import Store
from oomcast_server.store.opening import open_store

ENGINES = ("sqlite", "postgresql")


def open_at(address: str) -> Store:
    """The store at a path or URL, opened as a server opens it."""
    return open_store(load({}, store=address))


def fresh_address(engine: str, request: pytest.FixtureRequest, migrated: bool = True) -> str:
    """Where a store of `engine` can be opened, by one test alone."""
    if engine == "postgresql":
        url = request.getfixturevalue("postgres_url" if migrated else "empty_postgres_url")
        return str(url)
    folder: Path = request.getfixturevalue("tmp_path")
    return str(folder / "data" / "oomcast.db")


@pytest.fixture(params=ENGINES)
def store_address(request: pytest.FixtureRequest) -> str:
    """The address of a store that nobody has open; once for each engine."""
    return fresh_address(request.param, request)


@pytest.fixture(params=ENGINES)
def empty_address(request: pytest.FixtureRequest) -> str:
    """The address of a database that has nothing in it yet; once for each engine."""
    return fresh_address(request.param, request, migrated=False)


@pytest.fixture
def store(store_address: str) -> Iterator[Store]:
    """An open store; once for each engine."""
    with contextlib.closing(open_at(store_address)) as opened:
        yield opened
