"""What a scenario measured, and the table of all of them."""

from __future__ import annotations

import dataclasses
from typing import Any

from tests.torture.oracle import Finding

__all__ = ["Report", "table"]


@dataclasses.dataclass
class Report:
    """One scenario's figures. It is good if nothing is lost, doubled or wrong."""

    scenario: str
    seed: int
    skipped: str = ""  # why it can't run here
    kills: int = 0  # or cuts, or full disks: what was done to it
    runs: int = 0
    produced: int = 0
    stored: int = 0
    lost: int = 0
    told: int = 0  # lost where that may be, and said in a gap
    duplicated: int = 0
    seconds: float = 0.0  # while trainings ran
    back_s: list[float] = dataclasses.field(default_factory=list)
    back_is: str = ""  # from when to when that is
    agent_bytes: int = 0  # the largest RSS of any agent
    notes: dict[str, float | str] = dataclasses.field(default_factory=dict)  # what else was measured
    faults: list[str] = dataclasses.field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing is to be said against it."""
        return not (self.lost or self.duplicated or self.faults)

    def add(self, finding: Finding, *, may_lose: bool) -> None:
        """Take one run into account. A gap is a fault where nothing may be lost."""
        self.runs += 1
        self.produced += finding.produced
        self.stored += finding.stored
        self.lost += 0 if may_lose else finding.lost
        self.told += finding.lost if may_lose else 0
        self.duplicated += finding.duplicated
        faults = [text for text in finding.faults if not (may_lose and text.startswith("missing"))]
        if not may_lose:
            faults += [f"a gap from {gap.first_seq} to {gap.last_seq}: {gap.reason}" for gap in finding.gaps]
        self.faults += [f"{finding.name}: {text}" for text in faults]

    def as_json(self) -> dict[str, Any]:
        """For a program that started the harness."""
        return dataclasses.asdict(self) | {"good": self.good}


_COUNTS = ("done", "runs", "rows/s", "produced", "stored", "lost", "told", "doubled")
_HEAD = ("scenario", *_COUNTS, "back s: median", "p95", "max", "agent MiB")


def table(reports: list[Report]) -> str:
    """All figures, one scenario a line, and below it what is wrong and what else was measured."""
    rows = [_HEAD, *(_row(report) for report in reports)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]))
    for report in reports:
        if report.skipped:
            lines.append(f"{report.scenario}: skipped, {report.skipped}")
        if report.back_s:
            lines.append(f"{report.scenario}: back: {report.back_is}")
        for name, value in report.notes.items():
            shown = f"{value:.2f}" if isinstance(value, float) else value
            lines.append(f"{report.scenario}: {name}: {shown}")
        lines += [f"{report.scenario}: WRONG: {fault}" for fault in report.faults]
    return "\n".join(lines)


def _row(report: Report) -> tuple[str, ...]:
    rate = report.produced / report.seconds if report.seconds else 0
    counts = (report.produced, report.stored, report.lost, report.told, report.duplicated)
    return (
        report.scenario,
        str(report.kills),
        str(report.runs),
        f"{rate:.0f}",
        *(str(count) for count in counts),
        *(spread(report.back_s)),
        f"{report.agent_bytes / (1 << 20):.0f}",
    )


def spread(values: list[float]) -> tuple[str, str, str]:
    """Median, 95th percentile and largest, or dashes."""
    if not values:
        return ("–", "–", "–")
    ordered = sorted(values)
    chosen = (ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))], ordered[-1])
    return tuple(f"{value:.2f}" for value in chosen)  # type: ignore[return-value]
