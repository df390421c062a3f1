"""What one watcher is sent, from its cursor on: first what it has missed, then what happens. Used by the WebSocket and by server-sent events alike.

``follow`` yields encoded messages of ``protocol.stream``. It ends when the watcher is cut off: with ``SessionGone`` when the session was deleted, else
with ``TooSlow``; the caller closes the connection.

A cursor may be ahead of this process, which learns a moment later what another has appended. One ahead of the log itself is of another history:
the watcher is told so (``Reset``), and gets all of this one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from openinspect.protocol.frames import Delta
from openinspect.protocol.stream import Cursor, Reset, Synced
from openinspect.sessions.log import SessionGone

from .hub import Channel, Reader, Watcher, deltas_message, events_message

PAGE = 1000


class TooSlow(Exception):
    """The watcher did not read fast enough: it resumes from its cursor."""


async def follow(
    channel: Channel, watcher: Watcher, cursor: Cursor, read: Reader
) -> AsyncGenerator[bytes, None]:
    """Replay after the cursor, then live. ``watcher`` has not joined the channel yet; it leaves it when this ends."""
    head, parts = channel.join(watcher)
    try:
        if cursor.after > head and not await read(channel.session_id, cursor.after - 1, 1):
            cursor = Cursor()
            yield Reset(head=head).model_dump_json().encode()
        sent = cursor.after
        while sent < head:
            events = await read(channel.session_id, sent, min(PAGE, head - sent))
            if not events:
                break
            yield events_message([event.encode() for event in events])
            sent = events[-1].seq
        open_deltas = [
            Delta(
                turn_id=part.turn_id,
                part_id=part_id,
                kind="reasoning" if part.kind == "reasoning" else "text",
                offset=offset,
                text=part.text[offset:],
            )
            for part_id, part in parts.items()
            for offset in (_offset(cursor, part_id, part.text),)
            if offset < len(part.text)
        ]
        if open_deltas:
            yield deltas_message(open_deltas)
        yield Synced(head=sent).model_dump_json().encode()
        while True:
            batch = await watcher.get()
            if batch is None:
                raise SessionGone if channel.deleted else TooSlow
            if batch.last and batch.first <= sent:
                # the cursor was ahead of this process
                while sent < batch.last:
                    events = await read(channel.session_id, sent, min(PAGE, batch.last - sent))
                    if not events:
                        break
                    yield events_message([event.encode() for event in events])
                    sent = events[-1].seq
                continue
            sent = batch.last or sent
            yield batch.data
    finally:
        channel.leave(watcher)


def _offset(cursor: Cursor, part_id: str, text: str) -> int:
    have = cursor.parts.get(part_id, 0)
    return have if 0 <= have <= len(text) else 0
