"""`oomcast sync`: send what agents left in their journals, of runs that were offline or whose server was away."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from oomcast.agent.journal import Journal, journal_folders
from oomcast.agent.outbox import Outbox
from oomcast.agent.sender import Sender
from oomcast.errors import JournalError, OomcastError, WireError
from oomcast.wire import Hello, decode_agent_message

__all__ = ["Synced", "sync"]

_GIVE_UP_AFTER = 2  # failed connections
_STANDSTILL_S = 30.0


class Synced(NamedTuple):
    """What became of one journal."""

    folder: Path
    run_name: str
    delivered: bool
    rows: int  # taken by the server


def sync(
    state: Path, server: str, token: str | None, on_notice: Callable[[str], None], journal_max: int
) -> list[Synced]:
    """Send every journal under `state` whose agent is gone.

    Args:
        state: the state folder.
        server: where to.
        token: its token.
        on_notice: told in one line what went wrong.
        journal_max: bytes, as for `Journal`.
    """
    results = []
    for folder in journal_folders(state):
        with contextlib.suppress(OomcastError):
            journal = Journal(folder, max_bytes=journal_max)
            try:
                result = asyncio.run(_send(journal, server, token, on_notice))
            except JournalError as error:
                on_notice(str(error))
                continue
            finally:
                journal.close()
            results.append(result)
            if not result.delivered:
                break  # the next would fare no better
    return results


async def _send(journal: Journal, server: str, token: str | None, on_notice: Callable[[str], None]) -> Synced:
    hello = journal.hello
    try:
        message = decode_agent_message(hello or b"")
    except WireError as error:
        raise JournalError(f"{journal.folder} can't be sent, its first file is damaged: {error}") from error
    if hello is None or not isinstance(message, Hello):
        raise JournalError(f"{journal.folder} can't be sent: it does not say which run it belongs to")
    outbox = Outbox(journal)
    sender = Sender(outbox, hello, server, token, on_notice, patience_s=0)
    sending = asyncio.create_task(sender.run())
    progress, since = 0, time.monotonic()
    try:
        while not (sender.connected and not outbox.pending) and sender.failures < _GIVE_UP_AFTER:
            if outbox.acknowledged > progress:
                progress, since = outbox.acknowledged, time.monotonic()
            if time.monotonic() > since + _STANDSTILL_S:
                on_notice(f"{server} has taken nothing for {_STANDSTILL_S:.0f} s: try again later")
                break
            await asyncio.sleep(0.02)
    finally:
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending
    return Synced(journal.folder, message.run.name, not outbox.pending, outbox.acknowledged)
