"""Commands that were seen, safe on disk until they are done.

A command is acted upon at once and said to be seen when the disk has it; the control plane sends again what it was not told of, and a number
that is known is not acted upon twice. After a crash, commands that were not done are done again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import orjson
from pydantic import TypeAdapter, ValidationError

from openinspect.protocol.commands import Command

from .outbox import write_whole

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
        self._pending: dict[int, Command] = {}
        self._load()
        self._dirty = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def _load(self) -> None:
        lines = self._path.read_bytes().split(b"\n") if self._path.exists() else []
        if lines and lines[0] == orjson.dumps({"sandbox": self._sandbox_id}):
            for written in lines[1:]:
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
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._size = os.fstat(self._fd).st_size

    def start(self) -> None:
        """Act upon what an earlier life left undone, and keep the disk up to date from here on."""
        self._task = asyncio.create_task(self._sync())
        self._tell_seen(self.last)
        for n, command in sorted(self._pending.items()):
            self._act(n, command)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        os.close(self._fd)

    def take(self, n: int, command: Command | None) -> None:
        """A command came; None: of a kind that is not known, which is only counted."""
        if n <= self.last:
            self._tell_seen(self.last)
            return
        self.last = n
        body = None if command is None else command.model_dump(mode="json")
        self._write({"n": n, "command": body})
        self._dirty.set()
        if command is not None:
            self._pending[n] = command
            self._act(n, command)

    def done(self, n: int) -> None:
        if self._pending.pop(n, None) is not None:
            if not self._pending and self._size > _COMPACT_BYTES:
                os.close(self._fd)
                self._rewrite()
            else:
                self._write({"done": n})

    def _write(self, entry: dict[str, object]) -> None:
        data = orjson.dumps(entry) + b"\n"
        os.write(self._fd, data)
        self._size += len(data)

    async def _sync(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            upto, fd = self.last, os.dup(self._fd)
            try:
                await asyncio.to_thread(os.fdatasync, fd)
            finally:
                os.close(fd)
            self._tell_seen(upto)
