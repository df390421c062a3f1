"""How much a session's pushes may leave on this host's disk, and how much of the disk stays free.

What is pushed lies outside the sandbox's quota, and stays when its branch is deleted again. So two bounds hold for a push to a repository of this machine:

- a session's pushes together may bring ``session_bytes``. Counted are the bytes of the packs, also of those that git refused, and where git has
  stored more than was sent (it completes packs, and unpacks small ones) what it stored. What somebody else stores there in the same moment may count too;
- the repository's disk keeps ``free_bytes`` free. This is looked at before, while and after the pack comes, until git has ended.

Both raise ``NoRoom``; of a push that ends by it only what git has stored all the same is counted, which is nothing as a rule. Deleting branches brings nothing and is never refused here. The count is
this process's own: it begins anew when the server does, and the free space is then the only bound that is left.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

_LOOK_SECONDS = 0.5
_SESSIONS_KEPT = 10_000
_FILES_COUNTED = 100_000
_CLOCK_TICK_NS = 20_000_000  # file times come from a coarser clock than ours


class NoRoom(Exception):
    """The push must not go on. ``rule`` is the rule's stable name, the text says why in words, ``remedy`` what to do."""

    def __init__(self, rule: str, text: str, remedy: tuple[str, ...]) -> None:
        super().__init__(text)
        self.rule = rule
        self.remedy = remedy


class Rooms:
    """The counts of all sessions."""

    def __init__(self, session_bytes: int, free_bytes: int) -> None:
        self.session_bytes = session_bytes
        self.free_bytes = free_bytes
        self._used: OrderedDict[str, int] = OrderedDict()

    def used(self, session_id: str) -> int:
        return self._used.get(session_id, 0)

    def add(self, session_id: str, size: int) -> int:
        self._used[session_id] = total = max(0, self.used(session_id) + size)
        self._used.move_to_end(session_id)
        if len(self._used) > _SESSIONS_KEPT:
            self._used.popitem(last=False)
        return total


class Room:
    """The room of one push into the folder ``objects``."""

    def __init__(self, rooms: Rooms, session_id: str, objects: Path) -> None:
        self._rooms = rooms
        self._session_id = session_id
        self._objects = objects
        self._sent = 0

    async def bounding(self, push: Coroutine[Any, Any, None]) -> None:
        """Do ``push``, whose bytes go through ``take``; end it when there is no room. Raises ``NoRoom``, and what ``push`` raises."""
        try:
            self.take(0)
            self._look()
            before = await asyncio.to_thread(_packs, self._objects)
        except BaseException:
            push.close()
            raise
        began = time.time_ns() - _CLOCK_TICK_NS
        pushing = asyncio.create_task(push)
        looking = asyncio.create_task(self._keep_looking())
        sent_counts = True
        try:
            await asyncio.wait((pushing, looking), return_when=asyncio.FIRST_COMPLETED)
            if not pushing.done():
                pushing.cancel()
                await asyncio.gather(pushing, return_exceptions=True)
                await looking
            await pushing
        except NoRoom:
            sent_counts = False
            raise
        finally:
            for task in (looking, pushing):
                task.cancel()
            await asyncio.gather(looking, pushing, return_exceptions=True)
            stored = await asyncio.to_thread(_stored_since, self._objects, before, began)
            counts = max(stored, self._sent if sent_counts else 0)
            self._rooms.add(self._session_id, counts - self._sent)

    def take(self, size: int) -> None:
        """Count ``size`` more bytes. Raises ``NoRoom``."""
        self._sent += size
        most = self._rooms.session_bytes
        if self._rooms.add(self._session_id, size) >= most:
            raise NoRoom(
                "push-budget",
                f"the session's pushes together may bring {most >> 20} MiB",
                (
                    "Do this instead: leave large files out of the commits (git rm --cached FILE, git commit --amend), then push.",
                    "Nothing is lost: your commits are in the workspace. If all of it is used up, the work goes on in a new session.",
                ),
            )

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self._look()

    def _look(self) -> None:
        disk = os.statvfs(self._objects)
        if disk.f_bavail * disk.f_frsize < self._rooms.free_bytes:
            raise NoRoom(
                "disk-full",
                f"the server's disk has less than {self._rooms.free_bytes >> 20} MiB free",
                (
                    "Nothing is lost: your commits are in the workspace.",
                    "Do this instead: ask for space to be freed on the server's disk, then push again.",
                ),
            )


def _packs(objects: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(objects / "pack"))  # noqa: PTH208 - names alone, and there may be many
    except FileNotFoundError:
        return frozenset()


def _stored_since(objects: Path, packs_before: frozenset[str], began: int) -> int:
    """Bytes of the packs that are new, and of the loose objects written since ``began`` (ns); of at most 100,000 files."""
    total = count = 0
    for folder in os.scandir(objects):
        # git touches a pack when it finds an object in it again: a pack's time does not say that it is new
        packs = folder.name == "pack"
        if not packs and len(folder.name) != 2:
            continue
        found = folder.stat(follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode) or found.st_mtime_ns < began:
            continue
        for entry in os.scandir(folder):
            count += 1
            if count > _FILES_COUNTED:
                return total
            try:
                file = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # a gc removes while we look
            new = entry.name not in packs_before if packs else file.st_mtime_ns >= began
            total += file.st_size if new else 0
    return total
