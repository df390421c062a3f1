"""What the kernel counts by user, so that no box takes all of it: inotify and fanotify, message queues, pending signals, locked memory, processes.

Such a count is charged to a user id within its user namespace, then to the user that made the namespace, and so on up to the host, with a bound
on each step. Who made the box's namespace therefore pays for all that is in it:

    run by root             a host id of the box's own range, other than the ids that live in it, another one for each box (two of some tens of
                            thousands of boxes may share one). The host's bounds for one user are the box's, and root's counts stay untouched
    run by ordinary users   id 0 of the holder's namespace, so that a share of what the host gives the user is written there as the bound of
                            the whole box. Several boxes of one user can take all of that user's still; other users' never

What the kernel counts by host id alone is not told apart here, since boxes share the range: watches of epoll, pages of pipes, descriptors on their
way through sockets. Boxes can crowd each other there, not the host's own users.
"""

from __future__ import annotations

import contextlib
import os
import resource
import zlib
from pathlib import Path

from . import kernel
from .plan import IDS, Plan

_FIRST_OWNER = 2000
"""Below are the ids that live in a box."""
_SHARES = {
    "max_inotify_instances": ("inotify/max_user_instances", 4),
    "max_inotify_watches": ("inotify/max_user_watches", 2),
    "max_fanotify_groups": ("fanotify/max_user_groups", 4),
    "max_fanotify_marks": ("fanotify/max_user_marks", 2),
}
"""The bound of a user namespace: the file below ``/proc/sys/fs`` with the host's for one user, and which part of it a box gets."""
_OPEN_FILES = 65536
_SPARE_PROCESSES = 4
"""bubblewrap's own and the holder."""


def owner(plan: Plan) -> int | None:
    """The host id that makes the box's user namespace; None: the one that runs the holder."""
    if plan.uid_base is None:
        return None
    return plan.uid_base + _FIRST_OWNER + zlib.crc32(plan.box_id.encode()) % (IDS - _FIRST_OWNER)


def become(host_id: int) -> None:
    """For the making of a namespace, which ends what is kept here: some hosts let only a process with capabilities make one."""
    with contextlib.suppress(OSError):
        kernel.keep_capabilities()
    os.setresuid(host_id, host_id, host_id)


def bound_namespace() -> None:
    """Bounds all boxes of the calling process's user namespace, by a share of what the host gives one user."""
    for name, (host, part) in _SHARES.items():
        there, most = Path("/proc/sys/user", name), Path("/proc/sys/fs", host)
        # fanotify is compiled into some kernels only.
        if there.exists() and most.exists():
            there.write_text(str(max(1, int(most.read_text()) // part)))


def bound_process(processes: int | None) -> None:
    """Resource limits, which also bound the user namespace that the process makes next. ``processes``: where no cgroup bounds them."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(files, _OPEN_FILES), min(files, _OPEN_FILES)))
    _, core = resource.getrlimit(resource.RLIMIT_CORE)
    if core == resource.RLIM_INFINITY or core > 1:
        # One byte: the kernel then calls no handler of the host's, whereas it does with none.
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    for which in (resource.RLIMIT_SIGPENDING, resource.RLIMIT_MSGQUEUE, resource.RLIMIT_MEMLOCK):
        own, _ = resource.getrlimit(which)
        if own != resource.RLIM_INFINITY:
            resource.setrlimit(which, (own // 2, own // 2))
    if processes is not None:
        _lower(resource.RLIMIT_NPROC, processes + _SPARE_PROCESSES)


def _lower(which: int, most: int) -> None:
    _, own = resource.getrlimit(which)
    value = most if own == resource.RLIM_INFINITY else min(own, most)
    resource.setrlimit(which, (value, value))
