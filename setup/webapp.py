"""The browser app: built from ``web/`` into ``src/openinspect/web/static``.

``python3 -m setup.webapp`` checks its sources (types, style, unit tests), as ``make lint`` does.
"""

from __future__ import annotations

import os
import shutil
import sys

from setup import node as nodes
from setup import stamps
from setup.node import Node
from setup.report import ROOT, Failure, explain, run, say
from setup.toolbox import TOOLBOX

SOURCES = ROOT / "web"
STATIC = ROOT / "src" / "openinspect" / "web" / "static"
# npm's scripts call node and npm by name; the wheel's own npm finds its files only where links are kept, which wheels do not.
_ENVIRONMENT = {"PATH": f"{TOOLBOX / 'bin'}:{os.environ.get('PATH', os.defpath)}"}


def ensure(node: Node, rebuild: bool = False) -> bool:
    """Build it when something under ``web/`` has changed; True when there was something to do. Raises ``Failure``."""
    if not (SOURCES / "package.json").is_file():
        say("    there is no web/package.json: nothing to build")
        return False
    wanted = stamps.digest(SOURCES)
    if stamps.current("web") == wanted and (STATIC / "index.html").is_file() and not rebuild:
        return False
    stamps.put("web", "")
    _ensure_packages(node)
    say("    building the web app")
    run(
        node.npm_command("run", "build"),
        what="building the web app",
        remedy="the log shows the file and line; `make web` builds it again",
        log="web-build",
        seconds=600,
        cwd=SOURCES,
        env=_ENVIRONMENT,
    )
    if not (STATIC / "index.html").is_file():
        raise Failure(
            "building the web app",
            f"the build left no {STATIC.relative_to(ROOT)}/index.html",
            "see .tools/log/web-build.log",
        )
    stamps.put("web", wanted)
    return True


def _ensure_packages(node: Node) -> None:
    wanted = stamps.digest(SOURCES / "package.json", SOURCES / "package-lock.json")
    if stamps.current("web-packages") == wanted and (SOURCES / "node_modules").is_dir():
        return
    say("    getting the web app's packages")
    stamps.put("web-packages", "")
    shutil.rmtree(SOURCES / "node_modules", ignore_errors=True)
    run(
        node.npm_command("ci"),
        what="npm ci of web",
        remedy="check the connection to the npm registry (npm's own settings apply) and run the command again; where the lock is not in sync, `make lock`",
        log="web-packages",
        seconds=900,
        cwd=SOURCES,
        env=_ENVIRONMENT,
    )
    stamps.put("web-packages", wanted)


def check() -> int:
    """Types, style and unit tests of the web app, by its own script; an exit code."""
    if not (SOURCES / "package.json").is_file():
        return 0
    try:
        node = nodes.ensure()
        _ensure_packages(node)
        run(
            node.npm_command("run", "check"),
            what="checking the web app",
            remedy="the log shows the file and line",
            log="web-check",
            seconds=600,
            cwd=SOURCES,
            env=_ENVIRONMENT,
        )
    except Failure as failure:
        explain(failure)
        return 1
    say("The web app's types, style and unit tests are in order.")
    return 0


if __name__ == "__main__":
    sys.exit(check())
