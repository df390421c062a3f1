"""Images: a file with an ext4 file system of a given size, mounted through a loop device that clears itself with the mount.

A new image is a copy of a template, which holds what every new disk holds, the agent's home above all: copying one sparse file takes a fraction
of the time that making a file system and copying thousands of files does. A template is named by all that went into it, and made by the first
disk that needs it. It is only ever written under another name, so one that is there is whole.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from . import kernel
from .kernel import HostError

_LOOP_CONFIGURE = 0x4C0A
_LOOP_GET_FREE = 0x4C82
_LOOP_GET_STATUS64 = 0x4C05
_AUTOCLEAR = 4
_INFO = struct.Struct("=QQQQQIIII64s64s32sQQ")
_COMMAND_SECONDS = 60
_TEMPLATES = 3
"""How many are kept: the last used. Another size or toolbox makes another one."""
_MIB = 1024 * 1024
PATH = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


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


def loops_work() -> bool:
    """Whether this host gives this user loop devices, and has the tools for them."""
    if os.geteuid() != 0 or shutil.which("mkfs.ext4", path=PATH["PATH"]) is None:
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


def _run(*command: str, fine: int = 0) -> None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=PATH,
        timeout=_COMMAND_SECONDS,
        check=False,
    )
    if done.returncode > fine or done.returncode < 0:
        raise HostError(f"{command[0]} failed: {done.stderr.decode(errors='replace').strip()[-300:]}")


def mount(image: Path, mebibytes: int, target: Path) -> None:
    """Mounts an image, made longer first where that is wanted. Never shorter."""
    if not wait_detached(image, 10):
        raise HostError(
            f"the disk {image.parent.name} is still mounted by a sandbox that ended", "Try again in a moment"
        )
    if image.stat().st_size < mebibytes * _MIB:
        _grow(image, mebibytes)
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


def make(
    image: Path, mebibytes: int, templates: Path, key: str, target: Path, fill: Callable[[Path], None]
) -> None:
    """A new image, not mounted. ``fill`` lays out what every new one holds, mounted at ``target``; ``key`` names all that it depends on."""
    name = hashlib.sha256(f"{mebibytes} {key}".encode()).hexdigest()[:32]
    template = templates / f"{name}.img"
    fresh = image.with_name(image.name + ".new")
    for last in (False, True):
        if not template.exists():
            _make_template(template, mebibytes, target, fill)
        try:
            _run("cp", "--reflink=auto", "--sparse=always", str(template), str(fresh))
            os.utime(template)
            break
        except (HostError, FileNotFoundError):
            # Another holder may have forgotten it in this moment as the oldest.
            if last or template.exists():
                raise
    fresh.chmod(0o600)
    fresh.rename(image)


def _make_template(template: Path, mebibytes: int, target: Path, fill: Callable[[Path], None]) -> None:
    template.parent.mkdir(mode=0o700, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=template.parent, prefix="new-")
    fresh = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.truncate(mebibytes * _MIB)
        _run(
            "mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", name
        )  # fmt: skip
        mount(fresh, mebibytes, target)
        try:
            fill(target)
        finally:
            kernel.unmount(str(target))
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.rename(template)
    finally:
        fresh.unlink(missing_ok=True)
    _forget_old(template.parent)


def _forget_old(templates: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        found = sorted(templates.glob("*.img"), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in found[_TEMPLATES:]:
            old.unlink(missing_ok=True)
        # What a holder that was killed has left half made.
        for half in templates.glob("new-*"):
            if time.time() - half.stat().st_mtime > 600:
                half.unlink(missing_ok=True)


def _mend(place: str) -> None:
    # Its exit codes up to 3 mean that all is well now.
    _run("e2fsck", "-f", "-p", place, fine=3)


def _grow(image: Path, mebibytes: int) -> None:
    """While it is not mounted: doing it mounted takes a capability that root in a container may lack."""
    _mend(str(image))
    # It lengthens the file itself, so that one of full length is always a file system of full length.
    _run("resize2fs", str(image), f"{mebibytes}M")


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
        device.path,
        str(target),
        "ext4",
        kernel.MS_NOSUID | kernel.MS_NODEV,
        "errors=remount-ro,discard,noinit_itable",
    )
