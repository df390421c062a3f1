"""Processes inside the sandbox: started under the agent's account in sessions of their own, watched, ended, reaped.

Whatever the agent starts stays below us: the supervisor is a subreaper, so that a daemon whose parent has ended becomes our child. ``Census``
finds them through ``/proc``, and tells apart what was there before from what came later.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .wording import LOG_TEXT, clean

_PR_SET_CHILD_SUBREAPER = 36
KILL_SECONDS = 2.0


@dataclass(frozen=True)
class Account:
    """Who a process runs as. Without ids, or when we are not uid 0: as ourselves."""

    uid: int | None = None
    gid: int | None = None

    @property
    def separate(self) -> bool:
        return self.uid is not None and os.geteuid() == 0

    def options(self) -> dict[str, Any]:
        """For ``subprocess``: the account, no further groups, a session of its own, no inherited files."""
        options: dict[str, Any] = {"start_new_session": True, "close_fds": True, "umask": 0o022}
        if self.separate:
            options |= {
                "user": self.uid,
                "group": self.gid if self.gid is not None else self.uid,
                "extra_groups": [],
            }
        return options

    def own(self, path: Path) -> None:
        """Give a file or folder (not what is in it) to the account."""
        if self.separate and self.uid is not None:
            os.chown(path, self.uid, self.gid if self.gid is not None else self.uid, follow_symlinks=False)

    def own_group(self, path: Path) -> None:
        """Leave a file ours, and give it the account's group."""
        if self.separate:
            os.chown(path, -1, self.gid if self.gid is not None else (self.uid or 0))

    def make_folder(self, path: Path) -> None:
        """Make a folder, and those above it that are missing, as the account's own."""
        if not path.exists():
            self.make_folder(path.parent)
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                self.own(path)


@dataclass(frozen=True)
class Finished:
    code: int
    """Exit code; negative: the signal that ended it."""
    stdout: bytes
    stderr: bytes
    timed_out: bool
    cut: bool
    """There was more output than the bound."""

    @property
    def said(self) -> str:
        """The end of what it printed, for a message."""
        return clean((self.stderr or self.stdout).decode(errors="replace").strip()[-1_500:])


class LogTail:
    """The last of a log, bounded."""

    def __init__(self, bound: int = LOG_TEXT) -> None:
        self._bound = bound
        self._pieces: deque[str] = deque()
        self._size = 0

    def add(self, text: str) -> None:
        self._pieces.append(text[-self._bound :])
        self._size += len(self._pieces[-1])
        while self._size - len(self._pieces[0]) >= self._bound:
            self._size -= len(self._pieces.popleft())

    @property
    def text(self) -> str:
        return clean("".join(self._pieces)[-self._bound :])


class OutputPipe:
    """Where a process writes to. A pipe of our own: asyncio's own ones make waiting for a process wait for everybody who inherited its
    output, and what it leaves in the background may hold that for ever."""

    def __init__(self, reader: asyncio.StreamReader, transport: asyncio.ReadTransport, writer: int) -> None:
        self.reader = reader
        self.writer = writer
        """For the process; to be closed on our side once it was started."""
        self._transport = transport

    @classmethod
    async def open(cls) -> OutputPipe:
        read_end, write_end = os.pipe()
        try:
            reader = asyncio.StreamReader(limit=65_536)
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", 0)
            )
        except BaseException:
            os.close(write_end)
            raise
        return cls(reader, transport, write_end)

    def started(self) -> None:
        """The process has its end."""
        os.close(self.writer)

    def close(self) -> None:
        self._transport.close()


DRAIN_SECONDS = 0.3
"""For output that is on its way when a process has ended."""


async def run(
    argv: Sequence[str],
    account: Account,
    *,
    cwd: str | Path,
    env: Mapping[str, str],
    seconds: float,
    bound: int = 8 * 1024 * 1024,
    stdin: bytes = b"",
) -> Finished:
    """Run a program to its end, or until the time or the bound of its output is over: then its group is killed. Raises ``OSError`` when it
    can't be started."""
    out, err = await OutputPipe.open(), await OutputPipe.open()
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=cwd,
            env=dict(env),
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=out.writer,
            stderr=err.writer,
            **account.options(),
        )
    except BaseException:
        out.close()
        err.close()
        raise
    finally:
        out.started()
        err.started()
    output, errors, cut, timed_out = bytearray(), bytearray(), False, False

    async def take(stream: asyncio.StreamReader, into: bytearray, most: int, fatal: bool) -> None:
        nonlocal cut
        while block := await stream.read(65_536):
            into += block[: max(0, most - len(into))]
            if fatal and len(into) >= most:
                cut = True
                kill_group(process.pid)
                return

    async def feed() -> None:
        if process.stdin is not None:
            with contextlib.suppress(ConnectionError):
                process.stdin.write(stdin)
                await process.stdin.drain()
            process.stdin.close()

    tasks = [
        asyncio.create_task(take(out.reader, output, bound, True)),
        asyncio.create_task(take(err.reader, errors, 65_536, False)),
        asyncio.create_task(feed()),
    ]
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
        await asyncio.wait(tasks, timeout=DRAIN_SECONDS)
    except TimeoutError:
        timed_out = True
    finally:
        if process.returncode is None:
            kill_group(process.pid)
            if process.stdin is not None:
                process.stdin.close()
            await process.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        out.close()
        err.close()
    return Finished(process.returncode or 0, bytes(output), bytes(errors), timed_out, cut)


