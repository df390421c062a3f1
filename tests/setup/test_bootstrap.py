"""The first thing that a newcomer's Python reads: it has to explain itself even to a Python that is too old."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BOOTSTRAP = ROOT / "setup" / "bootstrap.py"

_PRETEND = """
import collections, os, runpy, sys
Version = collections.namedtuple("Version", "major minor micro releaselevel serial")
sys.version_info = Version(3, 9, 2, "final", 0)
sys.argv = ["bootstrap.py"]
os.environ["PATH"] = sys.argv_path
runpy.run_path({path!r}, run_name="__main__")
"""


def _as_old_python(path_variable: str) -> subprocess.CompletedProcess[str]:
    code = _PRETEND.format(path=str(BOOTSTRAP)).replace("sys.argv_path", repr(path_variable))
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def test_old_pythons_can_read_it() -> None:
    ast.parse(BOOTSTRAP.read_text(), feature_version=(3, 6))


def test_a_python_that_is_too_old_says_so(tmp_path: Path) -> None:
    done = _as_old_python(str(tmp_path))
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed, and python3 here is 3.9" in done.stderr
    assert "What to do" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_newer_python_of_the_machine_is_used_instead(tmp_path: Path) -> None:
    newer = tmp_path / "python3.12"
    newer.write_text('#!/bin/sh\necho "taken over: $1"\n')
    newer.chmod(0o755)
    done = _as_old_python(str(tmp_path))
    assert done.stdout.strip() == f"taken over: {BOOTSTRAP}"


def test_help_names_the_verbs_and_there_are_few() -> None:
    said = subprocess.run(
        ["make", "-C", str(ROOT), "--no-print-directory"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    verbs = [line.split()[0] for line in said.splitlines()[1:]]
    assert {"demo", "run", "stop", "test", "bench", "fresh"} <= set(verbs)
    assert len(verbs) <= 12
