"""The user namespace of an ordinary user: its ids written by the setuid helpers, and work done in one.

Own id → 0, subordinate ids (``/etc/subuid``, ``/etc/subgid``) → 1 and up. The helpers need somebody outside of the namespace to call them.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

from . import kernel
from .kernel import HostError
from .plan import IDS

Range = tuple[int, int]
"""First id and count."""

REMEDY = (
    "Install the package `uidmap`, and give the user a range of ids: "
    "`usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`"
)


def write(pid: int, subuids: Range | None, subgids: Range | None) -> str:
    """Maps the ids of a process that has just made a user namespace. Returns why it failed, or nothing."""
    for helper, own, ids in (("newuidmap", os.getuid(), subuids), ("newgidmap", os.getgid(), subgids)):
        if ids is None:
            return "this user has no subordinate ids"
        words = [str(number) for number in (pid, 0, own, 1, 1, ids[0], min(ids[1], IDS - 1))]
        try:
            done = subprocess.run(
                [helper, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False
            )
        except OSError as error:
            return f"{helper}: {error.strerror}"
        if done.returncode != 0:
            return f"{helper}: {done.stderr.decode(errors='replace').strip()[-300:]}"
    return ""


def enter(flags: int = 0) -> None:
    """Makes the namespace, for the calling process. The ids are ``write``'s business."""
    try:
        kernel.unshare(kernel.CLONE_NEWUSER | flags)
    except OSError as error:
        raise HostError(
            f"this host lets no ordinary user make a user namespace ({error.strerror})",
            "Allow it: `sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=15000`, or run the server as root",
            unavailable=True,
        ) from error


def remove(folder: Path) -> None:
    """Deletes a folder with files of subordinate ids in it. Only in a process without threads. Raises ``HostError``."""
    ready, confirm = os.pipe()
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            enter()
            os.write(confirm, b"1")
            os.close(tell)
            if os.read(told, 1) == b"1":
                shutil.rmtree(folder)
                code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(confirm)
    os.close(told)
    problem = "no user namespace" if os.read(ready, 1) != b"1" else write(pid, *own_ranges())
    if not problem:
        os.write(tell, b"1")
    os.close(ready)
    os.close(tell)
    _, status = os.waitpid(pid, 0)
    if problem or status:
        raise HostError(f"the files in {folder} could not be deleted ({problem or 'see above'})", REMEDY)


def own_ranges() -> tuple[Range | None, Range | None]:
    """This user's subordinate user and group ids."""
    return subordinate(Path("/etc/subuid")), subordinate(Path("/etc/subgid"))


def subordinate(file: Path) -> Range | None:
    """This user's longest range in one of the two files."""
    names = {str(os.getuid())}
    with contextlib.suppress(KeyError):
        names.add(pwd.getpwuid(os.getuid()).pw_name)
    best: Range | None = None
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        parts = line.strip().split(":")
        if len(parts) == 3 and parts[0] in names and parts[1].isdigit() and parts[2].isdigit():
            candidate = int(parts[1]), int(parts[2])
            if best is None or candidate[1] > best[1]:
                best = candidate
    return best


def main(arguments: list[str]) -> int:
    """``python -m openinspect.sandboxes.local.idmap FOLDER``: ``remove`` for a server, which has threads."""
    try:
        remove(Path(arguments[0]))
    except HostError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
