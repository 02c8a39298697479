"""`oomcast demo`: a real training that behaves, leaks or spikes inside a memory limit of its own, shown live.

scenarios.py   what can be shown, and what counts as having shown it
show.py        the command: server, box, training, verdict
dashboard.py   the server: found, or started for as long as the demo runs
box.py         the training's own memory limit; cgroup.py and swapfile.py are what it is made of
training.py    the child: enters the box, then trains network.py with one of habits.py
facts.py       what the child leaves behind for the verdict, whatever ends it
verdict.py     how it ended, in words
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oomcast.demo.show import run_demo

__all__ = ["run_demo"]


def __getattr__(name: str) -> Any:
    # Lazily: the training, which is a module in here too, counts every byte.
    if name == "run_demo":
        from oomcast.demo.show import run_demo

        return run_demo
    raise AttributeError(f"module 'oomcast.demo' has no attribute {name!r}")
