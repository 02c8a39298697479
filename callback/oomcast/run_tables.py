"""Runs as the commands show them: rich tables and lines of what REST says (pure).

Text from the server is put into `Text` objects, never into markup, and control characters are taken out of it.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from oomcast.agent.wording import size

__all__ = ["compared", "listed", "plain", "shown"]

Json: TypeAlias = Mapping[str, Any]

_MOST_SOURCES = 16
_MOST_EVENTS = 8
_UNKNOWN = "–"
_STYLES = {"live": "green", "silent": "yellow", "stopped": "yellow", "failed": "red", "died": "bold red"}


def plain(text: object) -> str:
    """Text for one line of a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text))


# The list.


@dataclasses.dataclass(frozen=True)
class _Column:
    """One figure of a run. Where the terminal is narrow, columns go in the order of their `rank`, the largest first."""

    title: str
    rank: int
    cell: Callable[[Json, float], str]
    right: bool = False


def _limit(run: Json, _: float) -> str:
    used, limit = run["working_set_bytes"], run["limit_bytes"]
    return f"{100 * used / limit:.0f} %" if used is not None and limit else _UNKNOWN


def _where(run: Json, _: float) -> str:
    parts = [f"epoch {_of(run['epoch'], run['epochs'])}"] if run["epoch"] is not None else []
    parts += [f"batch {run['batch'] + 1}"] if run["batch"] is not None else []
    return ", ".join(parts) or _UNKNOWN


def _of(index: int, count: int | None) -> str:
    return f"{index + 1}/{count}" if count is not None else f"{index + 1}"


def _seen(run: Json, now_ms: float) -> str:
    at_ms = run["ended_ms"] if run["ended_ms"] is not None else run["last_ms"]
    return f"{_span((now_ms - at_ms) / 1e3)} ago"


_COLUMNS = (
    _Column("STATE", 0, lambda run, _: plain(run["state"])),
    _Column("NAME", 0, lambda run, _: plain(run["name"])),
    _Column("MEMORY", 3, lambda run, _: _size(run["rss_bytes"]), right=True),
    _Column("PEAK", 1, lambda run, _: _size(run["peak_bytes"]), right=True),
    _Column("OF LIMIT", 4, _limit, right=True),
    _Column("AT", 5, _where),
    _Column("SEEN", 2, _seen, right=True),
    _Column("PROJECT", 6, lambda run, _: plain(run["project"])),
    _Column("HOST", 7, lambda run, _: plain(run["host"])),
    _Column("ID", 8, lambda run, _: plain(run["id"])),
)
_NAME = 1
_NARROW_NAME = 20
_GAP = 2


def listed(runs: Sequence[Json], now_ms: float, width: int) -> Table:
    """The runs, one to a line, with as many columns as the terminal has room for; what is too long is the name."""
    rows = [[column.cell(run, now_ms) for column in _COLUMNS] for run in runs]
    titles = [column.title for column in _COLUMNS]
    widths = [max(map(cell_len, texts)) for texts in zip(titles, *rows, strict=True)]
    kept = _fitting([*widths[:_NAME], min(widths[_NAME], _NARROW_NAME), *widths[_NAME + 1 :]], width)
    room = width - sum(widths[at] + _GAP for at in kept if at != _NAME)
    table = _table()
    for at in kept:
        most = max(1, min(widths[at], room)) if at == _NAME else widths[at]
        justify: Literal["left", "right"] = "right" if _COLUMNS[at].right else "left"
        table.add_column(_COLUMNS[at].title, justify=justify, no_wrap=True, width=most, overflow="ellipsis")
    for run, cells in zip(runs, rows, strict=True):
        table.add_row(_state(run), *(Text(cells[at]) for at in kept[1:]))
    return table


def _fitting(widths: Sequence[int], width: int) -> list[int]:
    """Which columns of these widths fit."""
    kept = list(range(len(widths)))
    while sum(widths[at] + _GAP for at in kept) - _GAP > width and len(kept) > _NAME + 1:
        kept.remove(max(kept, key=lambda at: _COLUMNS[at].rank))
    return kept


def _table() -> Table:
    return Table(box=None, pad_edge=False, header_style="dim", collapse_padding=True, padding=(0, 2, 0, 0))


def _state(run: Json) -> Text:
    state = plain(run["state"])
    return Text(state, style=_STYLES.get(state, ""))


# One run.


def shown(run: Json, figures: Json, address: str) -> Iterator[Any]:
    """A run in lines and tables: what it is, how it stands, its sources, its last events."""
    yield Text.assemble((plain(run["name"]), "bold"), "  ", _state(run), "  ", (address, "dim"))
    if run["verdict"] is not None:
        yield Text(plain(run["verdict"]["text"]))
    yield _facts(_facts_of(run, next((source for source in figures["sources"] if source["main"]), None)))
    sources = run["sources_detail"]
    if len(sources) > 1:
        yield _sources(sources)
    events = sorted(run["events"], key=lambda event: event["time_ms"])[-_MOST_EVENTS:]
    if events:
        yield _events(events)


