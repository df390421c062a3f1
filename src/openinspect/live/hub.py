"""Fan-out: what a session's log and its open parts are told, told on to everybody who watches.

A ``Channel`` stands for one session while somebody watches it or a sandbox writes to it.
    - Events come in after their commit (``publish``), perhaps out of order when two transactions of a session end together, or as a mere notice
      from another process that the head has moved (``moved``): the channel hands them on in order and reads what is missing from the database.
    - Deltas come in as they are written. The channel keeps the text of every open part, for those who join in the middle.
    - Both are gathered for ``FLUSH_SECONDS`` (the first after a pause goes at once), encoded once, and the same bytes go to every watcher.

A ``Watcher`` is a queue of messages with a bound in bytes. One that falls behind is cut off: it is told to resume from its cursor.
Joining: the channel's watchers get everything from the flush after they joined; what lies before is read from the log, up to the channel's
head, and a seq is never sent twice because a watcher knows the last one that it was sent.

When a session is deleted (``Hub.deleted``, in every process) its watchers are cut off, and told why; its channel takes no new ones.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import orjson
import structlog

from openinspect.protocol.frames import Delta
from openinspect.sessions.log import Logged, SessionGone

log = structlog.get_logger()

FLUSH_SECONDS = 0.016
WATCHER_BYTES = 8 * 1024 * 1024
MAX_OPEN_PARTS = 256
MAX_PART_CHARACTERS = 1_000_000
MAX_OPEN_CHARACTERS = 4_000_000
DELETED = -1
"""Stands for the head of a session that was deleted, in what the processes tell each other."""
_MESSAGE_BYTES = 512 * 1024

Reader = Callable[[str, int, int], Awaitable[list[Logged]]]
"""Reads the log: session, after seq, limit."""


class Batch(NamedTuple):
    """One message for every watcher of a session: ``data`` is JSON, and holds the events ``first..last`` (both 0: none)."""

    data: bytes
    first: int
    last: int


class OpenText(NamedTuple):
    turn_id: str
    kind: str
    text: str


def events_message(encoded: Sequence[bytes]) -> bytes:
    return b'{"type":"events","events":[' + b",".join(encoded) + b"]}"


def deltas_message(deltas: Sequence[Delta]) -> bytes:
    return (
        b'{"type":"deltas","deltas":['
        + b",".join(delta.__pydantic_serializer__.to_json(delta) for delta in deltas)
        + b"]}"
    )


def _joined(deltas: Sequence[Delta]) -> list[Delta]:
    """Neighbours that go on with the same part, as one delta each."""
    runs: list[tuple[Delta, list[str]]] = []
    end = 0
    for delta in deltas:
        if runs and delta.offset == end and delta.part_id == runs[-1][0].part_id:
            runs[-1][1].append(delta.text)
        else:
            runs.append((delta, [delta.text]))
        end = delta.offset + len(delta.text)
    return [
        first if len(texts) == 1 else first.model_copy(update={"text": "".join(texts)})
        for first, texts in runs
    ]


class Watcher:
    """One reader's queue. ``get`` gives the next batch, or None when the watcher has been cut off."""

    def __init__(self) -> None:
        self._queue: deque[Batch] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self.cut_off = False

    def put(self, batch: Batch) -> None:
        if self.cut_off:
            return
        self._bytes += len(batch.data)
        if self._bytes > WATCHER_BYTES:
            self.cut_off = True
            self._queue.clear()
        else:
            self._queue.append(batch)
        self._wake.set()

    async def get(self) -> Batch | None:
        while not self._queue:
            if self.cut_off:
                return None
            self._wake.clear()
            await self._wake.wait()
        batch = self._queue.popleft()
        self._bytes -= len(batch.data)
        return batch

    def close(self) -> None:
        self.cut_off = True
        self._wake.set()


