"""Rows that are as large as real ones, for benchmarks."""

from __future__ import annotations

from typing import Any

from oomcast.sample import Kind, Phase, Sample

WALL_NS = 1_700_000_000_000_000_000
TICK_ONLY = {
    *("file_bytes", "virtual_bytes", "children", "children_rss_bytes", "children_swap_bytes"),
    *("tree_pss_bytes", "host_swap_bytes"),
}


def a_row(seq: int, full: bool) -> Sample:
    """A sample whose figures are as large as real ones."""
    tick = seq % 50 == 0
    figures: dict[str, Any] = dict.fromkeys(Sample._fields, 700_000_000 + seq * 4096 % (1 << 30))
    if not full and not tick:
        figures.update(dict.fromkeys(TICK_ONLY))
    told = {
        "seq": seq,
        "kind": Kind.TICK if tick else Kind.BATCH,
        "wall_ns": WALL_NS + seq * 10_000_000,
        "mono_ns": seq * 10_000_000,
        "phase": Phase.TRAIN,
        "epoch": seq // 1000,
        "batch": seq,
        "step": seq % 1000,
        "steps": 1,
    }
    return Sample(**{**figures, **told})
