"""Serving a repository of this machine: git's own upload-pack and receive-pack, with pipes to the client.

They run hardened and as the repository's owner (``forges.local.git``), in a process group that is killed when the exchange ends in any way; a push's may
first remove what it has taken in. Which pushed
refs git has accepted is read from the refs afterwards, also when the client went away in between. A push whose objects need more memory than git may have
(``forges.local.git``) is refused by git, which keeps nothing of it; what that means is added here to git's words.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from dulwich.protocol import pkt_line

from ..forges.contract import COMMITTER, GitBackend, LocalGitBackend
from ..forges.errors import ForgeUnavailable
from ..forges.local.git import (
    LARGEST_ALLOCATION,
    NOT_READING,
    SHOWN_REFS,
    Git,
    GitCommand,
    identity,
    last_line,
    redact,
    running,
    tail,
)
from ..forges.local.place import locate
from .git_exchange import ClientGone, Exchange
from .git_policy import PushRequest

Told = Callable[[str, str, str], Awaitable[None]]
"""(ref, old commit, new commit) of one accepted command."""

_PIECE = 64 * 1024
_TIDY_SECONDS = 10.0
_NO_MEMORY = re.compile(rb"attempting to allocate \d+ over limit|Out of memory|out of memory")
_NO_MEMORY_SAID = (
    f"Open-Inspect: git may take {LARGEST_ALLOCATION >> 20} MiB for one object of a push, and an object of this push needs more. Nothing of it was kept.",
    "Do this instead: leave that file out of the commits (git rm --cached FILE, git commit --amend), then push.",
)
_MEMORY = ("pack.threads=2", "pack.windowMemory=64m", "pack.deltaCacheSize=64m", "core.bigFileThreshold=32m")
_UPLOAD = (
    *(f"uploadpack.hideRefs={ref}" for ref in SHOWN_REFS),
    "uploadpack.allowFilter=true",
    "uploadpack.keepAlive=5",
    "uploadpack.allowTipSHA1InWant=false",
    "uploadpack.allowReachableSHA1InWant=false",
    "uploadpack.allowAnySHA1InWant=false",
    *_MEMORY,
)
# faults that old histories really have, and that do no harm
_TOLERATED = (
    "missingSpaceBeforeDate",
    "zeroPaddedFilemode",
    "badTimezone",
    "missingEmail",
    "badEmail",
    "badDate",
)
_RECEIVE = (
    *(f"receive.hideRefs={ref}" for ref in SHOWN_REFS),
    "receive.denyCurrentBranch=refuse",
    "receive.denyDeleteCurrent=refuse",
    "receive.denyNonFastForwards=false",
    "receive.denyDeletes=false",
    "receive.advertisePushOptions=false",
    "receive.keepAlive=5",
    "receive.fsckObjects=true",
    *(f"receive.fsck.{fault}=warn" for fault in _TOLERATED),
    "receive.maxInputSize=2147483648",
    *_MEMORY,
)
_COMMITTER = identity("COMMITTER", COMMITTER)  # stands in the reflog


class LocalService:
    def __init__(self, idle_seconds: float) -> None:
        self._idle_seconds = idle_seconds

    async def advertise(self, exchange: Exchange, backend: GitBackend, service: str, version: str) -> None:
        git = _git(backend)
        command = _command(git, service, ("--http-backend-info-refs",), version)
        head = b"" if version == "version=2" and service == "git-upload-pack" else _announcement(service)

        async def work() -> None:
            async with running(command, stdin=asyncio.subprocess.DEVNULL) as process:
                await self._stream(
                    exchange, process, f"application/x-{service}-advertisement", git, head=head
                )
            await exchange.end()

        await _rest_of(exchange)
        await exchange.while_client_is_there(work())

    async def fetch(self, exchange: Exchange, backend: GitBackend, body: bytes, version: str) -> None:
        git = _git(backend)
        command = _command(git, "git-upload-pack", (), version)

        async def work() -> None:
            async with running(command) as process:
                feeding = asyncio.create_task(_feed_all(process, body))
                try:
                    await self._stream(exchange, process, "application/x-git-upload-pack-result", git)
                finally:
                    feeding.cancel()
                    await asyncio.gather(feeding, return_exceptions=True)
            await exchange.end()

        await exchange.while_client_is_there(work())

    async def push(
        self,
        exchange: Exchange,
        backend: GitBackend,
        push: PushRequest,
        pack: AsyncIterator[bytes],
        told: Told,
    ) -> None:
        git = _git(backend)
        command = _command(git, "git-receive-pack", (), "")
        try:
            async with running(command) as process:

                async def work() -> None:
                    said = _Explained() if b"side-band-64k" in push.capabilities else None
                    await self._stream(
                        exchange, process, "application/x-git-receive-pack-result", git, said=said
                    )

                try:
                    await self._feed(process, push.encode(), pack)
                    await exchange.while_client_is_there(work())
                except BaseException:
                    await _let_tidy_up(process)
                    raise
        finally:
            await _shielded(_tell_accepted(git, push, told))
        await exchange.end()

    async def _feed(
        self, process: asyncio.subprocess.Process, head: bytes, pack: AsyncIterator[bytes]
    ) -> None:
        """Hand the push to git. When git stops reading, the rest is thrown away, so that the client comes to read why."""
        assert process.stdin is not None
        reading = True

        async def write(piece: bytes) -> bool:
            assert process.stdin is not None
            try:
                process.stdin.write(piece)
                async with asyncio.timeout(self._idle_seconds):
                    await process.stdin.drain()
            except NOT_READING:
                return False
            return True

        reading = await write(head)
        async for piece in pack:
            if reading:
                reading = await write(piece)
        process.stdin.close()

    async def _stream(
        self,
        exchange: Exchange,
        process: asyncio.subprocess.Process,
        content_type: str,
        git: Git,
        *,
        head: bytes = b"",
        said: _Explained | None = None,
    ) -> None:
        """Git's output to the client, by way of ``said``. Raises ``ForgeUnavailable`` when git failed before it said anything."""
        assert process.stdout is not None and process.stderr is not None
        errors = asyncio.create_task(tail(process.stderr))
        try:
            while piece := await self._read(process.stdout):
                if not exchange.started:
                    await exchange.start(200, content_type)
                    piece = head + piece
                await exchange.write(said.through(piece) if said else piece)
            if said:
                await exchange.write(said.rest())
            async with asyncio.timeout(self._idle_seconds):
                code = await process.wait()
                stderr = await errors
        finally:
            errors.cancel()
            await asyncio.gather(errors, return_exceptions=True)
        if not exchange.started:
            if code != 0:
                text = redact(stderr.decode("utf-8", "replace")).replace(
                    str(git.place.git_dir), "<repository>"
                )
                raise ForgeUnavailable(
                    f"git could not serve this repository: {last_line(text)}",
                    "Run `git fsck` in it on the server.",
                )
            await exchange.start(200, content_type)
            if head:
                await exchange.write(head)

    async def _read(self, stream: asyncio.StreamReader) -> bytes:
        async with asyncio.timeout(self._idle_seconds):
            return await stream.read(_PIECE)


