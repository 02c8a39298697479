"""A disk that is full, and then isn't: nothing acknowledged is lost, and the server lives."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.server.conftest import ServerProcess, connect_agent
from tests.server.parts import TOKEN, a_hello, a_stretch

from oomcast.wire import Ack, Problem, Welcome


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small tmpfs")
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"a tmpfs can't be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)


async def test_a_full_disk_is_told_and_survived(small_disk: Path, start_process: Callable[..., ServerProcess]) -> None:
    process = start_process(OOMCAST_STORE=str(small_disk / "oomcast.db"), OOMCAST_TOKEN=TOKEN)
    port, _ = process.wait_until_up()
    async with connect_agent(port) as agent:
        await agent.ask(a_hello())
        assert await agent.ask(a_stretch(1, 10)) == Ack(seq=10)
        fill(small_disk / "filler")
        seq, answer = 10, await agent.ask(a_stretch(11, 1000))
        while isinstance(answer, Ack):  # the WAL had room left
            seq, answer = answer.seq, await agent.ask(a_stretch(answer.seq + 1, answer.seq + 1000))
        assert isinstance(answer, Problem)
        assert (answer.code, answer.seq, answer.fatal) == ("store", seq, False)
        assert "full" in answer.message
        for first in (seq + 1, seq + 1001, seq + 2001):  # on their way together: one answer tells the agent to go back
            await agent.say(a_stretch(first, first + 999))
        again = await agent.hear()
        assert isinstance(again, Problem)
        assert (again.code, again.seq) == ("store", seq)
        (small_disk / "filler").unlink()
        assert await agent.ask(a_stretch(seq + 1, seq + 1000)) == Ack(seq=seq + 1000)
    async with connect_agent(port) as agent:
        welcome = await agent.ask(a_hello())
        assert isinstance(welcome, Welcome)
        assert welcome.watermark == seq + 1000
    code, _, said = process.end()
    assert code == 0
    assert said.count("can't write to") == 1
    assert "can be written again" in said
