"""The local provider, run by an ordinary user: the same suites, run again as one who is known on this machine only for that time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from openinspect.sandboxes.local import idmap

_UID = 4242
_HERE = Path(__file__).parent
_SUITES = (
    _HERE.parent / "conformance" / "test_sandbox_providers.py",
    _HERE / "test_local_isolation.py",
    _HERE / "test_local_limits.py",
)
_LIFE = (
    "test_a_box_runs",
    "test_stop_ends",
    "test_a_killed_holder",
    "test_the_disk_is_kept",
    "test_a_deleted_disk",
    "test_check_says",
    "test_processes_are_bounded",
)


@pytest.mark.skipif(os.geteuid() != 0, reason="these suites are being run by an ordinary user already")
@pytest.mark.skipif(shutil.which("newuidmap") is None, reason="the package uidmap is not installed")
@pytest.mark.timeout(300)
def test_an_ordinary_user_can_run_boxes() -> None:
    # Not below pytest's own folder, which is closed to others.
    folder = Path(tempfile.mkdtemp(prefix="oi-user-"))
    chosen = f"not unisolated and (test_local_isolation or {' or '.join(_LIFE)})"
    try:
        done = subprocess.run(
            [
                *(sys.executable, str(_HERE / "as_user.py"), str(_UID), str(folder), "-m", "pytest", "-q"),
                *(
                    "-p",
                    "no:cacheprovider",
                    "--basetemp",
                    str(folder / "tmp"),
                    "-k",
                    chosen,
                    *map(str, _SUITES),
                ),
            ],
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
    finally:
        shutil.rmtree(folder)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert " passed" in done.stdout


def test_the_longest_range_of_ids_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "subuid"
    mine = str(os.getuid())
    file.write_text(f"other:1:99999999\n{mine}:100000:1000\n{mine}:300000:65536\nbroken\n{mine}:x:y\n")
    assert idmap.subordinate(file) == (300000, 65536)
    assert idmap.subordinate(tmp_path / "missing") is None
