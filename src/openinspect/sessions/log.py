"""The session log: appended to in transactions, published after their commit, read by cursor.

Contract
    - ``seq`` begins at 1 and has no gaps. It is given out by ``UPDATE sessions SET head = head + n``, whose row lock orders the writers of one
      session until they commit; a transaction that appends does no other waiting.
    - An event is published (handed to ``Journal.publish``) only after it has been committed. Two transactions of one session may publish out
      of order; the receiver finds the gap filled in the database (``read``).
    - Appending to a session that is being deleted, or is gone, raises ``SessionGone``.
    - JSON that Postgres can't hold (the character NUL) is replaced by U+FFFD.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from openinspect.problems import NotFound
from openinspect.protocol.commands import Command

PROCESS_ID = uuid.uuid4().hex[:12]
"""Names this process in notifications, so that it can leave out its own."""


class SessionGone(NotFound):
    def __init__(self) -> None:
        super().__init__(
            "session_not_found",
            "This session does not exist, or it has been deleted.",
            "List the sessions to find the one that you mean.",
        )


class Logged(NamedTuple):
    """An event as it stands in the log, its body still encoded."""

    seq: int
    turn_id: str | None
    at: datetime
    kind: str
    body: bytes

    def encode(self) -> bytes:
        """The JSON of ``protocol.events.Event``."""
        turn = b"null" if self.turn_id is None else orjson.dumps(self.turn_id)
        return b'{"seq":%d,"at":"%s","turn_id":%s,"body":%s}' % (
            self.seq,
            self.at.isoformat().encode(),
            turn,
            self.body,
        )


class Record(NamedTuple):
    """Something to append."""

    body: BaseModel
    turn_id: str | None = None


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd")
    if isinstance(value, list):
        return [_without_nul(item) for item in value]
    if isinstance(value, dict):
        return {_without_nul(key): _without_nul(item) for key, item in value.items()}
    return value


def encode_body(body: BaseModel) -> bytes:
    encoded = body.__pydantic_serializer__.to_json(body)
    return orjson.dumps(_without_nul(orjson.loads(encoded))) if rb"\u0000" in encoded else encoded


_HOUSEKEEPING = frozenset(
    ("sandbox.changed", "sandbox.ready", "boot.step", "boot.log", "checked_out", "agent.restarted")
)
"""Nothing that makes a session newer in somebody's list: a restart of the server must not shuffle it."""

# the arrays go in binary (%b): as text each quotation mark of the JSON would have to be escaped
_APPEND = """
WITH taken AS (
    UPDATE sessions SET head = head + %(count)s, updated_at = CASE WHEN %(quiet)s THEN updated_at ELSE now() END
    WHERE id = %(session)s AND status <> 'deleting' RETURNING head - %(count)s AS base
), added AS (
    INSERT INTO events (session_id, seq, kind, turn_id, body, at)
    SELECT %(session)s, taken.base + new.place, new.kind, new.turn_id, new.body::jsonb, %(at)s
    FROM taken, unnest(%(kinds)b::text[], %(turns)b::text[], %(bodies)b::text[]) WITH ORDINALITY AS new (kind, turn_id, body, place)
)
SELECT base FROM taken
"""

_ISSUE = """
WITH numbered AS (
    UPDATE sandboxes SET commands_issued = commands_issued + 1 WHERE id = %(sandbox)s RETURNING commands_issued
), added AS (
    INSERT INTO commands (sandbox_id, n, body) SELECT %(sandbox)s, commands_issued, %(body)s::jsonb FROM numbered
)
SELECT commands_issued, pg_notify('openinspect_command', %(notice)s) FROM numbered
"""


class Issued(NamedTuple):
    """A command with its number."""

    sandbox_id: str
    n: int
    command: Command


