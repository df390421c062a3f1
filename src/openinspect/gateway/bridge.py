"""The server's side of the bridge (``protocol.frames`` says what travels on it and in which order).

One ``BridgeConnection`` for each sandbox that is connected to this process. Three tasks work for it:
    reader      reads messages; events go into a bounded buffer, deltas straight to the live channel
    counter     takes what is buffered, as much as there is, and counts it in one transaction; then acknowledges
    sender      sends commands that the sandbox has not seen: the next one as it was handed over after its commit, all others from their rows
and one for the process writes the parts that are open to the database about once a second (``checkpoint``).

A newer connection of the same sandbox takes over: the older one is closed (4409). Counting is fenced by the sandbox's row, so that even two
connections in two processes count a number once. When the database is away the counter waits and tries again; the sandbox keeps what is
not acknowledged. A message that is not understood closes the connection (4400).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import structlog
from pydantic import ValidationError
from sqlalchemy import delete, func, select, text, update
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from openinspect.db.engine import is_lost
from openinspect.db.tables import commands, open_parts, sandboxes
from openinspect.live.hub import Channel, Hub
from openinspect.problems import ProblemError
from openinspect.protocol import PROTOCOL_VERSION
from openinspect.protocol.frames import (
    CLOSE_MALFORMED,
    CLOSE_REPLACED,
    CLOSE_UNAUTHORISED,
    CLOSE_VERSION,
    MAX_MESSAGE_BYTES,
    SILENCE_SECONDS,
    Beat,
    Counted,
    Deltas,
    Events,
    Hello,
    Seen,
    Welcome,
    from_sandbox,
)
from openinspect.sessions.intake import Numbered, OutOfOrder, count
from openinspect.sessions.log import Issued, Journal, SessionGone
from openinspect.settings import Settings

from .grants import SandboxGrant, authorise_runtime, bearer

log = structlog.get_logger()

SPOKEN_VERSIONS = (PROTOCOL_VERSION, PROTOCOL_VERSION - 1)
CHECKPOINT_SECONDS = 1.0
HELLO_SECONDS = 10.0
_COUNT_AT_ONCE = 2_000
_BUFFER = 8_000
_SEEN_GRAIN_SECONDS = 15.0
_TRY_AGAIN = 1013
_UPSERT = text(
    f"INSERT INTO {open_parts.name} (session_id, part_id, turn_id, kind, text) "
    "SELECT :s, :p, :t, :k, :x FROM prompts WHERE prompts.id = :t AND prompts.status = 'running' AND NOT EXISTS ("
    # the whole part may have been committed a moment ago, without this process having noted it yet
    "SELECT 1 FROM events, sessions WHERE sessions.id = :s AND events.session_id = :s AND events.seq > sessions.head - 3000 "
    "AND events.kind = :k AND events.body->>'part_id' = :p) "
    "ON CONFLICT (session_id, part_id) DO UPDATE SET text = excluded.text, updated_at = now()"
)


class _Closed(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class BridgeConnection:
    def __init__(self, bridge: Bridge, socket: WebSocket, grant: SandboxGrant, channel: Channel) -> None:
        self.bridge = bridge
        self.socket = socket
        self.grant = grant
        self.channel = channel
        self.sent_command = 0
        self._wake_sender = asyncio.Event()
        self._handed: dict[int, dict[str, Any]] = {}
        """Commands of this process that were committed a moment ago, by number."""
        self._look = True
        """There may be commands that only their rows tell of."""
        self._buffer: deque[Numbered] = deque()
        self._buffered = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._row_written = 0.0
        self._agent: tuple[str, bool] | None = None

    async def run(self, hello: Hello, counted: int) -> None:
        self.sent_command = hello.commands_seen
        await self._send(Welcome(protocol=hello.protocol, counted=counted))
        await self._seen(hello.commands_seen)
        await self._note(hello)
        self._wake_sender.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read())
            group.create_task(self._count())
            group.create_task(self._send_commands())

    async def _send(self, frame: Any) -> None:
        with _gone_if_closed():
            async with asyncio.timeout(SILENCE_SECONDS):
                await self.socket.send_text(frame.model_dump_json())

    # ── in ────────────────────────────────────────────────────────────────────────────────────────
    async def _read(self) -> None:
        while True:
            frame = await receive(self.socket, SILENCE_SECONDS)
            match frame:
                case Events():
                    while len(self._buffer) > _BUFFER:
                        self._room.clear()
                        await self._room.wait()
                    self._buffer.extend(
                        Numbered(frame.first + i, record) for i, record in enumerate(frame.records)
                    )
                    self._buffered.set()
                case Deltas():
                    await self._in_order()
                    prompt_id = self.bridge.running.get(self.grant.sandbox_id)
                    self.channel.write(
                        [delta for delta in frame.deltas if prompt_id is None or delta.turn_id == prompt_id]
                    )
                case Seen():
                    await self._seen(frame.n)
                case Beat():
                    await self._note(frame)
                case Hello():
                    raise _Closed(CLOSE_MALFORMED, "hello was said already")

    async def _in_order(self) -> None:
        """Deltas that follow events in the stream must not overtake them to the watchers."""
        while self._buffer:
            self._room.clear()
            await self._room.wait()

    async def _seen(self, n: int) -> None:
        if n:
            async with self.bridge.journal.engine.begin() as connection:
                await connection.execute(
                    delete(commands).where(commands.c.sandbox_id == self.grant.sandbox_id, commands.c.n <= n)
                )

    async def _note(self, frame: Hello | Beat) -> None:
        """Keep the row's picture of the agent, at most every 15 s when nothing changes. A busy sandbox is not idle."""
        processes = frame.processes if isinstance(frame, Beat) else 0
        picture = (frame.agent, bool(frame.running or processes))
        now = time.monotonic()
        if picture == self._agent and now - self._row_written < _SEEN_GRAIN_SECONDS:
            return
        self._agent, self._row_written = picture, now
        values: dict[str, Any] = {"agent_state": frame.agent, "last_seen_at": func.now()}
        if picture[1]:
            values["idle_at"] = None
        else:
            values["idle_at"] = func.coalesce(sandboxes.c.idle_at, func.now())
        async with self.bridge.journal.engine.begin() as connection:
            await connection.execute(
                update(sandboxes).where(sandboxes.c.id == self.grant.sandbox_id).values(**values)
            )

    async def _count(self) -> None:
        pause = 0.05
        while True:
            await self._buffered.wait()
            taken = [self._buffer[i] for i in range(min(len(self._buffer), _COUNT_AT_ONCE))]
            try:
                async with self.bridge.journal.transaction() as transaction:
                    counted = await count(transaction, self.grant.sandbox_id, taken, self.bridge.settings)
            except OutOfOrder:
                raise _Closed(CLOSE_MALFORMED, "a number was skipped") from None
            except SessionGone:
                raise _Closed(CLOSE_UNAUTHORISED, "the session was deleted") from None
            except Exception as error:
                if not is_lost(error):
                    raise
                log.warning("bridge.database_away", sandbox=self.grant.sandbox_id)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
                continue
            pause = 0.05
            for _ in taken:
                self._buffer.popleft()
            if not self._buffer:
                self._buffered.clear()
            self._room.set()
            await self._send(Counted(n=counted))

    # ── out ───────────────────────────────────────────────────────────────────────────────────────
    def hand(self, issued: Issued) -> None:
        """Send a command that was committed; when it is not the next one, those before it too."""
        self._handed[issued.n] = issued.command.model_dump(mode="json")
        self._wake_sender.set()

    def look(self) -> None:
        """Send what there is in the rows."""
        self._look = True
        self._wake_sender.set()

    async def _send_commands(self) -> None:
        while True:
            await self._wake_sender.wait()
            self._wake_sender.clear()
            while (command := self._handed.pop(self.sent_command + 1, None)) is not None:
                await self._send_command(self.sent_command + 1, command)
            if not self._handed and not self._look:
                continue
            self._handed, self._look = {}, False
            try:
                waiting = await self._waiting()
            except Exception as error:
                if not is_lost(error):
                    raise
                await asyncio.sleep(0.2)
                self.look()
                continue
            for n, command in waiting:
                await self._send_command(n, command)

    async def _waiting(self) -> list[tuple[int, dict[str, Any]]]:
        """Commands that were not sent, as their rows have them."""
        async with self.bridge.journal.engine.connect() as connection:
            found = await connection.execute(
                select(commands.c.n, commands.c.body)
                .where(commands.c.sandbox_id == self.grant.sandbox_id, commands.c.n > self.sent_command)
                .order_by(commands.c.n)
                .limit(100)
            )
            return [(n, body) for n, body in found]

    async def _send_command(self, n: int, command: dict[str, Any]) -> None:
        if command["kind"] == "prompt":
            self.bridge.running[self.grant.sandbox_id] = command["prompt_id"]
        with _gone_if_closed():
            async with asyncio.timeout(SILENCE_SECONDS):
                await self.socket.send_json({"type": "command", "n": n, "command": command})
        self.sent_command = n


