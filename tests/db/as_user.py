"""Runs a Python script as another, ordinary user: ``python as_user.py UID SCRIPT ARGUMENT…`` (as root).

The interpreter, the virtual environment and the checkout may lie below folders that only root may enter (``/root``). In a mount namespace of
its own such folders are covered, and only what Python needs is shown again at its usual place.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x20000, 4096, 16384, 1 << 18


def _mount(source: str, target: str, kind: bytes | None, flags: int, data: bytes | None = None) -> None:
    if _libc.mount(source.encode(), target.encode(), kind, ctypes.c_ulong(flags), data) != 0:
        raise OSError(ctypes.get_errno(), f"mount {target}")


def _closed_ancestor(path: Path) -> Path | None:
    """The topmost folder above ``path`` that others may not walk through."""
    return next((folder for folder in reversed(path.parents) if not folder.stat().st_mode & 0o001), None)


def _open_the_way(paths: list[Path]) -> None:
    closed = [(path, ancestor) for path in paths if (ancestor := _closed_ancestor(path))]
    if not closed:
        return
    if _libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    sources = [(os.open(path, os.O_PATH), path) for path, _ in closed]
    for ancestor in {ancestor for _, ancestor in closed}:
        _mount("tmpfs", str(ancestor), b"tmpfs", 0, b"mode=0755")
    for descriptor, path in sources:
        path.mkdir(parents=True, exist_ok=True)
        _mount(f"/proc/self/fd/{descriptor}", str(path), None, _MS_BIND | _MS_REC)


def main() -> None:
    uid = int(sys.argv[1])
    checkout = Path(__file__).resolve().parents[2]
    needed = {
        Path(sys.base_prefix).resolve(),
        Path(sys.prefix).resolve(),
        checkout / "src",
        checkout / "tests",
    }
    outermost = [path for path in needed if not any(other in path.parents for other in needed)]
    _open_the_way(sorted(outermost))
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    os.execve(sys.executable, [sys.executable, *sys.argv[2:]], environment)


if __name__ == "__main__":
    main()
