"""Limits on a box's memory, processor time and number of processes, by cgroups of version 1 or 2, under a parent named ``openinspect``.

Version 1: one folder in each of the hierarchies memory, cpu and pids. Version 2: one folder. Where both are mounted, version 1 is taken when it
holds the memory controller.

Version 2 allows no process beside child groups that have controllers. So the parent holds none, and where the server's own group is the only
place that it may write to, the processes in that group move to a leaf of it first.

States of a group: made (limits written) → joined (the box's first process is put in before it runs anything) → removed (nothing left in it).
A host that allows none of this is no error here: ``locate`` returns None with the reason, and ``checks`` tells the person.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from .plan import Bounds

PARENT = "openinspect"
HOLDERS = "holders"
"""A group beside the boxes', without limits."""
CONTROLLERS = ("memory", "cpu", "pids")
_SOCKETS = 8
"""Version 1 counts the memory of network sockets apart from all other: their bound is this part of the box's.
Each connection may go over it by some tens of KiB."""
_PERIOD = 100_000
"""Microseconds; the kernel's own default."""


@dataclass(frozen=True)
class Place:
    """Where on this host boxes' groups are made. ``parents``: controller → the folder named ``openinspect``."""

    version: int
    parents: dict[str, Path]

    def folders(self, box_id: str) -> list[Path]:
        return sorted({parent / box_id for parent in self.parents.values()})


@dataclass(frozen=True)
class Refusal:
    reason: str
    remedy: str


def mounted() -> tuple[dict[str, Path], Path | None]:
    """Version 1 hierarchies by controller, and where version 2 is mounted."""
    first: dict[str, Path] = {}
    second: Path | None = None
    table = Path("/proc/self/mountinfo")
    for line in table.read_text().splitlines() if table.exists() else ():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        where = Path(before.split(" ")[4])
        if kind == "cgroup2":
            second = second or where
        elif kind == "cgroup":
            for controller in CONTROLLERS:
                if controller in options.split(","):
                    first.setdefault(controller, where)
    return first, second


def locate(controllers: tuple[str, ...] = CONTROLLERS) -> Place | Refusal:
    """Finds, and makes where needed, the parent groups."""
    first, second = mounted()
    if "memory" in first:
        return _locate_first(first)
    if second is not None:
        return locate_second(second, controllers)
    return Refusal("no cgroup hierarchy is mounted", "Mount cgroup2 on /sys/fs/cgroup")


def _locate_first(mounted: dict[str, Path]) -> Place | Refusal:
    parents: dict[str, Path] = {}
    for controller, where in mounted.items():
        parent = where / PARENT
        try:
            parent.mkdir(exist_ok=True)
            Path(tempfile.mkdtemp(prefix="probe-", dir=parent)).rmdir()
        except OSError as error:
            return Refusal(
                f"may not make a cgroup in {where} ({error.strerror})",
                "Run the server as root, or with cgroup v2 as a systemd user service with Delegate=yes",
            )
        if os.access(parent, os.W_OK):
            parents[controller] = parent
    return (
        Place(1, parents) if parents else Refusal("the cgroup folders are read-only", "Mount them writable")
    )


def locate_second(mounted: Path, controllers: tuple[str, ...]) -> Place | Refusal:
    own = _own_group(mounted)
    refusal = Refusal("the cgroup folder is read-only", "Mount cgroup2 writable")
    for place in dict.fromkeys((mounted, own)):
        try:
            _delegate(place, controllers, ours=place == own)
        except OSError as error:
            refusal = Refusal(
                f"may not divide the cgroup {place} ({error.strerror})",
                "Run the server as root, or as a systemd user service with Delegate=yes (for a try: `systemd-run --user --scope -p Delegate=yes openinspect up`)",
            )
        else:
            return Place(2, dict.fromkeys(controllers or ("cgroup",), place / PARENT))
    return refusal


def _own_group(mounted: Path) -> Path:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            path = mounted / line[3:].lstrip("/")
            # The server itself may have been moved to a leaf by an earlier call.
            return path.parent if path.name == "openinspect-server" else path
    return mounted


