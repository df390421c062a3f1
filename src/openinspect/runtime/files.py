"""Writing so that a full disk leaves nothing half: all of what was given lies in the file, or the file is as it was before.

Both functions raise ``OSError`` when the disk refuses.
"""

from __future__ import annotations

import os
from pathlib import Path


def append_whole(fd: int, size: int, data: bytes) -> None:
    """Append to a file that was opened with ``O_APPEND`` and has ``size`` bytes. What was written of it when the disk refused is cut off."""
    try:
        _write(fd, data)
    except OSError:
        os.ftruncate(fd, size)
        raise


def write_whole(path: Path, data: bytes, mode: int = 0o600, *, sync: bool = True) -> None:
    """Replace a file in one step. With ``sync`` it is safe on disk when it returns; without, safe from the death of any process."""
    temporary = path.with_name(path.name + ".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        _write(fd, data)
        if sync:
            os.fdatasync(fd)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    temporary.replace(path)
    if sync:
        _sync_folder(path.parent)


def _write(fd: int, data: bytes) -> None:
    # A disk that has room for a part of it takes that part, and refuses only the rest.
    written = 0
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:] if written else data)


def _sync_folder(folder: Path) -> None:
    """The file's new name, too, has to reach the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
