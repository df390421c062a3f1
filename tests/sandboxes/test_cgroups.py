"""Cgroups of version 2, in a part of the real hierarchy that is this test's own. (Version 1 is what ``test_local_limits`` runs on where it is mounted.)"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from openinspect.sandboxes.local import cgroups
from openinspect.sandboxes.local.plan import Bounds

BOUNDS = Bounds(memory_mib=64, cpu_cores=0.5, processes=20, disk_mib=None)


@dataclass
class Part:
    place: Path
    controllers: tuple[str, ...]


def _remove(folder: Path) -> None:
    for child in sorted(folder.glob("*/")):
        _remove(child)
    folder.rmdir()


@pytest.fixture
def part() -> Iterator[Part]:
    second = cgroups.mounted()[1]
    if second is None or not os.access(second, os.W_OK):
        pytest.skip("cgroup version 2 is not mounted here, or not writable")
    offered = (second / "cgroup.subtree_control").read_text().split()
    place = second / f"openinspect-test-{secrets.token_hex(4)}"
    place.mkdir()
    yield Part(place, tuple(name for name in ("pids", "memory", "cpu") if name in offered))
    _remove(place)


def test_a_box_is_limited_found_and_removed(part: Part) -> None:
    place = cgroups.locate_second(part.place, part.controllers)
    assert isinstance(place, cgroups.Place)
    assert place.version == 2
    cgroups.make(place, "box", BOUNDS)
    (folder,) = place.folders("box")
    if "pids" in part.controllers:
        assert (folder / "pids.max").read_text().strip() == "22"
    sleeper = subprocess.Popen(["sleep", "600"])
    cgroups.join(place, "box", sleeper.pid)
    assert str(sleeper.pid) in (folder / "cgroup.procs").read_text().split()
    assert cgroups.oom_kills([folder]) == 0
    cgroups.remove([folder])
    assert not folder.exists()
    assert sleeper.wait(timeout=5) == -9
    cgroups.remove([folder])


def test_making_the_parent_again_changes_nothing(part: Part) -> None:
    assert cgroups.locate_second(part.place, part.controllers) == cgroups.locate_second(
        part.place, part.controllers
    )
    assert sorted(path.name for path in (part.place / "openinspect").glob("*/")) == []


def test_a_holder_leaves_the_servers_group(part: Part) -> None:
    script = """
import sys
from pathlib import Path
from openinspect.sandboxes.local import cgroups
place = cgroups.locate_second(Path(sys.argv[1]), ())
cgroups.leave(place)
print(next(line for line in open('/proc/self/cgroup') if line.startswith('0::')))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(part.place)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip().endswith(f"{part.place.name}/openinspect/holders")


def test_a_group_that_may_not_be_divided_is_a_refusal_with_a_remedy(tmp_path: Path) -> None:
    refusal = cgroups.locate_second(tmp_path, ("memory",))
    # an ordinary folder is no cgroup
    assert isinstance(refusal, cgroups.Refusal)
    assert refusal.remedy
