"""Naming a process so that another one is never taken for it: its number, the tick it started at, and the boot it belongs to."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    pid: int
    start: int
    """Field 22 of ``/proc/<pid>/stat``: clock ticks after boot."""
    boot: str


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> tuple[str, int] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The command's name may hold spaces and parentheses: the fields begin after the last one.
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def identify(pid: int) -> Process | None:
    """None when there is no such process, or only its remains (a zombie)."""
    found = _stat(pid)
    if found is None or found[0] in "ZX":
        return None
    return Process(pid, found[1], boot_id())


def alive(process: Process) -> bool:
    return identify(process.pid) == process


def send(process: Process, number: signal.Signals) -> bool:
    """Signals exactly this process; False when it is gone. Raises ``PermissionError`` when it is someone else's."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        if not alive(process):
            return False
        signal.pidfd_send_signal(descriptor, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)


def wait_gone(process: Process, seconds: float) -> bool:
    """Blocks until the process has ended, at most so long; whether it has."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return True
    try:
        if not alive(process):
            return True
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        return bool(poller.poll(max(0, int(seconds * 1000))))
    finally:
        os.close(descriptor)


def first_child(pid: int) -> int | None:
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return None
    return int(words[0]) if words else None
