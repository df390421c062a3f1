"""System calls that Python 3.11's library lacks, and the error that host-side work raises.

Every call raises ``OSError`` with the kernel's errno and the path it was about.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000

ATTR_RDONLY = 1
ATTR_NOSUID = 2
ATTR_NODEV = 4

_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_PR_SET_PDEATHSIG = 1
_PR_SET_SECUREBITS = 28
_PR_SET_NO_NEW_PRIVS = 38
_SECBIT_NO_SETUID_FIXUP = 4
_SYS_MOUNT_SETATTR = 442
_SYS_KEYCTL = {"x86_64": 250, "aarch64": 219}
_KEYCTL_JOIN_SESSION_KEYRING = 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class HostError(Exception):
    """The host could not do what a box needs. ``unavailable``: and never will, as it is."""

    def __init__(self, reason: str, remedy: str = "", *, unavailable: bool = False) -> None:
        super().__init__(f"{reason}. {remedy}" if remedy else reason)
        self.reason = reason
        self.remedy = remedy
        self.unavailable = unavailable


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    _checked(
        _libc.mount(
            source.encode() or None,
            target.encode(),
            kind.encode() or None,
            ctypes.c_ulong(flags),
            options.encode() or None,
        ),
        f"{kind or 'mount'} on {target}",
    )


def unmount(target: str) -> None:
    _checked(_libc.umount(target.encode()), target)


def unshare(flags: int) -> None:
    _checked(_libc.unshare(flags), "unshare")


def set_mount_attributes(target: str, attributes: int, *, recursive: bool = True) -> None:
    """Adds flags to a mount and all below it (Linux 5.12)."""
    request = ctypes.create_string_buffer(struct.pack("=QQQQ", attributes, 0, 0, 0))
    _checked(
        _libc.syscall(
            _SYS_MOUNT_SETATTR,
            _AT_FDCWD,
            target.encode(),
            _AT_RECURSIVE if recursive else 0,
            request,
            ctypes.c_size_t(32),
        ),
        target,
    )


def die_with_parent(parent: int) -> None:
    """This process gets SIGKILL when the thread that forked it ends. Any later change of user id would undo it."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0), "prctl")
    if os.getppid() != parent:
        os._exit(137)


def keep_capabilities() -> None:
    """From here on a change of user ids leaves the capabilities alone, until a user namespace is made."""
    _checked(_libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0), "prctl")


def no_new_privileges() -> None:
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


def fresh_session_keyring() -> None:
    """Leaves the server's kernel keyring behind. A kernel without keyrings has nothing to leave."""
    number = _SYS_KEYCTL.get(platform.machine())
    if number is not None:
        _libc.syscall(number, _KEYCTL_JOIN_SESSION_KEYRING, None, None, None, None)