@contextlib.contextmanager
def _gone_if_closed() -> Iterator[None]:
    """Around a call of the socket's own: that it is closed already is told by a ``RuntimeError``, which anything else that raises one is not to pass for."""
    try:
        yield
    except RuntimeError as error:
        raise WebSocketDisconnect(1006) from error


async def _close(socket: WebSocket, code: int, reason: str = "") -> None:
    """Close it, unless either side has."""
    if WebSocketState.DISCONNECTED not in (socket.application_state, socket.client_state):
        with contextlib.suppress(WebSocketDisconnect), _gone_if_closed():
            await socket.close(code, reason)


async def receive(socket: WebSocket, seconds: float) -> Any:
    """The next frame. Raises ``_Closed`` for one that is not understood, ``TimeoutError``, ``WebSocketDisconnect``."""
    with _gone_if_closed():
        async with asyncio.timeout(seconds):
            message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
    said = message.get("text")
    if said is None or len(said) > MAX_MESSAGE_BYTES:
        raise _Closed(CLOSE_MALFORMED, "a text message of at most 4 MiB was expected")
    try:
        return from_sandbox.validate_json(said)
    except ValidationError as error:
        raise _Closed(
            CLOSE_MALFORMED, f"a message was not understood ({error.error_count()} faults)"
        ) from None


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


