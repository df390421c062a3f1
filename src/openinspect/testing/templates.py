"""Text with holes: `{{name}}` and `{{name | filter | filter}}`.

Values come from what the scripted model really saw: the prompt, the groups that a regular expression captured in it
or in a tool's answer, and a few facts of the request. A hole without a value is an error that names it: a script must
never invent what it did not see.

When the whole text is one hole, the value keeps its type (`{{seconds | number}}` gives a number, `{{json | parsed}}`
an object); otherwise it becomes part of a string.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

MAX_WORDS = 200_000

_HOLE = re.compile(r"\{\{\s*(\w+)((?:\s*\|\s*\w+)*)\s*\}\}")


class TemplateError(Exception):
    """A hole can't be filled; the text says which and why."""


def _words(value: str) -> str:
    count = int(value)
    if not 0 <= count <= MAX_WORDS:
        raise ValueError(f"{count} words are asked for, at most {MAX_WORDS} can be said")
    return " ".join(f"word{number}" for number in range(1, count + 1))


def _number(value: str) -> float | int:
    return float(value) if "." in value else int(value)


def _short(value: str) -> str:
    return value if len(value) <= 400 else f"{value[:400]}…"


def _title(value: str) -> str:
    words = re.sub(r"[^\w\s'-]", " ", value.strip().splitlines()[0] if value.strip() else "").split()
    title = ""
    for word in words[:7]:
        if len(title) + len(word) > 48:
            break
        title = f"{title} {word}".strip()
    return (title[:1].upper() + title[1:]) or "New session"


def _unescape(value: str) -> str:
    return value.replace("\\n", "\n").replace("\\t", "\t")


FILTERS: dict[str, Callable[[str], Any]] = {
    "added": lambda value: "\n".join(f"+{line}" for line in value.splitlines()),
    "escape": re.escape,
    "first_line": lambda value: value.strip().splitlines()[0] if value.strip() else "",
    "json": json.dumps,
    "list": lambda value: [item.strip() for item in value.split("|") if item.strip()],
    "lower": str.lower,
    "number": _number,
    "options": lambda value: [
        {"label": item.strip(), "description": item.strip()} for item in value.split("|") if item.strip()
    ],
    "parsed": json.loads,
    "quoteless": lambda value: re.sub(r"[^\w\s()\[\],.:=+*/%<>-]", "", value),
    "shell": shlex.quote,
    "short": _short,
    "spaced": lambda value: value.replace("_", " "),
    "title": _title,
    "todos": lambda value: [
        {"content": item.strip(), "status": "pending", "priority": "medium"}
        for item in value.split("|")
        if item.strip()
    ],
    "trim": str.strip,
    "unescape": _unescape,
    "words": _words,
}


def render(template: str, values: Mapping[str, str]) -> Any:
    """Fill the holes. Raises TemplateError for an unknown name or a filter that rejects its value."""
    whole = _HOLE.fullmatch(template)
    if whole:
        return _value(whole, values)
    return _HOLE.sub(lambda hole: str(_value(hole, values)), template)


def render_text(template: str, values: Mapping[str, str]) -> str:
    """Like `render`, always a string."""
    return str(render(template, values))


def render_tree(tree: Any, values: Mapping[str, str]) -> Any:
    """Fill the holes of all strings in a tree of lists and mappings."""
    if isinstance(tree, str):
        return render(tree, values)
    if isinstance(tree, list):
        return [render_tree(item, values) for item in tree]
    if isinstance(tree, dict):
        return {key: render_tree(item, values) for key, item in tree.items()}
    return tree


def render_pattern(pattern: str, values: Mapping[str, str]) -> str:
    """Fill the holes of a regular expression; values are matched literally."""
    return _HOLE.sub(lambda hole: re.escape(str(_value(hole, values))), pattern)


def check(template: str) -> None:
    """Raises TemplateError when a filter does not exist."""
    for hole in _HOLE.finditer(template):
        for name in _filters(hole):
            if name not in FILTERS:
                known = ", ".join(sorted(FILTERS))
                raise TemplateError(f"{hole.group()} uses the filter {name!r}; there are: {known}")


def _filters(hole: re.Match[str]) -> list[str]:
    return [name.strip() for name in hole.group(2).split("|") if name.strip()]


def _value(hole: re.Match[str], values: Mapping[str, str]) -> Any:
    name = hole.group(1)
    if name not in values:
        known = ", ".join(sorted(values)) or "none"
        raise TemplateError(f"{hole.group()}: nothing named {name!r} was seen so far (seen: {known})")
    value: Any = values[name]
    for filter_name in _filters(hole):
        if filter_name not in FILTERS:
            raise TemplateError(f"{hole.group()}: there is no filter {filter_name!r}")
        try:
            value = FILTERS[filter_name](value)
        except (ValueError, TypeError, AttributeError) as error:
            raise TemplateError(
                f"{hole.group()}: {filter_name} can't use {str(value)[:80]!r}: {error}"
            ) from error
    return value
