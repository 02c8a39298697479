"""What the samples of a source themselves say of its epochs and phases, for formats without events (pure)."""

from __future__ import annotations

from collections.abc import Mapping

from oomcast.sample import Event, EventKind, Phase, Sample

__all__ = ["Mark", "marks_between", "placed"]

Mark = tuple[EventKind, Mapping[str, str | int | None], Sample]
"""A kind of event, its detail, and the sample whose time and place it has."""


def marks_between(before: Sample | None, after: Sample) -> tuple[list[Mark], list[Mark]]:
    """What ended behind `before`, and what began ahead of `after`, the one that follows it; in order."""
    ended: list[Mark] = []
    begun: list[Mark] = []
    then = before.phase if before is not None else Phase.IDLE
    new_epoch = after.epoch is not None and (before is None or before.epoch != after.epoch)
    if before is not None:
        if then in (Phase.VALIDATION, Phase.TEST, Phase.PREDICT) and after.phase != then:
            ended.append((EventKind.PHASE_END, {"phase": then.name.lower()}, before))
        if before.epoch is not None and before.epoch != after.epoch:
            ended.append((EventKind.EPOCH_END, {}, before))
        if _trains(then) and not _trains(after.phase):
            ended.append((EventKind.TRAIN_END, {}, before))
    if _trains(after.phase) and not _trains(then):
        begun.append((EventKind.TRAIN_BEGIN, {"epochs": None, "steps": None}, after))
    if new_epoch and _trains(after.phase):
        begun.append((EventKind.EPOCH_BEGIN, {}, after))
    if after.phase in (Phase.VALIDATION, Phase.TEST, Phase.PREDICT) and after.phase != then:
        begun.append((EventKind.PHASE_BEGIN, {"phase": after.phase.name.lower()}, after))
    return ended, begun


def _trains(phase: Phase) -> bool:
    return phase in (Phase.TRAIN, Phase.VALIDATION)


def placed(mark: Mark, seq: int) -> Event:
    """The event of `mark` with this seq."""
    kind, detail, near = mark
    return Event(seq, kind, near.wall_ns, near.mono_ns, near.epoch, near.batch, dict(detail))
