"""What dead agents left on this machine: sessions whose end nobody told, and journals that nobody sends.

The next agent of the same user, or `oomcast sync`, brings both home. A session's folder that neither training nor agent
holds any more (both were killed at once, or the machine went down) is read to its end and closed with a verdict; a
journal whose session is gone is sent to the server that it was meant for.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from oomcast.agent.assembler import Outside
from oomcast.agent.ending import left_behind_verdict
from oomcast.agent.journal import journal_folders, read_destination
from oomcast.agent.recording import Recording
from oomcast.agent.resume import Resume
from oomcast.errors import OomcastError
from oomcast.handover import Handover, is_held, orphans, read_handover, remove_folder
from oomcast.places import places
from oomcast.sample import EventKind
from oomcast.wire import PROTOCOL, Hello, encode

if TYPE_CHECKING:
    from oomcast.agent.sender import Sender

__all__ = ["Closed", "close_orphans", "journals_left", "send_left_behind"]

_LOOK_EVERY_S = 10.0
_MOST_ORPHANS = 50


class Closed(NamedTuple):
    """What became of the sessions that nobody held."""

    sessions: int  # whose ends are told
    left: bool  # the disk is full: there are more, for later


def close_orphans(parent: Path, version: str) -> Closed:
    """Tell the end of every session under `parent` that is held by nobody, into its journal.

    Args:
        parent: where sessions' folders lie.
        version: of this oomcast.
    """
    count = 0
    for folder in orphans(parent):
        if count >= _MOST_ORPHANS:
            return Closed(count, left=True)
        kept = True
        with contextlib.suppress(Exception):  # what can't be read is no session of ours, or of another version
            kept = _close_orphan(folder, version)
            count += kept
        if not kept:
            return Closed(count, left=True)  # what is not in a journal stays here, the others' too
        remove_folder(folder)
    return Closed(count, left=False)


def _close_orphan(folder: Path, version: str) -> bool:
    handover = read_handover(folder)
    hello = encode(Hello(protocol=PROTOCOL, oomcast=version, run=handover.run, source=handover.source))
    recording = Recording(folder, handover, hello, lambda text: None)
    try:
        before = recording.before or Resume()
        rows = recording.rows(recording.drain(), Outside(limit=before.limit), final=True)
        # Nobody saw when: the last that is known of it stands for its end.
        wall_ns = max([before.wall_ns, *(row.wall_ns for row in rows)]) or time.time_ns()
        if not recording.assembler.ended:
            verdict = left_behind_verdict(recording.assembler, before, handover)
            rows.append(recording.assembler.event(EventKind.END, wall_ns, 0, verdict.detail()))
        recording.keep(rows, recording.assembler.take_readings(), before)
        return recording.outbox.kept
    finally:
        recording.close()


def journals_left(state: Path) -> Iterator[Path]:
    """The journals under `state` whose session is gone, oldest first; another agent may still hold one."""
    for folder in journal_folders(state):
        destination = read_destination(folder)
        # An agent that was just killed is started again by its session, and wants its journal back.
        if destination is None or not destination.folder or not is_held(Path(destination.folder)):
            yield folder


async def send_left_behind(sender: Sender, handover: Handover) -> None:
    """Send journals that were meant for the same server, one after the other, while `sender` has a connection.

    Args:
        sender: the agent's own.
        handover: what it was told.
    """
    from oomcast.agent.forward import send_journal  # the network's libraries, which `close_orphans` has no need of

    state = places(handover.home).state
    while True:
        if sender.connected:
            for folder in list(journals_left(state)):
                destination = read_destination(folder)
                if destination is None or (destination.server, destination.mode) != (handover.server, "online"):
                    continue
                with contextlib.suppress(OomcastError, OSError):
                    await send_journal(folder, handover.server, handover.token, _nothing, handover.journal_max)
        await asyncio.sleep(_LOOK_EVERY_S if sender.connected else 0.2)


def _nothing(text: str) -> None:
    """What keeps another's journal from being sent is not this training's business."""
