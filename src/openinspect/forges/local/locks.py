"""One merge at a time in one repository, also between processes: a work tree that follows can't be seen half moved.

The lock is the kernel's (flock), so it is gone with the process that held it. The local code host is one machine's, and so is its lock.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ..errors import ForgeUnavailable


@asynccontextmanager
async def exclusive(file: Path, *, seconds: float) -> AsyncIterator[None]:
    """Hold ``file``'s lock inside of the block. Raises ``ForgeUnavailable`` when it is not free within ``seconds``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + seconds
        while not _taken(descriptor):
            if time.monotonic() > deadline:
                raise ForgeUnavailable(
                    "Another merge into this repository is going on", "Try again in a moment."
                )
            await asyncio.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
