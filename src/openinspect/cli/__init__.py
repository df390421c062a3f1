"""The command line: ``openinspect …``. Commands are thin: they call the server's API and print what it says.

Every error ends a command with one line that says what happened and one that says what to do, on standard error, and exit code 1
(2 for a command that was not understood, 130 when it was left by Ctrl-C).
"""

from __future__ import annotations

import io
import os
import sys

import typer

from openinspect import __version__
from openinspect.problems import ProblemError

from . import code_commands, server_commands, session_commands, words
from .console import ARROW, ERROR, error_console
from .text import as_called, clean

app = typer.Typer(
    name="openinspect",
    help="Background coding agents on your own machine: a prompt goes in, a pull request comes out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False, "--version", help="Print the version.", callback=_version, is_eager=True
    ),
) -> None:
    pass


app.command()(server_commands.up)
app.command()(server_commands.down)
app.command()(session_commands.run)
app.add_typer(session_commands.sessions, name="sessions")
app.add_typer(code_commands.repos, name="repos")
app.command()(code_commands.models)
app.add_typer(code_commands.tokens, name="tokens")
app.command()(server_commands.signin)
app.command()(server_commands.doctor)
app.command()(server_commands.worker)
app.add_typer(server_commands.db, name="db")


@app.command()
def demo(
    keep: bool = typer.Option(True, help="Keep the server running afterwards, for a look at the page."),
) -> None:
    """Take one prompt to a pull request, on a sample repository with a bug."""
    from .demo import run_demo

    run_demo(keep=keep)


def main() -> None:
    from openinspect.db.errors import DatabaseDiskFull, DatabaseError, DatabaseUnavailable
    from openinspect.sandboxes.provider import ProviderError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a terminal can't show ends no command
    try:
        words.check(sys.argv[1:], os.environ)
        app()
    except ProblemError as problem:
        _fail(problem.message, problem.remedy)
    except DatabaseError as problem:
        passes = isinstance(problem, DatabaseUnavailable | DatabaseDiskFull)
        _fail(
            f"{problem.what}: {problem.why}.",
            f"{problem.remedy}{', then run the command again' if passes else ''}.",
        )
    except ProviderError as problem:
        _fail(problem.reason, problem.remedy)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)


def _fail(message: str, remedy: str) -> None:
    console = error_console()
    console.print(f"{ERROR}{as_called(clean(message))}", style="red")
    if remedy:
        console.print(f"  {ARROW}{as_called(clean(remedy))}")
    sys.exit(1)
