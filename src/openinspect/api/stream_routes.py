"""The live stream of a session: by WebSocket for the page, by server-sent events for curl. ``protocol.stream`` says what is sent when.

Whoever watches is let in by a credential. It is looked at again every ``PING_SECONDS`` (15 s): when it has been revoked, has ended, or no longer
permits it, the stream is closed (4401). While the database is away nothing is closed for that, and nothing new is told either.
One person may have ``max_streams_per_person`` open (in one process); another is refused (429), and so is a ticket for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any

import orjson
import structlog
from fastapi import APIRouter, Depends, Header, Query, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect, WebSocketState

from openinspect.db.engine import is_lost
from openinspect.identity import credentials, tickets
from openinspect.identity.credentials import Principal
from openinspect.identity.tickets import Ticket
from openinspect.live.hub import Channel, Watcher
from openinspect.live.watch import TooSlow, follow
from openinspect.problems import TooMany
from openinspect.protocol.stream import Cursor, Here, Open, Ping, Resume, from_watcher
from openinspect.sessions import log as session_log
from openinspect.sessions.log import SessionGone

from . import answers
from .access import TheServices, require
from .models import StreamTicket
from .services import Services

log = structlog.get_logger()
router = APIRouter(prefix="/api")

PERMISSION = "sessions.read"
Reader = Annotated[Principal, Depends(require(PERMISSION))]
OPEN_SECONDS = 10.0
PING_SECONDS = 15.0
SILENCE_SECONDS = 45.0
_MAX_SAID = 16 * 1024
_PING = Ping().model_dump_json()


@router.post("/sessions/{session_id}/stream-ticket", status_code=201)
async def make_ticket(session_id: str, principal: Reader, services: TheServices) -> StreamTicket:
    """A ticket for this session's stream: for one connection, within 30 seconds."""
    services.places.check(principal.user.id, services.settings.max_streams_per_person)
    async with services.engine.begin() as connection:
        await session_log.head(connection, session_id)
        secret, expires = await tickets.make(connection, session_id, principal)
    return StreamTicket(ticket=secret, expires_at=expires)


@router.websocket("/stream")
async def stream(socket: WebSocket) -> None:
    services: Services = socket.app.state.services
    await socket.accept()
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            opened = await _said(socket)
        if not isinstance(opened, Open):
            raise ValueError("open was expected")
        async with services.engine.begin() as connection:
            ticket = await tickets.use(connection, opened.ticket)
        if ticket is None:
            await socket.close(4401, "the ticket is unknown, used or expired")
            return
        services.places.take(ticket.user_id, services.settings.max_streams_per_person)
    except TooMany:
        await socket.close(4429, "you have too many streams open")
        return
    except (ValueError, TimeoutError):
        await socket.close(4400, "the message was not understood")
        return
    except WebSocketDisconnect:
        return
    try:
        await _watch(services, socket, ticket, opened.cursor)
    finally:
        services.places.leave(ticket.user_id)


async def _watch(services: Services, socket: WebSocket, ticket: Ticket, cursor: Cursor) -> None:
    try:
        channel = await services.hub.open(ticket.session_id)
    except SessionGone:
        await socket.close(4404, "the session was deleted")
        return
    try:
        await _Watching(services, socket, channel, ticket).run(cursor)
    finally:
        services.hub.release(ticket.session_id)


async def _said(socket: WebSocket) -> Open | Here | Ping:
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
    text = message.get("text")
    if text is None or len(text) > _MAX_SAID:
        raise ValueError("no text message, or one that is too long")
    try:
        return from_watcher.validate_json(text)
    except ValidationError as error:
        raise ValueError("message not understood") from error


class _NoLongerPermitted(Exception):
    """The credential by which somebody watches was revoked, has ended, or permits less than before."""


async def _check(services: Services, credential_id: str) -> None:
    """Raises ``_NoLongerPermitted``."""
    try:
        async with services.reader.connect() as connection:
            permitted = await credentials.still_permits(connection, credential_id, PERMISSION)
    except Exception as error:
        if not is_lost(error):
            raise
        return  # asked again at the next ping; until then there is nothing new to tell
    if not permitted:
        raise _NoLongerPermitted


