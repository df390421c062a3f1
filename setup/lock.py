"""``make lock``: write requirements/*.txt, toolbox/**/package-lock.json and web/package-lock.json anew, from what pyproject.toml and package.json ask for.

The locks pin versions and hashes, and name no registry: which one is used is each machine's own setting.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from setup import node, python_env
from setup.report import ROOT, Failure, explain, run, say

_REMEDY = "read what it says above: two packages may ask for different versions of a third, or a name or version does not exist"

_REQUIREMENTS: dict[str, list[str]] = {
    "base": [],
    "dev": ["--extra", "dev"],
    "uv": ["--group", "bootstrap"],
    "node": ["--group", "node"],
    "build": ["--group", "build"],
}
_NPM_FOLDERS = [ROOT / "toolbox", ROOT / "toolbox" / "opencode-home", ROOT / "web"]


def main(words: list[str]) -> int:
    try:
        for name, options in _REQUIREMENTS.items():
            _lock_python(name, options, upgrade="--upgrade" in words)
        found = node.ensure()
        for folder in _NPM_FOLDERS:
            if (folder / "package.json").is_file():
                _lock_npm(found, folder, upgrade="--upgrade" in words)
    except Failure as failure:
        explain(failure)
        return 1
    return 0


def _lock_python(name: str, options: list[str], upgrade: bool) -> None:
    say(f"requirements/{name}.txt")
    target = python_env.REQUIREMENTS / f"{name}.txt"
    compile_words = ["pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-emit-index-url"]
    compile_words += ["--python-version", "3.11", "--custom-compile-command", "make lock", "--no-header"]
    source = [ROOT / "pyproject.toml"]
    if options[:1] == ["--group"]:
        options, source = ["--group", f"{ROOT / 'pyproject.toml'}:{options[1]}"], []
    more = ["--upgrade"] if upgrade else []
    python_env.uv(
        *compile_words,
        *options,
        *more,
        *source,
        "--output-file",
        target,
        what=f"requirements/{name}.txt",
        log=f"lock-{name}",
        seconds=600,
    )
    text = f"# Written by `make lock` from pyproject.toml.\n{target.read_text()}"
    if re.search(r"https?://", text):
        raise Failure(
            f"requirements/{name}.txt",
            "it names an address",
            "see pip's and uv's settings: an index must not be written into it",
        )
    target.write_text(text)


def _lock_npm(found: node.Node, folder: Path, upgrade: bool) -> None:
    lock = folder / "package-lock.json"
    say(str(lock.relative_to(ROOT)))
    if upgrade:
        lock.unlink(missing_ok=True)
        shutil.rmtree(folder / "node_modules", ignore_errors=True)
    options = ["--package-lock-only", "--ignore-scripts", "--omit-lockfile-registry-resolved"]
    run(
        found.npm_command("install", *options),
        what=str(lock.relative_to(ROOT)),
        remedy=_REMEDY,
        log="lock-npm",
        seconds=600,
        cwd=folder,
        env=found.npm_environment(),
    )
    lock.write_text(json.dumps(complete(json.loads(lock.read_text())), indent=2, ensure_ascii=False) + "\n")


_SYSTEMS = {
    "darwin": "darwin",
    "linux": "linux",
    "win32": "win32",
    "windows": "win32",
    "freebsd": "freebsd",
    "openbsd": "openbsd",
}
_SYSTEMS |= {
    "netbsd": "netbsd",
    "android": "android",
    "sunos": "sunos",
    "aix": "aix",
    "openharmony": "openharmony",
}
_PROCESSORS = {"x64", "arm64", "arm", "ia32", "ppc64", "s390x", "riscv64", "loong64", "mips64el", "wasm32"}


def complete(lock: dict[str, Any]) -> dict[str, Any]:
    """Add the builds for other platforms that npm left out of the lock, and drop the addresses of registries.

    A registry that mirrors only the platforms which somebody has asked for makes npm write a lock without the others, and `npm ci` then refuses it.
    Where the wish is an exact version, the entry can be written all the same; it has no hash, and other platforms than it names skip it.
    """
    packages: dict[str, dict[str, Any]] = {place: dict(entry) for place, entry in lock["packages"].items()}
    for place, entry in list(packages.items()):
        if not entry.get("link"):
            entry.pop("resolved", None)
        for name, version in entry.get("optionalDependencies", {}).items():
            known = any(f"{parent}node_modules/{name}" in packages for parent in _parents(place))
            platform = _platform(name)
            if known or not platform or not re.fullmatch(r"\d+\.\d+\.\d+(-[\w.]+)?", version):
                continue
            packages[f"node_modules/{name}"] = {"version": version, "optional": True} | platform
    return {**lock, "packages": dict(sorted(packages.items()))}


def _parents(place: str) -> list[str]:
    """Prefixes of all places where npm looks for a dependency of the package at ``place``."""
    words = place.split("/node_modules/")
    return [""] + ["/node_modules/".join(words[: n + 1]) + "/" for n in range(len(words)) if place]


def _platform(name: str) -> dict[str, list[str]]:
    """The ``os`` and ``cpu`` that a package's name speaks of; empty when it speaks of neither."""
    words = re.split(r"[/_-]", name)
    systems = [_SYSTEMS[word] for word in words if word in _SYSTEMS][:1]
    processors = [word for word in words if word in _PROCESSORS][:1]
    return ({"os": systems} if systems else {}) | ({"cpu": processors} if processors else {})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
