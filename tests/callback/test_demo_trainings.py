"""`oomcast demo` as a user runs it: a real training, a real server, and nothing left of either."""

from __future__ import annotations

import importlib.util
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support import clean_environment, eventually

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow"),
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's memory limits"),
]


class Demo:
    """A demo under way, on a port of its own."""

    def __init__(self, home: Path, arguments: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        # Read by another descriptor: the demo writes where the one that it inherits stands.
        self._out = tempfile.NamedTemporaryFile("w")  # noqa: SIM115  as long as the demo
        code = f"from oomcast.demo import run_demo; raise SystemExit(run_demo(open_browser=False, {arguments}))"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=clean_environment(home, OOMCAST_SERVER=f"http://127.0.0.1:{self.port}"),
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=subprocess.STDOUT,
        )

    @property
    def output(self) -> str:
        return Path(self._out.name).read_text()

    def wait_for(self, text: str, timeout: float) -> None:
        eventually(lambda: text in self.output or self.process.poll() is not None, timeout, what=text)
        assert text in self.output, self.output

    def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(40)

    def close(self) -> None:
        try:
            self.stop(signal.SIGINT)
        finally:
            self.process.kill()
            self.process.wait()
        self._out.close()


@pytest.fixture
def demo(home: Path, request: pytest.FixtureRequest) -> Iterator[Demo]:
    running = Demo(home, request.param)
    yield running
    running.close()


def left_of(demo: Demo) -> list[object]:
    """Cgroups, processes and listeners that the demo should have taken away."""
    found: list[object] = [*Path("/sys/fs/cgroup").glob(f"**/oomcast-demo-{demo.process.pid}")]
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "oomcast.demo.training" in words and f":{demo.process.pid}" in " ".join(words):
            found.append(words)
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", demo.port)) == 0:
            found.append(demo.port)
    return found


@pytest.mark.parametrize("demo", ["scenario='leak', headroom=64 << 20, seconds=6"], indirect=True)
def test_the_leak_reaches_its_limit_and_the_verdict_says_so(demo: Demo) -> None:
    demo.wait_for("Ctrl-C to stop", timeout=150)
    output = demo.output
    assert output.startswith(f"dashboard: http://127.0.0.1:{demo.port}/login?token=")
    assert "leak: as it should be" in output, output
    assert "killed by the kernel: out of memory (its box allows" in output or "MemoryError" in output
    assert "&run=" in output.partition("\nrun: ")[2]  # the server knows the run
    assert demo.stop(signal.SIGINT) == 0
    assert left_of(demo) == []


@pytest.mark.parametrize("demo", ["scenario='healthy', seconds=60"], indirect=True)
def test_a_demo_that_is_told_to_stop_while_it_trains_leaves_nothing(demo: Demo) -> None:
    demo.wait_for("Epoch 2", timeout=120)
    assert demo.stop(signal.SIGTERM) == 130
    assert "stopped by you" in demo.output
    assert left_of(demo) == []
