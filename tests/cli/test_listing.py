"""Tables cut no id and no name: in a pipe nothing at all, in a narrow terminal the long texts, then whole columns."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from openinspect.cli import listing
from openinspect.cli.listing import Column

COLUMNS = (
    Column("session"),
    Column("title", least=10),
    Column("repository"),
    Column("cost", drop=2),
    Column("when", drop=1),
)
ROW = (
    "4k2v9x1m",
    "say [/x] and [bold]more[/bold] :smile: words",
    "a-rather-long-name-of-a-repository",
    "$0.03",
    "3 s ago",
)


def _shown(*, terminal: bool, width: int) -> list[str]:
    kept = io.StringIO()
    console = Console(file=kept, force_terminal=terminal, width=width, color_system=None, no_color=True)
    listing.show(console, COLUMNS, [ROW])
    return [line.removeprefix("\x1b[2m").removesuffix("\x1b[0m") for line in kept.getvalue().splitlines()]


@pytest.mark.parametrize("width", [20, 80, 200])
def test_a_pipe_gets_everything_as_it_is(width: int) -> None:
    lines = _shown(terminal=False, width=width)
    assert len(lines) == 2
    for cell in ROW:
        assert cell in lines[1]


@pytest.mark.parametrize("width", [100, 80, 70, 60])
def test_a_terminal_gets_lines_that_fit_with_whole_names(width: int) -> None:
    lines = _shown(terminal=True, width=width)
    assert all(len(line) <= width for line in lines)
    assert ROW[0] in lines[1]
    assert ROW[2] in lines[1]
    assert "say [/x]" in lines[1]


def test_what_matters_least_goes_first() -> None:
    assert "cost" in _shown(terminal=True, width=80)[0]
    narrower = _shown(terminal=True, width=70)[0]
    assert ("cost" in narrower, "when" in narrower) == (False, True)


def test_even_where_nothing_fits_names_are_whole() -> None:
    lines = _shown(terminal=True, width=20)
    assert ROW[0] in lines[1]
    assert ROW[2] in lines[1]