class _Explained:
    """Receive-pack's output on its way: when it tells of too little memory, what that means is said before its last packet."""

    def __init__(self) -> None:
        self._held = b""
        self._seen = b""
        self._no_memory = False

    def through(self, piece: bytes) -> bytes:
        self._no_memory = self._no_memory or _NO_MEMORY.search(self._seen + piece) is not None
        self._seen = (self._seen + piece)[-100:]
        whole = self._held + piece
        self._held = whole[-4:]
        return whole[:-4]

    def rest(self) -> bytes:
        if self._held != b"0000" or not self._no_memory:
            return self._held
        return b"".join(pkt_line(b"\x02" + line.encode() + b"\n") for line in _NO_MEMORY_SAID) + self._held


def _git(backend: GitBackend) -> Git:
    assert isinstance(backend, LocalGitBackend)
    return Git(locate(backend.path))


def _command(git: Git, service: str, args: tuple[str, ...], version: str) -> GitCommand:
    config = _RECEIVE if service == "git-receive-pack" else _UPLOAD
    env = {**_COMMITTER, **({"GIT_PROTOCOL": version} if version else {})}
    # strict: exactly this folder, and none that git would guess beside it
    strict = ("--strict",) if service == "git-upload-pack" else ()
    words = (service.removeprefix("git-"), "--stateless-rpc", *strict, *args, str(git.place.git_dir))
    return git.in_repository(words, config=config, env=env)


def _announcement(service: str) -> bytes:
    return pkt_line(f"# service={service}\n".encode()) + b"0000"


async def _rest_of(exchange: Exchange) -> None:
    """A GET has no body, but its end has to be read before the client's going can be noticed."""
    await exchange.discard_body(most_bytes=65_536)


async def _feed_all(process: asyncio.subprocess.Process, body: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(*NOT_READING):
        process.stdin.write(body)
        await process.stdin.drain()
    process.stdin.close()


async def _tell_accepted(git: Git, push: PushRequest, told: Told) -> None:
    names = [command.ref.decode("utf-8", "surrogateescape") for command in push.commands]
    result = await git.run("for-each-ref", "--format=%(objectname) %(refname)", *names, timeout=10)
    now = {}
    for line in result.stdout.decode("utf-8", "surrogateescape").splitlines():
        oid, _, name = line.partition(" ")
        now[name] = oid
    for command, name in zip(push.commands, names, strict=True):
        present = now.get(name)
        accepted = present is None if command.deletes else present == command.new
        if accepted and command.old != command.new:
            await told(name, command.old, command.new)


async def _let_tidy_up(process: asyncio.subprocess.Process) -> None:
    """End what git has started, but not git: it then removes the objects that it has taken in. Killed itself it would leave them on the disk for ever."""
    assert process.stdin is not None
    with contextlib.suppress(TimeoutError, *NOT_READING):
        process.stdin.close()
        async with asyncio.timeout(_TIDY_SECONDS):
            while process.returncode is None:
                for child in await asyncio.to_thread(_children, process.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await process.wait()


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # pid (name, which may hold anything) state parent …
            parent = stat.read_bytes().rpartition(b")")[2].split()[1]
            if int(parent) == pid:
                found.append(int(stat.parent.name))
    return found


async def _shielded(work: Awaitable[None]) -> None:
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


__all__ = ["ClientGone", "LocalService", "Told"]
