"""What a session keeps between boxes: workspace, home and temporary files.

Run by root it is one sparse ext4 image with a journal (``disk.img``), loop-mounted by the holder, so that its size is a bound and it goes
when the holder goes. Where the host has no loop devices, and for an ordinary user, it is a plain folder (``files``) without a bound; ``checks``
says so.

On a disk: ``workspace/{base,upper,work}`` (an overlay), ``home``, ``tmp`` (emptied for each box), ``var-tmp``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

from . import kernel
from .kernel import HostError
from .plan import AGENT, Plan

IMAGE = "disk.img"
FILES = "files"
LOCK = "lock"
OWNER = "owner"
"""Holds the first host id that the disk's files belong to."""

_LOOP_CONFIGURE = 0x4C0A
_LOOP_GET_FREE = 0x4C82
_LOOP_GET_STATUS64 = 0x4C05
_AUTOCLEAR = 4
_INFO = struct.Struct("=QQQQQIIII64s64s32sQQ")
_COMMAND_SECONDS = 60
_PATH = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


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


def attached(image: Path) -> list[str]:
    """Loop devices that still hold the image: a box that was killed lets go of its mounts a moment later than of its lock."""
    try:
        status = image.stat()
    except FileNotFoundError:
        return []
    found: list[str] = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        device = f"/dev/{backing.parts[3]}"
        with contextlib.suppress(OSError):
            descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
            try:
                info = bytearray(_INFO.size)
                fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, info)
            finally:
                os.close(descriptor)
            where, inode = _INFO.unpack(info)[:2]
            if inode == status.st_ino and where == status.st_dev:
                found.append(device)
    return found


def wait_detached(image: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while attached(image):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def mount(plan: Plan, target: Path) -> None:
    """Mounts the disk, made first where it is new, and lays out its folders."""
    place = Path(plan.disk_dir)
    _check_owner(place, plan)
    image = place / IMAGE
    if image.exists() or (plan.root and not (place / FILES).exists() and loops_work()):
        _mount_image(place, image, plan, target)
    else:
        files = place / FILES
        files.mkdir(mode=0o711, exist_ok=True)
        kernel.mount(str(files), str(target), flags=kernel.MS_BIND)
        kernel.set_mount_attributes(str(target), kernel.ATTR_NOSUID | kernel.ATTR_NODEV)
    _lay_out(target, plan)


def loops_work() -> bool:
    """Whether this host gives this user loop devices, and has the tools for them."""
    if os.geteuid() != 0 or shutil.which("mkfs.ext4", path=_PATH["PATH"]) is None:
        return False
    try:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.ioctl(control, _LOOP_GET_FREE)
    except OSError:
        return False
    finally:
        os.close(control)
    return True


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


def _run(*command: str, fine: int = 0) -> None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=_PATH,
        timeout=_COMMAND_SECONDS,
        check=False,
    )
    if done.returncode > fine or done.returncode < 0:
        raise HostError(f"{command[0]} failed: {done.stderr.decode(errors='replace').strip()[-300:]}")


def _mount_image(place: Path, image: Path, plan: Plan, target: Path) -> None:
    size = (plan.bounds.disk_mib or 1024 * 1024) * 1024 * 1024
    if not image.exists():
        fresh = place / (IMAGE + ".new")
        fresh.unlink(missing_ok=True)
        with fresh.open("wb") as file:
            file.truncate(size)
        _run(
            "mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", str(fresh)
        )  # fmt: skip
        fresh.chmod(0o600)
        fresh.rename(image)
    elif not wait_detached(image, 10):
        raise HostError(
            f"the disk {place.name} is still mounted by a box that ended", "Try again in a moment"
        )
    elif image.stat().st_size < size:
        _grow(image, size)
    device = _attach(image)
    try:
        try:
            _mount_ext4(device, target)
        except OSError as error:
            if error.errno not in (errno.EUCLEAN, errno.EBADMSG, errno.EIO):
                raise
            # Its journal was not enough: let ext4's own tool mend it, once.
            _mend(device.path)
            _mount_ext4(device, target)
    finally:
        device.close()


def _mend(place: str) -> None:
    # Its exit codes up to 3 mean that all is well now.
    _run("e2fsck", "-f", "-p", place, fine=3)


def _grow(image: Path, size: int) -> None:
    """While it is not mounted: doing it mounted takes a capability that root in a container may lack."""
    _mend(str(image))
    # It lengthens the file itself, so that one of full length is always a file system of full length.
    _run("resize2fs", str(image), f"{size // 1024}K")


class _Loop:
    """A configured loop device. It clears itself when the last one lets go: this descriptor, then the mount."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def close(self) -> None:
        os.close(self._descriptor)


def _attach(image: Path) -> _Loop:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    backing = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(100):
            number = fcntl.ioctl(control, _LOOP_GET_FREE)
            path = f"/dev/loop{number}"
            if not Path(path).exists():
                os.mknod(path, 0o600 | 0o060000, os.makedev(7, number))
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            name = str(image).encode()[-63:]
            info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, _AUTOCLEAR, name, b"", b"", 0, 0)
            try:
                fcntl.ioctl(descriptor, _LOOP_CONFIGURE, struct.pack("=II", backing, 0) + info + bytes(64))
                return _Loop(path, descriptor)
            except OSError as error:
                os.close(descriptor)
                if error.errno != errno.EBUSY:
                    raise
        raise HostError("no free loop device", "Too many are in use: see `losetup -a`")
    finally:
        os.close(control)
        os.close(backing)


def _mount_ext4(device: _Loop, target: Path) -> None:
    kernel.mount(
        device.path, str(target), "ext4", kernel.MS_NOSUID | kernel.MS_NODEV, "errors=remount-ro,discard"
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


def seed_home(target: Path, template: Path, plan: Plan) -> None:
    """A new home is a copy of the toolbox's ``opencode-home``, where there is one, owned by the agent."""
    home = target / "home" / "agent"
    if home.exists():
        return
    agent = plan.host_id(AGENT)
    fresh = target / "home" / ".new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o755)
    os.chown(fresh, agent, agent)
    if template.is_dir():
        done = subprocess.run(
            ["cp", "-dR", "--preserve=mode,timestamps,links", "--reflink=auto", f"{template}/.", str(fresh)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=_PATH,
            timeout=_COMMAND_SECONDS,
            user=agent,
            group=agent,
            extra_groups=[],
            check=False,
        )
        if done.returncode != 0:
            raise HostError(
                f"the agent's home could not be copied: {done.stderr.decode(errors='replace').strip()[-300:]}"
            )
    fresh.rename(home)
