"""Where events leave the supervisor: into the spool, and from there by the bridge process to the control plane.

    outbox.emit(event)   → the spool (on disk when ``emit`` returns; safe against power loss 20 ms later) → the bridge is told
    outbox.delta(…)      → only to the bridge; the outbox keeps the whole text of every part that is still open, so that a new bridge
                           process can start it from its beginning

Back-pressure: while the spool holds ``limit`` bytes, or its disk is full, ``emit`` waits; nothing is dropped. Order is the order of calls.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from openinspect.protocol.base import Message
from openinspect.protocol.commands import Command
from openinspect.protocol.frames import AgentState, CommandFrame

from .channel import Channel
from .spool import MAX_RECORD_BYTES, SEGMENT_BYTES, SpoolWriter
from .wording import clean, clean_tree

SYNC_SECONDS = 0.02
DISK_RETRY_SECONDS = 0.5
MAX_OPEN_PART = 1_000_000


@dataclass
class _OpenPart:
    turn_id: str
    kind: Literal["text", "reasoning"]
    after: int
    """Events up to this number come before the part."""
    pieces: list[str] = field(default_factory=list)
    length: int = 0
    fresh: list[str] = field(default_factory=list)
    """What the bridge was not yet given."""


def encode_record(event: Message, turn_id: str | None) -> bytes:
    """A ``SandboxRecord`` as JSON; text that would not fit into one message of the bridge is cut."""
    body = clean_tree(event.model_dump(mode="json", exclude_defaults=False))
    record = orjson.dumps({"turn_id": turn_id, "body": body})
    while len(record) > MAX_RECORD_BYTES:
        field = max((name for name in body if isinstance(body[name], str)), key=lambda name: len(body[name]))
        body[field] = body[field][: len(body[field]) * 2 // 3]
        if "truncated" in body:
            body["truncated"] = True
        record = orjson.dumps({"turn_id": turn_id, "body": body})
    return record


class Outbox:
    """``on_command`` gets commands as they come, possibly again, and of one that this version does not know only the kind; ``on_refused`` is told when the control plane will not have us any more.
    ``secret`` is left out of every event."""

    def __init__(
        self,
        state: Path,
        sandbox_id: str,
        limit: int,
        on_command: Callable[[int, Command | str], None] | None = None,
        on_refused: Callable[[int, str], None] | None = None,
        secret: str | None = None,
    ) -> None:
        self._limit = limit
        self._secret = secret.encode() if secret else None
        self._spool = SpoolWriter(state / "spool", sandbox_id, min(SEGMENT_BYTES, max(limit // 8, 4096)))
        self._socket = state / "bridge.sock"
        self._on_command = on_command
        self._on_refused = on_refused
        self._order = asyncio.Lock()
        """Held over the wait for the disk: nothing overtakes what waits, and a number that was noted is nobody else's."""
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._parts: dict[str, _OpenPart] = {}
        self._closed: list[str] = []
        self._state: dict[str, Any] = {"agent": "starting", "running": None, "processes": 0}
        self._state_changed = False
        self._told = 0
        self.commands_seen = 0
        self._seen_told = 0
        self._wake = asyncio.Event()
        self._dirty = asyncio.Event()
        self._counted_changed = asyncio.Event()
        self._channel: Channel | None = None
        self._server: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.counted = self._spool.dropped
        self.connected = False

    # ── life ──────────────────────────────────────────────────────────────────────────────────────
    async def start(self) -> None:
        self._socket.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._bridge_came, str(self._socket), limit=1 << 20)
        self._socket.chmod(0o600)
        self._tasks = [asyncio.create_task(self._sync())]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._channel is not None:
            self._channel.close()
        if self._server is not None:
            self._server.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._spool.finish_sync(self._spool.begin_sync())
        self._spool.close()

    # ── what the supervisor says ──────────────────────────────────────────────────────────────────
    @property
    def last(self) -> int:
        """Number of the newest event."""
        return self._spool.last

    async def emit(
        self,
        event: Message,
        turn_id: str | None = None,
        *,
        closes: str | None = None,
        note: Callable[[int], None] | None = None,
    ) -> int:
        """Put an event into the spool; ``closes`` names the open part that it is the whole of. ``note`` is called with the event's number
        right before, for a journal that must know what is in the spool. Returns the number."""
        record = encode_record(event, turn_id)
        if self._secret is not None:
            record = record.replace(self._secret, b"[the sandbox's token]")
        async with self._order:
            number = await self._append(record, note)
        if closes is not None and self._parts.pop(closes, None) is not None:
            self._closed.append(closes)
        self._dirty.set()
        self._wake.set()
        return number

    async def _append(self, record: bytes, note: Callable[[int], None] | None) -> int:
        while True:
            await self._room()
            number = self._spool.last + 1
            try:
                if note is not None:
                    note(number)
                return self._spool.append([record])
            except OSError:
                # The disk of the reserved space is full: wait for what is counted to be dropped.
                await asyncio.sleep(DISK_RETRY_SECONDS)

    async def _room(self) -> None:
        if self._spool.held_bytes < self._limit and not self._waiting:
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._admit()
        try:
            await turn
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)

    def _admit(self) -> None:
        while self._waiting and self._spool.held_bytes < self._limit:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                break
        if self._waiting and self._spool.held_bytes < self._limit:
            asyncio.get_running_loop().call_soon(self._admit)

    def delta(self, turn_id: str, part_id: str, kind: Literal["text", "reasoning"], text: str) -> None:
        """More text of a part that is being written."""
        part = self._parts.get(part_id)
        if part is None:
            part = self._parts[part_id] = _OpenPart(turn_id, kind, self._spool.last)
        piece = clean(text)[: MAX_OPEN_PART - part.length]
        if piece:
            part.pieces.append(piece)
            part.fresh.append(piece)
            part.length += len(piece)
            self._wake.set()

    def drop_part(self, part_id: str) -> None:
        """A part came to nothing: it is not open any more, and no event is the whole of it."""
        if self._parts.pop(part_id, None) is not None:
            self._closed.append(part_id)
            self._wake.set()

    def open_parts(self) -> dict[str, tuple[Literal["text", "reasoning"], str]]:
        """By id: kind and text so far."""
        return {part_id: (part.kind, "".join(part.pieces)) for part_id, part in self._parts.items()}

    def tell(
        self, agent: AgentState | None = None, processes: int | None = None, **running: str | None
    ) -> None:
        """What the bridge says in ``Hello`` and ``Beat``."""
        new = dict(self._state)
        if agent is not None:
            new["agent"] = agent
        if processes is not None:
            new["processes"] = processes
        new.update(running)
        if new != self._state:
            self._state, self._state_changed = new, True
            self._wake.set()

    def seen(self, number: int) -> None:
        """Commands up to this number are safe on our disk."""
        self.commands_seen = max(self.commands_seen, number)
        self._wake.set()

    async def delivered(self, number: int, seconds: float) -> bool:
        """Wait until the control plane has counted the event; False when it has not within the time."""
        try:
            async with asyncio.timeout(seconds):
                while self.counted < number:
                    self._counted_changed.clear()
                    await self._counted_changed.wait()
        except TimeoutError:
            return False
        return True

    # ── the bridge process ────────────────────────────────────────────────────────────────────────
    async def _bridge_came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._channel is not None:
            self._channel.close()
        channel = self._channel = Channel(reader, writer)
        telling: asyncio.Task[None] | None = None
        try:
            first = self._whole()
            await channel.send(first)
            telling = asyncio.create_task(self._tell_bridge(channel))
            while (message := await channel.receive()) is not None:
                self._heard(message)
        except ConnectionError:
            return
        finally:
            if telling is not None:
                telling.cancel()
            channel.close()
            if self._channel is channel:
                self._channel, self.connected = None, False

    def _whole(self) -> dict[str, Any]:
        """Everything that a new bridge has to know; from here on it is told what changes."""
        self._closed = []
        self._told, self._seen_told, self._state_changed = self._spool.last, self.commands_seen, False
        for part in self._parts.values():
            part.pieces, part.fresh = ["".join(part.pieces)], []
        return {
            "last": self._told,
            "counted": self.counted,
            "seen": self._seen_told,
            "state": self._state,
            "deltas": [[i, p.turn_id, p.kind, p.after, p.pieces[0]] for i, p in self._parts.items()],
        }

    def _changes(self) -> dict[str, Any]:
        message: dict[str, Any] = {}
        deltas: list[list[Any]] = []
        for part_id, part in self._parts.items():
            if part.fresh:
                deltas.append([part_id, part.turn_id, part.kind, part.after, "".join(part.fresh)])
                part.fresh = []
        if deltas:
            message["deltas"] = deltas
        if self._closed:
            message["closed"], self._closed = self._closed, []
        if self._told != self._spool.last:
            message["last"] = self._told = self._spool.last
        if self._seen_told != self.commands_seen:
            message["seen"] = self._seen_told = self.commands_seen
        if self._state_changed:
            message["state"], self._state_changed = self._state, False
        return message

    async def _tell_bridge(self, channel: Channel) -> None:
        while True:
            self._wake.clear()
            if message := self._changes():
                await channel.send(message)
            await self._wake.wait()

    def _heard(self, message: dict[str, Any]) -> None:
        match message:
            case {"counted": int(number)}:
                self._spool.drop(number)
                self.counted = max(self.counted, number)
                self._counted_changed.set()
                self._admit()
            case {"command": dict(frame)}:
                command = CommandFrame.model_validate(frame)
                if self._on_command is not None:
                    self._on_command(command.n, command.command)
            case {"unknown": int(number), "kind": str(kind)}:
                if self._on_command is not None:
                    self._on_command(number, kind)
            case {"connected": bool(connected)}:
                self.connected = connected
            case {"refused": int(code), "reason": str(reason)}:
                if self._on_refused is not None:
                    self._on_refused(code, reason)
            case _:
                raise ValueError(f"the bridge said something unknown: {list(message)}")

    async def _sync(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(SYNC_SECONDS)
            self._dirty.clear()
            fds = self._spool.begin_sync()
            try:
                await asyncio.to_thread(self._spool.finish_sync, fds)
            except OSError as error:
                print(f"openinspect: the spool could not be synced to its disk: {error}", flush=True)
