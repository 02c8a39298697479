"""What the writer remembers of runs between transactions, so that a frame needn't read them."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Iterable

from oomcast_server.rollups.nodes import GPUS, SAMPLES
from oomcast_server.rollups.pyramids import Pyramid
from oomcast_server.runs.standing import RunState, SourceState

__all__ = ["Known", "KnownRun", "Pyramids"]

_MOST_SOURCES = 4_000


@dataclasses.dataclass
class Pyramids:
    """A source's unfinished rollups."""

    samples: Pyramid = dataclasses.field(default_factory=lambda: Pyramid(SAMPLES))
    gpus: Pyramid = dataclasses.field(default_factory=lambda: Pyramid(GPUS))


@dataclasses.dataclass
class KnownRun:
    """A run with all its sources, in the order in which they came, as they are on the disk.

    The standings are replaced, never changed; the pyramids are changed in place, so that a run whose transaction
    failed must be forgotten.
    """

    run: RunState
    sources: dict[int, SourceState]
    pyramids: dict[int, Pyramids] = dataclasses.field(default_factory=dict)


class Known:
    """Some thousands of sources with their runs; those that were not heard of for longest are forgotten first."""

    def __init__(self) -> None:
        self._runs: OrderedDict[int, KnownRun] = OrderedDict()
        self._sources = 0

    def get(self, run_pk: int) -> KnownRun | None:
        """The run, if it is known."""
        return self._runs.get(run_pk)

    def keep(self, runs: Iterable[KnownRun]) -> None:
        """Take over what is on the disk now."""
        for known in runs:
            self.forget(known.run.pk)
            self._runs[known.run.pk] = known
            self._sources += len(known.sources)
        while self._sources > _MOST_SOURCES and len(self._runs) > 1:
            self.forget(next(iter(self._runs)))

    def forget(self, run_pk: int) -> None:
        """What was known of it may not be so any more."""
        known = self._runs.pop(run_pk, None)
        if known is not None:
            self._sources -= len(known.sources)
