"""Git's door: smart HTTP for a session's repositories, at ``/git/<directory>/…``.

``GET info/refs?service=…``, ``POST git-upload-pack`` (clone, fetch) and ``POST git-receive-pack`` (push), protocol versions 0 to 2. Who may do what comes from
``authorise`` alone, asked anew for every request; what may be pushed from ``git_policy``. A repository is served by git itself when it is on this
machine (``git_local``), or by its code host with a credential added here (``git_upstream``): nothing that the caller sends as credential goes on.

Answers: 401 without a valid token, 404 for a repository that is not the session's, 403 for a push where only reading is allowed, 400 for what
is not git's protocol, 413 for a body over the bounds, 503 when too many exchanges run. All are plain text, which git prints. A push
against the rules, or that the disk has no room for (``git_room``), is answered with status 200 in git's own report.

Only refs/heads and refs/tags are shown. (In protocol version 2 an object that somebody can name can be fetched, shown or not: this is
git's own rule.)

Bounds: an exchange ends after ``Limits.total_seconds`` or when nothing moves for ``idle_seconds``; git's processes die with their exchange.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qs

import structlog
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from ..bounded_http import expected
from ..forges.contract import GitBackend, LocalGitBackend
from ..forges.errors import ForgeError
from ..forges.local.place import locate
from .git_exchange import BodyRefused, ClientGone, Exchange
from .git_local import LocalService
from .git_policy import MalformedPush, PushParser, PushRequest, Refusal, judge, refusal_answer
from .git_room import NoRoom, Room, Rooms
from .git_upstream import UpstreamService

_DRAIN_SECONDS, _DRAIN_BYTES = 30.0, 64 * 1024**2

log = structlog.get_logger(__name__)

Service = Literal["git-upload-pack", "git-receive-pack"]
_PATH = re.compile(r"^/(?P<name>[A-Za-z0-9._-]{1,128})/(?P<what>info/refs|git-upload-pack|git-receive-pack)$")


@dataclass(frozen=True)
class RepositoryGrant:
    """What a session may do with one repository."""

    backend: GitBackend
    branch: str = ""
    """The session's branch, without refs/heads/; it may push this one, and names that start with it and a ``-``."""
    writable: bool = True


@dataclass(frozen=True)
class GitGrant:
    session_id: str
    repositories: Mapping[str, RepositoryGrant]
    """By the name of the directory that they have in the session's workspace."""


class GitDenied(Exception):
    """Raised by ``authorise`` (``status`` 401, 403, or 503 when it can't tell now), with a text for the person."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Limits:
    total_seconds: float = 3600
    idle_seconds: float = 120
    """For one wait on the client or on git. Git itself says that it is alive every 5 s."""
    push_bytes: int = 2 * 1024**3
    session_bytes: int = 8 * 1024**3
    """What all pushes of a session may bring to this host's disk."""
    free_bytes: int = 512 * 1024**2
    """What a push leaves free on the repository's disk."""
    fetch_request_bytes: int = 16 * 1024**2
    exchanges: int = 32
    """How many may run at a time; more wait for ``queue_seconds``, then get 503."""
    exchanges_per_session: int = 8
    """The same for one session, so that none can keep the others out."""
    queue_seconds: float = 20
    told_seconds: float = 10
    """How long ``on_push`` and ``on_refused`` may take."""


Authorise = Callable[[Request], Awaitable[GitGrant]]
OnPush = Callable[[GitGrant, str, str, str, str], Awaitable[None]]
"""(grant, directory, ref, old commit, new commit), after git has really accepted; a commit of zeros is none."""
OnRefused = Callable[[GitGrant, str, list[Refusal]], Awaitable[None]]


