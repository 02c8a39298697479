"""Who is monitored: host, process, interpreter, as the page names them."""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import socket
import sys
import time

from oomcast.handover import readable
from oomcast.wire import SourceInfo

__all__ = ["describe"]


def describe(source_id: str, backend: str | None) -> SourceInfo:
    """This process as a source.

    Args:
        source_id: its random id.
        backend: the framework that computes ("tensorflow 2.21.0"), where known.
    """
    user = None
    with contextlib.suppress(Exception):  # no entry for this uid, as in many containers
        user = getpass.getuser()
    return SourceInfo(
        id=source_id,
        host=readable(socket.gethostname())[:200] or "unknown",
        pid=os.getpid(),
        started_ns=time.time_ns(),
        user=user,
        command=readable(" ".join(sys.argv))[:2000] or None,
        python=platform.python_version(),
        platform=platform.platform()[:200],
        backend=backend,
    )
