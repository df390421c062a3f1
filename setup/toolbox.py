"""``.tools/toolbox``: what every sandbox has, in one folder that can be mounted read-only at any place.

    bin/node  bin/npm  bin/npx  bin/opencode      real files; the scripts find their neighbours by their own place
    lib/node_modules/npm
    opencode-home/.config/opencode/               what OpenCode would otherwise install into every new home, in the background
    versions.json                                 what is in it

It is built beside the one in use and takes its place by two renames; the one before is kept (running sandboxes may have it mounted) until the next.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from pathlib import Path

from setup import stamps
from setup.node import Node
from setup.report import ROOT, TOOLS, Failure, run, say

TOOLBOX = TOOLS / "toolbox"
SOURCES = ROOT / "toolbox"
_PREVIOUS = TOOLS / "toolbox.previous"
_NEW = TOOLS / "toolbox.new"
_NETWORK = "check the connection to the npm registry (npm's own settings apply) and run the command again"

_NPM_SCRIPT = """#!/bin/sh
# Works wherever this folder is mounted: Node and npm are found from this file's own place.
here=$(dirname -- "$(readlink -f -- "$0")")
PATH="$here:$PATH" exec "$here/node" "$here/../lib/node_modules/npm/bin/{name}-cli.js" "$@"
"""


def ensure(node: Node) -> bool:
    """Bring the toolbox up to date; True when there was something to do. Raises ``Failure``."""
    node_stat = node.binary.stat()
    wanted = stamps.digest(
        SOURCES, str(node.binary), f"{node_stat.st_size} {node_stat.st_mtime_ns}", Path(__file__)
    )
    if stamps.current("toolbox") == wanted and os.access(TOOLBOX / "bin" / "opencode", os.X_OK):
        return False
    say("    getting OpenCode")
    stamps.put("toolbox", "")
    shutil.rmtree(_NEW, ignore_errors=True)
    _add_node(node)
    _add_opencode(node)
    _add_opencode_home(node)
    _open_to_read(_NEW)
    _check()
    shutil.rmtree(_PREVIOUS, ignore_errors=True)
    if TOOLBOX.exists():
        TOOLBOX.rename(_PREVIOUS)
    _NEW.rename(TOOLBOX)
    stamps.put("toolbox", wanted)
    return True


def _add_node(node: Node) -> None:
    (_NEW / "bin").mkdir(parents=True)
    _place(node.binary, _NEW / "bin" / "node")
    shutil.copytree(node.npm, _NEW / "lib" / "node_modules" / "npm", symlinks=True)
    for name in ("npm", "npx"):
        script = _NEW / "bin" / name
        script.write_text(_NPM_SCRIPT.format(name=name))
        script.chmod(0o755)


def _add_opencode(node: Node) -> None:
    with tempfile.TemporaryDirectory(dir=TOOLS, prefix="opencode-") as folder:
        _npm_ci(node, SOURCES, Path(folder), "opencode")
        # The package's own install script has put the variant that fits this processor there.
        binary = Path(folder) / "node_modules" / "opencode-ai" / "bin" / "opencode.exe"
        if not binary.is_file():
            raise Failure(
                "installing OpenCode",
                "npm installed it, but its program is not there: the package has none for this kind of machine, or npm is set to ignore scripts",
                "see .tools/log/opencode.log and `npm config get ignore-scripts`; OpenCode has programs for x64 and arm64 Linux",
            )
        _place(binary, _NEW / "bin" / "opencode")


def _add_opencode_home(node: Node) -> None:
    config = _NEW / "opencode-home" / ".config" / "opencode"
    config.mkdir(parents=True)
    _npm_ci(node, SOURCES / "opencode-home", config, "opencode-home", "--ignore-scripts")
    _slim(config / "node_modules")
    # What OpenCode itself would write there when it finds none.
    (config / ".gitignore").write_text(
        "node_modules\npackage.json\npackage-lock.json\nbun.lock\n.gitignore\n"
    )


def _slim(modules: Path) -> None:
    """Drop what only editors read (types, maps, sources beside the built files): every new home gets a copy, and this is four fifths of it."""
    for manifest in modules.glob("**/package.json"):
        sources = manifest.parent / "src"
        if sources.is_dir():
            package = json.loads(manifest.read_text())
            if "src/" not in json.dumps([package.get(entry) for entry in ("main", "module", "exports")]):
                shutil.rmtree(sources)
    for pattern in ("*.map", "*.d.ts", "*.d.cts", "*.d.mts"):
        for path in modules.glob(f"**/{pattern}"):
            if path.is_file():
                path.unlink()


def _npm_ci(node: Node, sources: Path, target: Path, log: str, *options: str) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy2(sources / name, target / name)
    with tempfile.TemporaryDirectory(prefix="openinspect-") as folder:
        run(
            node.npm_command("ci", "--omit=dev", *options),
            what=f"npm ci of {sources.relative_to(ROOT)}",
            remedy=_NETWORK,
            log=log,
            seconds=900,
            cwd=target,
            # OpenCode's install script starts it once. npm's own settings are still read from the real home.
            env={**node.npm_environment(), **_folders_in(folder)},
        )


def _folders_in(home: str) -> dict[str, str]:
    """Keeps OpenCode from making its folders in the home of whoever sets this up."""
    return {f"XDG_{kind}_HOME": home for kind in ("CONFIG", "DATA", "CACHE", "STATE")}


def _place(source: Path, target: Path) -> None:
    """A real file at ``target``: a second name of the same one where that is possible (they are over 100 MB), else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    target.chmod(0o755)


def _open_to_read(folder: Path) -> None:
    """Sandboxes run under other user ids, so everybody has to be able to read it, whatever the umask was."""
    for place, _, names in os.walk(folder):
        Path(place).chmod(0o755)
        for name in names:
            path = Path(place) / name
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                path.chmod(stat.S_IMODE(mode) | 0o444 | (0o111 if mode & 0o100 else 0))


def _check() -> None:
    """Every program in it starts, and says which version it is."""
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="openinspect-") as home:
        for name in ("node", "npm", "opencode"):
            said = run(
                [_NEW / "bin" / name, "--version"],
                what=f"starting the toolbox's {name}",
                remedy="run that command by hand to see more; `make clean` and the same command again starts over",
                log=f"{name}-version",
                seconds=120,
                env={"HOME": home, **_folders_in(home)},
            )
            versions[name] = said.strip().splitlines()[-1].removeprefix("v") if said.strip() else ""
    pinned = json.loads((SOURCES / "package.json").read_text())["dependencies"]["opencode-ai"]
    if versions["opencode"] != pinned:
        raise Failure(
            "starting OpenCode",
            f"it says it is {versions['opencode']}, pinned is {pinned}",
            "see .tools/log/",
        )
    (_NEW / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")
