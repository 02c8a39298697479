"""What a server does on this machine, in absolute figures, for each engine.

    python tests/server/bench_server.py [--only ingest,chart,live,wal] [--engines sqlite,postgresql] [--json]
        [--rows 400000] [--full] [--minutes 1]          (or: make bench-server ARGS='...')

The server's process is pinned to one core. Agents and viewers (simulated, speaking the real protocols) are processes of
their own on the other cores, and so is PostgreSQL. Everything that is measured was stored through the real ingest.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil

if __package__ in (None, ""):  # as a script: its neighbours are found from the tree's top
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.server.bench_load import AgentResult, AgentSpec, Sent, ViewerResult, ViewerSpec
from tests.server.parts import TOKEN, wait_for
from tests.server.postgres import Cluster, why_no_postgres

Figures = dict[str, Any]
SECTIONS = ("ingest", "chart", "live", "wal")
MIB = 1 << 20
_ESTABLISHED = 1  # TCP_INFO's first byte, from the kernel's tcp_states.h


class Server:
    """A server process on one core, over a fresh database."""

    def __init__(self, store: str, home: Path, core: int | None, engine: psutil.Process | None = None) -> None:
        ours = {"OOMCAST_HOME": str(home), "OOMCAST_TOKEN": TOKEN, "PYTHONPATH": os.pathsep.join(sys.path)}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OOMCAST_")}
        command = [sys.executable, "-m", "oomcast_server", "serve", "--port", "0", "--store", store]
        self.process = subprocess.Popen(command, env=kept | ours, stdout=subprocess.PIPE, text=True)
        if core is not None:
            os.sched_setaffinity(self.process.pid, {core})
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().split("/login")[0].rsplit(":", 1)[1])
        self.system, self.engine = psutil.Process(self.process.pid), engine
        headers = {"Authorization": f"Bearer {TOKEN}"}
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=60, trust_env=False
        )
        wait_for(lambda: self.client.get("/readyz").status_code == 200)

    def cpu_s(self) -> tuple[float, float]:
        """Of the server's process, and of the database's processes."""
        times = self.system.cpu_times()
        engine = 0.0
        for process in (self.engine, *self.engine.children(recursive=True)) if self.engine else ():
            with contextlib.suppress(psutil.Error):
                engine += sum(process.cpu_times()[:2])
        return times.user + times.system, engine

    def get(self, path: str, **parameters: Any) -> float:
        """The seconds that an answer took."""
        begun = time.perf_counter()
        answer = self.client.get(path, params=parameters)
        took = time.perf_counter() - begun
        assert answer.status_code == 200, answer.text[:300]
        return took

    def close(self) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=120)


class Engines:
    """Fresh databases of an engine, and servers on them."""

    def __init__(self, engine: str, folder: Path, stack: contextlib.ExitStack) -> None:
        self.engine = engine
        self._folder, self._count = folder, 0
        self._cluster: Cluster | None = None
        self.cores = sorted(os.sched_getaffinity(0))
        if engine == "postgresql":
            durable = {"fsync": "on", "full_page_writes": "on", "autovacuum": "on"}
            self._cluster = stack.enter_context(contextlib.closing(Cluster(**durable)))
            self._pin(self.cores[1:])

    def _pin(self, cores: Sequence[int]) -> None:
        if cores and self.postmaster is not None:
            for process in (self.postmaster, *self.postmaster.children(recursive=True)):
                os.sched_setaffinity(process.pid, set(cores))

    @property
    def postmaster(self) -> psutil.Process | None:
        """PostgreSQL's first process."""
        if self._cluster is None:
            return None
        return psutil.Process(int((self._cluster.folder / "data" / "postmaster.pid").read_text().split()[0]))

    def fresh(self) -> str:
        """The address of a new database."""
        self._count += 1
        if self._cluster is None:
            return str(self._folder / f"bench{self._count}.db")
        name = f"bench{self._count}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return self._cluster.url(name)

    def _execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        import psycopg  # only where there is a driver

        assert self._cluster is not None
        with psycopg.connect(self._cluster.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def size(self, store: str) -> int:
        """What the database takes on disk, with everything in its place."""
        if self._cluster is None:
            return sum(path.stat().st_size for path in Path(store).parent.glob(Path(store).name + "*"))
        name = f"bench{self._count}"
        self._execute("CHECKPOINT", name)
        return int(self._execute(f"SELECT pg_database_size('{name}')", name)[0][0])

    @contextlib.contextmanager
    def server(self, store: str, *, crowded: bool = False) -> Iterator[Server]:
        """A server on the first core; this process and its children stay on the others.

        `crowded`: they have so much to do that the database may run on the first core, too.
        """
        self._pin(self.cores if crowded else self.cores[1:])
        others = set(self.cores[1:]) or set(self.cores)
        os.sched_setaffinity(0, others)
        with tempfile.TemporaryDirectory() as home:
            server = Server(store, Path(home), self.cores[0] if len(self.cores) > 1 else None, self.postmaster)
            try:
                yield server
            finally:
                server.close()


class Load:
    """A process of agents or viewers, its connections made."""

    def __init__(self, what: str, spec: AgentSpec | ViewerSpec) -> None:
        command = [sys.executable, "-m", "tests.server.bench_load", what, msgspec.json.encode(spec).decode()]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer = ""

    def wait_until_ready(self) -> None:
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        assert said == "ready\n", said

    def go(self) -> None:
        """Begin, or end where it has begun already."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def result(self) -> str:
        answer, _ = self._process.communicate()
        assert self._process.returncode == 0, "a load process has failed: see above"
        return answer


def send(specs: Sequence[AgentSpec]) -> list[AgentResult]:
    """Let the agents send all they have; each spec is a process."""
    loads = [Load("agents", spec) for spec in specs]
    for load in loads:
        load.wait_until_ready()
    for load in loads:
        load.go()
    return [msgspec.json.decode(load.result(), type=AgentResult) for load in loads]


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def ms(seconds: float) -> float:
    return round(seconds * 1e3, 2)


# Sections.


def bench_ingest(engines: Engines, given: argparse.Namespace) -> Figures:
    """Rows a second, CPU and bytes for each; and how long a commit takes at a modest rate."""
    agents, processes = 4, 2
    each = given.rows // agents
    store = engines.fresh()
    with engines.server(store) as server:
        empty = server.cpu_s()
        specs = [
            AgentSpec(
                port=server.port,
                runs=[f"benchrun{process}x{agent}" for agent in range(agents // processes)],
                rows=each,
                full=True,
                ahead=True,
            )
            for process in range(processes)
        ]
        results = send(specs)
        busy = server.cpu_s()
        rows = sum(result.rows for result in results)
        took = max(result.ended_s for result in results) - min(result.begun_s for result in results)
        calm = AgentSpec(
            port=server.port, runs=[f"calmrun{n:02}" for n in range(10)], rows=10_000, frame=10, rate=5, seconds=10
        )
        (latency,) = send([calm])
    size = engines.size(store)
    return {
        "acknowledged_rows": rows,
        "rows_per_s": round(rows / took),
        "cpu_ms_per_1000_rows": round(1e6 * (busy[0] - empty[0]) / rows, 2),
        "database_cpu_ms_per_1000_rows": round(1e6 * (busy[1] - empty[1]) / rows, 2),
        "bytes_per_row": round(size / (rows + latency.rows)),
        "commit_ms_p50": ms(quantile(latency.waits_s, 0.5)),
        "commit_ms_p99": ms(quantile(latency.waits_s, 0.99)),
        "commits_measured": len(latency.waits_s),
    }


def bench_chart(engines: Engines, given: argparse.Namespace) -> Figures:
    """How long a first chart and a deep zoom take, whatever the run's length."""
    sizes = [10_000, 100_000, 1_000_000, *([10_000_000] if given.full else [])]
    figures: Figures = {}
    with engines.server(engines.fresh()) as server:
        for rows in [size for size in sizes if size <= given.most]:
            run = f"chartrun{rows}"
            send([AgentSpec(port=server.port, runs=[run], rows=rows)])
            figures[f"{rows:,}"] = _charts(server, f"/api/runs/{run}/series", rows, given.requests)
    return figures


def _charts(server: Server, path: str, rows: int, requests: int) -> Figures:
    cold = server.get(path, points=1500)
    # Each asks for something else, so that no answer is one that was kept.
    whole = [server.get(path, points=1500, to=rows - 1 - number) for number in range(requests)]
    zoomed = []
    for number in range(requests):
        begin = (rows - 2_000) * number // requests
        zoomed.append(server.get(path, points=1500, **{"from": begin, "to": begin + 2_000}))
    by_time = [
        server.get(path, points=1500, x="time", to=1_700_000_000_000 + 10 * rows - number) for number in range(requests)
    ]
    return {
        "first_chart_cold_ms": ms(cold),
        "first_chart_ms": ms(statistics.median(whole)),
        "first_chart_p95_ms": ms(quantile(whole, 0.95)),
        "by_time_ms": ms(statistics.median(by_time)),
        "deep_zoom_ms": ms(statistics.median(zoomed)),
        "deep_zoom_p95_ms": ms(quantile(zoomed, 0.95)),
    }


def bench_live(engines: Engines, given: argparse.Namespace) -> Figures:
    """Viewers of live runs, at first alone, then with one among them that takes nothing."""
    runs = [f"liverun{number:03}" for number in range(given.runs)]
    with engines.server(engines.fresh(), crowded=True) as server:
        send([AgentSpec(port=server.port, runs=runs, rows=1)])  # all of them are there when viewers come
        before = server.system.memory_info().rss
        seconds = given.seconds
        calm = _watched(server, runs, given, seconds)
        with _stalled(server.port, runs) as stalls:
            stalled = _watched(server, runs, given, seconds)
        after = server.system.memory_info().rss
    return {
        "viewers": given.viewers,
        "runs": given.runs,
        "rows_per_s": given.runs * 100,
        **calm,
        **{f"one_stalled_{name}": value for name, value in stalled.items()},
        "stalled_viewer_was_let_go": stalls[0],
        "rss_growth_mib": round((after - before) / MIB, 1),
    }


def _watched(server: Server, runs: list[str], given: argparse.Namespace, seconds: float) -> Figures:
    wanted = [runs[number % len(runs)] for number in range(given.viewers)]
    halves = [wanted[0::2], wanted[1::2]]
    viewers = [Load("viewers", ViewerSpec(port=server.port, runs=half)) for half in halves if half]
    for viewer in viewers:
        viewer.wait_until_ready()
        viewer.go()
    cpu = server.cpu_s()[0]
    spec = AgentSpec(port=server.port, runs=runs, rows=1_000_000, frame=10, rate=10, seconds=seconds)
    (agents,) = send([spec])
    cpu = server.cpu_s()[0] - cpu
    time.sleep(0.5)  # the last frames are on their way
    for viewer in viewers:
        viewer.go()
    results = [msgspec.json.decode(viewer.result(), type=ViewerResult) for viewer in viewers]
    arrived = [sent for result in results for sent in result.arrived]
    delays, since_sent = _delays(agents.acknowledged, arrived), _delays(agents.sent, arrived)
    return {
        "commit_to_viewer_ms_p50": ms(quantile(delays, 0.5)),
        "commit_to_viewer_ms_p99": ms(quantile(delays, 0.99)),
        "agent_to_viewer_ms_p50": ms(quantile(since_sent, 0.5)),
        "agent_to_viewer_ms_p99": ms(quantile(since_sent, 0.99)),
        "delays_measured": len(delays),
        "holes": sum(result.holes for result in results),
        "messages_per_s": round(sum(result.messages for result in results) / seconds),
        "mib_per_s": round(sum(result.letters for result in results) / seconds / MIB, 1),
        "server_cpu_percent": round(100 * cpu / seconds, 1),
    }


def _delays(begun: Sequence[Sent], arrived: Sequence[Sent]) -> list[float]:
    """From what is noted in `begun` of the last row of each message to its arrival at each viewer."""
    frames: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
    for run, seq, at in begun:
        frames[run].append((seq, at))
    delays = []
    for run, seq, at in arrived:
        index = bisect_left(frames[run], (seq, 0.0))
        if index < len(frames[run]):
            delays.append(at - frames[run][index][1])
    return delays


@contextlib.contextmanager
def _stalled(port: int, runs: Sequence[str]) -> Iterator[list[int]]:
    """A viewer that watches everything, reads nothing, and comes back when it is let go of; how often it was."""
    ended, let_go = threading.Event(), [0]

    def stall() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError), socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect(("127.0.0.1", port))
                _ask_for_everything(client, port, runs)
                while not ended.wait(0.2) and _is_open(client):
                    pass
                let_go[0] += not ended.is_set()

    thread = threading.Thread(target=stall)
    thread.start()
    try:
        yield let_go
    finally:
        ended.set()
        thread.join()


