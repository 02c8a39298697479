"""nginx in front of several servers, as `server/nginx.conf` sets it up."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.server.parts import wait_for

__all__ = ["Nginx", "why_no_nginx"]

_TEMPLATE = Path(__file__).resolve().parents[2] / "server" / "nginx.conf"
# nginx writes its title over the environment that the warden knows members by: it gets a signal when its parent dies.
_LAUNCHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG, SIGTERM: nginx ends at once, with its workers
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


def why_no_nginx() -> str | None:
    """Why there is none here; None where there is."""
    return None if shutil.which("nginx", path=_path()) else "needs nginx"


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])  # Debian has it where only root looks


class Nginx:
    """A process of ours, with its files below a folder."""

    def __init__(self, folder: Path, port: int, server_ports: list[int], more: str = "") -> None:
        """Listen on `port` and forward to `server_ports`; returns when it takes connections.

        `more` stands behind the port in the configuration.
        """
        self.port = port
        (folder / "temporary").mkdir(parents=True)
        servers = " ".join(f"server 127.0.0.1:{port} max_fails=0;" for port in server_ports)
        text = _TEMPLATE.read_text().replace("${OOMCAST_SERVERS}", servers)
        (folder / "nginx.conf").write_text(text.replace("${OOMCAST_LISTEN}", f"127.0.0.1:{port}{more}"))
        command = ["nginx", "-p", f"{folder}/", "-c", "nginx.conf", "-e", "stderr", "-g", "daemon off;"]
        with (folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command],
                env=os.environ | {"PATH": _path()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._log = folder / "log"
        wait_for(self._listens)

    def _listens(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def close(self) -> None:
        """End it, and its workers."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(10)
