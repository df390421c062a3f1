"""Tickets for a session's stream: for one connection, within 30 seconds. A browser can't send a header with a WebSocket, and an address is no place for a
lasting secret.

A ticket is 256 random bits, stored as their SHA-256, and names the credential that asked for it: when that one ends, so does what the ticket opened.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from openinspect.db.tables import stream_tickets, users
from openinspect.protocol.ids import new_secret

from .credentials import Principal, hash_secret

TICKET_LIFETIME = timedelta(seconds=30)


class Ticket(NamedTuple):
    """What a ticket says, of somebody who is not disabled."""

    session_id: str
    user_id: str
    name: str
    credential_id: str


async def make(connection: AsyncConnection, session_id: str, principal: Principal) -> tuple[str, datetime]:
    """A secret for ``use``, and until when it works."""
    secret, expires = new_secret("oi_ticket"), datetime.now(UTC) + TICKET_LIFETIME
    await connection.execute(delete(stream_tickets).where(stream_tickets.c.expires_at < func.now()))
    await connection.execute(
        insert(stream_tickets).values(
            token_hash=hash_secret(secret),
            session_id=session_id,
            user_id=principal.user.id,
            credential_id=principal.credential_id,
            expires_at=expires,
        )
    )
    return secret, expires


async def use(connection: AsyncConnection, secret: str) -> Ticket | None:
    """Use a ticket up; None when it is unknown, used or expired, or its person was disabled."""
    used = await connection.execute(
        delete(stream_tickets)
        .where(stream_tickets.c.token_hash == hash_secret(secret), stream_tickets.c.expires_at > func.now())
        .returning(stream_tickets.c.session_id, stream_tickets.c.user_id, stream_tickets.c.credential_id)
    )
    ticket = used.one_or_none()
    if ticket is None:
        return None
    name = await connection.scalar(
        select(users.c.name).where(users.c.id == ticket.user_id, users.c.disabled_at.is_(None))
    )
    return None if name is None else Ticket(ticket.session_id, ticket.user_id, name, ticket.credential_id)