class Bridge:
    """The bridges of this process. ``serve`` is the endpoint; ``hand`` and ``poke`` say that a sandbox has a command."""

    def __init__(self, journal: Journal, hub: Hub, settings: Settings) -> None:
        self.journal = journal
        self.hub = hub
        self.settings = settings
        self.running: dict[str, str] = {}
        self.on_disconnect: Callable[[str], None] = lambda _sandbox: None
        """Told when a sandbox's connection has ended and no other has taken its place: it may have died."""
        self._connections: dict[str, BridgeConnection] = {}

    def connected(self, sandbox_id: str) -> bool:
        return sandbox_id in self._connections

    def hand(self, issued: Issued) -> None:
        """This process has committed a command."""
        connection = self._connections.get(issued.sandbox_id)
        if connection is not None:
            connection.hand(issued)

    def poke(self, sandbox_id: str) -> None:
        """Another process has committed one."""
        connection = self._connections.get(sandbox_id)
        if connection is not None:
            connection.look()

    def poke_all(self) -> None:
        for sandbox_id in list(self._connections):
            self.poke(sandbox_id)

    async def serve(self, socket: WebSocket) -> None:
        try:
            grant = await authorise_runtime(self.journal.engine, bearer(socket.headers))
        except ProblemError as problem:
            await socket.accept()
            await socket.close(CLOSE_UNAUTHORISED, problem.message[:120])
            return
        except Exception as error:
            if not is_lost(error):
                raise
            await socket.accept()
            await socket.close(_TRY_AGAIN, "the database is away")
            return
        await socket.accept()
        connection: BridgeConnection | None = None
        try:
            hello = await receive(socket, HELLO_SECONDS)
            if not isinstance(hello, Hello) or hello.sandbox_id != grant.sandbox_id:
                raise _Closed(CLOSE_MALFORMED, "a hello of this token's sandbox was expected")
            if hello.protocol not in SPOKEN_VERSIONS:
                raise _Closed(CLOSE_VERSION, f"this server speaks the bridge protocol {PROTOCOL_VERSION}")
            channel = await self.hub.open(grant.session_id)
            try:
                connection = BridgeConnection(self, socket, grant, channel)
                await self._take_over(connection)
                await connection.run(hello, await self._counted(grant.sandbox_id))
            finally:
                self.hub.release(grant.session_id)
        except* _Closed as group:
            closed = _leaves(group)[0]
            assert isinstance(closed, _Closed)
            log.info("bridge.closed", sandbox=grant.sandbox_id, code=closed.code, reason=closed.reason)
            await _close(socket, closed.code, closed.reason)
        except* (WebSocketDisconnect, TimeoutError, SessionGone) as group:
            # the other side is away; it will dial again
            log.info("bridge.disconnected", sandbox=grant.sandbox_id, why=type(_leaves(group)[0]).__name__)
            await _close(socket, 1011)
        except* Exception as group:
            if all(is_lost(error) for error in _leaves(group)):
                log.warning("bridge.database_away", sandbox=grant.sandbox_id)
                await _close(socket, _TRY_AGAIN, "the database is away")
            else:
                log.exception("bridge.failed", sandbox=grant.sandbox_id)
                await _close(socket, 1011, "the server had a fault")
        finally:
            if connection is not None and self._connections.get(grant.sandbox_id) is connection:
                del self._connections[grant.sandbox_id]
                self.running.pop(grant.sandbox_id, None)
                self.on_disconnect(grant.sandbox_id)

    async def _counted(self, sandbox_id: str) -> int:
        async with self.journal.engine.connect() as connection:
            return (
                await connection.scalar(
                    select(sandboxes.c.frames_counted).where(sandboxes.c.id == sandbox_id)
                )
                or 0
            )

    async def _take_over(self, connection: BridgeConnection) -> None:
        older = self._connections.get(connection.grant.sandbox_id)
        self._connections[connection.grant.sandbox_id] = connection
        if older is not None:
            await _close(older.socket, CLOSE_REPLACED, "another connection of this sandbox took over")

    async def checkpoint(self) -> None:
        """Write the parts that are being written, about once a second, for as long as the process runs."""
        while True:
            await asyncio.sleep(CHECKPOINT_SECONDS)
            for connection in list(self._connections.values()):
                try:
                    await self._checkpoint_one(connection.channel)
                except Exception as error:
                    if not is_lost(error):
                        log.exception("bridge.checkpoint_failed", session=connection.channel.session_id)

    async def _checkpoint_one(self, channel: Channel) -> None:
        dirty, channel.dirty_parts = channel.dirty_parts, set()
        rows = [(part_id, part) for part_id in dirty if (part := channel.open_parts.get(part_id)) is not None]
        if not rows:
            return
        try:
            async with self.journal.engine.begin() as connection:
                # under the session's row: a part that was just made whole is not brought back
                await connection.exec_driver_sql(
                    "SELECT 1 FROM sessions WHERE id = %(id)s FOR UPDATE", {"id": channel.session_id}
                )
                for part_id, part in rows:
                    if part_id in channel.open_parts:
                        await connection.execute(
                            _UPSERT,
                            {
                                "s": channel.session_id,
                                "p": part_id,
                                "t": part.turn_id,
                                "k": part.kind,
                                "x": part.text.replace("\x00", "\ufffd"),
                            },
                        )
        except BaseException:
            channel.dirty_parts |= {part_id for part_id, _ in rows if part_id in channel.open_parts}
            raise
