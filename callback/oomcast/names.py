"""Random ids, and run names that people can say to each other."""

from __future__ import annotations

import base64
import hashlib
import secrets

__all__ = ["hashed_id", "name_of", "random_id"]

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


def hashed_id(*parts: str) -> str:
    """An id that whoever knows the same parts comes to as well; as long as a random one."""
    digest = hashlib.blake2b(digest_size=10)
    for part in parts:
        data = part.encode("utf-8", "replace")
        digest.update(len(data).to_bytes(8, "big") + data)
    return base64.b32encode(digest.digest()).decode("ascii").lower()


def name_of(run_id: str) -> str:
    """The made-up name that belongs to an id, the same in every process of the run."""
    number = int.from_bytes(hashlib.blake2b(run_id.encode(), digest_size=16).digest(), "big")
    number, last = divmod(number, 99)
    number, second = divmod(number, len(_SECOND))
    return f"{_FIRST[number % len(_FIRST)]}-{_SECOND[second]}-{last + 1}"