def _delegate(place: Path, controllers: tuple[str, ...], *, ours: bool) -> None:
    parent = place / PARENT
    parent.mkdir(exist_ok=True)
    for folder in (place, parent):
        control = folder / "cgroup.subtree_control"
        missing = set(controllers) - set(control.read_text().split())
        if not missing:
            continue
        words = " ".join(f"+{name}" for name in sorted(missing))
        try:
            control.write_text(words)
        except OSError as error:
            if error.errno != errno.EBUSY or folder != place or not ours:
                raise
            leaf = place / "openinspect-server"
            leaf.mkdir(exist_ok=True)
            for pid in (place / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    (leaf / "cgroup.procs").write_text(pid)
            control.write_text(words)
    # A folder that can't be written to would only be noticed when a box starts.
    Path(tempfile.mkdtemp(prefix="probe-", dir=parent)).rmdir()


def make(place: Place, box_id: str, bounds: Bounds) -> None:
    for folder in place.folders(box_id):
        folder.mkdir(exist_ok=True)
    for controller, parent in place.parents.items():
        for name, value in _values(place.version, controller, bounds):
            target = parent / box_id / name
            # Swap accounting and the like are compiled into some kernels only.
            if target.exists():
                target.write_text(value)


def _values(version: int, controller: str, bounds: Bounds) -> list[tuple[str, str]]:
    if controller == "memory" and bounds.memory_mib is not None:
        size = str(bounds.memory_mib * 1024 * 1024)
        if version == 1:
            sockets = str(bounds.memory_mib * 1024 * 1024 // _SOCKETS)
            return [
                ("memory.limit_in_bytes", size),
                ("memory.memsw.limit_in_bytes", size),
                ("memory.kmem.tcp.limit_in_bytes", sockets),
            ]
        return [("memory.max", size), ("memory.swap.max", "0")]
    if controller == "cpu" and bounds.cpu_cores is not None:
        quota = str(max(1000, round(bounds.cpu_cores * _PERIOD)))
        if version == 1:
            return [("cpu.cfs_period_us", str(_PERIOD)), ("cpu.cfs_quota_us", quota)]
        return [("cpu.max", f"{quota} {_PERIOD}")]
    if controller == "pids" and bounds.processes is not None:
        # Two more: bubblewrap's own, outside and inside.
        return [("pids.max", str(bounds.processes + 2))]
    return []


def join(place: Place, box_id: str, pid: int) -> None:
    for folder in place.folders(box_id):
        (folder / "cgroup.procs").write_text(str(pid))


def leave(place: Place) -> None:
    """Moves this process, a holder, out of the server's group: who restarts a service ends all that is in its group (version 2)."""
    if place.version == 2:
        leaf = next(iter(place.parents.values())) / HOLDERS
        with contextlib.suppress(OSError):
            leaf.mkdir(exist_ok=True)
            (leaf / "cgroup.procs").write_text(str(os.getpid()))


def oom_kills(folders: list[Path]) -> int:
    """Processes in the groups that were killed for want of memory so far."""
    for folder in folders:
        for name in ("memory.oom_control", "memory.events"):
            with contextlib.suppress(FileNotFoundError):
                for line in (folder / name).read_text().splitlines():
                    if line.startswith("oom_kill "):
                        return int(line.split()[1])
    return 0


def _members(folder: Path) -> list[int]:
    found: list[int] = []
    for procs in (folder / "cgroup.procs", *folder.glob("*/cgroup.procs")):
        # A group that is going away answers ENODEV.
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in procs.read_text().split()]
    return found


def remove(folders: list[Path], seconds: float = 5.0) -> None:
    """Kills what is left in a box's groups and removes them. May be repeated. Raises ``OSError`` when the kernel keeps one."""
    deadline = time.monotonic() + seconds
    for folder in folders:
        while folder.exists():
            for pid in _members(folder):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            try:
                for child in sorted(folder.glob("*/")):
                    child.rmdir()
                folder.rmdir()
            except FileNotFoundError:
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
