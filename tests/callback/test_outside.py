"""`oomcast run` and `oomcast attach`: any program is watched, told how it ended, and otherwise left as it is."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oomcast.agent.journal import Journal, journal_folders
from oomcast.errors import TargetError
from oomcast.sample import EventKind, Sample
from oomcast.target import find_target
from oomcast.wire import Hello, decode_agent_message
from tests.support import clean_environment, events, eventually, journals, recorded

pytestmark = [
    pytest.mark.fast,
    pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc as Linux has them"),
]

OOMCAST = (sys.executable, "-c", "import sys; from oomcast.cli import main; sys.argv[0] = 'oomcast'; main()")
# Gives the terminal on its stdin to its own session, as a terminal window does, and becomes the command.
IN_TERMINAL = (
    sys.executable,
    "-c",
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])",
)
COUNTS_CTRL_C = """
import signal, sys, time
hits = []
signal.signal(signal.SIGINT, lambda *_: hits.append(1))
print("ready", flush=True)
while not hits:
    time.sleep(0.01)
time.sleep(0.4)
sys.exit(10 + len(hits))
"""
SLEEPS = "import time\nprint('ready', flush=True)\nwhile True: time.sleep(0.05)"


def oomcast(
    home: Path, *arguments: str, stdin: str = "", fds: tuple[int, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*OOMCAST, *arguments],
        env=clean_environment(home, **{"OOMCAST_MODE": "offline"} | environment),
        input=stdin,
        pass_fds=fds,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def python(code: str) -> tuple[str, ...]:
    return ("--", sys.executable, "-c", code)


@contextlib.contextmanager
def started(home: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs in the background, with what it prints to be read; killed at the end."""
    process = subprocess.Popen(
        command,
        env=clean_environment(home, OOMCAST_MODE="offline"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str], begins: str, error: bool = True) -> str:
    """The next line that begins so."""
    stream = process.stderr if error else process.stdout
    assert stream is not None
    for text in stream:
        if text.startswith(begins):
            return text
    raise AssertionError(f"no line that begins with {begins!r}")


@pytest.mark.parametrize(
    ("code", "status", "verdict"),
    [
        ("pass", 0, "exit code 0"),
        ("import time; time.sleep(0.7)", 0, "exit code 0"),
        ("import sys; sys.exit(3)", 3, "exit code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137, "SIGKILL"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", 143, "SIGTERM"),
        ("import os; os.abort()", 134, "SIGABRT"),
    ],
)
def test_the_exit_code_is_passed_on_and_the_verdict_is_said(home: Path, code: str, status: int, verdict: str) -> None:
    result = oomcast(home, "run", "--name", "it", *python(code))
    lines = result.stderr.splitlines()
    assert result.returncode == status
    assert lines[0].startswith("oomcast: recording it offline")
    assert 2 <= len(lines) <= 4, lines
    assert all(text.startswith("oomcast: ") for text in lines)
    assert any(verdict in text for text in lines[1:]), lines
    end = events(recorded(home, "it"), EventKind.END)[0].detail
    assert lines[1] == f"oomcast: {end['text']}"
    assert ("oom" in str(end["ending"])) is False


@pytest.mark.parametrize(
    ("command", "status", "why"),
    [("no-such-program", 127, "no such command"), ("/etc/passwd", 126, "Permission denied"), ("/", 126, "denied")],
)
def test_a_command_that_cannot_be_run_is_one_line(home: Path, command: str, status: int, why: str) -> None:
    result = oomcast(home, "run", command, "x")
    assert (result.returncode, result.stdout) == (status, "")
    assert result.stderr.count("\n") == 1
    assert why in result.stderr
    assert not list(journal_folders(home / "state"))


def test_its_files_are_its_own(home: Path) -> None:
    reading, writing = os.pipe()
    try:
        code = f"import os, sys; print(input()); print('err', file=sys.stderr); os.write({writing}, b'three')"
        result = oomcast(home, "run", *python(code), stdin="hello\n", fds=(writing,))
        assert result.stdout == "hello\n"
        assert "err\n" in result.stderr
        assert os.read(reading, 10) == b"three"
    finally:
        os.close(reading)
        os.close(writing)