class Channel:
    def __init__(self, session_id: str, head: int, read: Reader) -> None:
        self.session_id = session_id
        self.head = head
        """Newest seq that has been handed to the watchers, or is about to be."""
        self.deleted = False
        self.watchers: set[Watcher] = set()
        self.open_parts: dict[str, OpenText] = {}
        self._open_characters = 0
        self.dirty_parts: set[str] = set()
        """Changed since the last checkpoint."""
        self._read = read
        self._early: dict[int, Logged] = {}
        self._events: list[bytes] = []
        self._first = 0
        self._deltas: list[Delta] = []
        self._flush_handle: asyncio.TimerHandle | None = None
        self._last_flush = 0.0
        self._filling: asyncio.Task[None] | None = None
        self._known_head = head

    # ── in ────────────────────────────────────────────────────────────────────────────────────────
    def publish(self, events: Sequence[Logged]) -> None:
        for event in events:
            self._known_head = max(self._known_head, event.seq)
            if event.seq == self.head + 1:
                self._take(event)
                while (early := self._early.pop(self.head + 1, None)) is not None:
                    self._take(early)
            elif event.seq > self.head:
                self._early[event.seq] = event
        if self._early:
            self._fill()
        self._schedule()

    def moved(self, head: int) -> None:
        """Another process has appended."""
        if head > self._known_head:
            self._known_head = head
        if self._known_head > self.head:
            self._fill()

    def _take(self, event: Logged) -> None:
        if self._deltas and event.kind in ("text", "reasoning"):
            self._flush()  # the deltas of a part go before the whole of it
        if self.watchers:
            if not self._events:
                self._first = event.seq
            self._events.append(event.encode())
        self.head = event.seq
        if self.open_parts and event.kind in ("text", "reasoning", "turn.finished"):
            self._close_parts(event)

    def _close_parts(self, event: Logged) -> None:
        if event.kind == "turn.finished":
            gone = [part_id for part_id, part in self.open_parts.items() if part.turn_id == event.turn_id]
        else:
            gone = [orjson.loads(event.body)["part_id"]]
        for part_id in gone:
            if (part := self.open_parts.pop(part_id, None)) is not None:
                self._open_characters -= len(part.text)
            self.dirty_parts.discard(part_id)

    def write(self, deltas: Sequence[Delta]) -> None:
        """Text that is being written. A delta that does not join on to what is there is left out: its sender will begin again from 0.
        So is what goes beyond the bounds of a part, or of all together: it is seen when the part is whole."""
        for delta in _joined(deltas):
            have = self.open_parts.get(delta.part_id)
            text = have.text if have else ""
            length = delta.offset + len(delta.text)
            if (
                delta.offset > len(text)
                or length > MAX_PART_CHARACTERS
                or self._open_characters - len(text) + length > MAX_OPEN_CHARACTERS
                or (have is None and len(self.open_parts) >= MAX_OPEN_PARTS)
            ):
                continue
            self.open_parts[delta.part_id] = OpenText(
                delta.turn_id, delta.kind, text[: delta.offset] + delta.text
            )
            self._open_characters += length - len(text)
            self.dirty_parts.add(delta.part_id)
            self._deltas.append(delta)
        self._schedule()

    def _fill(self) -> None:
        if self._filling is None or self._filling.done():
            self._filling = asyncio.create_task(self._fill_gap())

    async def _fill_gap(self) -> None:
        while self.head < self._known_head:
            try:
                events = await self._read(self.session_id, self.head, 1000)
            except Exception as error:  # the database is away: what is missing is read when it is back
                log.warning("live.fill_failed", session=self.session_id, error=type(error).__name__)
                await asyncio.sleep(0.5)
                continue
            if not events:
                break
            for event in events:
                if event.seq == self.head + 1:
                    self._early.pop(event.seq, None)
                    self._take(event)
            while (early := self._early.pop(self.head + 1, None)) is not None:
                self._take(early)
            self._schedule()

    # ── out ───────────────────────────────────────────────────────────────────────────────────────
    def _schedule(self) -> None:
        if self._flush_handle is not None or not (self._events or self._deltas):
            return
        loop = asyncio.get_running_loop()
        wait = self._last_flush + FLUSH_SECONDS - loop.time()
        if wait <= 0:
            # not within the caller: what it does next may belong to the same flush
            self._flush_handle = loop.call_later(0, self._flush)
        else:
            self._flush_handle = loop.call_later(wait, self._flush)

    def _flush(self) -> None:
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        self._last_flush = asyncio.get_running_loop().time()
        batches: list[Batch] = []
        if self._events:
            events, self._events = self._events, []
            first = self._first
            start, size = 0, 0
            for place, encoded in enumerate(events):
                size += len(encoded)
                if size > _MESSAGE_BYTES or place == len(events) - 1:
                    batches.append(
                        Batch(events_message(events[start : place + 1]), first + start, first + place)
                    )
                    start, size = place + 1, 0
        if self._deltas:
            deltas, self._deltas = self._deltas, []
            if self.watchers:
                deltas = _joined([delta for delta in deltas if delta.part_id in self.open_parts])
                if deltas:
                    batches.append(Batch(deltas_message(deltas), 0, 0))
        for batch in batches:
            for watcher in self.watchers:
                watcher.put(batch)

    def join(self, watcher: Watcher) -> tuple[int, dict[str, OpenText]]:
        """Add a watcher. Gives the seq up to which it has to read from the log, and the parts that are being written."""
        self._flush()
        self.watchers.add(watcher)
        return self.head, dict(self.open_parts)

    def leave(self, watcher: Watcher) -> None:
        self.watchers.discard(watcher)

    def send(self, data: bytes) -> None:
        """A message that is not from the log, such as who is present."""
        for watcher in self.watchers:
            watcher.put(Batch(data, 0, 0))

    def close(self) -> None:
        for watcher in list(self.watchers):
            watcher.close()


