"""What a run is found by: the words of its texts, and its tags (pure)."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator

from oomcast_server.store.schema import Term

__all__ = ["AFTER_ALL", "LONGEST", "MOST_WORDS", "terms_of", "words_of"]

MOST_WORDS = 64
"""Words kept of one run: of a thousand hosts, the first. Its tags are kept all (the wire takes 100)."""

LONGEST = 64
"""Characters kept of one word. What is searched is cut in the same way, so that it still is the beginning."""

AFTER_ALL = "\U0010ffff"
"""Behind a prefix, it sorts after everything that begins with the prefix."""

_WORD = re.compile(r"[^\W_]+")


def words_of(texts: Iterable[str]) -> Iterator[str]:
    """The words of `texts` as they are compared: runs of letters and digits, without case; each once, in order."""
    found = (word for text in texts for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()))
    return iter(dict.fromkeys(word[:LONGEST] for word in found))


def terms_of(
    name: str, run_id: str, project: str, tags: Iterable[str], hosts: Iterable[str], commands: Iterable[str]
) -> set[tuple[Term, str]]:
    """The rows of `terms` of a run: its tags as they are, and the words of all these texts, the first ones first."""
    tags = list(tags)
    words = words_of(itertools.chain([name, run_id, project], tags, hosts, commands))
    return {(Term.TAG, tag) for tag in tags} | {(Term.WORD, word) for word in itertools.islice(words, MOST_WORDS)}