def _ask_for_everything(client: socket.socket, port: int, runs: Sequence[str]) -> None:
    lines = (
        *("GET /api/live HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: Upgrade", "Upgrade: websocket"),
        *("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", f"Authorization: Bearer {TOKEN}"),
    )
    client.sendall("\r\n".join((*lines, "", "")).encode())
    requests = ['{"type":"watch_runs"}', *(f'{{"type":"watch","run":"{run}"}}' for run in runs)]
    for request in requests:
        client.sendall(bytes([0x81, 0x80 | len(request), 0, 0, 0, 0]) + request.encode())


def _is_open(client: socket.socket) -> bool:
    """Whether the connection stands, as its own end knows without reading."""
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _ESTABLISHED


def bench_wal(engines: Engines, given: argparse.Namespace) -> Figures:
    """How large the WAL gets while rows come in and a dashboard is open, with all that a dashboard asks."""
    if engines.engine != "sqlite":
        return {}
    runs, store = [f"walrun{number:02}" for number in range(10)], engines.fresh()
    wal = Path(store + "-wal")
    sizes: list[int] = []
    with engines.server(store) as server:
        viewers = Load("viewers", ViewerSpec(port=server.port, runs=runs))
        viewers.wait_until_ready()
        viewers.go()
        seconds = 60 * given.minutes
        agents = Load(
            "agents",
            AgentSpec(port=server.port, runs=runs, rows=100_000_000, frame=50, rate=10, seconds=seconds),
        )
        agents.wait_until_ready()
        agents.go()
        until, polls = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            run = f"/api/runs/{runs[polls % len(runs)]}"
            for path in ("/api/runs", run, f"{run}/series?points=1500"):
                with contextlib.suppress(AssertionError):  # a run that isn't there yet
                    server.get(path)
            polls += 1
            sizes.append(wal.stat().st_size)
            time.sleep(0.2)
        stored = msgspec.json.decode(agents.result(), type=AgentResult)
        viewers.go()
        viewers.result()
        final = wal.stat().st_size
    return {
        "minutes": given.minutes,
        "rows_per_s": round(stored.rows / seconds),
        "polls": 3 * polls,
        "largest_wal_mib": round(max(sizes) / MIB, 1),
        "last_wal_mib": round(final / MIB, 1),
    }


