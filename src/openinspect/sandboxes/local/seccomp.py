"""The system calls that nothing in a box may make, as a classic BPF program for ``bwrap --seccomp``.

A second fence: capabilities, namespaces and the ban on further user namespaces refuse most of this already. It is the only fence for
    - sockets that no network namespace confines, first of all AF_VSOCK, which reaches the hypervisor's host: only unix, IPv4, IPv6 and netlink
      sockets can be made
    - what is one count for the whole machine: requests of the kernel's older asynchronous I/O, and huge pages
    - the kernel's key rings, which are kept by user id and by session, not by namespace
    - parts of the kernel with a long record of holes that a box has no use for: bpf, io_uring, perf events, userfaultfd
    - pushing characters into a terminal (TIOCSTI, TIOCLINUX)
ptrace is allowed: debuggers need it, and it is bound by user id.

Programs of another word size (i386, x32) get ENOSYS for every call, since their numbers mean other calls.
"""

from __future__ import annotations

import errno
import os
import platform
import struct

from .kernel import HostError

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "riscv64": 0xC00000F3}
_X32 = 0x40000000

# name: number on x86_64, number in the generic table (aarch64, riscv64); None: there is none.
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "perf_event_open": (298, 241),
    "pivot_root": (155, 41),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setns": (308, 268),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "vhangup": (153, 58),
}
# Programs try these and fall back to something older when the kernel has not got them.
_ABSENT: dict[str, tuple[int | None, int | None]] = {
    "bpf": (321, 280),
    "io_setup": (206, 0),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "userfaultfd": (323, 282),
}
_SOCKET = (41, 198)
_SOCKETPAIR = (53, 199)
_MMAP = (9, 222)
_MEMFD_CREATE = (319, 279)
_IOCTL = (16, 29)
_FAMILIES = (1, 2, 10, 16)
"""AF_UNIX, AF_INET, AF_INET6, AF_NETLINK."""
_TERMINAL_PUSHES = (0x5412, 0x541C)
"""TIOCSTI, TIOCLINUX."""

_MAP_HUGETLB = 0x40000
_MFD_HUGETLB = 4

_LOAD, _EQUAL, _AT_LEAST, _SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND, _FOURTH = 0, 4, 16, 24, 40
"""Where ``struct seccomp_data`` keeps them; of the arguments the lower half (little-endian)."""
_ALLOW = 0x7FFF0000


def _error(number: int) -> int:
    return 0x00050000 | number


def _do(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, then, otherwise, value)


def program(machine: str) -> bytes:
    """The filter for a machine as ``uname -m`` names it. Raises ``HostError`` for one that is not in the tables."""
    if machine not in _ARCHITECTURES:
        raise HostError(
            f"there is no list of system calls for {machine}",
            "Use x86_64, aarch64 or riscv64",
            unavailable=True,
        )
    column = 0 if machine == "x86_64" else 1
    code = [
        _do(_LOAD, _ARCHITECTURE),
        _do(_EQUAL, _ARCHITECTURES[machine], 1, 0),
        _do(_RETURN, _error(errno.ENOSYS)),
        _do(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        code += [_do(_AT_LEAST, _X32, 0, 1), _do(_RETURN, _error(errno.ENOSYS))]
    for table, number in ((_REFUSED, errno.EPERM), (_ABSENT, errno.ENOSYS)):
        for numbers in table.values():
            call = numbers[column]
            if call is not None:
                code += [_do(_EQUAL, call, 0, 1), _do(_RETURN, _error(number))]
    for call in (_SOCKET[column], _SOCKETPAIR[column]):
        code += _on(call, [_do(_LOAD, _FIRST), *_one_of(_FAMILIES, _ALLOW, _error(errno.EAFNOSUPPORT))])
    code += _on(
        _IOCTL[column], [_do(_LOAD, _SECOND), *_one_of(_TERMINAL_PUSHES, _error(errno.EPERM), _ALLOW)]
    )
    for call, argument, flag in (
        (_MMAP[column], _FOURTH, _MAP_HUGETLB),
        (_MEMFD_CREATE[column], _SECOND, _MFD_HUGETLB),
    ):
        # As on a machine that has none to give.
        refuse = [_do(_SET, flag, 0, 1), _do(_RETURN, _error(errno.ENOMEM)), _do(_RETURN, _ALLOW)]
        code += _on(call, [_do(_LOAD, argument), *refuse])
    code.append(_do(_RETURN, _ALLOW))
    return b"".join(code)


def _on(call: int, body: list[bytes]) -> list[bytes]:
    """``body``, which must return, for one call."""
    return [_do(_EQUAL, call, 0, len(body)), *body]


def _one_of(values: tuple[int, ...], then: int, otherwise: int) -> list[bytes]:
    tests = [_do(_EQUAL, value, len(values) - index, 0) for index, value in enumerate(values)]
    return [*tests, _do(_RETURN, otherwise), _do(_RETURN, then)]


def descriptor() -> int:
    """A descriptor to read the program from, not inherited."""
    file = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    os.write(file, program(platform.machine()))
    os.lseek(file, 0, os.SEEK_SET)
    return file