def _facts(pairs: Iterable[tuple[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, Text(value))
    return table


def _facts_of(run: Json, figures: Json | None) -> Iterator[tuple[str, str]]:
    yield "id", plain(run["id"])
    yield "project", plain(run["project"])
    if run["tags"]:
        yield "tags", plain(", ".join(run["tags"]))
    yield "where", plain(f"{run['host']}, process {run['pid']}")
    yield "began", _date(run["created_ms"])
    if run["ended_ms"] is not None:
        yield "ended", f"{_date(run['ended_ms'])}, after {_span((run['ended_ms'] - run['created_ms']) / 1e3)}"
    yield "at", _where(run, 0)
    yield "memory", f"{_size(run['rss_bytes'])}, peak {_size(run['peak_bytes'])}"
    if run["limit_bytes"] is not None:
        left = f", {size(run['headroom_bytes'])} left" if run["headroom_bytes"] is not None else ""
        kind = f" ({run['limit_kind']})" if run["limit_kind"] else ""
        yield "limit", plain(f"{size(run['limit_bytes'])}{kind}{left}")
    if figures is not None and figures["batches"] is not None:
        yield "batches", f"{figures['batches']}, {_rate(figures['batches_per_s'])}"
        yield "growth", f"{_growth(figures['growth_bytes_per_batch'])} per batch"
        yield "stalls", f"{_share(figures['stall_share'])} of the time"


def _sources(sources: Sequence[Json]) -> Table:
    table = _table()
    for title in ("RANK", "HOST", "PID", "STATE", "MEMORY", "PEAK", "LIMIT"):
        table.add_column(title, no_wrap=True, overflow="ellipsis", justify="left" if title == "HOST" else "right")
    for source in sources[:_MOST_SOURCES]:
        rank = str(source["rank"]) if source["rank"] is not None else _UNKNOWN
        sizes = [_size(source[name]) for name in ("rss_bytes", "peak_bytes", "limit_bytes")]
        table.add_row(rank, Text(plain(source["host"])), str(source["pid"]), _state(source), *sizes)
    if len(sources) > _MOST_SOURCES:
        table.add_row("", Text(f"and {len(sources) - _MOST_SOURCES} more"))
    return table


def _events(events: Sequence[Json]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for event in events:
        table.add_row(_date(event["time_ms"]), Text(plain(event["kind"])), Text(_about(event)))
    return table


def _about(event: Json) -> str:
    detail = event["detail"]
    if text := detail.get("text") or detail.get("message"):
        return plain(text)
    return plain(", ".join(f"{name} {value}" for name, value in list(detail.items())[:4] if value is not None))


# Figures in words.


def _size(count: int | None) -> str:
    return size(count) if count is not None else _UNKNOWN


def _growth(bytes_per_batch: float | None) -> str:
    if bytes_per_batch is None:
        return _UNKNOWN
    return f"{'+' if bytes_per_batch > 0 else ''}{size(round(bytes_per_batch))}"


def _rate(per_s: float | None) -> str:
    return f"{per_s:.3g} a second" if per_s is not None else f"{_UNKNOWN} a second"


def _share(share: float | None) -> str:
    return f"{100 * share:.1f} %" if share is not None else _UNKNOWN


def _span(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _date(time_ms: float) -> str:
    return datetime.datetime.fromtimestamp(time_ms / 1e3).astimezone().strftime("%Y-%m-%d %H:%M:%S")


# Runs side by side.

_FIGURES: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("batches", "batches", str),
    ("epochs", "epochs", str),
    ("duration", "duration_s", _span),
    ("batches/s", "batches_per_s", lambda rate: f"{rate:.3g}"),
    ("peak", "peak_bytes", size),
    ("peak of limit", "peak_share", lambda share: f"{100 * share:.0f} %"),
    ("limit", "limit_bytes", size),
    ("mean memory", "rss_mean_bytes", lambda mean: size(round(mean))),
    ("growth/batch", "growth_bytes_per_batch", _growth),
    ("minor faults", "minor_faults", lambda count: f"{count:,}"),
    ("major faults", "major_faults", lambda count: f"{count:,}"),
    ("swapped in", "swap_in_bytes", size),
    ("swapped out", "swap_out_bytes", size),
    ("stalled", "stall_share", _share),
)
_TITLE_WIDTH, _RUN_WIDTH = 16, 14


def compared(runs: Sequence[Json], width: int) -> Iterator[Any]:
    """The main sources' figures of these runs: a column for each, or one below the other in a narrow terminal."""
    if width >= _TITLE_WIDTH + _RUN_WIDTH * len(runs):
        yield _side_by_side(runs)
        return
    for run in runs:
        yield Text.assemble((plain(run["name"]), "bold"), "  ", _state(run))
        yield _facts(_named(run))


def _side_by_side(runs: Sequence[Json]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", style="dim", no_wrap=True)
    for run in runs:
        table.add_column(Text(plain(run["name"])), justify="right", overflow="fold")
    table.add_row("state", *(_state(run) for run in runs))
    table.add_row("project", *(Text(plain(run["project"])) for run in runs))
    for title, name, show in _FIGURES:
        table.add_row(title, *(Text(_figure(run, name, show)) for run in runs))
    return table


def _named(run: Json) -> Iterator[tuple[str, str]]:
    yield from ((title, _figure(run, name, show)) for title, name, show in _FIGURES)


def _figure(run: Json, name: str, show: Callable[[Any], str]) -> str:
    main = next((source for source in run["sources"] if source["main"]), None)
    return show(main[name]) if main is not None and main[name] is not None else _UNKNOWN
