"""`oomcast sync`: send what agents left in their journals, of runs that were offline or whose server was away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from oomcast._version import __version__
from oomcast.agent.forward import Sent, send_journal
from oomcast.agent.left_behind import close_orphans, journals_left
from oomcast.errors import JournalError, OomcastError
from oomcast.handover import folder_parents

__all__ = ["sync"]


def sync(state: Path, server: str, token: str | None, on_notice: Callable[[str], None], journal_max: int) -> list[Sent]:
    """Send every journal under `state` whose agent is gone.

    Args:
        state: the state folder.
        server: where to.
        token: its token.
        on_notice: told in one line what went wrong.
        journal_max: bytes, as for `Journal`.
    """
    for parent in folder_parents():
        close_orphans(parent, __version__)
    results = []
    for folder in list(journals_left(state)):
        try:
            result = asyncio.run(send_journal(folder, server, token, on_notice, journal_max))
        except JournalError as error:
            if "in use" not in str(error):
                on_notice(str(error))
            continue
        except (OomcastError, OSError) as error:
            on_notice(str(error))
            continue
        results.append(result)
        if not result.delivered:
            break  # the next would fare no better
    return results
