"""Fixtures for all tests."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

# A shell that starts the suite in the background has it ignore Ctrl-C, and every script that the tests start would
# inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A private OOMCAST_HOME."""
    return tmp_path / "home"