class Transaction:
    """One database transaction that may append to logs and issue commands. Made by ``Journal.transaction`` alone."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection
        self.appended: list[tuple[str, list[Logged]]] = []
        self.issued: list[Issued] = []
        self.wanted_sandboxes: list[str] = []
        """Rows made by this transaction that a job has to start; ``Journal.want`` defers it in the same transaction."""
        self._after: list[Callable[[], None]] = []

    async def append(self, session_id: str, *bodies: BaseModel, turn_id: str | None = None) -> None:
        await self.append_records(session_id, [Record(body, turn_id) for body in bodies])

    async def append_records(self, session_id: str, records: Sequence[Record]) -> None:
        if not records:
            return
        at = datetime.now(UTC)
        bodies = [encode_body(record.body) for record in records]
        kinds: list[str] = [record.body.kind for record in records]  # type: ignore[attr-defined]
        turns = [record.turn_id for record in records]
        found = await self.connection.exec_driver_sql(
            _APPEND,
            {
                "count": len(records),
                "quiet": _HOUSEKEEPING.issuperset(kinds),
                "session": session_id,
                "at": at,
                "kinds": kinds,
                "turns": turns,
                "bodies": [body.decode() for body in bodies],
            },
        )
        base = found.scalar_one_or_none()
        if base is None:
            raise SessionGone
        logged = [
            Logged(base + place, turn, at, kind, body)
            for place, (turn, kind, body) in enumerate(zip(turns, kinds, bodies, strict=True), start=1)
        ]
        self.appended.append((session_id, logged))

    async def issue(self, sandbox_id: str, command: Command) -> int:
        """Number a command for a sandbox; it is sent when the transaction has been committed, and again until it was seen."""
        found = await self.connection.exec_driver_sql(
            _ISSUE,
            {
                "sandbox": sandbox_id,
                "body": encode_body(command).decode(),
                "notice": f"{PROCESS_ID} {sandbox_id}",
            },
        )
        n: int = found.one()[0]
        self.issued.append(Issued(sandbox_id, n, command))
        return n

    def after_commit(self, action: Callable[[], None]) -> None:
        """Call something short once the transaction has been committed; not at all when it is rolled back."""
        self._after.append(action)


class Journal:
    """Opens transactions, and hands on what they have committed.

    ``publish(session_id, events)`` and ``command(issued)`` are called on the event loop right after a commit; they only take note.
    ``want(connection, sandbox_id)`` is called before it, to defer the job that starts a sandbox on the same connection.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        publish: Callable[[str, list[Logged]], None] = lambda _session, _events: None,
        command: Callable[[Issued], None] = lambda _issued: None,
        want: Callable[[AsyncConnection, str], Awaitable[None]] | None = None,
    ) -> None:
        self.engine = engine
        self.publish = publish
        self.command = command
        self.want = want

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        async with self.engine.begin() as connection:
            transaction = Transaction(connection)
            yield transaction
            if self.want is not None:
                for sandbox_id in transaction.wanted_sandboxes:
                    await self.want(connection, sandbox_id)
        for session_id, events in transaction.appended:
            self.publish(session_id, events)
        for issued in transaction.issued:
            self.command(issued)
        for action in transaction._after:
            action()


# ── reading ───────────────────────────────────────────────────────────────────────────────────────
MAX_READ_BYTES = 2 * 1024 * 1024


def _reading(which: str, order: str) -> str:
    """As many as are asked for, but no more than fit into ``MAX_READ_BYTES``: one at least."""
    return (
        f"SELECT seq, turn_id, at, kind, body FROM (SELECT *, sum(octet_length(body)) OVER (ORDER BY seq {order}) AS upto FROM ("
        "SELECT seq, turn_id, at, kind, body::text AS body FROM events "
        f"WHERE session_id = %(session)s AND {which} ORDER BY seq {order} LIMIT %(limit)s) AS page) AS measured "
        f"WHERE upto - octet_length(body) < {MAX_READ_BYTES} ORDER BY seq {order}"
    )


_READ_AFTER = _reading("seq > %(seq)s", "ASC")
_READ_BEFORE = _reading("seq < %(seq)s", "DESC")


async def _read(
    connection: AsyncConnection, statement: str, session_id: str, seq: int, limit: int
) -> list[Logged]:
    found = await connection.exec_driver_sql(statement, {"session": session_id, "seq": seq, "limit": limit})
    rows: Any = found.all()
    return [Logged(seq, turn_id, at, kind, body.encode()) for seq, turn_id, at, kind, body in rows]


async def read_after(connection: AsyncConnection, session_id: str, seq: int, limit: int) -> list[Logged]:
    """The events after a cursor, oldest first: at most ``limit``, and fewer when they are large (``MAX_READ_BYTES``)."""
    return await _read(connection, _READ_AFTER, session_id, seq, limit)


async def read_before(connection: AsyncConnection, session_id: str, seq: int, limit: int) -> list[Logged]:
    """The newest events before a seq, oldest first; bounded in the same way."""
    return (await _read(connection, _READ_BEFORE, session_id, seq, limit))[::-1]


async def head(connection: AsyncConnection, session_id: str) -> int:
    """Seq of the newest event. Raises ``SessionGone``."""
    found = await connection.exec_driver_sql(
        "SELECT head FROM sessions WHERE id = %(session)s AND status <> 'deleting'", {"session": session_id}
    )
    value = found.scalar_one_or_none()
    if value is None:
        raise SessionGone
    return value
