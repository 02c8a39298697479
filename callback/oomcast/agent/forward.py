"""Sends one journal that no agent of its own sends any more."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from oomcast.agent.journal import Journal
from oomcast.agent.outbox import Outbox
from oomcast.agent.sender import Sender
from oomcast.errors import JournalError, WireError
from oomcast.wire import Hello, decode_agent_message

__all__ = ["Sent", "send_journal"]

_GIVE_UP_AFTER = 2  # failed connections
_STANDSTILL_S = 30.0


class Sent(NamedTuple):
    """What became of one journal."""

    folder: Path
    run_name: str
    delivered: bool
    rows: int  # taken by the server


async def send_journal(
    folder: Path, server: str, token: str | None, on_notice: Callable[[str], None], journal_max: int
) -> Sent:
    """Send the journal in `folder`; it is removed once the server has all of it.

    Args:
        folder: of the journal.
        server: where to.
        token: its token.
        on_notice: told in one line what went wrong.
        journal_max: bytes, as for `Journal`.

    Raises:
        OomcastError, OSError: it is in use, or it does not say whose it is.
    """
    journal = Journal(folder, max_bytes=journal_max)
    try:
        hello, message = _hello(journal)
        outbox = Outbox(journal)
        await _send(outbox, hello, server, token, on_notice)
        return Sent(folder, message.run.name, not outbox.pending, outbox.acknowledged)
    finally:
        journal.close()


def _hello(journal: Journal) -> tuple[bytes, Hello]:
    hello = journal.hello
    try:
        message = decode_agent_message(hello or b"")
    except WireError as error:
        raise JournalError(f"{journal.folder} can't be sent, its first file is damaged: {error}") from error
    if hello is None or not isinstance(message, Hello):
        raise JournalError(f"{journal.folder} can't be sent: it does not say which run it belongs to")
    return hello, message


async def _send(outbox: Outbox, hello: bytes, server: str, token: str | None, on_notice: Callable[[str], None]) -> None:
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
