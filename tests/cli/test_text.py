"""Foreign text changes no terminal, and hints name the program as it was called."""

from __future__ import annotations

from pathlib import Path

import pytest

from openinspect.cli.text import called, clean, one_line


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[1;38;5;12mblue\x1b[m text", "blue text"),
        ("\x9b31mred", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://there\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;never ended\nthe next line", "\nthe next line"),
        ("\x1b(Bplain\x1b7\x1b[2J\x1b[H", "plain"),
        ("\x1b", ""),
        ("a\x1b[", "a"),
        ("tab\tand\r\nline", "tab\tand\nline"),
        ("right\u202eleft\x00", "rightleft"),
        ("[/x] [bold] stay", "[/x] [bold] stay"),
    ],
)
def test_escape_sequences_go_as_a_whole(given: str, left: str) -> None:
    assert clean(given) == left


def test_one_line_is_one_line() -> None:
    assert one_line("a\n\n  b\t\x1b[31mc\x1b[0m ") == "a b c"


@pytest.mark.parametrize(
    ("argument", "found", "shown"),
    [
        ("openinspect", None, "openinspect"),
        ("/home/me/code/.venv/bin/openinspect", None, ".venv/bin/openinspect"),
        (".venv/bin/openinspect", None, None),
        ("/opt/other/bin/openinspect", None, "/opt/other/bin/openinspect"),
        ("/opt/with space/openinspect", None, "'/opt/with space/openinspect'"),
        ("/usr/local/bin/openinspect", "/usr/local/bin/openinspect", "openinspect"),
        ("/usr/lib/python3/openinspect/__main__.py", None, "openinspect"),
    ],
)
def test_the_program_is_named_as_it_was_called(argument: str, found: str | None, shown: str | None) -> None:
    if shown is None:
        assert called(argument, found, Path.cwd()) == argument
    else:
        assert called(argument, found, Path("/home/me/code")) == shown
