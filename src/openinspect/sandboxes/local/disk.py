"""What a session keeps between boxes: workspace, home and temporary files.

Run by root it is one sparse ext4 image with a journal (``disk.img``, see ``image``), so that its size is a bound and its mount goes when the
holder goes. Where the host has no loop devices, and for an ordinary user, it is a plain folder (``files``) without a bound; ``checks`` says so.

On a disk: ``workspace/{base,upper,work}`` (an overlay), ``home``, ``tmp`` (emptied for each box), ``var-tmp``. A new home is a copy of the
toolbox's ``opencode-home``, where there is one, owned by the agent.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from pathlib import Path

from . import image, kernel
from .kernel import HostError
from .plan import AGENT, Plan

IMAGE = "disk.img"
FILES = "files"
LOCK = "lock"
OWNER = "owner"
"""Holds the first host id that the disk's files belong to."""
TEMPLATES = "templates"
"""Beside the folder of all disks."""
_UNBOUNDED_MIB = 1024 * 1024
_COPY_SECONDS = 60


def lock(disk_dir: Path, seconds: float) -> int:
    """An exclusive lock on the disk, held as long as the descriptor is open. Waits for a box that is just ending."""
    descriptor = os.open(disk_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise HostError(
                    f"the disk {disk_dir.name} is in use by another box", "Stop that one first"
                ) from None
            time.sleep(0.02)


def mount(plan: Plan, target: Path, home: int | None) -> None:
    """Mounts the disk, made first where it is new, and lays out its folders. ``home``: a descriptor of the toolbox's ``opencode-home``."""
    place = Path(plan.disk_dir)
    _check_owner(place, plan)
    file = place / IMAGE
    if file.exists() or (plan.root and not (place / FILES).exists() and image.loops_work()):
        mebibytes = plan.bounds.disk_mib or _UNBOUNDED_MIB

        def fill(mounted: Path) -> None:
            _lay_out(mounted, plan)
            _seed_home(mounted, home, plan)

        if not file.exists():
            image.make(file, mebibytes, place.parent.parent / TEMPLATES, _key(plan, home), target, fill)
        image.mount(file, mebibytes, target)
    else:
        files = place / FILES
        files.mkdir(mode=0o711, exist_ok=True)
        kernel.mount(str(files), str(target), flags=kernel.MS_BIND)
        kernel.set_mount_attributes(str(target), kernel.ATTR_NOSUID | kernel.ATTR_NODEV)
    _lay_out(target, plan)
    _seed_home(target, home, plan)


def _key(plan: Plan, home: int | None) -> str:
    """All that a new disk's content depends on: the ids, and which toolbox's home."""
    if home is None:
        return f"{plan.uid_base}"
    versions = Path(plan.toolbox, "versions.json")
    status = os.fstat(home)
    told = versions.read_text() if versions.exists() else ""
    return f"{plan.uid_base} {status.st_dev} {status.st_ino} {status.st_mtime_ns} {told}"


def _check_owner(place: Path, plan: Plan) -> None:
    mine = "user" if plan.uid_base is None else str(plan.uid_base)
    note = place / OWNER
    if not note.exists():
        note.write_text(mine)
    elif note.read_text() != mine:
        raise HostError(
            f"the disk {place.name} was made for ids that begin at {note.read_text()}, not at {mine}",
            "Set OPENINSPECT_SANDBOX_UID_BASE back, or start the server as the user who made it",
        )


def _lay_out(target: Path, plan: Plan) -> None:
    root, agent = plan.host_id(0), plan.host_id(AGENT)

    def folder(path: Path, owner: int, mode: int) -> None:
        path.mkdir(exist_ok=True)
        os.chown(path, owner, owner)
        path.chmod(mode)

    folder(target / "workspace", root, 0o755)
    for name in ("base", "upper"):
        if not (target / "workspace" / name).exists():
            folder(target / "workspace" / name, agent, 0o755)
    folder(target / "workspace" / "work", root, 0o755)
    folder(target / "home", root, 0o755)
    old = target / "tmp"
    if old.exists():
        old.rename(target / f"trash-{time.time_ns()}")
    folder(target / "tmp", root, 0o1777)
    folder(target / "var-tmp", root, 0o1777)


def empty_trash(target: Path) -> None:
    """What a former box left in ``/tmp``: deleted while the new one already runs."""
    for old in target.glob("trash-*"):
        shutil.rmtree(old, ignore_errors=True)


def _seed_home(target: Path, template: int | None, plan: Plan) -> None:
    home = target / "home" / "agent"
    if home.exists():
        return
    agent = plan.host_id(AGENT)
    fresh = target / "home" / ".new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o755)
    os.chown(fresh, agent, agent)
    if template is not None:
        # As the agent, so that the copies are its own; by descriptor, for it may not be able to walk there.
        done = subprocess.run(
            [
                *("cp", "-dR", "--preserve=mode,timestamps,links", "--reflink=auto"),
                *(f"/proc/self/fd/{template}/.", str(fresh)),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=image.PATH,
            timeout=_COPY_SECONDS,
            user=agent,
            group=agent,
            extra_groups=[],
            pass_fds=(template,),
            check=False,
        )
        if done.returncode != 0:
            raise HostError(
                f"the agent's home could not be copied: {done.stderr.decode(errors='replace').strip()[-300:]}"
            )
    fresh.rename(home)
