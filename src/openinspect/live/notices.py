"""Notices between processes, by Postgres's LISTEN and NOTIFY: that a session's head has moved or that it was deleted, that a sandbox has a command, who is present.

A notice only hurries: everything that it tells can be found in the rows, and is looked up there when the connection was away
(``on_reconnect``). Heads are told at most once per session in ``HEAD_SECONDS``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import psycopg
import structlog

from openinspect.db.errors import DatabaseUnavailable
from openinspect.db.listening import listen
from openinspect.sessions.log import PROCESS_ID

from .hub import DELETED

log = structlog.get_logger()

HEAD_SECONDS = 0.02
HEAD_CHANNEL = "openinspect_head"
COMMAND_CHANNEL = "openinspect_command"
PRESENCE_CHANNEL = "openinspect_presence"
_MAX_WAITING = 10_000


class Notices:
    """``connect`` opens a psycopg connection in autocommit mode."""

    def __init__(self, connect: Callable[[], object]) -> None:
        self._connect = connect
        self.on_head: Callable[[str, int], None] = lambda _session, _head: None
        self.on_command: Callable[[str], None] = lambda _sandbox: None
        self.on_presence: Callable[[str], None] = lambda _payload: None
        self.on_reconnect: Callable[[], None] = lambda: None
        self._heads: dict[str, int] = {}
        self._presence: deque[str] = deque(maxlen=_MAX_WAITING)
        self._wake = asyncio.Event()

    def tell_head(self, session_id: str, head: int) -> None:
        """``DELETED`` for a session that is gone, whatever was appended before."""
        if len(self._heads) < _MAX_WAITING and self._heads.get(session_id) != DELETED:
            self._heads[session_id] = head
        self._wake.set()

    def tell_presence(self, payload: str) -> None:
        self._presence.append(payload)
        self._wake.set()

    async def run(self) -> None:
        """Listen and tell until cancelled, over one connection for each."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._forever(self._listen))
            group.create_task(self._forever(self._tell))

    async def _forever(self, work) -> None:
        pause = 0.1
        while True:
            try:
                async with await self._connect() as connection:  # type: ignore[misc]
                    pause = 0.1
                    await work(connection)
            except (psycopg.Error, DatabaseUnavailable, OSError, TimeoutError) as error:
                log.info("notices.connection_lost", error=type(error).__name__)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)

    async def _listen(self, connection: psycopg.AsyncConnection) -> None:
        async for notice in listen(connection, (HEAD_CHANNEL, COMMAND_CHANNEL, PRESENCE_CHANNEL)):
            if notice is None:
                self.on_reconnect()
                continue
            try:
                self._heard(notice.channel, notice.payload)
            except (ValueError, KeyError) as error:
                log.warning("notices.unreadable", channel=notice.channel, error=type(error).__name__)

    def _heard(self, channel: str, payload: str) -> None:
        if channel == PRESENCE_CHANNEL:
            self.on_presence(payload)
            return
        origin, _, rest = payload.partition(" ")
        if origin == PROCESS_ID:
            return
        if channel == HEAD_CHANNEL:
            session_id, _, head = rest.partition(" ")
            self.on_head(session_id, int(head))
        else:
            self.on_command(rest)

    async def _tell(self, connection: psycopg.AsyncConnection) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            heads, self._heads = self._heads, {}
            presence = [self._presence.popleft() for _ in range(len(self._presence))]
            told = [(HEAD_CHANNEL, f"{PROCESS_ID} {session_id} {head}") for session_id, head in heads.items()]
            told += [(PRESENCE_CHANNEL, payload) for payload in presence]
            if told:
                await connection.execute(
                    "SELECT pg_notify(channel, payload) FROM unnest(%s::text[], %s::text[]) AS told (channel, payload)",
                    ([channel for channel, _ in told], [payload for _, payload in told]),
                )
            await asyncio.sleep(HEAD_SECONDS)
