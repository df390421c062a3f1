"""``python -m bench [NAME …] [--write]``."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from .table import markdown, text

NAMES = ("event_path", "fan_out", "requests", "door", "turn")
PERFORMANCE = Path(__file__).parents[1] / "docs" / "performance.md"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="The measurements of docs/performance.md."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; all when none is named")
    parser.add_argument("--write", action="store_true", help="keep the tables in docs/performance.md")
    chosen = parser.parse_args()
    names = chosen.names or NAMES
    print(
        f"{os.cpu_count()} cores, {platform.python_implementation()} {platform.python_version()}, load {os.getloadavg()[0]:.1f}\n"
    )
    for name in names:
        module = importlib.import_module(f"bench.{name}")
        began = time.perf_counter()
        rows = uvloop.run(module.measure())
        print(text(module.TITLE, rows), flush=True)
        print(f"  ({time.perf_counter() - began:.0f} s)\n", file=sys.stderr)
        if chosen.write:
            _keep(
                name,
                markdown(
                    module.TITLE, rows, f"Measured {datetime.now(UTC):%Y-%m-%d} by `python -m bench {name}`."
                ),
            )


def _keep(name: str, table: str) -> None:
    """Replace the part of the page between the marks of this measurement."""
    page = PERFORMANCE.read_text()
    mark = re.compile(rf"<!-- {name} -->.*?<!-- /{name} -->", re.DOTALL)
    if not mark.search(page):
        raise SystemExit(f"{PERFORMANCE} has no place for {name}: add <!-- {name} --> and <!-- /{name} -->")
    PERFORMANCE.write_text(mark.sub(lambda _: f"<!-- {name} -->\n{table}\n<!-- /{name} -->", page))


main()
