"""Text that comes from outside (a model, a tool, a process), made fit for a JSON event and cut to its bounds."""

from __future__ import annotations

import re
from typing import Any

import orjson

_UNFIT = re.compile("[\x00\ud800-\udfff]")
_REPLACEMENT = "\ufffd"
LINE = 2_000
TOOL_TEXT = 65_536
LOG_TEXT = 16_384
PART_TEXT = 1_000_000
_CUT = "\n[… {} characters left out …]\n"


def clean(text: str) -> str:
    """The same text, with as many characters; what neither UTF-8 nor Postgres takes is replaced."""
    return _UNFIT.sub(_REPLACEMENT, text) if _UNFIT.search(text) else text


def clean_tree(value: Any) -> Any:
    """The same for every string in a JSON value."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(key): clean_tree(item) for key, item in value.items()}
    if isinstance(value, list):
        return [clean_tree(item) for item in value]
    return value


def line(text: str, bound: int = LINE) -> str:
    """Cut to a line's bound."""
    text = clean(text).strip()
    return text if len(text) <= bound else text[: bound - 1] + "…"


def tail(text: str, bound: int = LOG_TEXT) -> str:
    """The end of a log."""
    return clean(text[-bound:])


def middle_out(text: str, bound: int = TOOL_TEXT) -> tuple[str, bool]:
    """Beginning and end of a long text, and whether something was left out."""
    text = clean(text)
    if len(text) <= bound:
        return text, False
    keep = (bound - 60) // 2
    return text[:keep] + _CUT.format(len(text) - 2 * keep) + text[-keep:], True


def bounded_input(value: dict[str, Any], bound: int = TOOL_TEXT) -> tuple[dict[str, Any], bool]:
    """A tool's input whose JSON has at most ``bound`` bytes: long strings are cut, and if that is not enough, dropped."""
    value = clean_tree(value)
    if len(orjson.dumps(value)) <= bound:
        return value, False
    for longest in (16_000, 4_000, 500):
        smaller = _shorten(value, longest)
        if len(orjson.dumps(smaller)) <= bound:
            return smaller, True
    return {"…": "left out: too long"}, True


def _shorten(value: Any, longest: int) -> Any:
    if isinstance(value, str):
        return middle_out(value, longest)[0]
    if isinstance(value, dict):
        return {key: _shorten(item, longest) for key, item in list(value.items())[:200]}
    if isinstance(value, list):
        return [_shorten(item, longest) for item in value[:200]]
    return value
