"""Where a list goes on: opaque to whoever asks; a key and no offset, so that new rows shift nothing (pure)."""

from __future__ import annotations

import base64
import binascii

import msgspec

__all__ = ["BadCursor", "decode", "encode"]

_LARGEST = 2**62
_LONGEST = 120


class BadCursor(ValueError):  # noqa: N818
    """Text that is no cursor of this list."""


def encode(kind: str, *position: int) -> str:
    """The cursor for what follows `position` in a list of that kind (one letter)."""
    packed = msgspec.json.encode([kind, *position])
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def decode(kind: str, text: str, length: int) -> tuple[int, ...]:
    """The position that `encode` was given: `length` numbers, each of which a database can take.

    Raises:
        BadCursor: no such cursor.
    """
    otherwise = "expected the `next` of the page before, from the same list"
    if len(text) > _LONGEST or not text.isascii():
        raise BadCursor(otherwise)
    try:
        padded = text + "=" * (-len(text) % 4)
        values = msgspec.json.decode(base64.b64decode(padded, altchars=b"-_", validate=True), type=list[int | str])
    except (binascii.Error, msgspec.MsgspecError, ValueError):
        raise BadCursor(otherwise) from None
    first, *position = values or [""]
    numbers = [value for value in position if isinstance(value, int) and abs(value) <= _LARGEST]
    if first != kind or len(numbers) != len(position) or len(numbers) != length:
        raise BadCursor(otherwise)
    return tuple(numbers)
