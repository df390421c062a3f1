"""Text for a terminal: what others wrote without what could change it, and commands as this program was called."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from functools import lru_cache
from pathlib import Path

_ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, the cursor
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"  # titles, links and other strings
    r"|\x1b[ -/]*[0-~]"  # the short ones
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")
_NAME = "openinspect"


def clean(text: str) -> str:
    """Text without what could change the terminal; an escape sequence goes as a whole."""
    return _CONTROL.sub("", _ESCAPE.sub("", text.replace("\r\n", "\n")))


def one_line(text: str) -> str:
    """The same as one line."""
    return " ".join(clean(text).split())


@lru_cache
def program() -> str:
    """What to type for this program: its name when that is found on PATH, else the path that it was called by."""
    return called(sys.argv[0], shutil.which(_NAME), Path.cwd())


def called(argument: str, found: str | None, here: Path) -> str:
    """``argument`` is the program as it was started, ``found`` what PATH has of its name."""
    path = Path(argument)
    if path.name != _NAME or len(path.parts) < 2:
        return _NAME
    if found is not None and Path(found).absolute() == path.absolute():
        return _NAME
    whole = path.absolute()
    return shlex.quote(str(whole.relative_to(here) if whole.is_relative_to(here) else whole))


def as_called(text: str) -> str:
    """A hint's commands, such as `` `openinspect up` ``, as this program was called."""
    return text.replace(f"`{_NAME} ", f"`{program()} ")


def money(usd: float, *, scripted: bool = False, digits: int = 2) -> str:
    """A sum as it is shown; what a scripted model is said to cost is nobody's money."""
    return f"${usd:.{digits}f}" + (" (scripted: nothing was paid)" if scripted else "")
