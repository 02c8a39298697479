"""Compares the rollups of a source with what its stored samples make: every finished node once, and right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from oomcast_server.rollups.nodes import SAMPLES, Node, merged, of_samples
from oomcast_server.rollups.pyramids import width
from oomcast_server.rollups.resuming import samples_between
from oomcast_server.store.schema import rollups

__all__ = ["wrong_rollups"]

_FROM_SAMPLES = 5
"""The highest level that is made of samples here; the levels above it, of what was made here of those below."""

_AT_ONCE = width(_FROM_SAMPLES) * 16
_DAY = 1  # where a node has the day of its arrival, which samples don't
_VALUES = [column for column in rollups.c if not column.primary_key]
_Key = tuple[int, int, int]  # level, kind, bucket


def wrong_rollups(connection: Connection, place: tuple[int, int], watermark: int) -> list[str]:
    """What is wrong of a source's rollups.

    Args:
        connection: to read with.
        place: the pks of its run and its own.
        watermark: up to which seq it is stored, with nothing coming any more.
    """
    table = rollups.c
    query = sa.select(table.level, table.kind, table.bucket, *_VALUES)
    stored = {
        (row[0], row[1], row[2]): _comparable(row[3:])
        for row in connection.execute(query.where(table.run_pk == place[0], table.source_pk == place[1]))
    }
    expected = {key: _comparable(node) for key, node in _made(connection, place, watermark)}
    lacking, more = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
    differing = sorted(key for key, node in expected.items() if key in stored and stored[key] != node)
    kinds = (("are missing", lacking), ("are there that no sample makes", more), ("are wrong", differing))
    return [
        f"{len(keys)} of {len(expected)} rollups {what}: level, kind, bucket {keys[:3]}" for what, keys in kinds if keys
    ]


def _comparable(node: Sequence[Any]) -> tuple[Any, ...]:
    values = list(node)
    values[_DAY] = 0
    return tuple(int(value) if value is not None else None for value in values)


def _made(connection: Connection, place: tuple[int, int], watermark: int) -> Iterator[tuple[_Key, Node]]:
    below: dict[_Key, Node] = {}
    for first in range(1, watermark + 1, _AT_ONCE):
        for kind, rows in samples_between(connection, place, first, first + _AT_ONCE - 1).items():
            for level in range(1, _FROM_SAMPLES + 1):
                for bucket, within in _buckets(rows, level).items():
                    if (bucket + 1) * width(level) <= watermark:
                        node = of_samples(within)
                        yield (level, kind, bucket), node
                        if level == _FROM_SAMPLES:
                            below[level, kind, bucket] = node
    while below:
        above: dict[_Key, Node] = {}
        for (level, kind, bucket), node in sorted(below.items()):
            key = (level + 1, kind, bucket * width(level) // width(level + 1))
            if (key[2] + 1) * width(level + 1) <= watermark:
                above[key] = merged(SAMPLES, above[key], node) if key in above else node
        yield from above.items()
        below = above


def _buckets(rows: Sequence[Row[Any]], level: int) -> dict[int, list[Row[Any]]]:
    buckets: defaultdict[int, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        buckets[(row[0] - 1) // width(level)].append(row)
    return buckets
