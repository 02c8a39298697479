"""Whether an answer is still the one that the caller has: weak entity tags (RFC 9110, section 8.8)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from starlette.responses import Response

from oomcast._version import __version__
from oomcast.wire import PROTOCOL

__all__ = ["answer", "unchanged", "weak_tag"]

# Ask before each use: `no-cache` says that, not that nothing may be kept.
_KEEP = {"Cache-Control": "private, no-cache"}
_TAG = re.compile(r'(?:W/)?("[\x21\x23-\x7e]*")')


def weak_tag(*key: object) -> str:
    """The tag of an answer that is another one only if `key` is: values whose `repr` tells them apart.

    What time alone changes and nobody cares for (`now_ms`) belongs not into the key. A new version of the server may
    answer in another shape, so it is part of every tag.
    """
    digest = hashlib.blake2b(repr((__version__, PROTOCOL, *key)).encode(), digest_size=12)
    return f'W/"{digest.hexdigest()}"'


def unchanged(headers: Mapping[str, str], tag: str) -> Response | None:
    """The answer 304, if the request's `headers` say that the caller has what `tag` stands for; else None."""
    given = headers.get("if-none-match", "")
    if given.strip() == "*" or tag.removeprefix("W/") in _TAG.findall(given):
        return Response(status_code=304, headers={"ETag": tag, **_KEEP})
    return None


def answer(body: bytes, tag: str, *, keep: bool = True) -> Response:
    """The whole answer (JSON), which may be asked for again with its tag.

    `keep`: a browser may keep it for that. Not so an answer that says what time it is: the kept one would say it wrong.
    """
    return Response(body, media_type="application/json", headers={"ETag": tag, **(_KEEP if keep else {})})
