"""What every command uses: the two consoles, the settings, the connection, and how errors end a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache

import typer
from pydantic import ValidationError
from rich.console import Console

from openinspect.problems import Invalid
from openinspect.settings import Settings, variable

from .client import Client, connect
from .text import one_line

ERROR, ARROW = "error: ", "→ "
"""What the two lines begin with that end a command: what happened, and what to do."""


@lru_cache
def out() -> Console:
    """Results: standard output. Text is printed as it is: what others wrote is no markup, and no line is broken but by the terminal."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


@lru_cache
def error_console() -> Console:
    """Progress and errors: standard error, so that results can be piped."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


@lru_cache
def settings() -> Settings:
    """Raises ``Invalid`` naming the variable that is wrong."""
    try:
        return Settings()  # type: ignore[call-arg]
    except ValidationError as error:
        faults = "; ".join(
            f"{variable(str(fault['loc'][0]))}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors()
        )
        raise Invalid(
            "settings_invalid",
            f"The settings are wrong: {faults}.",
            "Correct the environment; docs/reference/settings.md lists them.",
        ) from None


@contextmanager
def client() -> Iterator[Client]:
    api = connect(settings())
    try:
        yield api
    finally:
        api.close()


def ask(question: str) -> None:
    """Go on only when a person says yes."""
    if not typer.confirm(one_line(question)):
        raise typer.Exit(1)


def age(moment: str) -> str:
    """How long ago, in one word."""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60), (129_600, "h", 3600)):
        if seconds < limit:
            return f"{max(0, seconds) / size:.0f} {unit} ago"
    return f"{seconds / 86400:.0f} d ago"
