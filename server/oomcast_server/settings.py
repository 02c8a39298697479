"""Every setting of the server in one table, and the only place of it that reads the environment."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oomcast.errors import SettingsError
from oomcast.places import Places, places, read_or_create_token
from oomcast.settings import Setting, resolve
from oomcast_server.store.address import parse_address, shown

__all__ = ["TABLE", "ServerSettings", "load"]

_HOST_NAME = re.compile(r"[A-Za-z0-9.:\-]{1,253}")


def _host(value: Any) -> str:
    host = str(value).strip().strip("[]")
    if not _HOST_NAME.fullmatch(host):
        raise ValueError("expected an address of this machine such as 127.0.0.1")
    return host


def _port(value: Any) -> int:
    port = int(value)
    if not 0 <= port <= 65535:
        raise ValueError("expected a port from 1 to 65535, or 0 for any free one")
    return port


def _store(value: Any) -> str:
    text = str(value).strip()
    if url := parse_address(text):
        return url
    path = text.removeprefix("sqlite:///")
    if not path or "://" in path:
        raise ValueError(
            "expected the path of a SQLite file, sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE"
        )
    return path


def _hosts(value: Any) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else list(value)
    if any(str(name).strip() == "*" for name in names):
        raise ValueError("expected host names; * would let any web site in (DNS rebinding)")
    return tuple(_host(name).lower() for name in names if str(name).strip())


def _text(value: Any) -> str:
    text = str(value).strip()
    if not text or len(text) > 4096 or not text.isascii() or not text.isprintable():
        raise ValueError("expected printable ASCII text")
    return text


def _days(value: Any) -> int:
    days = int(value)
    if not 0 <= days <= 36_500:
        raise ValueError("expected a number of days, or 0 for ever")
    return days


def _viewers(value: Any) -> int:
    viewers = int(value)
    if not 1 <= viewers <= 100_000:
        raise ValueError("expected a number of pages from 1 to 100000")
    return viewers


TABLE: tuple[Setting, ...] = (
    Setting("host", "OOMCAST_HOST", "127.0.0.1", "The address to listen on.", _host),
    Setting("port", "OOMCAST_PORT", 6662, "The port to listen on; 0 picks a free one.", _port),
    Setting(
        "store",
        "OOMCAST_STORE",
        None,
        "The SQLite file (`oomcast.db` in the data folder if empty), or `postgresql://USER:PASSWORD@HOST/DATABASE`.",
        _store,
    ),
    Setting("home", "OOMCAST_HOME", None, "One folder for the token, journals and database.", str),
    Setting("token", "OOMCAST_TOKEN", None, "The server's token; made and kept in the config folder if empty.", _text),
    Setting(
        "allowed_hosts", "OOMCAST_ALLOWED_HOSTS", (), "More names that the server is reached by, with commas.", _hosts
    ),
    Setting("full_days", "OOMCAST_FULL_DAYS", 30, "For how many days every sample is kept; 0 is for ever.", _days),
    Setting(
        "rollup_days",
        "OOMCAST_ROLLUP_DAYS",
        400,
        "For how many days the rollups are kept that charts of older samples are made of; 0 is for ever.",
        _days,
    ),
    Setting("viewers", "OOMCAST_VIEWERS", 2_000, "How many pages may be open at once; more must wait.", _viewers),
)


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """The values in force; one field for each row of `TABLE`, and what the session's environment says of SSH."""

    host: str
    port: int
    store: str | None = dataclasses.field(repr=False)  # it may hold a password
    home: str | None
    token: str | None = dataclasses.field(repr=False)
    allowed_hosts: tuple[str, ...]
    full_days: int
    rollup_days: int
    viewers: int
    ssh_address: str | None = None  # this machine's address as the user's SSH client reached it

    @property
    def places(self) -> Places:
        """The user's folders."""
        return places(self.home)

    @property
    def postgres_url(self) -> str | None:
        """Where the PostgreSQL is, its password included; None where the store is a SQLite file."""
        return self.store if self.store and self.store.startswith("postgresql://") else None

    @property
    def store_shown(self) -> str:
        """What the store is called in messages: no password is in it."""
        return shown(self.postgres_url) if self.postgres_url else str(self.database)

    @property
    def database(self) -> Path:
        """The SQLite file, where the store is one."""
        return Path(self.store).expanduser() if self.store else self.places.data / "oomcast.db"

    def read_token(self) -> str:
        """The token in force; made on first use.

        Raises:
            SettingsError: the config folder can't be written, or the token in it can't be used.
        """
        token = self.token or read_or_create_token(self.places.config)
        try:
            return _text(token)
        except ValueError as error:
            where = self.places.config / "token"
            raise SettingsError(f"the token in {where} can't be used: {error}; remove the file") from error

    @property
    def reachable_hosts(self) -> frozenset[str]:
        """The names that a request may call this server by."""
        return frozenset({"localhost", "127.0.0.1", "::1", self.host.lower(), *self.allowed_hosts})


def _ssh_address(environ: Mapping[str, str]) -> str | None:
    parts = environ.get("SSH_CONNECTION", "").split()  # client address, client port, server address, server port
    return parts[2] if len(parts) == 4 else None


def load(environ: Mapping[str, str] | None = None, **given: Any) -> ServerSettings:
    """The settings in force: given in code (not None), else the environment's, else the default.

    Raises:
        SettingsError: a value that can't be used.
    """
    environ = os.environ if environ is None else environ
    return ServerSettings(**resolve(TABLE, environ, given), ssh_address=_ssh_address(environ))
