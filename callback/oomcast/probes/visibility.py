"""Which GPUs a process may use, and by which numbers it knows them (pure).

CUDA_VISIBLE_DEVICES lists indices or UUIDs; its order decides the numbers: the first listed is the framework's "GPU:0".
The rules are those of the CUDA programming guide (environment variables) and of the MIG user guide (device
enumeration); what these leave open is read as `torch.cuda` reads it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from oomcast.wire import GpuDevice

__all__ = ["Card", "visible"]

_INDEX = re.compile(r"\s*([+-]?\d+)")  # CUDA reads as strtoul does: "1x" is 1


class Card(NamedTuple):
    """One card as NVML knows it."""

    device: GpuDevice
    slices: tuple[GpuDevice, ...] = ()
    sliced: bool = False  # in MIG mode: CUDA uses a slice of it, never the card


def visible(cards: Sequence[Card], listed: str | None, order: str | None = None) -> list[GpuDevice]:
    """The devices that the process may use, in the order of their numbers where that is known.

    `device` becomes the place in the list, and `ordinal` the framework's number, None where that is not known: plain
    indices count the fastest card first unless CUDA_DEVICE_ORDER is PCI_BUS_ID, which matters among unlike cards only.

    Args:
        cards: in NVML's order, which is that of their places on the bus.
        listed: the process's CUDA_VISIBLE_DEVICES; None where it is not set.
        order: its CUDA_DEVICE_ORDER.
    """
    known = order == "PCI_BUS_ID" or len({card.device.name for card in cards}) < 2
    usable = [device for card in cards if (device := _used_of(card))]
    if listed is None:
        return _numbered(usable, known=known)
    if listed.strip().startswith(("GPU-", "MIG-")):
        return _numbered(_by_uuid(cards, listed), known=True)
    chosen = _by_index(cards, listed)
    # Which card an index means is not known here, so neither is which are hidden; but not if none is listed at all.
    return _numbered(chosen if known or not chosen else usable, known=known)


def _used_of(card: Card) -> GpuDevice | None:
    """What CUDA uses of a card: in MIG mode its first slice, as one process can't use several."""
    if not card.sliced:
        return card.device
    return card.slices[0] if card.slices else None


def _by_index(cards: Sequence[Card], listed: str) -> list[GpuDevice]:
    chosen: list[int] = []
    for text in listed.split(","):
        match = _INDEX.match(text)
        index = int(match[1]) if match else -1
        if not 0 <= index < len(cards):
            break  # the first that is none ends the list
        if index in chosen:
            return []  # CUDA takes a list with a repetition for an empty one
        chosen.append(index)
    return [device for index in chosen if (device := _used_of(cards[index]))]


def _by_uuid(cards: Sequence[Card], listed: str) -> list[GpuDevice]:
    kind = listed.strip()[:4]
    places = {card.device.uuid: _used_of(card) for card in cards}
    places |= {one.uuid: one for card in cards for one in card.slices}
    chosen: list[GpuDevice] = []
    for text in listed.split(","):
        matches = [uuid for uuid in places if text.strip().startswith(kind) and uuid.startswith(text.strip())]
        if len(matches) > 1 and text.strip() in matches:
            matches = [text.strip()]
        device = places[matches[0]] if len(matches) == 1 else None
        if device is None:
            break  # unknown, or the beginning of several
        if device in chosen:
            return []
        chosen.append(device)
    return chosen


def _numbered(devices: list[GpuDevice], *, known: bool) -> list[GpuDevice]:
    slices = [device for device in devices if device.instance is not None]
    if slices and len(slices) == len(devices):
        devices = devices[:1]
    elif slices:
        known = False  # CUDA doesn't use cards and a slice at once; which of them it takes is not written anywhere
    return [
        msgspec.structs.replace(device, device=place, ordinal=place if known else None)
        for place, device in enumerate(devices)
    ]
