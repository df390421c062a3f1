"""A measured figure, and a table of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Row(NamedTuple):
    what: str
    measured: str
    target: str = ""
    baseline: str = ""
    met: bool | None = None
    """None: there is no target."""


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered)) - 1))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def markdown(title: str, rows: Sequence[Row], notes: str = "") -> str:
    lines = [
        f"### {title}",
        "",
        "| what | measured | target | baseline, same run | |",
        "|---|---:|---:|---:|---|",
    ]
    for row in rows:
        verdict = "" if row.met is None else ("met" if row.met else "**missed**")
        lines.append(
            f"| {row.what} | {row.measured} | {row.target or '—'} | {row.baseline or '—'} | {verdict} |"
        )
    return "\n".join([*lines, "", *([notes, ""] if notes else [])])


def text(title: str, rows: Sequence[Row]) -> str:
    cells = [
        ("", "measured", "target", "baseline", ""),
        *((r.what, r.measured, r.target, r.baseline, _verdict(r)) for r in rows),
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(5)]
    body = [
        "  ".join(
            cell.ljust(widths[i]) if i == 0 else cell.rjust(widths[i]) for i, cell in enumerate(row)
        ).rstrip()
        for row in cells
    ]
    return "\n".join([title, *("  " + line for line in body), ""])


def _verdict(row: Row) -> str:
    return "" if row.met is None else ("met" if row.met else "MISSED")
