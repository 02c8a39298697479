"""The database that the settings name."""

from __future__ import annotations

from oomcast.errors import SettingsError
from oomcast_server.settings import ServerSettings
from oomcast_server.store.base import Store
from oomcast_server.store.sqlite import SqliteStore

__all__ = ["open_store"]


def open_store(settings: ServerSettings) -> Store:
    """Open it, made and migrated where that is needed.

    Raises:
        StoreRefused: not ours to open; it was not touched.
        StoreUnavailable: it can't be reached or written now.
        SettingsError: its folder can't be made or written, or PostgreSQL's driver is missing.
    """
    if settings.postgres_url is None:
        return SqliteStore(settings.database)
    try:
        # Only who uses PostgreSQL needs its driver.
        from oomcast_server.store.postgres import PostgresStore
    except ImportError as error:
        raise SettingsError(
            f"{settings.store_shown} needs PostgreSQL's driver ({error}): pip install 'oomcast[postgres]'"
        ) from error
    return PostgresStore(settings.postgres_url)
