"""A sandbox without a sandbox: it speaks the bridge's protocol over the real door, and does what a test tells it to.

``SandboxDouble`` is one connection, driven by hand: ``say`` (numbered events), ``write`` (deltas), ``commands`` (what was asked of it).
``DoubleProvider`` stands where a real provider stands; each box that the server creates is a double, which by default boots at once and ends
every turn with a short text. Nothing is isolated and no agent runs: this is for tests and measurements of the control plane alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import websockets
from pydantic import BaseModel

from openinspect.protocol import PROTOCOL_VERSION
from openinspect.protocol import events as e
from openinspect.protocol.config import agent_token
from openinspect.protocol.frames import MAX_EVENTS_PER_FRAME
from openinspect.sandboxes.provider import MOST_SPOOLED, BoxSpec, BoxStatus, Finding, Handle, Spooled


class SandboxDouble:
    def __init__(self, socket: Path, sandbox_id: str, token: str) -> None:
        self.socket = socket
        self.sandbox_id = sandbox_id
        self.token = token
        self.agent_token = agent_token(token)
        self.said: list[tuple[str | None, dict[str, Any]]] = []
        """Everything that was ever said, by number: the first is number 1. What a real sandbox has in its spool."""
        self.counted = 0
        self.seen = 0
        self.commands: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.close_code: int | None = None
        self.running: str | None = None
        self.agent = "idle"
        self.acknowledge = True
        """Say ``seen`` for commands; without, the server sends them again after a reconnection."""
        self._connection: websockets.ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._progress = asyncio.Event()

    async def connect(self, **hello: Any) -> None:
        """Dial, say hello, and send again whatever is not counted."""
        connection = await websockets.unix_connect(
            str(self.socket),
            uri="ws://door/bridge",
            additional_headers={"Authorization": f"Bearer {self.token}"},
            max_size=8 * 1024 * 1024,
            compression=None,
        )
        self._connection = connection
        greeting = {
            "type": "hello",
            "protocol": PROTOCOL_VERSION,
            "runtime_version": "double",
            "sandbox_id": self.sandbox_id,
            "commands_seen": self.seen,
            "agent": self.agent,
            "running": self.running,
            **hello,
        }
        try:
            await self.send(greeting)
            # wait_for loses a cancellation that comes together with the message
            async with asyncio.timeout(10):
                welcome = orjson.loads(await connection.recv())
        except websockets.ConnectionClosed as closed:
            self.close_code = closed.rcvd.code if closed.rcvd else 1006
            raise
        assert welcome["type"] == "welcome", welcome
        self.counted = welcome["counted"]
        self._reader = asyncio.create_task(self._read(connection))
        await self._send_from(self.counted)

    async def _read(self, connection: websockets.ClientConnection) -> None:
        try:
            async for message in connection:
                frame = orjson.loads(message)
                if frame["type"] == "counted":
                    self.counted = frame["n"]
                    self._progress.set()
                elif frame["type"] == "command" and frame["n"] > self.seen:
                    if self.acknowledge:
                        self.seen = frame["n"]
                        await self.send({"type": "seen", "n": self.seen})
                    await self.commands.put(frame["command"])
        except websockets.ConnectionClosed:
            pass  # the code is kept below; a test asks for it
        finally:
            self.close_code = connection.close_code
            self._progress.set()

    async def send(self, frame: Any) -> None:
        """A frame, or rubbish: text and bytes go out as they are."""
        assert self._connection is not None
        await self._connection.send(frame if isinstance(frame, str | bytes) else orjson.dumps(frame).decode())

    async def say(self, *bodies: BaseModel, turn_id: str | None = None) -> int:
        """Say events; gives the number of the last. They are kept for a reconnection."""
        before = len(self.said)
        self.said += [(turn_id, body.model_dump(mode="json")) for body in bodies]
        if self._connection is not None:
            with contextlib.suppress(websockets.ConnectionClosed):  # said again when it is back
                await self._send_from(before)
        return len(self.said)

    async def _send_from(self, n: int) -> None:
        while n < len(self.said):
            part = self.said[n : n + MAX_EVENTS_PER_FRAME]
            records = [{"turn_id": turn_id, "body": body} for turn_id, body in part]
            await self.send({"type": "events", "first": n + 1, "records": records})
            n += len(part)

    async def write(self, turn_id: str, part_id: str, offset: int, text: str, kind: str = "text") -> None:
        delta = {"turn_id": turn_id, "part_id": part_id, "kind": kind, "offset": offset, "text": text}
        await self.send({"type": "deltas", "deltas": [delta]})

    async def until_counted(self, n: int | None = None, seconds: float = 20) -> None:
        wanted = len(self.said) if n is None else n
        async with asyncio.timeout(seconds):
            while self.counted < wanted:
                self._progress.clear()
                await self._progress.wait()

    async def command(self, kind: str, seconds: float = 10) -> dict[str, Any]:
        """The next command of this kind; others before it are dropped."""
        async with asyncio.timeout(seconds):
            while True:
                command = await self.commands.get()
                if command["kind"] == kind:
                    return command

    async def ready(self) -> None:
        await self.say(e.SandboxReady(runtime_version="double", agent="none"))

    async def drop(self) -> None:
        """End the connection without a word, as a cut cable does."""
        if self._connection is not None:
            self._connection.transport.abort()
            self._connection = None
        if self._reader is not None:
            await asyncio.gather(self._reader, return_exceptions=True)

    async def closed(self, seconds: float = 10) -> int | None:
        """Wait until the server has closed the connection; gives the code."""
        assert self._reader is not None
        await asyncio.wait_for(asyncio.shield(self._reader), seconds)
        return self.close_code


Behaviour = Callable[[SandboxDouble], Awaitable[None]]


async def answer_everything(double: SandboxDouble) -> None:
    """Boots at once, and ends each turn with one text."""
    await double.connect()
    await double.command("configure")
    await double.ready()
    while True:
        command = await double.commands.get()
        if command["kind"] == "prompt":
            turn = command["prompt_id"]
            await double.say(
                e.TextPart(part_id=f"part-{turn}", text=f"You said: {command['text'][:200]}"),
                e.TurnEnded(outcome="completed"),
                turn_id=turn,
            )


class DoubleProvider:
    """``behaviour`` is run for each box. ``hold`` keeps new boxes for the test to drive itself (``await provider.box()``)."""

    name = "double"

    def __init__(self, socket: Path, behaviour: Behaviour | None = answer_everything) -> None:
        self.socket = socket
        self.behaviour = behaviour
        self.boxes: dict[str, SandboxDouble] = {}
        self.disks: set[str] = set()
        self.left: dict[str, list[bytes]] = {}
        """What a box that has ended has in its spool, from number 1 on: a test puts it there."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._new: asyncio.Queue[SandboxDouble] = asyncio.Queue()

    async def box(self, seconds: float = 10) -> SandboxDouble:
        """The next box that the server creates."""
        return await asyncio.wait_for(self._new.get(), seconds)

    async def check(self) -> list[Finding]:
        return []

    async def create(self, spec: BoxSpec) -> Handle:
        double = SandboxDouble(self.socket, spec.box_id, spec.runtime.token)
        self.boxes[spec.box_id] = double
        self.disks.add(spec.disk_id)
        if self.behaviour is not None:
            self._tasks[spec.box_id] = asyncio.create_task(self._run(self.behaviour, double))
        self._new.put_nowait(double)
        return {"box_id": spec.box_id}

    async def _run(self, behaviour: Behaviour, double: SandboxDouble) -> None:
        with contextlib.suppress(websockets.ConnectionClosed, asyncio.CancelledError):
            await behaviour(double)

    async def status(self, handle: Handle) -> BoxStatus:
        known = handle["box_id"] in self.boxes
        return BoxStatus(state="running" if known else "gone")

    async def stop(self, handle: Handle, grace: float = 5.0) -> None:
        await self.release(handle["box_id"], handle)

    async def spooled(self, box_id: str, handle: Handle | None, after: int) -> Spooled:
        return Spooled(after + 1, self.left.get(box_id, [])[after : after + MOST_SPOOLED])

    async def release(self, box_id: str, handle: Handle | None) -> None:
        task = self._tasks.pop(box_id, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        double = self.boxes.pop(box_id, None)
        if double is not None:
            await double.drop()

    async def delete_disk(self, disk_id: str) -> None:
        self.disks.discard(disk_id)

    async def list_boxes(self) -> list[str]:
        return list(self.boxes)

    async def find(self, box_id: str) -> Handle:
        return {"box_id": box_id}

    async def list_disks(self) -> list[str]:
        return list(self.disks)
