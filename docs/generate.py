"""Writes the reference pages from the tables in the code: ``python -m docs.generate``; with ``--check`` it only says which lag behind."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import typer
from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

from openinspect.cli import app as cli
from openinspect.cli.client import ELSEWHERE
from openinspect.identity.permissions import PERMISSIONS, ROLES
from openinspect.protocol import events
from openinspect.settings import Settings

REFERENCE = Path(__file__).parent / "reference"


def settings() -> str:
    lines = [
        "# Settings",
        "",
        "Every setting is an environment variable. This page is generated from `openinspect/settings.py`.",
        "",
        "| variable | default | what it is |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        variable = str(field.validation_alias or f"OPENINSPECT_{name.upper()}")
        default = field.default
        shown = "—" if default is None or default is PydanticUndefined else f"`{_plain(default)}`"
        lines.append(f"| `{variable}` | {shown} | {field.description} |")
    lines += [
        "",
        "## Of the commands alone",
        "",
        "The commands talk to the server that runs on their data folder. These two name another one instead, such as a server on another machine:",
        "",
        "| variable | what it is |",
        "|---|---|",
        *(f"| `{name}` | {what} |" for name, what in ELSEWHERE.items()),
    ]
    return "\n".join([*lines, ""])


def _plain(value: Any) -> Any:
    return "…" if isinstance(value, SecretStr) else value


def permissions() -> str:
    lines = [
        "# Roles and permissions",
        "",
        "Who may do what. An API token has the permissions of its person's role, or the part of them that it was given as scopes. "
        "This page is generated from `openinspect/identity/permissions.py`.",
        "",
        "| permission | what it allows | " + " | ".join(ROLES) + " |",
        "|---|---|" + "---|" * len(ROLES),
    ]
    for permission in PERMISSIONS.values():
        marks = " | ".join("yes" if role in permission.roles else "" for role in ROLES)
        lines.append(f"| `{permission.name}` | {permission.description} | {marks} |")
    return "\n".join([*lines, ""])


def event_kinds() -> str:
    said_inside = {_kind(model) for model in get_args(get_args(events.SandboxEvent)[0])}
    lines = [
        "# Events",
        "",
        "What can stand in a session's log, as `GET /api/sessions/{id}/events` and the stream give it: an entry has `seq`, `at`, `turn_id` and a "
        "`body` with the fields below. Those marked “sandbox” come out of the sandbox; the others are the control plane's own. "
        "This page is generated from `openinspect/protocol/events.py`.",
        "",
        "| kind | from | fields | what it says |",
        "|---|---|---|---|",
    ]
    for model in get_args(get_args(events.EventBody)[0]):
        fields = ", ".join(f"`{name}`" for name in model.model_fields if name != "kind")
        doc = (
            " ".join((model.__doc__ or "").split())
            if model.__doc__ != BaseModel.__doc__ and not _inherited(model)
            else ""
        )
        origin = "sandbox" if _kind(model) in said_inside else "control plane"
        lines.append(
            f"| `{_kind(model)}` | {origin} | {fields} | {doc.replace('``', '`').replace('|', chr(92) + '|')} |"
        )
    return "\n".join([*lines, ""])


def _kind(model: type[BaseModel]) -> str:
    return model.model_fields["kind"].default


def _inherited(model: type[BaseModel]) -> bool:
    return model.__doc__ == model.__mro__[1].__doc__


def commands() -> str:
    lines = [
        "# Commands",
        "",
        "What `openinspect … --help` says. This page is generated from `openinspect/cli`.",
        "",
    ]
    _describe(typer.main.get_command(cli), ["openinspect"], lines)
    return "\n".join(lines)


def _describe(command: Any, path: list[str], lines: list[str]) -> None:
    children = getattr(command, "commands", None)
    if children is not None:
        for name, child in sorted(children.items()):
            _describe(child, [*path, name], lines)
        return
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    usage = " ".join(
        [*path, *(f"[{p.name.upper()}]" if not p.required else p.name.upper() for p in arguments)]
    )
    lines += [f"## `{usage}`", "", _text(command.help), ""]
    rows = [(p.name.upper(), getattr(p, "help", "")) for p in arguments]
    rows += [(", ".join([*p.opts, *p.secondary_opts]), getattr(p, "help", "")) for p in options]
    if rows:
        lines += ["| | |", "|---|---|", *(f"| `{name}` | {_text(text)} |" for name, text in rows), ""]


def _text(text: str | None) -> str:
    return " ".join((text or "").split())


PAGES = {
    "settings.md": settings,
    "permissions.md": permissions,
    "events.md": event_kinds,
    "commands.md": commands,
}


def lagging() -> list[str]:
    """Pages that are not what the code says."""
    return [
        name
        for name, make in PAGES.items()
        if not (REFERENCE / name).is_file() or (REFERENCE / name).read_text() != make()
    ]


def main() -> None:
    if "--check" in sys.argv:
        late = lagging()
        if late:
            sys.exit(f"These pages lag behind the code: {', '.join(late)}. Run `python -m docs.generate`.")
        return
    for name, make in PAGES.items():
        (REFERENCE / name).write_text(make())


if __name__ == "__main__":
    main()
