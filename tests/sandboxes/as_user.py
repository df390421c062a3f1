"""Runs Python as an ordinary user with subordinate ids: ``python as_user.py UID FOLDER ARGUMENT…`` (as root).

No user is added to this machine: in a mount namespace of its own the files that name users get one more line, and folders that only root may
enter are covered, with what Python needs shown again at its usual place. ``FOLDER`` becomes the user's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from openinspect.sandboxes.local import kernel

_NAME = "ordinary"


def _closed_ancestor(path: Path) -> Path | None:
    """The topmost folder above ``path`` that others may not walk through."""
    return next((folder for folder in reversed(path.parents) if not folder.stat().st_mode & 0o001), None)


def _open_the_way(paths: list[Path]) -> None:
    closed = [(path, ancestor) for path in paths if (ancestor := _closed_ancestor(path))]
    sources = [(os.open(path, os.O_PATH), path) for path, _ in closed]
    for ancestor in {ancestor for _, ancestor in closed}:
        kernel.mount("tmpfs", str(ancestor), "tmpfs", 0, "mode=0755")
    for descriptor, path in sources:
        path.mkdir(parents=True, exist_ok=True)
        kernel.mount(f"/proc/self/fd/{descriptor}", str(path), flags=kernel.MS_BIND | kernel.MS_REC)


def _add_user(uid: int, folder: Path) -> None:
    lines = {
        "passwd": f"{_NAME}:x:{uid}:{uid}::{folder}:/bin/sh\n",
        "group": f"{_NAME}:x:{uid}:\n",
        "subuid": f"{_NAME}:1800000000:65536\n",
        "subgid": f"{_NAME}:1800000000:65536\n",
    }
    for name, line in lines.items():
        there = Path("/etc", name)
        changed = folder / name
        changed.write_text(there.read_text() + line)
        changed.chmod(0o644)
        kernel.mount(str(changed), str(there), flags=kernel.MS_BIND)


def main() -> None:
    uid, folder = int(sys.argv[1]), Path(sys.argv[2])
    checkout = Path(__file__).resolve().parents[2]
    needed = {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), checkout, folder}
    outermost = [path for path in needed if not any(other in path.parents for other in needed)]
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    _add_user(uid, folder)
    _open_the_way(sorted(outermost))
    os.chown(folder, uid, uid)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    os.chdir(checkout)
    os.execve(sys.executable, [sys.executable, *sys.argv[3:]], environment)


if __name__ == "__main__":
    main()
