"""Whatever is wrong around it, the training goes on and its user reads one clear line."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.server import serve as serve_websocket

from oomcast.agent.journal import Journal, JournalFrame
from oomcast.sample import Kind, Phase, Sample
from oomcast.wire import PROTOCOL, Frame, Hello, Problem, RunInfo, SourceInfo, Welcome, encode
from tests.e2e.conftest import ServerProcess, Training
from tests.support import eventually, run_script

pytestmark = pytest.mark.fast

LOOP = """
    import time
    from oomcast import watch
    with watch(run_name="loop") as run:
        for batch in range(40):
            run.step(batch)
            time.sleep(0.1)
    print("went on")
"""


def said(server: str, home: Path, **environment: str) -> list[str]:
    """What the user reads besides the address, once the loop has ended as it should."""
    training = Training(LOOP, home, server, **environment)
    try:
        assert training.process.wait(60) == 0, training.errors
        assert "Traceback" not in training.errors
        return [line for line in training.said if "watching" not in line]
    finally:
        training.end()


def one(lines: list[str], *words: str) -> None:
    """Exactly one of the lines has all the words; the others only tell where the samples are."""
    matching = [line for line in lines if all(word in line for word in words)]
    assert len(matching) == 1, lines
    assert all(line in matching or "journal" in line for line in lines), lines


def test_no_server_there(home: Path) -> None:
    lines = said("http://127.0.0.1:9", home)
    one(lines, "can't reach http://127.0.0.1:9", "oomcast serve", "OOMCAST_SERVER")


def test_a_name_that_nobody_knows(home: Path) -> None:
    one(said("http://nowhere.invalid:6662", home), "can't reach http://nowhere.invalid:6662", "OOMCAST_SERVER")


def test_a_wrong_token(server: ServerProcess, tmp_path: Path) -> None:
    one(said(server.base, tmp_path / "other", OOMCAST_TOKEN="not-it"), "refused the token", "OOMCAST_TOKEN")
    assert server.get("/api/runs").json()["runs"] == []


@pytest.fixture
def some_web_server() -> Iterator[str]:
    class Quiet(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_another_program_on_that_port(some_web_server: str, home: Path) -> None:
    one(said(some_web_server, home), "is no oomcast server", "oomcast serve --port")


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that answers every hello with these bytes."""

    def talk(connection: object) -> None:
        with contextlib.suppress(Exception):
            connection.recv()  # type: ignore[attr-defined]
            connection.send(answer)  # type: ignore[attr-defined]
            connection.recv()  # type: ignore[attr-defined]

    with serve_websocket(talk, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join()


def test_a_newer_server(home: Path) -> None:
    answer = encode(Welcome(protocol=PROTOCOL + 1, oomcast="9.0", watermark=0))
    with answering(answer) as server:
        one(said(server, home), "speaks another protocol", "install the same version on both sides")


def test_an_older_server(home: Path) -> None:
    text = "this server speaks oomcast protocol 0, the training speaks 1: upgrade the server"
    with answering(encode(Problem(code="protocol", message=text, fatal=True))) as server:
        one(said(server, home), text)


def test_what_was_recorded_without_a_server_is_sent_by_sync(server: ServerProcess, home: Path) -> None:
    result = run_script(
        'from oomcast import watch\nwith watch(run_name="late") as run:\n    for _ in range(30): run.step()',
        home,
        OOMCAST_MODE="offline",
    )
    assert result.returncode == 0
    assert server.run("late") is None
    sync = "from oomcast.cli import main; import sys; sys.argv = ['oomcast', 'sync']; main()"

    def synced() -> bool:
        return "late: sent" in run_script(sync, home, OOMCAST_SERVER=server.base).stdout

    eventually(synced, 30, "delivery")
    summary = server.wait_for("late", "finished")
    assert summary["batch"] == 29
    again = run_script(sync, home, OOMCAST_SERVER=server.base)
    assert "nothing to send" in again.stdout


def test_a_server_that_comes_later_gets_everything(home: Path) -> None:
    first = ServerProcess(home)
    first.stop()
    training = Training(LOOP.replace("40", "80"), home, first.base)
    try:
        eventually(lambda: any("can't reach" in line for line in training.said), what="the line about the server")
        server = ServerProcess(home, first.port)
        try:
            summary = server.wait_for("loop", "finished")
            columns = server.get(f"/api/runs/{summary['id']}/series?points=1000").json()["columns"]
            assert columns["batch"] == list(range(80))
            assert any("connected to" in line for line in training.said)
        finally:
            server.stop()
    finally:
        training.end()


def test_a_journal_that_lost_its_beginning_is_sent_with_one_gap_however_long(server: ServerProcess, home: Path) -> None:
    first, last = 1_000_001, 1_000_010
    run = RunInfo(id="a" * 16, project="p", name="cut")
    hello = Hello(
        protocol=PROTOCOL,
        oomcast="0",
        run=run,
        source=SourceInfo(id="b" * 16, host="h", pid=1, started_ns=1),
    )
    journal = Journal(home / "state" / "journals" / ("b" * 16), max_bytes=1 << 20, hello=encode(hello))
    rows = [Sample(seq, Kind.TICK, 10**18 + seq, seq, Phase.IDLE, *[None] * 13) for seq in range(first, last + 1)]
    journal.append(JournalFrame(first, last, encode(Frame(first_seq=first, last_seq=last, samples=rows))))
    journal.close()
    sync = "from oomcast.cli import main; import sys; sys.argv = ['oomcast', 'sync']; main()"
    result = run_script(sync, home, OOMCAST_SERVER=server.base)
    assert (result.returncode, result.stderr) == (0, "")
    assert "cut: sent" in result.stdout
    gaps = [event for event in server.get(f"/api/runs/{run.id}").json()["events"] if event["kind"] == "gap"]
    assert [gap["detail"]["to"] for gap in gaps] == [first - 1]
    assert gaps[0]["time_ms"] == rows[0].wall_ns / 1e6
    assert not journal.folder.exists()