def test_options_of_the_command_are_the_commands(home: Path) -> None:
    result = oomcast(home, "run", sys.executable, "-c", "import sys; print(sys.argv[1:])", "--name", "x", "--", "-v")
    assert result.stdout == "['--name', 'x', '--', '-v']\n"


def test_what_it_is_sent_goes_to_the_command(home: Path) -> None:
    code = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n" + SLEEPS
    with started(home, *OOMCAST, "run", *python(code)) as process:
        line(process, "ready", error=False)
        process.terminate()
        assert process.wait(20) == 5


def test_an_interrupt_that_is_sent_to_it_alone_reaches_the_command_once(home: Path) -> None:
    with started(home, *OOMCAST, "run", *python(COUNTS_CTRL_C)) as process:
        line(process, "ready", error=False)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 11


class Terminal:
    """A terminal window with one command in it."""

    def __init__(self, home: Path, *command: str, **environment: str) -> None:
        self.screen = ""
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [*IN_TERMINAL, *command],
            env=clean_environment(home, **{"OOMCAST_MODE": "offline", "TERM": "xterm"} | environment),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def read_until(self, text: str) -> None:
        while text not in self.screen:
            self.screen += os.read(self._master, 4096).decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


def test_ctrl_c_in_a_terminal_reaches_the_command_once_and_the_verdict_is_still_said(home: Path) -> None:
    terminal = Terminal(home, *OOMCAST, "run", *python(COUNTS_CTRL_C))
    try:
        terminal.read_until("ready")
        terminal.press(b"\x03")
        terminal.read_until("exit code 11")
        assert terminal.process.wait(20) == 11
    finally:
        terminal.close()


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_the_verdict_is_coloured_in_a_terminal_that_likes_it(
    home: Path, environment: dict[str, str], coloured: bool
) -> None:
    terminal = Terminal(home, *OOMCAST, "run", *python("import sys; sys.exit(4)"), **environment)
    try:
        terminal.read_until("exit code 4")
        assert ("oomcast: \x1b[31m" in terminal.screen) is coloured
    finally:
        terminal.close()


def test_a_training_inside_joins_the_same_run_as_another_source(home: Path) -> None:
    code = "from oomcast import watch\nwith watch() as run: run.step()"
    assert (
        oomcast(home, "run", "--name", "both", "--project", "p", "--tag", "a", "--tag", "b", *python(code)).returncode
        == 0
    )
    eventually(lambda: len(hellos(home)) == 2, what="both journals")
    runs = [hello.run for hello in hellos(home)]
    assert runs[0] == runs[1]
    assert (runs[0].name, runs[0].project, runs[0].tags) == ("both", "p", ["a", "b"])
    assert len({hello.source.id for hello in hellos(home)}) == 2
    assert "run" in {hello.source.kind for hello in hellos(home)}
    assert len({hello.source.pid for hello in hellos(home)}) == 1


def hellos(home: Path) -> list[Hello]:
    """What every agent that has ended said first."""
    found = []
    for folder in journal_folders(home / "state"):
        with contextlib.suppress(Exception):  # its agent still holds the lock
            journal = Journal(folder, max_bytes=1 << 30)
            try:
                hello = decode_agent_message(journal.hello or b"")
            finally:
                journal.close()
            assert isinstance(hello, Hello)
            found.append(hello)
    return found


def test_a_source_from_outside_says_what_runs_and_has_ticks(home: Path) -> None:
    oomcast(home, "run", "--name", "ticks", *python("import time; time.sleep(1.6)"))
    rows = recorded(home, "ticks")
    source = journals(home)["ticks"][0].source
    assert source.command is not None
    assert source.command.endswith("import time; time.sleep(1.6)")
    assert (source.kind, source.python) == ("run", None)
    samples = [row for row in rows if isinstance(row, Sample)]
    assert samples
    assert any(row.rss_bytes for row in samples)
    assert all(row.batch is None for row in samples)


