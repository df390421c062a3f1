"""The live stream of a session: by WebSocket for the page, by server-sent events for curl. ``protocol.stream`` says what is sent when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Annotated

import orjson
import structlog
from fastapi import APIRouter, Depends, Header, Query, Request, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from sqlalchemy import delete, func, insert, select
from starlette.websockets import WebSocketDisconnect, WebSocketState

from openinspect.db.engine import is_lost
from openinspect.db.tables import stream_tickets, users
from openinspect.identity.credentials import Principal, hash_secret
from openinspect.live.hub import Channel, Watcher
from openinspect.live.watch import TooSlow, follow
from openinspect.protocol.ids import new_secret
from openinspect.protocol.stream import Cursor, Here, Open, Ping, Resume, from_watcher
from openinspect.sessions import log as session_log
from openinspect.sessions.log import SessionGone

from .access import TheServices, require
from .models import StreamTicket
from .services import Services

log = structlog.get_logger()
router = APIRouter(prefix="/api")

Reader = Annotated[Principal, Depends(require("sessions.read"))]
TICKET_LIFETIME = timedelta(seconds=30)
OPEN_SECONDS = 10.0
PING_SECONDS = 15.0
SILENCE_SECONDS = 45.0
_MAX_SAID = 16 * 1024
_PING = Ping().model_dump_json()


@router.post("/sessions/{session_id}/stream-ticket", status_code=201)
async def make_ticket(session_id: str, principal: Reader, services: TheServices) -> StreamTicket:
    """A ticket for this session's stream: for one connection, within 30 seconds."""
    secret, expires = new_secret("oi_ticket"), datetime.now(UTC) + TICKET_LIFETIME
    async with services.engine.begin() as connection:
        await session_log.head(connection, session_id)
        await connection.execute(delete(stream_tickets).where(stream_tickets.c.expires_at < func.now()))
        await connection.execute(
            insert(stream_tickets).values(
                token_hash=hash_secret(secret),
                session_id=session_id,
                user_id=principal.user.id,
                expires_at=expires,
            )
        )
    return StreamTicket(ticket=secret, expires_at=expires)


async def _use_ticket(services: Services, secret: str) -> tuple[str, str, str] | None:
    """Session, user and the user's name."""
    async with services.engine.begin() as connection:
        used = await connection.execute(
            delete(stream_tickets)
            .where(
                stream_tickets.c.token_hash == hash_secret(secret), stream_tickets.c.expires_at > func.now()
            )
            .returning(stream_tickets.c.session_id, stream_tickets.c.user_id)
        )
        ticket = used.one_or_none()
        if ticket is None:
            return None
        name = await connection.scalar(
            select(users.c.name).where(users.c.id == ticket.user_id, users.c.disabled_at.is_(None))
        )
    return None if name is None else (ticket.session_id, ticket.user_id, name)


@router.websocket("/stream")
async def stream(socket: WebSocket) -> None:
    services: Services = socket.app.state.services
    await socket.accept()
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            opened = await _said(socket)
        if not isinstance(opened, Open):
            raise ValueError("open was expected")
        entitled = await _use_ticket(services, opened.ticket)
        if entitled is None:
            await socket.close(4401, "the ticket is unknown, used or expired")
            return
        session_id, user_id, name = entitled
        channel = await services.hub.open(session_id)
    except (ValueError, TimeoutError):
        await socket.close(4400, "the message was not understood")
        return
    except WebSocketDisconnect:
        return
    except SessionGone:
        await socket.close(4404, "the session was deleted")
        return
    try:
        await _Watching(services, socket, channel, user_id, name).run(opened.cursor)
    finally:
        services.hub.release(session_id)


async def _said(socket: WebSocket) -> Open | Here | Ping:
    text = await socket.receive_text()
    if len(text) > _MAX_SAID:
        raise ValueError("message too long")
    try:
        return from_watcher.validate_json(text)
    except ValidationError as error:
        raise ValueError("message not understood") from error


class _Watching:
    """One open WebSocket: a task that listens and one that tells. When either ends, both do."""

    def __init__(
        self, services: Services, socket: WebSocket, channel: Channel, user_id: str, name: str
    ) -> None:
        self.services = services
        self.socket = socket
        self.channel = channel
        self.user_id = user_id
        self.name = name
        self.watcher = Watcher()
        self.said_at = 0.0

    async def run(self, cursor: Cursor) -> None:
        presence = self.services.presence
        tasks = [asyncio.create_task(work) for work in (self._tell(cursor), self._listen(), self._ping())]
        presence.set(self.channel.session_id, self, self.user_id, self.name, Here())
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            code, reason = 1011, "the server had a fault"
            for task in done:
                code, reason = self._closing(task.exception())
            if (
                self.socket.application_state is WebSocketState.CONNECTED
                and self.socket.client_state is WebSocketState.CONNECTED
            ):
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

    def _closing(self, error: BaseException | None) -> tuple[int, str]:
        match error:
            case TooSlow():
                gone = self.services.hub.find(self.channel.session_id) is None
                return (
                    (4404, "the session was deleted") if gone else (4429, "too slow: resume from your cursor")
                )
            case ValueError():
                return 4400, "the message was not understood"
            case TimeoutError():
                return 1001, "silent for too long"
            case WebSocketDisconnect() | RuntimeError() | None:
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

    async def _listen(self) -> None:
        while True:
            async with asyncio.timeout(SILENCE_SECONDS):
                said = await _said(self.socket)
            if isinstance(said, Here):
                self.services.presence.set(self.channel.session_id, self, self.user_id, self.name, said)


@router.get("/sessions/{session_id}/stream")
async def stream_events(
    session_id: str,
    _: Reader,
    services: TheServices,
    request: Request,
    after: Annotated[int, Query(ge=0, le=2**62)] = 0,
    last_event_id: Annotated[str | None, Header(max_length=32)] = None,
) -> StreamingResponse:
    """The same as server-sent events, for curl: `events`, `deltas`, `synced`, `presence`. `Last-Event-ID` (or `after`) is the cursor."""
    if last_event_id is not None and last_event_id.isdecimal():
        after = int(last_event_id)
    channel = await services.hub.open(session_id)
    return StreamingResponse(
        _sse(services, channel, Cursor(after=min(after, 2**62))),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


async def _sse(services: Services, channel: Channel, cursor: Cursor) -> AsyncIterator[bytes]:
    watcher = Watcher()
    messages: AsyncGenerator[bytes, None] = follow(channel, watcher, cursor, services.read)
    pending: asyncio.Task[bytes] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(messages))  # type: ignore[arg-type]
            done, _ = await asyncio.wait({pending}, timeout=PING_SECONDS)
            if not done:
                yield b": still here\n\n"
                continue
            try:
                message = pending.result()
            except (TooSlow, StopAsyncIteration):
                yield b'event: resume\ndata: {"reason":"resume from your cursor"}\n\n'
                return
            finally:
                pending = None
            told = orjson.loads(message)
            mark = b"id: %d\n" % told["events"][-1]["seq"] if told["type"] == "events" else b""
            yield mark + b"event: " + told["type"].encode() + b"\ndata: " + message + b"\n\n"
    finally:
        if pending is not None:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
        await messages.aclose()
        services.hub.release(channel.session_id)
