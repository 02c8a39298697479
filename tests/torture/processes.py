"""What is killed: a server on a port that it keeps, trainings, and the agents beside them."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from tests.torture.tally import Tallied, read_tally
from tests.torture.warden import members

__all__ = ["Server", "Training", "agents", "free_port", "memory_bytes", "run_sync"]

_ROOT = Path(__file__).resolve().parents[2]
# Outside of what the kernel hands out: an agent that tries a closed port of that range again and again may be given
# the very same one for its own end, and be connected to itself.
_PORTS = range(20_000, 32_000)


class Server:
    """`oomcast serve`, which is started again and again."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        """Nothing runs yet.

        Args:
            environment: with its home, store and token.
            log: where it writes to.
        """
        self._environment = dict(environment)
        self._log = log
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def base(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def runs(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process; returns at once."""
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "oomcast_server", "serve", "--port", str(self.port)],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def listens(self) -> bool:
        """Whether a connection is taken."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def serves(self) -> bool:
        """Whether requests are answered: it listens a moment before."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        return False

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    """A port that nobody listens on, and that nobody is given."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


class Training:
    """One producer, and what it has done by its own count."""

    def __init__(
        self, name: str, rate: float, environment: Mapping[str, str], tally: Path, log: Path, run: str | None = None
    ) -> None:
        """Start it; `run` names its run, where that is not `name`."""
        self.name = name
        self.run = run or name
        self.killed = False
        self._tally = tally
        self._log = log
        with open(log, "ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.torture.producer", self.run, str(tally), str(rate)],
                env={**environment, "PYTHONPATH": os.pathsep.join([str(_ROOT), environment.get("PYTHONPATH", "")])},
                cwd=_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def tally(self) -> Tallied:
        """How many steps it has done, and what they cost."""
        return read_tally(self._tally)

    @property
    def said(self) -> str:
        """What it wrote to its terminal."""
        return self._log.read_text(errors="replace")

    def agent(self) -> int | None:
        """Its agent's pid, if one runs now."""
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children():
                if "oomcast.agent" in child.cmdline():
                    return int(child.pid)
        return None

    def kill(self) -> None:
        """SIGKILL."""
        self.killed = True
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Ask it to end as a loop ends that is done; returns at once."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def ended(self, within_s: float) -> bool:
        """Whether it ends by itself in time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(within_s)
        return self.process.returncode is not None


def agents(root: Path) -> list[int]:
    """The pids of all agents of the harness at `root`, those of dead trainings too."""
    found = []
    for pid in members(root):
        with contextlib.suppress(OSError):
            if b"oomcast.agent" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def memory_bytes(pid: int) -> int:
    """RSS; 0 of a process that is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0


def run_sync(environment: Mapping[str, str], log: Path, within_s: float) -> float:
    """`oomcast sync`; the seconds it took."""
    begun = time.monotonic()
    with open(log, "ab") as out, contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [sys.executable, "-c", "from oomcast.cli import main; main()", "sync"],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            timeout=within_s,
            check=False,
        )
    return time.monotonic() - begun
