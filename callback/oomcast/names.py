"""Random ids, and run names that people can say to each other."""

from __future__ import annotations

import base64
import secrets

__all__ = ["random_id", "random_name"]

# fmt: off
_FIRST = (
    "amber", "brave", "bright", "calm", "clear", "cool", "deep", "early", "fair", "fleet", "gentle", "glad",
    "golden", "keen", "kind", "late", "light", "lively", "lucky", "mild", "noble", "plain", "proud", "quick",
    "quiet", "rapid", "sharp", "silent", "silver", "smooth", "soft", "steady", "still", "stout", "sunny", "swift",
    "warm", "wide", "wise",
)
# fmt: on
# fmt: off
_SECOND = (
    "aspen", "bay", "beech", "birch", "brook", "cedar", "cliff", "cloud", "coast", "creek", "dawn", "dune", "elm",
    "fern", "field", "fjord", "forest", "frost", "glade", "grove", "harbor", "hill", "island", "lake", "larch",
    "maple", "marsh", "meadow", "mist", "moor", "oak", "peak", "pine", "pond", "reef", "ridge", "river", "shore",
    "spring", "storm", "summit", "sunset", "tide", "vale", "wave", "willow", "wind",
)
# fmt: on


def random_id() -> str:
    """16 lower-case letters and digits: 80 random bits, so that no two runs or sources ever share one."""
    return base64.b32encode(secrets.token_bytes(10)).decode("ascii").lower()


def random_name() -> str:
    """A name such as calm-river-7; not unique, ids are."""
    return f"{secrets.choice(_FIRST)}-{secrets.choice(_SECOND)}-{secrets.randbelow(99) + 1}"