BENCHES: dict[str, Callable[[Engines, argparse.Namespace], Figures]] = {
    "ingest": bench_ingest,
    "chart": bench_chart,
    "live": bench_live,
    "wal": bench_wal,
}


def measure(given: argparse.Namespace) -> dict[str, dict[str, Figures]]:
    """The figures of each section, for each engine."""
    figures: dict[str, dict[str, Figures]] = {}
    cores = os.sched_getaffinity(0)
    for engine in given.engines:
        if engine == "postgresql" and (why := why_no_postgres()):
            print(f"postgresql is left out: it {why}", file=sys.stderr)
            continue
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="oomcast-bench-", dir=given.folder)))
            stack.callback(os.sched_setaffinity, 0, cores)
            engines = Engines(engine, folder, stack)
            figures[engine] = {}
            for section in given.only:
                figures[engine][section] = BENCHES[section](engines, given)
                if not given.json:
                    _show(engine, section, figures[engine][section])
    return figures


def _show(engine: str, section: str, figures: Figures) -> None:
    print(f"\n{engine}: {section}")
    for name, value in figures.items():
        if isinstance(value, dict):
            print(f"  {name:>12} samples: " + ", ".join(f"{key} {number:,}" for key, number in value.items()))
        else:
            print(f"  {name:<32} {value:,}")
    sys.stdout.flush()