class GitDoor:
    """The ASGI app to be mounted at ``/git``. ``aclose`` it at the end.

    ``on_push`` is awaited before the client learns that its push is complete, so that what follows a push finds it recorded; also when the client is gone.
    """

    def __init__(
        self,
        authorise: Authorise,
        *,
        on_push: OnPush,
        on_refused: OnRefused,
        limits: Limits | None = None,
    ) -> None:
        self._authorise = authorise
        self._on_push = on_push
        self._on_refused = on_refused
        self.limits = limits or Limits()
        self._slots = asyncio.Semaphore(self.limits.exchanges)
        self._sessions: dict[str, _Session] = {}
        self._upstream = UpstreamService(self.limits.idle_seconds)
        self._local = LocalService(self.limits.idle_seconds)
        self._rooms = Rooms(self.limits.session_bytes, self.limits.free_bytes)
        self._telling: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        await asyncio.gather(*self._telling, return_exceptions=True)
        await self._upstream.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"git is served over HTTP, not {scope['type']}")
        exchange = Exchange(scope, receive, send, idle_seconds=self.limits.idle_seconds)
        try:
            async with asyncio.timeout(self.limits.total_seconds):
                await self._serve(exchange, Request(scope, receive))
        except ClientGone as gone:
            log.debug("git_client_gone", why=str(gone))
        except TimeoutError:
            await self._say(
                exchange, 504, "This took too long and was ended. Try again, with less at a time."
            )
        except GitDenied as denied:
            headers = {"www-authenticate": 'Basic realm="Open-Inspect"'} if denied.status == 401 else None
            await self._say(exchange, denied.status, str(denied), headers)
        except BodyRefused as refused:
            await self._say(exchange, refused.status, str(refused))
        except MalformedPush as malformed:
            await self._say(exchange, 400, f"This is not a push that can be taken: {malformed}.")
        except ForgeError as error:
            log.warning("git_backend_failed", code=error.code, reason=error.reason)
            await self._say(exchange, 502, str(error))

    async def _say(
        self, exchange: Exchange, status: int, text: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """The error as an answer; once an answer has begun it can only be cut short, which git notices by the missing flush packet."""
        try:
            if exchange.started:
                return await exchange.end()
            if (
                status != 401
            ):  # a stranger's body is not waited for: git asks without one first, and is told then
                with suppress(TimeoutError):
                    # a client that is still sending would take our hanging up for a broken line, and never read why
                    async with asyncio.timeout(_DRAIN_SECONDS):
                        await exchange.discard_body(most_bytes=_DRAIN_BYTES)
            await exchange.answer(status, text, {"connection": "close", **(headers or {})})
        except ClientGone as gone:
            log.debug("git_client_gone", why=str(gone))

    async def _serve(self, exchange: Exchange, request: Request) -> None:
        grant = await self._authorise(request)
        path = exchange.scope["path"].removeprefix(exchange.scope.get("root_path", ""))
        found = _PATH.match(path)
        if found is None:
            raise GitDenied(404, "This address is not part of git's smart HTTP protocol.")
        directory = found["name"].removesuffix(".git")
        allowed = grant.repositories.get(directory)
        if allowed is None:
            names = ", ".join(sorted(grant.repositories)) or "none"
            raise GitDenied(
                404, f"The repository {directory!r} is not part of this session. It has: {names}."
            )
        what = found["what"]
        if what == "info/refs":
            if request.method not in ("GET", "HEAD"):
                raise GitDenied(405, "Only GET is answered here.")
            service = _service(parse_qs(request.url.query).get("service", [""])[0])
        else:
            if request.method != "POST":
                raise GitDenied(405, "Only POST is answered here.")
            service = _service(what)
        if service == "git-receive-pack" and not allowed.writable:
            raise GitDenied(403, f"This session may only read {directory!r}; it can't push there.")
        async with self._slot(grant.session_id):
            expected(exchange.scope)  # git may compute for long before it sends on
            backend = self._local if isinstance(allowed.backend, LocalGitBackend) else self._upstream
            version = _protocol_version(request.headers.get("git-protocol", ""))
            encoding = request.headers.get("content-encoding", "").strip().lower()
            if what == "info/refs":
                await backend.advertise(exchange, allowed.backend, service, version)
            elif service == "git-upload-pack":
                body = await _whole(exchange.body(encoding), self.limits.fetch_request_bytes)
                await backend.fetch(exchange, allowed.backend, body, version)
            else:
                await self._push(exchange, grant, directory, allowed, encoding)

    @asynccontextmanager
    async def _slot(self, session_id: str) -> AsyncIterator[None]:
        session = self._sessions.setdefault(session_id, _Session(self.limits.exchanges_per_session))
        session.users += 1
        try:
            async with AsyncExitStack() as held:
                try:
                    async with asyncio.timeout(self.limits.queue_seconds):
                        await held.enter_async_context(session.slots)
                        await held.enter_async_context(self._slots)
                except TimeoutError as error:
                    raise BodyRefused(
                        503, "Too many git commands run at once. Try again in a minute."
                    ) from error
                yield
        finally:
            session.users -= 1
            if session.users == 0:
                self._sessions.pop(session_id, None)

    async def _push(
        self, exchange: Exchange, grant: GitGrant, directory: str, allowed: RepositoryGrant, encoding: str
    ) -> None:
        body = exchange.body(encoding)
        parser = PushParser()
        push: PushRequest | None = None
        async for piece in body:
            if (push := parser.feed(piece)) is not None:
                break
        if push is None:
            raise parser.ended_early()
        if not push.commands:  # git asks in this way whether it may push, before it sends something large
            await exchange.discard_body(most_bytes=65_536)
            await exchange.start(200, "application/x-git-receive-pack-result")
            return await exchange.end()
        if refusals := judge(push, allowed.branch):
            return await self._refuse(exchange, grant, directory, push, refusals)
        room: Room | None = None
        if isinstance(allowed.backend, LocalGitBackend) and not all(one.deletes for one in push.commands):
            place = await asyncio.to_thread(locate, allowed.backend.path)
            room = Room(self._rooms, grant.session_id, place.git_dir / "objects")

        async def told(ref: str, old: str, new: str) -> None:
            await self._tell(self._on_push(grant, directory, ref, old, new))

        async def pack() -> AsyncIterator[bytes]:
            left = self.limits.push_bytes
            if parser.rest:
                if room:
                    room.take(len(parser.rest))
                yield parser.rest
            async for piece in body:
                left -= len(piece)
                if left < 0:
                    raise BodyRefused(
                        413,
                        f"A push may have at most {self.limits.push_bytes >> 20} MiB. Push in several steps.",
                    )
                if room:
                    room.take(len(piece))
                yield piece

        backend = self._local if isinstance(allowed.backend, LocalGitBackend) else self._upstream
        pushing = backend.push(exchange, allowed.backend, push, pack(), told)
        if room is None:
            return await pushing
        try:
            await room.bounding(pushing)
        except NoRoom as none:
            if exchange.started:  # git has begun to answer: its answer can only be cut short
                log.warning("git_push_ended", session_id=grant.session_id, rule=none.rule, why=str(none))
                return await exchange.end()
            refusals = [Refusal(command.name, none.rule, str(none)) for command in push.commands]
            await self._refuse(exchange, grant, directory, push, refusals, none.remedy)

    async def _refuse(
        self,
        exchange: Exchange,
        grant: GitGrant,
        directory: str,
        push: PushRequest,
        refusals: list[Refusal],
        remedy: tuple[str, ...] = (),
    ) -> None:
        """Answer with git's own report, once the client has sent what it has to."""
        await exchange.discard_body(most_bytes=self.limits.push_bytes)
        await self._tell(self._on_refused(grant, directory, refusals))
        branch = grant.repositories[directory].branch
        await exchange.start(200, "application/x-git-receive-pack-result")
        await exchange.write(refusal_answer(push, refusals, branch, remedy))
        await exchange.end()

    async def _tell(self, call: Awaitable[None]) -> None:
        """Await ``call`` to its end even when this exchange is cancelled: what git has done has to be recorded."""

        async def bounded() -> None:
            try:
                async with asyncio.timeout(self.limits.told_seconds):
                    await call
            except Exception:
                # git has acted already; the answer must still say so, and the branch itself is the truth
                log.exception("git_push_not_recorded")

        task = asyncio.create_task(bounded())
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)
        await asyncio.shield(task)


class _Session:
    """The exchanges of one session that run or wait."""

    def __init__(self, slots: int) -> None:
        self.slots = asyncio.Semaphore(slots)
        self.users = 0


def _service(name: str) -> Service:
    if name == "git-upload-pack":
        return "git-upload-pack"
    if name == "git-receive-pack":
        return "git-receive-pack"
    raise GitDenied(403, "Only git's smart HTTP protocol is served: git-upload-pack and git-receive-pack.")


def _protocol_version(header: str) -> str:
    """The ``Git-Protocol`` header without anything but a version that we know."""
    for version in ("version=2", "version=1"):
        if version in header.split(":"):
            return version
    return ""


async def _whole(body: AsyncIterator[bytes], most: int) -> bytes:
    data = bytearray()
    async for piece in body:
        data += piece
        if len(data) > most:
            raise BodyRefused(413, f"The request is over {most >> 20} MiB. Fetch fewer branches at a time.")
    return bytes(data)