class _Watching:
    """One open WebSocket: tasks that listen, tell, ping and look at the credential. When one of them ends, all do."""

    def __init__(self, services: Services, socket: WebSocket, channel: Channel, ticket: Ticket) -> None:
        self.services = services
        self.socket = socket
        self.channel = channel
        self.ticket = ticket
        self.watcher = Watcher()
        self.said_at = 0.0

    async def run(self, cursor: Cursor) -> None:
        presence = self.services.presence
        tasks = [
            asyncio.create_task(work)
            for work in (self._tell(cursor), self._listen(), self._ping(), self._guard())
        ]
        self._here(Here())
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            code, reason = 1011, "the server had a fault"
            for task in done:
                code, reason = self._closing(task.exception())
            if self._connected():
                if code == 4429:
                    await self.socket.send_text(Resume(reason=reason).model_dump_json())
                await self.socket.close(code, reason)
        except (WebSocketDisconnect, RuntimeError):
            log.debug("stream.gone", session=self.channel.session_id)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            presence.remove(self.channel.session_id, self)

    def _connected(self) -> bool:
        states = (self.socket.application_state, self.socket.client_state)
        return states == (WebSocketState.CONNECTED, WebSocketState.CONNECTED)

    def _closing(self, error: BaseException | None) -> tuple[int, str]:
        match error:
            case TooSlow():
                return 4429, "too slow: resume from your cursor"
            case SessionGone():
                return 4404, "the session was deleted"
            case _NoLongerPermitted():
                return 4401, "you may no longer watch this"
            case ValueError():
                return 4400, "the message was not understood"
            case TimeoutError():
                return 1001, "silent for too long"
            case WebSocketDisconnect() | None:
                return 1000, ""
            case RuntimeError() if not self._connected():  # said by a socket that is closed already
                return 1000, ""
        if is_lost(error):
            return 1013, "the database is away: resume from your cursor"
        log.error("stream.failed", session=self.channel.session_id, exc_info=error)
        return 1011, "the server had a fault: resume from your cursor"

    async def _tell(self, cursor: Cursor) -> None:
        async for message in follow(self.channel, self.watcher, cursor, self.services.read):
            async with asyncio.timeout(SILENCE_SECONDS):
                await self.socket.send_text(message.decode())
            self.said_at = asyncio.get_running_loop().time()

    async def _ping(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(PING_SECONDS / 3)
            if loop.time() - self.said_at > PING_SECONDS:
                self.said_at = loop.time()
                await self.socket.send_text(_PING)

    async def _guard(self) -> None:
        while True:
            await asyncio.sleep(PING_SECONDS)
            await _check(self.services, self.ticket.credential_id)

    def _here(self, said: Here) -> None:
        self.services.presence.set(self.channel.session_id, self, self.ticket.user_id, self.ticket.name, said)

    async def _listen(self) -> None:
        while True:
            async with asyncio.timeout(SILENCE_SECONDS):
                said = await _said(self.socket)
            if isinstance(said, Here):
                self._here(said)


@router.get("/sessions/{session_id}/stream")
async def stream_events(
    session_id: str,
    principal: Reader,
    services: TheServices,
    after: Annotated[int, Query(ge=0, le=2**62)] = 0,
    last_event_id: Annotated[str | None, Header(max_length=32)] = None,
) -> StreamingResponse:
    """The same as server-sent events, for curl: `events`, `deltas`, `synced`, `presence`. `Last-Event-ID` (or `after`) is the cursor.
    One beyond the log's end is of another history (a backup was restored): `reset` comes first, then all events from 1.
    The last one is `resume`, or `closed` with the WebSocket's code and reason."""
    if last_event_id is not None and last_event_id.isdecimal():
        after = int(last_event_id)
    async with services.reader.connect() as connection:
        await session_log.head(connection, session_id)
    return _Placed(
        services,
        principal.user.id,
        _sse(services, session_id, principal.credential_id, Cursor(after=min(after, 2**62))),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


class _Placed(StreamingResponse):
    """Takes one of the person's places for as long as it is sent; answered with 429 when there is none."""

    def __init__(self, services: Services, user_id: str, content: AsyncIterator[bytes], **rest: Any) -> None:
        super().__init__(content, **rest)
        self.services = services
        self.user_id = user_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        places = self.services.places
        try:
            places.take(self.user_id, self.services.settings.max_streams_per_person)
        except TooMany as refused:
            answer = answers.answer(refused.status, refused.code, refused.message, refused.remedy)
            await answer(scope, receive, send)
            return
        try:
            await super().__call__(scope, receive, send)
        finally:
            places.leave(self.user_id)


async def _sse(
    services: Services, session_id: str, credential_id: str, cursor: Cursor
) -> AsyncIterator[bytes]:
    # the channel is opened here, where it is released: what is never begun opens nothing
    try:
        channel = await services.hub.open(session_id)
    except SessionGone:
        yield _closed(4404, "the session was deleted")
        return
    messages: AsyncGenerator[bytes, None] = follow(channel, Watcher(), cursor, services.read)
    pending: asyncio.Task[bytes] | None = None
    loop = asyncio.get_running_loop()
    look_at = loop.time() + PING_SECONDS
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(messages))  # type: ignore[arg-type]
            await asyncio.wait({pending}, timeout=max(0.0, look_at - loop.time()))
            if loop.time() >= look_at:
                await _check(services, credential_id)
                look_at = loop.time() + PING_SECONDS
                yield b": still here\n\n"
            if not pending.done():
                continue
            told_now, pending = pending, None
            message = told_now.result()
            told = orjson.loads(message)
            match told["type"]:
                case "events":
                    mark = b"id: %d\n" % told["events"][-1]["seq"]
                case "reset":
                    mark = b"id: 0\n"  # who is cut off here must not come back with the cursor that was wrong
                case _:
                    mark = b""
            yield mark + b"event: " + told["type"].encode() + b"\ndata: " + message + b"\n\n"
    except TooSlow:
        yield b'event: resume\ndata: {"reason":"resume from your cursor"}\n\n'
    except SessionGone:
        yield _closed(4404, "the session was deleted")
    except _NoLongerPermitted:
        yield _closed(4401, "you may no longer watch this")
    finally:
        if pending is not None:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
        await messages.aclose()
        services.hub.release(session_id)


def _closed(code: int, reason: str) -> bytes:
    return b"event: closed\ndata: " + orjson.dumps({"code": code, "reason": reason}) + b"\n\n"
