"""What tests share: rows that an agent journalled, running a script as a user would, waiting for a condition."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from oomcast.agent.journal import Journal, journal_folders
from oomcast.sample import Event, EventKind, Sample
from oomcast.wire import Frame, Hello, decode_agent_message

Rows = list[Sample | Event]


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """This process's environment without any OOMCAST setting but the home, and with TensorFlow quiet."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OOMCAST_")}
    return kept | {"OOMCAST_HOME": str(home), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""} | more


def run_script(code: str, home: Path, *, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, as a user's script."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment(home, **environment),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def eventually(condition: Callable[[], object], timeout: float = 15.0, what: str = "it") -> None:
    """Wait for a condition, however slow the machine is."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout} s"
        time.sleep(0.01)


def _controller() -> tuple[Path, str, str] | None:
    """Where memory cgroups can be made here, and how they name limit and usage: v1, or v2 with a memory controller."""
    old, new = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    if sys.platform != "linux" or os.geteuid() != 0:
        return None
    if os.access(old / "memory.limit_in_bytes", os.W_OK):
        return old, "memory.limit_in_bytes", "memory.usage_in_bytes"
    with contextlib.suppress(OSError):
        if "memory" in (new / "cgroup.controllers").read_text().split():
            (new / "cgroup.subtree_control").write_text("+memory")
            return new, "memory.max", "memory.current"
    return None


_CONTROLLER = _controller()
CGROUP, LIMIT, USAGE = _CONTROLLER or (Path(os.devnull), "", "")


def why_no_box() -> str | None:
    """Why no memory cgroup can be made here; None where one can."""
    return None if _CONTROLLER else "needs root and a writable memory controller, of cgroup v1 or v2"


@contextlib.contextmanager
def memory_box(limit_bytes: int) -> Iterator[Path]:
    """A memory cgroup of one's own; whatever is still in it at the end is moved out, and it is removed."""
    box = CGROUP / f"oomcast-test-{os.getpid()}"
    box.mkdir()
    try:
        (box / LIMIT).write_text(str(limit_bytes))
        with contextlib.suppress(OSError):  # v2: it would swap before it dies; v1 counts both in another file
            (box / "memory.swap.max").write_text("0")
        yield box
    finally:
        for pid in (box / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (CGROUP / "cgroup.procs").write_text(pid)
        eventually(lambda: _removed(box), what=f"removal of {box}")


def _removed(box: Path) -> bool:
    with contextlib.suppress(OSError):
        box.rmdir()
    return not box.exists()


def journals(home: Path) -> dict[str, tuple[Hello, Rows]]:
    """Run name → (hello, rows in order of seq) of every journal whose agent has ended."""
    found: dict[str, tuple[Hello, Rows]] = {}
    for folder in journal_folders(home / "state"):
        journal = Journal(folder, max_bytes=1 << 30)
        try:
            hello = decode_agent_message(journal.hello or b"")
            assert isinstance(hello, Hello)
            rows: Rows = []
            seq = 0
            while frame := journal.next_after(seq):
                message = decode_agent_message(frame.payload)
                assert isinstance(message, Frame)
                rows += sorted([*message.samples, *message.events], key=lambda row: row.seq)
                seq = frame.last_seq
            found[hello.run.name] = (hello, rows)
        finally:
            journal.close()
    return found


def recorded(home: Path, name: str) -> Rows:
    """The rows of one run, once its agent has written the end."""

    def ended() -> bool:
        try:
            rows = journals(home).get(name, (None, []))[1]
        except Exception:  # its agent still holds the lock
            return False
        return bool(rows) and isinstance(rows[-1], Event) and rows[-1].kind is EventKind.END

    eventually(ended, what=f"the end of {name}")
    return journals(home)[name][1]


def batches(rows: Rows) -> list[Sample]:
    """The batch samples among rows."""
    return [row for row in rows if isinstance(row, Sample) and row.batch is not None and row.step is not None]


def events(rows: Rows, kind: EventKind) -> list[Event]:
    """The events of one kind among rows."""
    return [row for row in rows if isinstance(row, Event) and row.kind is kind]
