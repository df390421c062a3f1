"""A little room on the disk, kept back for when it is full: without it the agent could not even start a turn in which it clears up.

A file of ``RESERVE_BYTES`` lies in the agent's home, owned by the runtime. A turn that begins on a full disk gets its room, and a warning that says
so; once there is enough room again the file is laid back. Nothing here fails a turn: where the file can't be made there is no reserve.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

RESERVE_BYTES = 8 * 1024 * 1024
FULL_BYTES = 4 * 1024 * 1024
"""With less than this the disk counts as full."""
ENOUGH_BYTES = 32 * 1024 * 1024
"""With more than this the reserve is laid back."""


class Room:
    def __init__(self, home: Path) -> None:
        self._home = home
        self._file = home / ".openinspect-reserve"

    def free(self) -> int:
        """Bytes that the agent can still write."""
        state = os.statvfs(self._home)
        return state.f_bavail * state.f_frsize

    def keep(self) -> None:
        """Lay the reserve back if there is room for it."""
        with contextlib.suppress(OSError):  # no reserve then; the next turn's end tries again
            if self._file.exists() or self.free() < ENOUGH_BYTES:
                return
            descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            finally:
                os.close(descriptor)

    def give(self) -> bool:
        """On a full disk, give the reserve up. True when the disk was full."""
        try:
            if self.free() >= FULL_BYTES:
                return False
            self._file.unlink(missing_ok=True)
        except OSError:
            return False
        return True
