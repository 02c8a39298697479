"""What signals mean to a process that stands between a terminal and a command, or only looks on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

__all__ = ["SignalsPassedOn", "stopped_by_signals"]

# Sent on to the command. Ctrl-C and Ctrl-\ reach it by themselves where they come from the terminal.
_PASSED_ON = ("SIGINT", "SIGQUIT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
_BY_TERMINAL = ("SIGINT", "SIGQUIT")


class SignalsPassedOn:
    """While a command runs, this process is as good as not there: what it is sent goes to the command."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._waiting: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> SignalsPassedOn:
        for name in _PASSED_ON:
            number = getattr(signal, name, None)
            # What is ignored here (nohup) is ignored by the command, too; a handler is not inherited.
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._take)
        return self

    def to(self, process: subprocess.Popen[bytes]) -> None:
        """Send them to `process`, and what has come since `__enter__`."""
        self._process = process
        while self._waiting:
            self._send(self._waiting.pop(0))

    def _take(self, number: int, frame: object) -> None:
        if signal.Signals(number).name in _BY_TERMINAL and _in_foreground():
            return
        if self._process is None:
            self._waiting.append(number)
        else:
            self._send(number)

    def _send(self, number: int) -> None:
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.send_signal(number)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _in_foreground() -> bool:
    """Whether keys pressed in the terminal signal this process and, in the same group, the command."""
    if os.name != "posix":
        return True
    with contextlib.suppress(OSError):
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
        try:
            return os.tcgetpgrp(terminal) == os.getpgrp()
        finally:
            os.close(terminal)
    return False


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Within, SIGTERM and a closed terminal are Ctrl-C."""
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
