"""Commands that were taken, safe on disk until they are done.

    take → written → acted upon → (the disk has it) seen → done

The control plane sends again what it was not told that we have seen, and a number that is known is not acted upon twice. After a crash,
commands that were not done are done again. While the disk refuses, commands wait in their order, nobody is told that they were seen, and
writing is tried again every ``RETRY_SECONDS``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

import orjson
from pydantic import TypeAdapter, ValidationError

from openinspect.protocol.commands import Command

from .files import append_whole, write_whole

RETRY_SECONDS = 0.5
_command = TypeAdapter[Command](Command)
_COMPACT_BYTES = 256 * 1024


class CommandLog:
    """``act`` is called with each new command, in order; ``seen`` when everything up to a number is safe."""

    def __init__(
        self, path: Path, sandbox_id: str, act: Callable[[int, Command], None], seen: Callable[[int], None]
    ) -> None:
        self._path = path
        self._sandbox_id = sandbox_id
        self._act = act
        self._tell_seen = seen
        self.last = 0
        """The newest that is written."""
        self._safe = 0
        """The newest that power loss can't take any more."""
        self._pending: dict[int, Command] = {}
        self._taken: deque[tuple[int, Command | None]] = deque()
        """What is not written yet."""
        self._done: deque[int] = deque()
        """Likewise."""
        self._fd = -1
        self._load()
        self._dirty = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None

    def _load(self) -> None:
        lines = self._path.read_bytes().split(b"\n") if self._path.exists() else []
        if lines and lines[0] == orjson.dumps({"sandbox": self._sandbox_id}):
            for written in lines[1:]:
                # Power loss can leave a torn last line, which nobody was told of.
                with contextlib.suppress(orjson.JSONDecodeError, ValidationError):
                    entry = orjson.loads(written)
                    if "done" in entry:
                        self._pending.pop(entry["done"], None)
                        continue
                    self.last = max(self.last, entry["n"])
                    if entry.get("command") is not None:
                        self._pending[entry["n"]] = _command.validate_python(entry["command"])
        self._rewrite()

    def _rewrite(self) -> None:
        entries: list[dict[str, object]] = [{"sandbox": self._sandbox_id}, {"n": self.last}]
        entries += [{"n": n, "command": c.model_dump(mode="json")} for n, c in self._pending.items()]
        write_whole(self._path, b"".join(orjson.dumps(entry) + b"\n" for entry in entries))
        former, self._fd = self._fd, os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._size = os.fstat(self._fd).st_size
        self._safe = self.last
        if former >= 0:
            os.close(former)

    def start(self) -> None:
        """Act upon what an earlier life left undone, and keep the disk up to date from here on."""
        self._task = asyncio.create_task(self._sync())
        self._tell_seen(self._safe)
        for n, command in sorted(self._pending.items()):
            self._act(n, command)

    async def close(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        os.close(self._fd)

    def take(self, n: int, command: Command | None) -> None:
        """A command came; None: of a kind that is not known, which is only counted."""
        if n <= self.last:
            self._tell_seen(self._safe)
        elif not self._taken or n > self._taken[-1][0]:
            self._taken.append((n, command))
            self._write_down()

    def done(self, n: int) -> None:
        if self._pending.pop(n, None) is not None:
            self._done.append(n)
            self._write_down()

    def _write_down(self) -> None:
        """All that waits for the disk, as far as it goes."""
        try:
            while self._done:
                if not self._pending and self._size > _COMPACT_BYTES:
                    self._rewrite()
                    self._done.clear()
                else:
                    self._write({"done": self._done[0]})
                    self._done.popleft()
            while self._taken:
                n, command = self._taken[0]
                self._write({"n": n, "command": None if command is None else command.model_dump(mode="json")})
                self._taken.popleft()
                self.last = n
                self._dirty.set()
                if command is not None:
                    self._pending[n] = command
                    self._act(n, command)
        except OSError as error:
            self._try_again(error)

    def _try_again(self, error: OSError) -> None:
        if self._retry is None:
            print(f"openinspect: commands can't be written down yet: {error}", file=sys.stderr, flush=True)
            self._retry = asyncio.get_running_loop().call_later(RETRY_SECONDS, self._again)

    def _again(self) -> None:
        self._retry = None
        self._write_down()

    def _write(self, entry: dict[str, object]) -> None:
        data = orjson.dumps(entry) + b"\n"
        append_whole(self._fd, self._size, data)
        self._size += len(data)

    async def _sync(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            upto, fd = self.last, os.dup(self._fd)
            try:
                await asyncio.to_thread(os.fdatasync, fd)
            except OSError as error:
                # The kernel may have let go of what it could not write: all of it is written anew.
                print(f"openinspect: commands could not be synced: {error}", file=sys.stderr, flush=True)
                await asyncio.sleep(RETRY_SECONDS)
                self._dirty.set()
                with contextlib.suppress(OSError):
                    self._rewrite()
                continue
            finally:
                os.close(fd)
            self._safe = max(self._safe, upto)
            self._tell_seen(self._safe)
