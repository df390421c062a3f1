"""The sandbox's side of the bridge, as ``protocol.frames`` says it.

States: ``dialling → greeting → linked → dialling …``, for ever, with a pause of 0.1 s doubling to 5 s between attempts; a link that held
resets it. It ends when the supervisor's end of the channel closes, or the control plane refuses us (4401, 4426, HTTP 401 or 403): then the
supervisor is told, and ends the runtime.

What goes out, in order: events up to the window of uncounted ones; the deltas of a part only after the events that came before it; nothing
of a part once the event with the whole of it is in the spool. Deltas wait at most 33 ms, or for 32 KiB. Silence is noticed by the
WebSocket's own pings, which every server answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from openinspect.protocol import PROTOCOL_VERSION
from openinspect.protocol.config import RuntimeConfig
from openinspect.protocol.frames import (
    BEAT_SECONDS,
    CLOSE_REPLACED,
    CLOSE_UNAUTHORISED,
    CLOSE_VERSION,
    MAX_EVENTS_PER_FRAME,
    MAX_MESSAGE_BYTES,
    MAX_UNCOUNTED_EVENTS,
    SILENCE_SECONDS,
    Beat,
    Delta,
    Deltas,
    Hello,
    Seen,
    to_sandbox,
)
from openinspect.runtime import RUNTIME_VERSION
from openinspect.runtime.channel import Channel
from openinspect.runtime.spool import SpoolReader

DIAL_SECONDS = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
FLUSH_SECONDS = 0.033
FLUSH_CHARACTERS = 32 * 1024
_FRAME_BYTES = 1024 * 1024
_PIECE_CHARACTERS = 200_000


@dataclass
class _Part:
    turn_id: str
    kind: Any
    after: int
    pieces: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    """What was not yet sent on this connection."""
    waiting: int = 0
    """Characters of it."""
    sent: int = 0

    def add(self, text: str) -> None:
        self.pieces.append(text)
        self.fresh.append(text)
        self.waiting += len(text)

    def rewind(self) -> None:
        """Everything is to be sent again."""
        self.pieces = ["".join(self.pieces)]
        self.fresh, self.waiting, self.sent = list(self.pieces), len(self.pieces[0]), 0


class Link:
    def __init__(self, config: RuntimeConfig, supervisor: Channel) -> None:
        self._config = config
        self._supervisor = supervisor
        self._spool = SpoolReader(Path(config.paths.state) / "spool")
        self._last = self._counted = self._seen = self._seen_sent = 0
        self._state: dict[str, Any] = {"agent": "starting", "running": None, "processes": 0}
        self._parts: dict[str, _Part] = {}
        self._sent = 0
        self._flushed = 0.0
        self._wake = asyncio.Event()
        self._beat_now = False
        self._ready = asyncio.Event()

    async def run(self) -> None:
        listening = asyncio.create_task(self._listen())
        dialling = asyncio.create_task(self._dial_for_ever())
        done, pending = await asyncio.wait({listening, dialling}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in done:
            task.result()

    # ── from the supervisor ───────────────────────────────────────────────────────────────────────
    async def _listen(self) -> None:
        while (message := await self._supervisor.receive()) is not None:
            for part_id, turn_id, kind, after, text in message.get("deltas", ()):
                part = self._parts.setdefault(part_id, _Part(turn_id, kind, after))
                part.add(text)
            for part_id in message.get("closed", ()):
                self._parts.pop(part_id, None)
            self._last = message.get("last", self._last)
            self._seen = message.get("seen", self._seen)
            self._counted = max(self._counted, message.get("counted", 0))
            if (state := message.get("state")) is not None:
                self._beat_now = (
                    self._beat_now
                    or state["agent"] != self._state["agent"]
                    or state["running"] != self._state["running"]
                )
                self._state = state
            self._ready.set()
            self._wake.set()

    # ── the connection ────────────────────────────────────────────────────────────────────────────
    def _connect(self) -> connect:
        options: dict[str, Any] = {
            "additional_headers": {"Authorization": f"Bearer {self._config.token}"},
            "open_timeout": DIAL_SECONDS,
            "ping_interval": BEAT_SECONDS,
            "ping_timeout": SILENCE_SECONDS - BEAT_SECONDS,
            "close_timeout": 2.0,
            "max_size": MAX_MESSAGE_BYTES,
            "compression": None,
            "user_agent_header": f"openinspect-runtime/{RUNTIME_VERSION}",
        }
        door = self._config.door
        if door.socket is not None:
            return unix_connect(door.socket, "ws://gateway/bridge", **options)
        if door.url is None:
            raise ValueError("the configuration names no door")
        address = door.url.rstrip("/").replace("http", "ws", 1) + "/bridge"
        if address.startswith("wss:"):
            options["ssl"] = ssl.create_default_context()
        return connect(address, proxy=None, **options)

    async def _dial_for_ever(self) -> None:
        await self._ready.wait()
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            refusal: tuple[int, str] | None = None
            try:
                async with self._connect() as socket:
                    await self._greet(socket)
                    pause = FIRST_PAUSE
                    await self._linked(socket)
            except ConnectionClosed as error:
                code = error.rcvd.code if error.rcvd is not None else 0
                reason = error.rcvd.reason if error.rcvd is not None else ""
                if code in (CLOSE_UNAUTHORISED, CLOSE_VERSION):
                    refusal = code, reason
                elif code == CLOSE_REPLACED:
                    pause = LONGEST_PAUSE
                self._say(f"the connection was closed ({code or 'no close frame'} {reason})")
            except InvalidStatus as error:
                if error.response.status_code in (401, 403):
                    refusal = CLOSE_UNAUTHORISED, "the sandbox's token is not accepted"
                self._say(f"the door answered {error.response.status_code}")
            except (OSError, TimeoutError, WebSocketException, ValueError) as error:
                self._say(f"the door can't be reached: {error or type(error).__name__}")
            self._supervisor.post({"connected": False})
            if refusal is not None:
                with contextlib.suppress(ConnectionError):
                    await self._supervisor.send({"refused": refusal[0], "reason": refusal[1]})
            if time.monotonic() - began > LONGEST_PAUSE:
                pause = FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    @staticmethod
    def _say(text: str) -> None:
        print(f"openinspect bridge: {text}", file=sys.stderr, flush=True)

    async def _greet(self, socket: ClientConnection) -> None:
        hello = Hello(
            protocol=PROTOCOL_VERSION,
            runtime_version=RUNTIME_VERSION,
            sandbox_id=self._config.sandbox_id,
            commands_seen=self._seen,
            agent=self._state["agent"],
            running=self._state["running"],
        )
        self._seen_sent = self._seen
        await socket.send(hello.model_dump_json())
        async with asyncio.timeout(DIAL_SECONDS):
            frame = to_sandbox.validate_json(await socket.recv())
        if frame.type != "welcome":
            raise ValueError(f"the door answered the greeting with {frame.type}")
        self._count(frame.counted)
        self._sent = frame.counted
        self._last = max(self._last, frame.counted)
        for part in self._parts.values():
            part.rewind()
        self._supervisor.post({"connected": True})

    def _count(self, number: int) -> None:
        if number > self._counted:
            self._counted = number
            self._supervisor.post({"counted": number})
        self._wake.set()

    async def _linked(self, socket: ClientConnection) -> None:
        tasks = [
            asyncio.create_task(each) for each in (self._hear(socket), self._send(socket), self._beat(socket))
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _hear(self, socket: ClientConnection) -> None:
        while True:
            data = await socket.recv()
            try:
                frame = to_sandbox.validate_json(data)
            except ValueError:
                self._skip_unknown(data)
                continue
            if frame.type == "counted":
                self._count(frame.n)
            elif frame.type == "command":
                await self._supervisor.send({"command": frame.model_dump(mode="json")})

    def _skip_unknown(self, data: str | bytes) -> None:
        """A command that this version does not know is handed on by its number, so that those behind it are not held up."""
        message = orjson.loads(data)
        if (
            isinstance(message, dict)
            and message.get("type") == "command"
            and isinstance(message.get("n"), int)
        ):
            self._supervisor.post(
                {"unknown": message["n"], "kind": str((message.get("command") or {}).get("kind"))}
            )

    async def _beat(self, socket: ClientConnection) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            self._beat_now = True
            self._wake.set()

    # ── out ───────────────────────────────────────────────────────────────────────────────────────
    async def _send(self, socket: ClientConnection) -> None:
        while True:
            self._wake.clear()
            if self._seen > self._seen_sent:
                self._seen_sent = self._seen
                await socket.send(Seen(n=self._seen).model_dump_json())
            if self._beat_now:
                self._beat_now = False
                await socket.send(Beat(**self._state).model_dump_json())
            while self._sent < self._last and self._sent - self._counted < MAX_UNCOUNTED_EVENTS:
                if self._pending():
                    await self._flush(socket)
                if not await self._send_events(socket):
                    break
            wait = self._next_flush()
            if wait is not None and wait <= 0:
                await self._flush(socket)
                wait = self._next_flush()
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _send_events(self, socket: ClientConnection) -> bool:
        room = MAX_UNCOUNTED_EVENTS - (self._sent - self._counted)
        first, records = self._spool.read(
            self._sent + 1, self._last, min(MAX_EVENTS_PER_FRAME, room), _FRAME_BYTES
        )
        if not records:
            return False
        # Records are JSON already: they are put together as bytes, never read again.
        frame = b'{"type":"events","first":%d,"records":[' % first + b",".join(records) + b"]}"
        await socket.send(frame, text=True)
        self._sent = first + len(records) - 1
        return True

    def _pending(self) -> int:
        """Characters of deltas that may be sent now."""
        return sum(p.waiting for p in self._parts.values() if p.after <= self._sent)

    def _next_flush(self) -> float | None:
        pending = self._pending()
        if pending == 0:
            return None
        if pending >= FLUSH_CHARACTERS:
            return 0.0
        return max(0.0, self._flushed + FLUSH_SECONDS - time.monotonic())

    async def _flush(self, socket: ClientConnection) -> None:
        self._flushed = time.monotonic()
        deltas: list[Delta] = []
        size = 0
        for part_id, part in list(self._parts.items()):
            if part.after > self._sent or not part.waiting:
                continue
            text, part.fresh, part.waiting = "".join(part.fresh), [], 0
            for start in range(0, len(text), _PIECE_CHARACTERS):
                piece = text[start : start + _PIECE_CHARACTERS]
                deltas.append(
                    Delta(turn_id=part.turn_id, part_id=part_id, kind=part.kind, offset=part.sent, text=piece)
                )
                part.sent += len(piece)
                size += len(piece)
                if size >= _PIECE_CHARACTERS or len(deltas) == 500:
                    await socket.send(Deltas(deltas=deltas).model_dump_json())
                    deltas, size = [], 0
        if deltas:
            await socket.send(Deltas(deltas=deltas).model_dump_json())
