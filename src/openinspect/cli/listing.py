"""Tables whose ids and names are never cut.

In a pipe nothing is cut at all. In a terminal that is too narrow first the long texts (``Column.least``) become shorter, then the columns that
matter least (the highest ``Column.drop``) are left out; what is still too wide the terminal itself goes on with in its next line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from .text import one_line

_GAP = 2


class Column(NamedTuple):
    title: str
    least: int = 0
    """It may be cut to so many cells; 0: never."""
    drop: int = 0
    """It may be left out, the highest first; 0: never."""


def show(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their columns' titles. Whatever stands in them is printed as text."""
    cells = [[one_line(cell) for cell in row] for row in rows]
    natural = [
        max(cell_len(columns[place].title), *(cell_len(row[place]) for row in cells), 0)
        for place in range(len(columns))
    ]
    widths = dict(enumerate(natural))
    if console.is_terminal:
        _fit(widths, columns, console.width)
    _line(console, [column.title for column in columns], widths, "dim")
    for row in cells:
        _line(console, row, widths)


def _fit(widths: dict[int, int], columns: Sequence[Column], room: int) -> None:
    """Make the columns narrower, or fewer, until they fit as far as they can."""
    natural = dict(widths)
    while True:
        for place in widths:
            widths[place] = natural[place]
        excess = sum(widths.values()) + _GAP * (len(widths) - 1) - room
        for place in sorted(widths, key=lambda place: -widths[place]):
            if excess > 0 and columns[place].least:
                less = min(excess, max(0, widths[place] - columns[place].least))
                widths[place] -= less
                excess -= less
        droppable = [place for place in widths if columns[place].drop]
        if excess <= 0 or not droppable:
            return
        del widths[max(droppable, key=lambda place: columns[place].drop)]


def _line(console: Console, row: Sequence[str], widths: dict[int, int], style: str = "") -> None:
    shown = []
    for place, width in widths.items():
        cell = row[place]
        if cell_len(cell) > width:
            cell = set_cell_size(cell, width - 1) + "…"
        shown.append(set_cell_size(cell, width))
    console.print(Text((" " * _GAP).join(shown).rstrip(), style=style), soft_wrap=True)
