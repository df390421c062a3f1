"""What travels between the server and whoever watches a session: WebSocket ``/api/stream``, JSON text messages.

The order of things
    1. The watcher says ``Open`` with a ticket (one use, 30 s, one session; ``POST /api/sessions/{id}/stream-ticket``) and a cursor, within 10 s.
    2. The server sends the events after the cursor in pages (``EventsMessage``), then the parts that are being written now
       (``DeltasMessage`` from the offset that the cursor names for that part, else 0), then ``Synced``; from then on what happens, as it happens.
       Nothing is left out between replay and live and nothing comes twice: a watcher that meets a seq at or below its own has found a bug.
       A cursor beyond the log's end is of another history (the database was put back to a backup): then ``Reset`` comes first, the watcher
       drops what it has, and the events follow from 1.
    3. A delta carries where it begins in its part; the whole part's event (same ``part_id``) replaces it.
    4. A watcher that is too slow gets ``Resume`` and is closed with 4429: it opens again from its cursor.
    5. Each side sends ``Ping`` when it has said nothing for 15 s; silence of 45 s ends the connection.
Close codes: 4401 ticket unknown, used or expired, or (within 15 s) the credential behind it no longer lets the person watch; 4400 message not
understood; 4404 the session was deleted; 4429 too slow, resume (or the person has too many streams open); 1012 the server restarts, resume.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from .base import Id, Message
from .events import Event
from .frames import Delta


class Cursor(Message):
    after: int = Field(default=0, ge=0)
    """Seq of the newest event that the watcher has."""
    parts: dict[str, int] = Field(default={}, max_length=64)
    """How many code points it has of parts that are being written."""


class Open(Message):
    type: Literal["open"] = "open"
    ticket: str = Field(max_length=256)
    cursor: Cursor = Cursor()


class Here(Message):
    """What the person is doing: sent on change. Never stored."""

    type: Literal["here"] = "here"
    state: Literal["active", "idle"] = "active"
    typing: bool = False


class Ping(Message):
    type: Literal["ping"] = "ping"


class EventsMessage(Message):
    type: Literal["events"] = "events"
    events: list[Event]


class DeltasMessage(Message):
    type: Literal["deltas"] = "deltas"
    deltas: list[Delta]


class Synced(Message):
    type: Literal["synced"] = "synced"
    head: int


class Reset(Message):
    """The cursor lies beyond the log: what the watcher has is not this log's. All of it follows, from 1."""

    type: Literal["reset"] = "reset"
    head: int
    """Seq of the newest event that there is."""


class Presence(Message):
    user_id: Id
    name: str
    state: Literal["active", "idle"]
    typing: bool


class PresenceMessage(Message):
    type: Literal["presence"] = "presence"
    people: list[Presence]


class Resume(Message):
    type: Literal["resume"] = "resume"
    reason: str


FromWatcher = Annotated[Open | Here | Ping, Field(discriminator="type")]
ToWatcher = Annotated[
    EventsMessage | DeltasMessage | Synced | Reset | PresenceMessage | Resume | Ping,
    Field(discriminator="type"),
]

from_watcher = TypeAdapter[FromWatcher](FromWatcher)
to_watcher = TypeAdapter[ToWatcher](ToWatcher)
