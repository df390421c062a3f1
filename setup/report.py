"""How set-up talks to people, and how it runs other programs: progress lines, a log file for each step, one clear failure."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
LOGS = TOOLS / "log"
CACHE = TOOLS / "cache"

_HEARTBEAT_SECONDS = 15.0
_FIRST_LINES = 8
_LAST_LINES = 15


class Failure(Exception):
    """A step that could not be done: what failed, why, and what a person can do about it."""

    def __init__(self, what: str, why: str, remedy: str) -> None:
        super().__init__(f"{what}: {why}")
        self.what = what
        self.why = why
        self.remedy = remedy


def say(line: str) -> None:
    print(line, flush=True)


def explain(failure: Failure) -> None:
    sys.stdout.flush()
    print(
        f"\nset-up failed: {failure.what}\nWhy: {failure.why}\nWhat to do: {failure.remedy}",
        file=sys.stderr,
        flush=True,
    )


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The caller's environment without what would make Python look elsewhere; caches stay inside the checkout unless the caller chose a place."""
    env = {k: v for k, v in os.environ.items() if k not in _MISLEADING}
    for name, value in _QUIET.items():
        env.setdefault(name, value)
    env.setdefault("UV_CACHE_DIR", str(CACHE / "uv"))
    env.setdefault("PIP_CACHE_DIR", str(CACHE / "pip"))
    env.setdefault("npm_config_cache", env.get("NPM_CONFIG_CACHE", str(CACHE / "npm")))
    env.update(extra or {})
    return env


_MISLEADING = {
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONSTARTUP",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "NODE_OPTIONS",
    "NODE_PATH",
    "MAKEFLAGS",
    "MFLAGS",
    "MAKELEVEL",
}
_QUIET = {
    "NO_COLOR": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_INPUT": "1",
    "UV_NO_PROGRESS": "1",
    "UV_PYTHON_DOWNLOADS": "never",
    "npm_config_update_notifier": "false",
    "npm_config_fund": "false",
    "npm_config_audit": "false",
    "npm_config_progress": "false",
}


def run(
    command: Sequence[str | Path],
    *,
    what: str,
    remedy: str,
    log: str,
    seconds: float,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a program and return what it printed. Its output goes to ``.tools/log/<log>.log``; a failure shows an excerpt.

    Raises ``Failure`` when the program is missing, exits non-zero or takes longer than ``seconds``.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    path = LOGS / f"{log}.log"
    words = [str(word) for word in command]
    started = time.monotonic()
    with path.open("wb") as out:
        try:
            process = subprocess.Popen(
                words,
                cwd=cwd,
                env=environment(env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise Failure(what, f"{words[0]} could not be started: {error.strerror}", remedy) from error
        try:
            code = _wait(process, started, seconds)
        except BaseException:
            process.kill()
            process.wait()
            raise
    text = path.read_text(errors="replace")
    if code is None:
        raise Failure(what, f"`{_short(words)}` took longer than {seconds:.0f} s\n{_excerpt(text)}", remedy)
    if code != 0:
        raise Failure(
            what,
            f"`{_short(words)}` ended with exit code {code}; in {path.relative_to(ROOT)}:\n{_excerpt(text)}",
            remedy,
        )
    return text


def _wait(process: subprocess.Popen[bytes], started: float, seconds: float) -> int | None:
    while True:
        left = started + seconds - time.monotonic()
        try:
            return process.wait(timeout=max(0.01, min(_HEARTBEAT_SECONDS, left)))
        except subprocess.TimeoutExpired:
            if time.monotonic() - started >= seconds:
                process.kill()
                process.wait()
                return None
            say(f"    … still at it after {time.monotonic() - started:.0f} s")


def _short(words: list[str]) -> str:
    text = " ".join(words).replace(f"{ROOT}/", "")
    return text if len(text) <= 160 else text[:157] + "..."


def _excerpt(text: str) -> str:
    """The end, where most programs say what went wrong, and the beginning, where npm does."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > _FIRST_LINES + _LAST_LINES:
        lines = [*lines[:_FIRST_LINES], "…", *lines[-_LAST_LINES:]]
    return "\n".join(f"    {line[:400]}" for line in lines) or "    (it printed nothing)"