def kill_group(pid: int, number: int = signal.SIGKILL) -> None:
    """Signal the group that a process leads; no error when it has gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


async def end(process: asyncio.subprocess.Process, grace: float) -> None:
    """SIGTERM, ``grace`` seconds, then SIGKILL, to the process's whole group."""
    if process.returncode is None:
        kill_group(process.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                await process.wait()
        except TimeoutError:
            pass
    kill_group(process.pid)
    await process.wait()


def become_subreaper() -> None:
    """What loses its parent below us becomes our child."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@dataclass(frozen=True)
class Entry:
    pid: int
    parent: int
    group: int
    state: str
    started: int
    """Clock ticks since the machine booted: with the pid, a name that is never used again."""


def _entry(pid: int) -> Entry | None:
    try:
        data = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = data[data.rindex(")") + 2 :].split()
    return Entry(pid, int(fields[1]), int(fields[2]), fields[0], int(fields[19]))


def start_time(pid: int) -> int | None:
    """Of a process that lives."""
    entry = _entry(pid)
    return entry.started if entry is not None and entry.state not in "ZX" else None


class Census:
    """All that lives below us at one moment, but not the processes named in ``ours``."""

    def __init__(self, ours: Iterable[int] = ()) -> None:
        entries = [
            entry for p in Path("/proc").iterdir() if p.name.isdigit() and (entry := _entry(int(p.name)))
        ]
        children: dict[int, list[Entry]] = {}
        for entry in entries:
            children.setdefault(entry.parent, []).append(entry)
        skipped = set(ours)
        self.entries: list[Entry] = []
        self.zombies: list[Entry] = []
        stack = list(children.get(os.getpid(), []))
        while stack:
            entry = stack.pop()
            if entry.pid in skipped:
                continue
            if entry.state in "ZX":
                if entry.parent == os.getpid():
                    self.zombies.append(entry)
            else:
                self.entries.append(entry)
            stack.extend(children.get(entry.pid, []))
        self._parents = {entry.pid: entry for entry in entries}

    def names(self) -> frozenset[tuple[int, int]]:
        return frozenset((entry.pid, entry.started) for entry in self.entries)

    def since(self, before: frozenset[tuple[int, int]], agent_group: int | None) -> list[Entry]:
        """What came after ``before`` and does not stem from it: but for the agent's own group (its server, language and tool servers)."""
        found: list[Entry] = []
        for entry in self.entries:
            if entry.group == agent_group or (entry.pid, entry.started) in before:
                continue
            above = self._parents.get(entry.parent)
            while above is not None and above.pid != os.getpid() and above.group != agent_group:
                if (above.pid, above.started) in before:
                    break
                above = self._parents.get(above.parent)
            else:
                found.append(entry)
        return found


async def kill_since(
    before: frozenset[tuple[int, int]], agent_group: int | None, ours: Iterable[int], seconds: float
) -> bool:
    """Kill what came after ``before`` until nothing of it is left; False when something still lives after the time."""
    ours = list(ours)
    deadline = asyncio.get_running_loop().time() + seconds
    while victims := Census(ours).since(before, agent_group):
        for victim in victims:
            if start_time(victim.pid) == victim.started:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(victim.pid, signal.SIGKILL)
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


class Reaper:
    """Takes in the exit of orphans. Our own children are left to those who wait for them: a zombie is taken only when it was one in two
    censuses, as whoever waits for a child has taken it long before the second."""

    def __init__(self) -> None:
        self._before: set[tuple[int, int]] = set()

    def sweep(self, census: Census, known: Iterable[int]) -> None:
        known = set(known)
        zombies = {(entry.pid, entry.started) for entry in census.zombies if entry.pid not in known}
        for pid, _ in zombies & self._before:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self._before = zombies