def test_disabled_is_as_if_it_were_not_there(home: Path) -> None:
    result = oomcast(home, "run", *python("import sys; sys.exit(6)"), OOMCAST_MODE="disabled")
    assert (result.returncode, result.stdout, result.stderr) == (6, "", "")
    assert not home.exists()


def test_a_home_that_cannot_be_written_does_not_stop_the_command(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = oomcast(tmp_path / "file", "run", *python("print('done')"))
    assert (result.returncode, result.stdout) == (0, "done\n")


def test_attach_watches_until_ctrl_c_and_the_process_goes_on(home: Path) -> None:
    with started(home, sys.executable, "-c", SLEEPS) as sleeper:
        line(sleeper, "ready", error=False)
        with started(home, *OOMCAST, "attach", str(sleeper.pid), "--name", "held") as attached:
            line(attached, "oomcast: Ctrl-C ends the watching")
            time.sleep(1.2)  # so that there is a tick or two
            attached.send_signal(signal.SIGINT)
            assert attached.wait(20) == 0
            assert attached.stderr is not None
            assert f"oomcast: no longer watching {sleeper.pid}" in attached.stderr.read()
        assert sleeper.poll() is None
        rows = recorded(home, "held")
    assert any(isinstance(row, Sample) and row.rss_bytes for row in rows)
    assert journals(home)["held"][0].source.pid == sleeper.pid
    assert "killed" not in str(events(rows, EventKind.END)[0].detail)


def test_attach_says_how_the_process_ended(home: Path) -> None:
    with started(home, sys.executable, "-c", SLEEPS) as sleeper:
        line(sleeper, "ready", error=False)
        with started(home, *OOMCAST, "attach", str(sleeper.pid), "--name", "shot") as attached:
            line(attached, "oomcast: Ctrl-C ends the watching")
            eventually(lambda: any(home.glob("state/journals/*/*")), what="the agent's first rows")
            sleeper.kill()
            sleeper.wait()
            assert "SIGKILL" in line(attached, "oomcast: Killed")
            assert attached.wait(20) == 0


def test_attach_joins_the_run_of_a_callback_inside(home: Path) -> None:
    code = "from oomcast import watch\nwatch(run_name='inner').__enter__().step()\n" + SLEEPS
    with started(home, sys.executable, "-c", code) as training:
        line(training, "ready", error=False)
        with started(home, *OOMCAST, "attach", str(training.pid)) as attached:
            assert "watched already, as inner" in line(attached, f"oomcast: {training.pid}")
            line(attached, "oomcast: Ctrl-C ends the watching")
            attached.send_signal(signal.SIGINT)
            assert attached.wait(20) == 0
        training.kill()
        eventually(lambda: len(hellos(home)) == 2, what="both journals")
    assert len({hello.run.id for hello in hellos(home)}) == 1


def test_attach_refuses_in_one_line_what_cannot_be_watched(home: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    result = oomcast(home, "attach", str(gone.pid))
    assert result.returncode == 1
    assert (
        result.stderr == f"oomcast: there is no process {gone.pid} on this machine: `ps` lists those that there are\n"
    )


def test_a_zombie_has_ended_already() -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    state = Path(f"/proc/{process.pid}/stat")
    eventually(lambda: ") Z " in state.read_text(), what="its end")
    with pytest.raises(TargetError, match="has ended already"):
        find_target(process.pid)
    process.wait()


def test_our_own_processes_are_no_trainings(home: Path) -> None:
    with pytest.raises(TargetError, match="oomcast's own"):
        find_target(os.getpid())
    with started(home, sys.executable, "-c", SLEEPS, "-m", "oomcast.agent") as agent:
        line(agent, "ready", error=False)
        with pytest.raises(TargetError, match="oomcast's own"):
            find_target(agent.pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start another user's process")
def test_another_users_process_is_refused_to_whom_it_is_not() -> None:
    script = """
import os, psutil, sys
from oomcast.errors import TargetError
from oomcast.target import find_target
parent = os.getppid()
os.setresuid(65534, 65534, 65534)
try:
    find_target(parent)
except TargetError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == f"process {os.getpid()} belongs to root: run `oomcast attach` as that user\n"
