"""The system call filter, run by a small interpreter of its own byte code for each machine; in a real box see ``test_local_isolation``."""

from __future__ import annotations

import errno
import struct

import pytest

from openinspect.sandboxes.local import seccomp
from openinspect.sandboxes.local.kernel import HostError

ALLOW = 0x7FFF0000
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "riscv64": 0xC00000F3}


def decide(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    data = struct.pack("=IIQ6Q", number, architecture, 0, *arguments, *([0] * (6 - len(arguments))))
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    held, at = 0, 0
    while True:
        kind, then, otherwise, value = code[at]
        at += 1
        if kind == 0x20:
            (held,) = struct.unpack_from("=I", data, value)
        elif kind in (0x15, 0x35, 0x45):
            met = {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}[kind]
            at += then if met else otherwise
        elif kind == 0x06:
            return value
        else:
            raise AssertionError(kind)


def refused(number: int) -> int:
    return 0x00050000 | number


@pytest.mark.parametrize("machine", MACHINES)
def test_sockets_that_no_namespace_confines_cannot_be_made(machine: str) -> None:
    program, architecture = seccomp.program(machine), MACHINES[machine]
    for call in (41, 53) if machine == "x86_64" else (198, 199):
        for family in (1, 2, 10, 16):
            assert decide(program, architecture, call, family, 1) == ALLOW
        for family in (0, 3, 17, 38, 40, 44, 2**32 - 1):
            assert decide(program, architecture, call, family, 1) == refused(errno.EAFNOSUPPORT)


@pytest.mark.parametrize("machine", MACHINES)
def test_characters_cannot_be_pushed_into_a_terminal(machine: str) -> None:
    program, architecture = seccomp.program(machine), MACHINES[machine]
    call = 16 if machine == "x86_64" else 29
    assert decide(program, architecture, call, 0, 0x5412) == refused(errno.EPERM)
    assert decide(program, architecture, call, 0, 0x5412 | 1 << 40) == refused(errno.EPERM)
    assert decide(program, architecture, call, 0, 0x541C) == refused(errno.EPERM)
    assert decide(program, architecture, call, 0, 0x5401) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_what_is_one_count_for_the_whole_machine_is_refused(machine: str) -> None:
    program, architecture = seccomp.program(machine), MACHINES[machine]
    mmap, memfd_create, io_setup = (9, 319, 206) if machine == "x86_64" else (222, 279, 0)
    assert decide(program, architecture, io_setup, 1, 0) == refused(errno.ENOSYS)
    assert decide(program, architecture, mmap, 0, 4096, 3, 0x22) == ALLOW
    assert decide(program, architecture, mmap, 0, 4096, 3, 0x22 | 0x40000 | 21 << 26) == refused(errno.ENOMEM)
    assert decide(program, architecture, memfd_create, 0, 3) == ALLOW
    assert decide(program, architecture, memfd_create, 0, 4) == refused(errno.ENOMEM)


@pytest.mark.parametrize("machine", MACHINES)
def test_listed_calls_are_refused_and_others_allowed(machine: str) -> None:
    program, architecture = seccomp.program(machine), MACHINES[machine]
    mount, keyctl, ptrace, read = (165, 250, 101, 0) if machine == "x86_64" else (40, 219, 117, 63)
    assert decide(program, architecture, mount) == refused(errno.EPERM)
    assert decide(program, architecture, keyctl) == refused(errno.EPERM)
    assert decide(program, architecture, 425) == refused(errno.ENOSYS)
    assert decide(program, architecture, ptrace) == ALLOW
    assert decide(program, architecture, read) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_another_word_size_are_absent(machine: str) -> None:
    program = seccomp.program(machine)
    assert decide(program, 0x40000003, 1) == refused(errno.ENOSYS)
    if machine == "x86_64":
        assert decide(program, MACHINES[machine], 0x40000000 | 41, 2) == refused(errno.ENOSYS)


def test_a_machine_that_is_not_in_the_tables_is_refused() -> None:
    with pytest.raises(HostError) as caught:
        seccomp.program("sparc64")
    assert caught.value.unavailable
