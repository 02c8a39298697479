"""Which run a user means: by its id, the beginning of it that no other has, or its name."""

from __future__ import annotations

import contextlib
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from oomcast.client import Answered, Client, ClientError

__all__ = ["find_run", "pages"]

_ID = re.compile(r"[a-z0-9]{8,40}")
_PAGE = 1_000
_MOST_PAGES = 20
_MOST_SHOWN = 5


def find_run(client: Client, text: str) -> str:
    """The id of the run that `text` is the id, the beginning of the id, or the name of.

    Raises:
        ClientError: there is none, or more than one; the text says which.
        Unreachable, Answered: as `Client.get_json`.
    """
    if _ID.fullmatch(text):
        with contextlib.suppress(_NotThere):
            return _exactly(client, text)
    found = [run for page in pages(client, text=text) for run in page["runs"] if _is_meant(run, text)]
    if not found:
        raise ClientError(f"no run of {client.server} is called {text!r}, nor has an id that begins so: `oomcast list`")
    # Who says a whole name means it, even where an id happens to begin so.
    named = [run for run in found if run["name"] == text] or found
    if len(named) > 1:
        shown = ", ".join(f"{run['id']} ({run['name']})" for run in named[:_MOST_SHOWN])
        more = f" and {len(named) - _MOST_SHOWN} more" if len(named) > _MOST_SHOWN else ""
        raise ClientError(f"{text!r} is {len(named)} runs: {shown}{more}; give the id of one")
    return str(named[0]["id"])


def pages(client: Client, most: int = _MOST_PAGES, **query: str | int | None) -> Iterator[dict[str, Any]]:
    """The pages of `GET /api/runs`, one after the other.

    Raises:
        Unreachable, Answered: as `Client.get_json`.
    """
    cursor: str | None = None
    for _ in range(most):
        page = client.get_json("/api/runs", **{"limit": _PAGE, **query, "cursor": cursor})
        yield page
        cursor = page.get("next")
        if cursor is None:
            return


class _NotThere(Exception):  # noqa: N818
    pass


def _exactly(client: Client, run_id: str) -> str:
    try:
        return str(client.get_json(f"/api/runs/{urllib.parse.quote(run_id, safe='')}")["id"])
    except Answered as error:
        if error.status != 404:
            raise
        raise _NotThere from None


def _is_meant(run: Mapping[str, Any], text: str) -> bool:
    return bool(run["name"] == text or run["id"].startswith(text.lower()))
