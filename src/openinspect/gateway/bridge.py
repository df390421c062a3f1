"""The server's side of the bridge (``protocol.frames`` says what travels on it and in which order).

One ``BridgeConnection`` for each sandbox that is connected to this process. Three tasks work for it:
    reader      reads messages; events go into a bounded buffer, deltas straight to the live channel
    counter     takes what is buffered, as much as there is, and counts it in one transaction; then acknowledges
    sender      sends commands that the sandbox has not seen: the next one as it was handed over after its commit, all others from their rows
and one for the process writes the parts that are open to the database about once a second (``checkpoint``).

A newer connection of the same sandbox takes over: the older one is closed (4409). Counting is fenced by the sandbox's row, so that even two
connections in two processes count a number once. When the database is away the counter waits and tries again; the sandbox keeps what is
not acknowledged. A message that is not understood closes the connection (4400).

What a sandbox says is bounded by size as well as by number: what waits to be counted (16 MiB of messages), what one transaction counts (4 MiB), and
what one sandbox may have counted in all (``MAX_SAID_BYTES``, in this process): then the sandbox has failed, with the reason in its session's log.
Sizes are characters of the messages' JSON, shared out evenly among the records of a message.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import structlog
from sqlalchemy import delete, func, select, text, update
from starlette.websockets import WebSocket, WebSocketDisconnect

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
    MAX_HELLO_BYTES,
    MAX_SAID_BYTES,
    SILENCE_SECONDS,
    Beat,
    Counted,
    Deltas,
    Events,
    Hello,
    SandboxRecord,
    Seen,
    Welcome,
)
from openinspect.sessions.intake import Numbered, OutOfOrder, count, give_up, understood
from openinspect.sessions.log import Issued, Journal, SessionGone
from openinspect.settings import Settings

from .bridge_socket import LARGE, Closed, close, gone_if_closed, receive
from .grants import SandboxGrant, authorise_runtime, bearer

log = structlog.get_logger()

SPOKEN_VERSIONS = (PROTOCOL_VERSION, PROTOCOL_VERSION - 1)
CHECKPOINT_SECONDS = 1.0
HELLO_SECONDS = 10.0
_COUNT_AT_ONCE = 2_000
_COUNT_BYTES_AT_ONCE = 4 * 1024 * 1024
_BUFFER = 8_000
_BUFFER_BYTES = 16 * 1024 * 1024
_REMEMBERED = 10_000
"""Sandboxes whose total is kept when they are not connected."""
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
        self.running: str | None = None
        """The prompt that was sent over this connection last; None when an earlier one had it."""
        self._buffer: deque[Numbered] = deque()
        self._buffer_bytes = 0
        self._measured = 0
        self._buffered = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._row_written = 0.0
        self._agent: tuple[str, bool] | None = None

    async def run(self, hello: Hello, counted: int) -> None:
        self.sent_command = hello.commands_seen
        self._measured = counted
        await self._send(Welcome(protocol=hello.protocol, counted=counted))
        await self._seen(hello.commands_seen)
        await self._note(hello)
        self._wake_sender.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read())
            group.create_task(self._count())
            group.create_task(self._send_commands())

    async def _send(self, frame: Any) -> None:
        with gone_if_closed():
            async with asyncio.timeout(SILENCE_SECONDS):
                await self.socket.send_text(frame.model_dump_json())

    # ── in ────────────────────────────────────────────────────────────────────────────────────────
    async def _read(self) -> None:
        while True:
            frame, size = await receive(self.socket, SILENCE_SECONDS)
            match frame:
                case Events():
                    while len(self._buffer) > _BUFFER or self._buffer_bytes > _BUFFER_BYTES:
                        self._room.clear()
                        await self._room.wait()
                    self._take(frame, size)
                case Deltas():
                    await self._in_order()
                    self.channel.write(
                        [
                            delta
                            for delta in frame.deltas
                            if self.running is None or delta.turn_id == self.running
                        ]
                    )
                case Seen():
                    await self._seen(frame.n)
                case Beat():
                    await self._note(frame)
                case Hello():
                    raise Closed(CLOSE_MALFORMED, "hello was said already")

    def _take(self, frame: Events, size: int) -> None:
        each = -(-size // len(frame.records))
        if size < LARGE:
            records = frame.records
        else:  # what is left out of a record is not to wait with it
            records = [
                SandboxRecord(turn_id=record.turn_id, body=understood(record).model_dump())
                for record in frame.records
            ]
        self._buffer.extend(Numbered(frame.first + i, record, each) for i, record in enumerate(records))
        self._buffer_bytes += each * len(records)
        self._buffered.set()

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
            taken = self._next()
            try:
                await self._within_total(taken)
                async with self.bridge.journal.transaction() as transaction:
                    counted = await count(transaction, self.grant.sandbox_id, taken, self.bridge.settings)
            except OutOfOrder:
                raise Closed(CLOSE_MALFORMED, "a number was skipped") from None
            except SessionGone:
                raise Closed(CLOSE_UNAUTHORISED, "the session was deleted") from None
            except Exception as error:
                if not is_lost(error):
                    raise
                log.warning("bridge.database_away", sandbox=self.grant.sandbox_id)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
                continue
            pause = 0.05
            for item in taken:
                self._buffer.popleft()
                self._buffer_bytes -= item.size
            if not self._buffer:
                self._buffered.clear()
            self._room.set()
            await self._send(Counted(n=counted))

    def _next(self) -> list[Numbered]:
        taken: list[Numbered] = []
        size = 0
        for item in itertools.islice(self._buffer, _COUNT_AT_ONCE):
            size += item.size
            if taken and size > _COUNT_BYTES_AT_ONCE:
                break
            taken.append(item)
        return taken

    async def _within_total(self, taken: list[Numbered]) -> None:
        """Add what is new to the sandbox's total. Beyond the bound the sandbox has failed, and ``Closed`` is raised."""
        fresh = sum(item.size for item in taken if item.n > self._measured)
        total = self.bridge.said.get(self.grant.sandbox_id, 0) + fresh
        if total > MAX_SAID_BYTES:
            reason = f"The sandbox said more than {MAX_SAID_BYTES // 1024**2:,} MiB: something in it goes on without end."
            async with self.bridge.journal.transaction() as transaction:
                await give_up(transaction, self.grant.sandbox_id, self.bridge.settings, reason)
            raise Closed(CLOSE_MALFORMED, "the sandbox has said too much")
        self._measured = max(self._measured, taken[-1].n)
        self.bridge.remember_said(self.grant.sandbox_id, total)

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
            self.running = command["prompt_id"]
        with gone_if_closed():
            async with asyncio.timeout(SILENCE_SECONDS):
                await self.socket.send_json({"type": "command", "n": n, "command": command})
        self.sent_command = n


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
        self.said: OrderedDict[str, int] = OrderedDict()
        """How much each sandbox has had counted by this process."""
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

    def remember_said(self, sandbox_id: str, total: int) -> None:
        self.said[sandbox_id] = total
        self.said.move_to_end(sandbox_id)
        if len(self.said) > _REMEMBERED:
            self.said.popitem(last=False)

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
            hello, _ = await receive(socket, HELLO_SECONDS, MAX_HELLO_BYTES)
            if not isinstance(hello, Hello) or hello.sandbox_id != grant.sandbox_id:
                raise Closed(CLOSE_MALFORMED, "a hello of this token's sandbox was expected")
            if hello.protocol not in SPOKEN_VERSIONS:
                raise Closed(CLOSE_VERSION, f"this server speaks the bridge protocol {PROTOCOL_VERSION}")
            channel = await self.hub.open(grant.session_id)
            try:
                connection = BridgeConnection(self, socket, grant, channel)
                await self._take_over(connection)
                await connection.run(hello, await self._counted(grant.sandbox_id))
            finally:
                self.hub.release(grant.session_id)
        except* Closed as group:
            closed = _leaves(group)[0]
            assert isinstance(closed, Closed)
            log.info("bridge.closed", sandbox=grant.sandbox_id, code=closed.code, reason=closed.reason)
            await close(socket, closed.code, closed.reason)
        except* (WebSocketDisconnect, TimeoutError, SessionGone) as group:
            # the other side is away; it will dial again
            log.info("bridge.disconnected", sandbox=grant.sandbox_id, why=type(_leaves(group)[0]).__name__)
            await close(socket, 1011)
        except* Exception as group:
            if all(is_lost(error) for error in _leaves(group)):
                log.warning("bridge.database_away", sandbox=grant.sandbox_id)
                await close(socket, _TRY_AGAIN, "the database is away")
            else:
                log.exception("bridge.failed", sandbox=grant.sandbox_id)
                await close(socket, 1011, "the server had a fault")
        finally:
            if connection is not None and self._connections.get(grant.sandbox_id) is connection:
                del self._connections[grant.sandbox_id]
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
            await close(older.socket, CLOSE_REPLACED, "another connection of this sandbox took over")

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
