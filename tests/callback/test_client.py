"""The client of the server's REST interface: what it sends, and what it makes of every kind of answer."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from oomcast.client import Answered, Client, ClientError, Unreachable, connect
from oomcast.errors import OomcastError
from oomcast.lookup import find_run
from oomcast.settings import load

pytestmark = pytest.mark.fast

TOKEN = "t" * 43
Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """An HTTP server that answers as a test says."""

    def __init__(self, answer: Answer) -> None:
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        seen = self.seen

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                seen.append((self.command, self.path, dict(self.headers), self._body()))
                answer(self)

            do_PATCH = do_POST = do_DELETE = do_GET  # noqa: N815 - http.server's own names

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = b""
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                    return body
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def client(self) -> Client:
        return Client(self.address, TOKEN, timeout_s=5)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Server]]:
    """Starts servers that end after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda answer: stack.enter_context(contextlib.closing(Server(answer)))


def says(status: int, body: bytes = b"", content_type: str = "application/json", **headers: str) -> Answer:
    """Always this answer."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", content_type)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def test_an_answer_is_parsed(serve: Callable[[Answer], Server]) -> None:
    server = serve(says(200, b'{"runs": [1]}'))
    assert server.client.get_json("/api/runs", text="a b&c", limit=5, tag=None) == {"runs": [1]}
    ((method, path, headers, _),) = server.seen
    assert (method, path) == ("GET", "/api/runs?text=a+b%26c&limit=5")
    assert headers["Authorization"] == f"Bearer {TOKEN}"


def test_an_address_may_have_a_path_before_ours(serve: Callable[[Answer], Server]) -> None:
    server = serve(says(200, b"{}"))
    Client(f"{server.address}/lab", TOKEN).get_json("/api/runs")
    assert server.seen[0][1] == "/lab/api/runs"


def test_a_change_is_json_with_or_without_a_body(serve: Callable[[Answer], Server]) -> None:
    server = serve(says(204))
    assert server.client.send_json("PATCH", "/api/runs/x", {"name": "ä"}) is None
    assert server.client.send_json("DELETE", "/api/runs/x") is None
    assert [headers["Content-Type"] for _, _, headers, _ in server.seen] == ["application/json"] * 2
    assert [body for *_, body in server.seen] == [json.dumps({"name": "ä"}).encode(), b""]


def test_a_long_body_is_sent_in_pieces(serve: Callable[[Answer], Server]) -> None:
    server = serve(says(200, b'{"rows": 3}'))
    answer = server.client.send_stream("POST", "/api/import", iter([b"one", b"two"]), "application/x-ndjson")
    assert answer == {"rows": 3}
    assert server.seen[0][3] == b"onetwo"


def test_a_long_answer_comes_in_pieces(serve: Callable[[Answer], Server]) -> None:
    body = bytes(range(256)) * 1000
    pieces = list(serve(says(200, body)).client.stream("/api/runs/x/export", format="csv"))
    assert b"".join(pieces) == body
    assert len(pieces) > 1


@pytest.mark.parametrize("chunked", [True, False])
def test_an_answer_that_breaks_off_is_never_taken_for_a_whole_one(
    serve: Callable[[Answer], Server], chunked: bool
) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        how = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "1000")
        handler.send_header(*how)
        handler.end_headers()
        handler.wfile.write(b"4\r\nhalf\r\n" if chunked else b"half")
        handler.close_connection = True

    server = serve(answer)
    with pytest.raises(Unreachable, match="broke off"):
        list(server.client.stream("/api/runs/x/export"))
    with pytest.raises(Unreachable, match="broke off"):
        server.client.get_json("/api/runs")


def test_a_problem_is_its_own_line(serve: Callable[[Answer], Server]) -> None:
    problem = json.dumps({"title": "Not Found", "status": 404, "detail": "no run 'x':\n\x1b[31mGET /api/runs"}).encode()
    with pytest.raises(Answered, match=r"^no run 'x':  \[31mGET /api/runs$") as error:
        serve(says(404, problem, "application/problem+json")).client.get_json("/api/runs/x")
    assert error.value.status == 404


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (says(401, b"<html>"), "doesn't take this token: set OOMCAST_TOKEN"),
        (says(502, b"<html>Bad gateway</html>", "text/html"), "answers 502 Bad Gateway, not as an oomcast server does"),
        (says(404, b"[1, 2]"), "answers 404"),
        (says(302, Location="http://evil.example/"), "sends on to http://evil.example/"),
        (says(200, b"<html>"), "not as an oomcast server does: check OOMCAST_SERVER"),
    ],
)
def test_other_answers_say_what_to_do(serve: Callable[[Answer], Server], answer: Answer, expected: str) -> None:
    server = serve(answer)
    with pytest.raises(ClientError) as error:
        server.client.get_json("/api/runs")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert len(server.seen) == 1  # no redirect was followed


def test_no_server_says_how_to_get_one() -> None:
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        port = taken.getsockname()[1]
        with pytest.raises(Unreachable, match="start one with `oomcast serve`"):
            Client(f"http://127.0.0.1:{port}", TOKEN).get_json("/api/runs")


def test_a_server_that_says_nothing_is_given_up() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        client = Client(f"http://127.0.0.1:{silent.getsockname()[1]}", TOKEN, timeout_s=0.1)
        with pytest.raises(Unreachable, match=r"has not answered for 0\.1 s"):
            client.get_json("/api/runs")


def test_what_is_no_http_is_no_oomcast_server() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as strange:

        def answer() -> None:
            connection, _ = strange.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Unreachable, match="no oomcast server answers"):
            Client(f"http://127.0.0.1:{strange.getsockname()[1]}", TOKEN).get_json("/api/runs")
        thread.join()


@pytest.mark.parametrize("token", ["bad\r\nX-Evil: 1", "schlüssel"])
def test_a_token_that_is_no_header_is_refused(token: str) -> None:
    with pytest.raises(OomcastError, match="OOMCAST_TOKEN"):
        Client("http://127.0.0.1:6662", token)


def test_settings_name_the_server_and_its_token(tmp_path: Path) -> None:
    client = connect(load({}, server="http://127.0.0.1:7000", home=str(tmp_path)))
    assert client.server == "http://127.0.0.1:7000"
    assert (tmp_path / "config" / "token").exists()
    with pytest.raises(ClientError, match="set OOMCAST_TOKEN to its token"):
        connect(load({}, server="http://192.0.2.1:7000", home=str(tmp_path)))


# Which run is meant.

RUNS = [
    {"id": "aaaaaaaa11", "name": "calm-river-7"},
    {"id": "aaaaaaab22", "name": "twin"},
    {"id": "bbbbbbbb33", "name": "twin"},
    {"id": "twinoftwin", "name": "x"},
]


def list_of_runs(handler: BaseHTTPRequestHandler) -> None:
    """`/api/runs` in pages of two, `/api/runs/{id}`."""
    path, _, query = handler.path.partition("?")
    if path == "/api/runs":
        begin = 2 if "cursor=second" in query else 0
        page = {"runs": RUNS[begin : begin + 2], "next": None if begin else "second"}
        says(200, json.dumps(page).encode())(handler)
        return
    found = [run for run in RUNS if path.endswith(run["id"])]
    if found:
        says(200, json.dumps(found[0]).encode())(handler)
    else:
        says(404, b'{"detail": "no such run"}', "application/problem+json")(handler)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("aaaaaaaa11", "aaaaaaaa11"),  # its id
        ("aaaaaaaa", "aaaaaaaa11"),  # the beginning of one id
        ("b", "bbbbbbbb33"),
        ("calm-river-7", "aaaaaaaa11"),  # its name
        ("twino", "twinoftwin"),
        ("BBB", "bbbbbbbb33"),
    ],
)
def test_a_run_is_found(serve: Callable[[Answer], Server], text: str, meant: str) -> None:
    assert find_run(serve(list_of_runs).client, text) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing", "no run of .* is called 'nothing'"),
        ("aaaaaaaz", "no run of .* is called 'aaaaaaaz'"),
        ("aaaaaaa", r"'aaaaaaa' is 2 runs: aaaaaaaa11 \(calm-river-7\), aaaaaaab22 \(twin\); give the id of one"),
        ("twin", r"'twin' is 2 runs: aaaaaaab22 \(twin\), bbbbbbbb33 \(twin\)"),
    ],
)
def test_a_run_that_can_t_be_told_is_no_guess(serve: Callable[[Answer], Server], text: str, said: str) -> None:
    with pytest.raises(ClientError, match=said):
        find_run(serve(list_of_runs).client, text)
