"""``.venv``: the pinned Python packages, checked against their hashes, and this project itself as an editable install.

uv does the work; it lives in a small environment of its own (``.tools/uv``), where pip has put it. uv does not read pip's configuration, so the index,
certificate and the like that pip is configured with are handed to it unless uv has settings of its own.
"""

from __future__ import annotations

import ast
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from setup import stamps
from setup.report import ROOT, TOOLS, Failure, environment, run, say

VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
REQUIREMENTS = ROOT / "requirements"

_UV_ENV = TOOLS / "uv"
UV = _UV_ENV / "bin" / "uv"
_NETWORK = (
    "check the connection to the package index (pip's and uv's own settings apply) and run the command again"
)


def _base() -> str:
    """What an environment depends on besides its packages: environments can't be moved, and not every wheel fits every Python."""
    return f"{ROOT} {sys.version} {os.path.realpath(sys.executable)} {platform.machine()}"


def ensure(dev: bool) -> bool:
    """Bring ``.venv`` up to date; True when there was something to do. The development packages contain the others, so they satisfy both."""
    _ensure_uv()
    changed = _ensure_packages(dev)
    return _ensure_project() or changed


def _ensure_uv() -> None:
    wanted = stamps.digest(_base(), REQUIREMENTS / "uv.txt")
    if stamps.current("uv") == wanted and os.access(UV, os.X_OK):
        return
    say("    getting uv")
    stamps.put("uv", "")
    what = "a virtual environment for uv"
    run(
        [sys.executable, "-m", "venv", "--clear", _UV_ENV],
        what=what,
        remedy="see that `python3 -m venv /tmp/try` works (Debian and Ubuntu: apt install python3-venv)",
        log="uv-venv",
        seconds=300,
    )
    pip = [
        _UV_ENV / "bin" / "python",
        "-m",
        "pip",
        "install",
        "-q",
        "--require-hashes",
        "--only-binary",
        ":all:",
    ]
    run([*pip, "-r", REQUIREMENTS / "uv.txt"], what="installing uv", remedy=_NETWORK, log="uv", seconds=600)
    stamps.put("uv", wanted)


def _ensure_packages(dev: bool) -> bool:
    full = stamps.digest(_base(), "dev", REQUIREMENTS / "dev.txt")
    plain = stamps.digest(_base(), "base", REQUIREMENTS / "base.txt")
    enough = {full} if dev else {full, plain}
    if stamps.current("packages") in enough and os.access(PYTHON, os.X_OK):
        return False
    name = "dev" if dev else "base"
    say(f"    installing requirements/{name}.txt")
    stamps.put("packages", "")
    stamps.put("project", "")
    if not os.access(PYTHON, os.X_OK) or _python_of(VENV) != _python_of(_UV_ENV):
        if VENV.exists():
            shutil.rmtree(VENV)
        uv("venv", "--python", sys.executable, VENV, what="making .venv", log="venv", seconds=120)
    uv(
        "pip",
        "sync",
        "--python",
        PYTHON,
        "--require-hashes",
        "--no-build",
        "--compile-bytecode",
        REQUIREMENTS / f"{name}.txt",
        what="installing the Python packages",
        log="packages",
        seconds=1800,
    )
    stamps.put("packages", full if dev else plain)
    return True


def _python_of(venv: Path) -> str:
    """Real path and version of the Python that an environment was made with; empty when it is broken."""
    code = "import os, sys; print(os.path.realpath(sys.executable), sys.version)"
    try:
        python = venv / "bin" / "python"
        return subprocess.run(
            [python, "-c", code], capture_output=True, text=True, timeout=60, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _ensure_project() -> bool:
    """The project's own metadata and commands. Its build backend is pinned too: uv checks build constraints against their hashes."""
    wanted = stamps.digest(_base(), ROOT / "pyproject.toml", REQUIREMENTS / "build.txt")
    if stamps.current("project") == wanted and (VENV / "bin" / "openinspect").is_file():
        return False
    stamps.put("project", "")
    words = ["pip", "install", "--python", PYTHON, "--no-deps", "--reinstall-package", "openinspect"]
    constraints = ["--build-constraints", REQUIREMENTS / "build.txt"]
    uv(*words, *constraints, "--editable", ROOT, what="installing the project", log="project", seconds=600)
    stamps.put("project", wanted)
    return True


def compile_sources() -> None:
    """Bytecode of our own sources, so that the first start is as fast as the next even where Python may not write any. About 0.1 s when current."""
    command = [PYTHON, "-m", "compileall", "-q", "-j", "0", ROOT / "src" / "openinspect"]
    # A file that is being edited and does not compile is the program's to report, with its line, not set-up's.
    subprocess.run(command, env=environment(), capture_output=True, timeout=120, check=False)


def uv(*words: str | Path, what: str, log: str, seconds: float) -> str:
    return run([UV, *words], what=what, remedy=_NETWORK, log=log, seconds=seconds, env=_uv_settings())


def _uv_settings() -> dict[str, str]:
    """pip's index, certificate and trusted hosts in uv's words, where uv has none of its own. Local folders are left out: uv reads them differently."""
    env = environment()
    settings: dict[str, str] = {}
    pip = _pip_settings(env)
    index = _web_only(pip.get("index-url", ""))
    extra = _web_only(pip.get("extra-index-url", ""))
    if index and not {"UV_DEFAULT_INDEX", "UV_INDEX_URL"} & env.keys():
        settings["UV_DEFAULT_INDEX"] = index
    if extra and not {"UV_INDEX", "UV_EXTRA_INDEX_URL"} & env.keys():
        settings["UV_INDEX"] = extra
        # As pip does: look on every index. The hashes decide what may be taken.
        settings["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    if pip.get("cert") and "SSL_CERT_FILE" not in env:
        settings["SSL_CERT_FILE"] = pip["cert"]
    if pip.get("trusted-host") and "UV_INSECURE_HOST" not in env:
        settings["UV_INSECURE_HOST"] = pip["trusted-host"]
    return settings


def _pip_settings(env: dict[str, str]) -> dict[str, str]:
    command = [_UV_ENV / "bin" / "python", "-m", "pip", "config", "list"]
    try:
        listing = subprocess.run(
            command, capture_output=True, text=True, env=env, timeout=60, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise Failure(
            "reading pip's configuration", str(error), "see what `python3 -m pip config list` says"
        ) from error
    ranked: list[tuple[int, str, str]] = []
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if section in _SECTIONS and value:
            ranked.append((_SECTIONS.index(section), option, str(ast.literal_eval(value))))
    return {option: value for _, option, value in sorted(ranked)}


_SECTIONS = ["global", "install", ":env:"]


def _web_only(addresses: str) -> str:
    return " ".join(word for word in addresses.split() if word.startswith(("https://", "http://")))
