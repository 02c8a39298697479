"""The demo from the user's side: the link first, then the training, then the verdict; the server stays until Ctrl-C."""

from __future__ import annotations

import collections
import contextlib
import importlib.util
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from oomcast import console, settings
from oomcast.demo.box import Box, choose_box
from oomcast.demo.dashboard import Dashboard, dashboard, open_browser
from oomcast.demo.facts import read_facts
from oomcast.demo.scenarios import PLANS, DemoError, Ending, Plan, Scenario, parse_scenario
from oomcast.demo.swapfile import swap
from oomcast.demo.training import Order
from oomcast.demo.verdict import Outcome, classify, error_line, lines
from oomcast.errors import OomcastError
from oomcast.places import places

__all__ = ["run_demo"]

_SWAP_BYTES = 1 << 30
_SHOWN_LINES = 25
_DELIVERY_S = 10.0  # how long the verdict waits for the run's last samples to be on the server


def run_demo(
    scenario: str = Scenario.HEALTHY.value,
    headroom: int | None = None,
    open_browser: bool = True,
    seconds: float | None = None,
) -> int:
    """Show one scenario; returns when the user ends it.

    Args:
        scenario: its name.
        headroom: bytes that the training may take beyond its first batches; the scenario's own if not given.
        open_browser: whether to open the dashboard where there is a screen.
        seconds: about how long to train, or until the limit is reached; the scenario's own if not given.

    Returns:
        The exit status: 0 if it ended as the scenario should, 1 if not, 2 if it can't be shown here, 130 if
        interrupted while it trained.
    """
    try:
        with _signals():
            return _show(_Wish(parse_scenario(scenario), headroom, seconds, open_browser))
    except KeyboardInterrupt:
        return 130
    except (OomcastError, OSError) as error:
        console.say(str(error))
        return 2


class _Wish:
    """What the user asked for, with the scenario's own sizes where they said nothing."""

    def __init__(self, scenario: Scenario, headroom: int | None, seconds: float | None, browser: bool) -> None:
        self.scenario = scenario
        self.plan: Plan = PLANS[scenario]
        self.headroom_bytes = self.plan.headroom_bytes if headroom is None else headroom
        self.seconds = self.plan.seconds if seconds is None else seconds
        self.browser = browser
        if self.headroom_bytes <= 0 or self.seconds <= 0:
            raise DemoError("headroom and seconds must be more than 0")


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    # SIGTERM must clean up as Ctrl-C does; and a shell without job control starts its background jobs deaf to SIGINT.
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = [(number, signal.signal(number, interrupt)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in previous:
            signal.signal(number, handler)


def _show(wish: _Wish) -> int:
    if importlib.util.find_spec("tensorflow") is None:
        raise DemoError("the demo trains with TensorFlow: `pip install 'oomcast[tensorflow,server]'` brings it")
    values = settings.load()
    with contextlib.ExitStack() as stack:
        wait_for_libraries = stack.enter_context(_libraries())
        board = stack.enter_context(dashboard(values)) if values.mode == "online" else None
        if board:
            _say_where(board, wish.browser)
        with contextlib.ExitStack() as sizes:
            box, swap_bytes = _prepare(wish, sizes, places(values.home).state)
            _print(f"training: {wish.scenario.value}, {wish.plan.summary} (box: {box.name})")
            wait_for_libraries()
            outcome, run_name = _train(wish, box, swap_bytes)
        return _conclude(wish, outcome, board, run_name)


@contextlib.contextmanager
def _libraries() -> Iterator[Callable[[], object]]:
    # The page cache of a file is charged to whoever reads it first. If that were the training, its box would have some
    # 200 MiB of TensorFlow's code in it the first time, which the kernel takes back at the limit: a headroom that the
    # next time isn't there. So another process reads it first, while the server starts.
    quiet = subprocess.DEVNULL
    command = [sys.executable, "-m", "oomcast.demo.network"]
    with subprocess.Popen(
        command, stdin=quiet, stdout=quiet, stderr=quiet, env=settings.inherited_environment()
    ) as reader:
        try:
            yield reader.wait
        finally:
            reader.kill()


def _say_where(board: Dashboard, browser: bool) -> None:
    _print(f"dashboard: {board.link()}")
    if line := console.ssh_line(board.address):
        _print(f"from your own machine: {line}")
    if browser:
        open_browser(board.link())


def _prepare(wish: _Wish, stack: contextlib.ExitStack, state: Path) -> tuple[Box, int]:
    swap_bytes = 0
    if wish.scenario is Scenario.SWAP:
        folders = [Path(tempfile.gettempdir()), Path("/var/tmp"), state]  # noqa: S108  a private folder is made in it
        swap_bytes = stack.enter_context(swap(_SWAP_BYTES, [folder for folder in folders if folder.is_dir()]))
    box = stack.enter_context(choose_box())
    if wish.scenario is Scenario.SWAP and not box.swaps:
        raise DemoError(
            "swapping needs a memory limit that swaps, and this machine lets this user make no memory cgroup: "
            "`sudo make demo SCENARIO=swap` may, or show another scenario"
        )
    return box, swap_bytes


def _train(wish: _Wish, box: Box, swap_bytes: int) -> tuple[Outcome, str]:
    run_name = f"{wish.scenario.value}-{secrets.token_hex(3)}"
    with tempfile.TemporaryDirectory(prefix="oomcast-demo-") as folder:
        order = Order(
            scenario=wish.scenario,
            headroom_bytes=wish.headroom_bytes,
            swap_bytes=swap_bytes,
            seconds=wish.seconds,
            run_name=run_name,
            ticket=box.ticket,
            facts=Path(folder, "facts"),
        )
        started = time.monotonic()
        child = _Child(box.command([sys.executable, "-m", "oomcast.demo.training", *order.arguments()]))
        interrupted = child.wait()
        facts = read_facts(order.facts)
        ending = classify(child.returncode, box.kills(facts.tightened), child.last_lines, interrupted)
        if ending is Ending.FAILED:
            for line in list(child.last_lines)[-_SHOWN_LINES:]:
                print(line, file=sys.stderr)
        return (
            Outcome(
                ending=ending,
                returncode=child.returncode,
                seconds=time.monotonic() - started,
                facts=facts,
                box=box.name,
                headroom_bytes=wish.headroom_bytes,
                error=error_line(child.last_lines),
            ),
            run_name,
        )


class _Child:
    """The training's process: its progress goes to the terminal, of its stderr only what is ours and its end."""

    def __init__(self, command: list[str]) -> None:
        environment = settings.inherited_environment()
        environment["TF_CPP_MIN_LOG_LEVEL"] = environment.get("TF_CPP_MIN_LOG_LEVEL", "2")
        self.last_lines: collections.deque[str] = collections.deque(maxlen=200)
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is the demo's, which ends the training and then tidies up
        )
        assert self._process.stderr is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stderr,), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            for raw in stream:
                line = raw.decode(errors="replace").rstrip()
                self.last_lines.append(line)
                if line.startswith("oomcast: "):
                    print(line, file=sys.stderr, flush=True)

    @property
    def returncode(self) -> int:
        """The exit status, once `wait` has returned."""
        assert self._process.returncode is not None
        return self._process.returncode

    def wait(self) -> bool:
        """Until it has ended; whether that was because the demo was told to stop."""
        interrupted = False
        try:
            self._process.wait()
        except KeyboardInterrupt:
            interrupted = True
        finally:
            self._end()
        self._reader.join(timeout=5)
        return interrupted

    def _end(self) -> None:
        for number, patience_s in ((signal.SIGINT, 10.0), (signal.SIGKILL, None)):
            if self._process.poll() is not None:
                return
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience_s)


