"""Text that came from a client, made safe to log and to show (pure)."""

from __future__ import annotations

__all__ = ["clean", "clean_or"]

_SPACES = dict.fromkeys([0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x85, 0x2028, 0x2029], " ")
_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)])
# What turns the reading direction, or hides: a name must not be able to look like another one.
_BIDI = dict.fromkeys([0x061C, 0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF])
_TABLE: dict[int, str | None] = {**_CONTROLS, **_BIDI, **_SPACES}


def clean(text: str) -> str:
    """`text` without control characters and bidi overrides; each line break or tab becomes a space."""
    if text.isascii() and text.isprintable():
        return text
    return text.translate(_TABLE)


def clean_or(text: str | None, default: str) -> str:
    """`text` cleaned and trimmed, or `default` where nothing is left of it."""
    return clean(text or "").strip() or default