class Hub:
    """The channels of this process."""

    def __init__(self, read: Reader, read_head: Callable[[str], Awaitable[int]]) -> None:
        self._read = read
        self._read_head = read_head
        self._channels: dict[str, Channel] = {}
        self._users: dict[str, int] = {}
        self.on_appended: Callable[[str, int], None] = lambda _session, _head: None

    async def open(self, session_id: str) -> Channel:
        """The channel of a session; ``release`` it afterwards. Raises ``SessionGone``."""
        self._users[session_id] = self._users.get(session_id, 0) + 1
        try:
            channel = self._channels.get(session_id)
            if channel is not None and channel.deleted:
                raise SessionGone
            if channel is None:
                head = await self._read_head(session_id)
                # somebody else may have opened it while the head was read; and more may have been appended since: then the gap is filled
                channel = self._channels.setdefault(session_id, Channel(session_id, head, self._read))
                channel.moved(await self._read_head(session_id))
        except BaseException:
            self.release(session_id)
            raise
        return channel

    def release(self, session_id: str) -> None:
        left = self._users.get(session_id, 0) - 1
        if left > 0:
            self._users[session_id] = left
        else:
            self._users.pop(session_id, None)
            self._channels.pop(session_id, None)

    def publish(self, session_id: str, events: Sequence[Logged]) -> None:
        channel = self._channels.get(session_id)
        if channel is not None:
            channel.publish(events)
        self.on_appended(session_id, events[-1].seq)

    def moved(self, session_id: str, head: int) -> None:
        """Another process has appended, or has deleted the session (``DELETED``)."""
        channel = self._channels.get(session_id)
        if channel is None:
            return
        if head == DELETED:
            channel.deleted = True
            channel.close()
        else:
            channel.moved(head)

    def deleted(self, session_id: str) -> None:
        """This process has deleted a session, or finds that it is gone: tell its watchers, here and elsewhere."""
        self.moved(session_id, DELETED)
        self.on_appended(session_id, DELETED)

    def find(self, session_id: str) -> Channel | None:
        return self._channels.get(session_id)

    def watched(self) -> list[str]:
        return list(self._channels)

    def close_all(self) -> None:
        for channel in self._channels.values():
            channel.close()
