"""The address of a PostgreSQL database: read, and shown without what is secret (pure)."""

from __future__ import annotations

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

__all__ = ["parse_address", "shown"]

_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")


def parse_address(text: str) -> str | None:
    """`text` as `postgresql://…` if it is the address of a PostgreSQL database, None if it is something else.

    Raises:
        ValueError: it is one, but says not enough or can't be read; what it says is not repeated.
    """
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in _SCHEMES:
        return None
    expected = "expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE (in a password, @ is %40, / is %2F, % is %25)"
    try:
        made = make_url(f"postgresql://{rest}")
    except (ArgumentError, ValueError):
        raise ValueError(expected) from None
    if not made.database or "/" in made.database:
        raise ValueError(expected)
    return f"postgresql://{rest}"


def shown(url: str) -> str:
    """`url` without its password and its query, which may have one."""
    made = make_url(url)
    host = made.host or made.query.get("host") or "localhost"
    user = f"{made.username}@" if made.username else ""
    port = f":{made.port}" if made.port else ""
    return f"postgresql://{user}{host}{port}/{made.database or ''}"