def _conclude(wish: _Wish, outcome: Outcome, board: Dashboard | None, run_name: str) -> int:
    expected = outcome.ending in wish.plan.endings and _has_shown(wish.scenario, outcome)
    interrupted = outcome.ending is Ending.INTERRUPTED
    run = board.find_run(run_name, 0 if interrupted else _DELIVERY_S) if board else None
    _print_verdict(wish, Outcome(**{**vars(outcome), "run": run}), expected, _run_link(board, run))
    if interrupted:
        return 130
    if board:
        _print(f"The dashboard stays up at {board.link()}{' - Ctrl-C to stop' if board.is_ours else ''}")
        if board.is_ours:
            _wait_for_the_end(board.wait)
    return 0 if expected else 1


def _has_shown(scenario: Scenario, outcome: Outcome) -> bool:
    return scenario is not Scenario.SWAP or bool(outcome.facts.peak_swap_bytes)


def _run_link(board: Dashboard | None, run: dict[str, object] | None) -> str | None:
    return board.link(str(run["id"])) if board and run else None


def _wait_for_the_end(wait: Callable[[], int]) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        console.say(f"the server has ended by itself (exit status {wait()})")


def _print_verdict(wish: _Wish, outcome: Outcome, expected: bool, link: str | None) -> None:
    rows = lines(outcome)
    title = f"{wish.scenario.value}: {'as it should be' if expected else 'not as it should be'}"
    if outcome.ending is Ending.INTERRUPTED:
        title = f"{wish.scenario.value}: stopped"
    out = Console(file=sys.stdout, highlight=False)
    if not out.is_terminal:
        _print(title)
        for name, text in rows:
            _print(f"  {name:8} {text}")
    else:
        _print_panel(out, title, rows, "green" if expected else "red")
    if link:
        _print(f"run: {link}")  # outside the box, which would break it in two


def _print_panel(out: Console, title: str, rows: list[tuple[str, str]], colour: str) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(name, text)
    out.print(Panel(table, title=title, title_align="left", expand=False, border_style=colour))


def _print(text: str) -> None:
    print(text, flush=True)
