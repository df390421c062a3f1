"""The order of set-up's steps. One set-up runs at a time in a checkout; a second one waits for the first."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import platform
import sys
import time
from collections.abc import Iterator
from typing import IO

from setup import node, python_env, system_packages, toolbox, webapp
from setup.report import ROOT, TOOLS, Failure, explain, say

_LOCK_SECONDS = 1800.0


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bootstrap.py", description="Make this checkout ready to run.")
    parser.add_argument("--dev", action="store_true", help="with what the tests need")
    parser.add_argument(
        "--rebuild-web", action="store_true", help="build the web app even when nothing changed"
    )
    options = parser.parse_args(words)
    started = time.monotonic()
    try:
        with _only_one():
            changed = _steps(dev=options.dev, rebuild_web=options.rebuild_web)
    except Failure as failure:
        explain(failure)
        return 1
    except OSError as error:
        explain(
            Failure(
                "set-up", str(error), f"see that {ROOT} can be written and has space (about 2 GB are needed)"
            )
        )
        return 1
    except KeyboardInterrupt:
        print("\nset-up was interrupted; the same command goes on where it stopped.", file=sys.stderr)
        return 130
    seconds = time.monotonic() - started
    say(f"Set-up {'done' if changed else 'is up to date'} ({seconds:.1f} s).")
    return 0


def _steps(dev: bool, rebuild_web: bool) -> bool:
    if platform.system() != "Linux":
        raise Failure(
            "set-up",
            f"this is {platform.system()}, and sandboxes need Linux",
            "see docs/reference/platforms.md for what works there (in short: a Linux virtual machine)",
        )
    changed = False
    missing = system_packages.missing(dev)
    if missing:
        say("System packages")
        system_packages.install(missing)
        changed = True
    say("Python packages")
    changed |= python_env.ensure(dev)
    python_env.compile_sources()
    say("Node and the sandboxes' toolbox")
    found = node.ensure()
    changed |= toolbox.ensure(found)
    say("Web app")
    return webapp.ensure(found, rebuild_web) or changed


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    """Hold ``.tools/lock``; wait for whoever has it, with a word about it."""
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / "lock").open("w") as file:
        _wait_for(file)
        yield


def _wait_for(file: IO[str]) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS
    told = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                why = "another set-up of this checkout has been running for half an hour"
                raise Failure("set-up", why, "end it, then run the command again") from None
        if not told:
            say("Another set-up of this checkout is running; waiting for it.")
            told = True
        time.sleep(0.5)