def _words(among: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        words = text.split(",")
        if unknown := set(words) - set(among):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: expected {', '.join(among)}")
        return words

    return parse


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="what a server does on this machine, in absolute figures")
    parser.add_argument("--only", type=_words(SECTIONS), default=list(SECTIONS), help=",".join(SECTIONS))
    parser.add_argument("--engines", type=_words(("sqlite", "postgresql")), default=["sqlite", "postgresql"])
    parser.add_argument("--json", action="store_true", help="the figures as JSON, at the end")
    parser.add_argument("--full", action="store_true", help="charts of 10 000 000 samples too, and 10 minutes of WAL")
    parser.add_argument("--rows", type=int, default=400_000, help="full rows to store [400000]")
    parser.add_argument("--most", type=int, default=10_000_000, help="no chart of more samples than that")
    parser.add_argument("--requests", type=int, default=20, help="charts of each kind [20]")
    parser.add_argument("--viewers", type=int, default=500)
    parser.add_argument("--runs", type=int, default=50, help="live ones, which the viewers share [50]")
    parser.add_argument("--seconds", type=float, default=20, help="of each live phase [20]")
    parser.add_argument("--minutes", type=float, default=None, help="of WAL [1; 10 with --full]")
    parser.add_argument("--folder", default=None, help="where databases are made [the system's place]")
    parsed = parser.parse_args(given)
    if parsed.minutes is None:
        parsed.minutes = 10 if parsed.full else 1
    return parsed


def main() -> None:
    given = arguments()
    figures = measure(given)
    if given.json:
        print(msgspec.json.format(msgspec.json.encode(figures), indent=2).decode())


if __name__ == "__main__":
    main()
