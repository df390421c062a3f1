"""What travels on the bridge: one WebSocket, opened by the sandbox, text messages of JSON, each one of the frames below.

The order of things
    1. The sandbox says ``Hello``. The server answers ``Welcome`` with the number of the newest event frame that it has counted, or closes
       (4401 unknown or revoked token, 4409 another connection of this sandbox took over, 4426 protocol version not spoken).
    2. The sandbox drops what was counted from its spool and sends the rest in order, in ``Events``; the server answers ``Counted`` once
       they are committed. A number counts once: what is sent again is acknowledged and left out.
    3. The server sends every command that the sandbox has not yet seen, in order; the sandbox answers ``Seen`` once it is safe on its disk.
    4. ``Deltas`` are not numbered and not kept. After a reconnection the sandbox sends each part that is still open from its beginning
       (offset 0); the receiver drops what it has.
    5. ``Beat`` every 10 s from the sandbox; silence of 30 s on either side ends the connection, and the sandbox dials again with backoff
       (0.1 s doubling to 5 s, for ever).

Bounds: a message is at most 4 MiB, ``Hello`` 4 KiB; an ``Events`` frame holds at most 500 events; at most 4,000 events are unacknowledged at a
time. What one sandbox says in its life is at most 1 GiB (of one process of the server); then it is given up, and the next one begins.
Offsets and lengths of text are in Unicode code points.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from .base import Id, Line, Message, Text
from .commands import Command

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
MAX_HELLO_BYTES = 4 * 1024
MAX_SAID_BYTES = 1024**3
MAX_EVENTS_PER_FRAME = 500
MAX_UNCOUNTED_EVENTS = 4_000
BEAT_SECONDS = 10.0
SILENCE_SECONDS = 30.0

AgentState = Literal["starting", "idle", "busy", "restarting", "failed"]


class Delta(Message):
    """A piece of a part that is still being written."""

    turn_id: Id
    part_id: Id
    kind: Literal["text", "reasoning"]
    offset: int = Field(ge=0)
    """Where the piece begins in its part."""
    text: Text


class Hello(Message):
    type: Literal["hello"] = "hello"
    protocol: int
    runtime_version: Line
    sandbox_id: Id
    commands_seen: int = Field(ge=0)
    agent: AgentState
    running: Id | None = None
    """The prompt whose turn is under way."""


class SandboxRecord(Message):
    """One event with the turn that it belongs to. ``body`` is read apart, so that one bad event cannot hold up the others."""

    turn_id: Id | None = None
    body: dict[str, Any]


class Events(Message):
    type: Literal["events"] = "events"
    first: int = Field(ge=1)
    """Number of the first record; the others follow without a gap."""
    records: list[SandboxRecord] = Field(min_length=1, max_length=MAX_EVENTS_PER_FRAME)


class Deltas(Message):
    type: Literal["deltas"] = "deltas"
    deltas: list[Delta] = Field(min_length=1, max_length=500)


class Seen(Message):
    type: Literal["seen"] = "seen"
    n: int = Field(ge=0)


class Beat(Message):
    type: Literal["beat"] = "beat"
    agent: AgentState
    running: Id | None = None
    processes: int = 0
    """What came after the boot and still runs, without the agent's own server and its helpers: the commands of a turn, and what they left
    running. A sandbox with any is not idle."""


class Welcome(Message):
    type: Literal["welcome"] = "welcome"
    protocol: int
    counted: int


class Counted(Message):
    type: Literal["counted"] = "counted"
    n: int


class CommandFrame(Message):
    type: Literal["command"] = "command"
    n: int = Field(ge=1)
    command: Command


FromSandbox = Annotated[Hello | Events | Deltas | Seen | Beat, Field(discriminator="type")]
ToSandbox = Annotated[Welcome | Counted | CommandFrame, Field(discriminator="type")]

from_sandbox = TypeAdapter[FromSandbox](FromSandbox)
to_sandbox = TypeAdapter[ToSandbox](ToSandbox)

CLOSE_UNAUTHORISED = 4401
CLOSE_REPLACED = 4409
CLOSE_VERSION = 4426
CLOSE_MALFORMED = 4400
