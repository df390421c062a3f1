"""Pictures for prompts: checked by their content (``pictures``), stored as blobs, deleted with their session.

PNG, JPEG, WebP and GIF, 10 MiB each, 100 and 500 MiB a session, six a prompt. What no prompt has taken after a day is deleted.
"""

from __future__ import annotations

import asyncio

from sqlalchemy import func, insert, select
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from openinspect.blobs.store import BlobStore
from openinspect.db.tables import attachments, sessions
from openinspect.problems import Conflict, Invalid, NotFound, TooLarge, TooMany
from openinspect.protocol.ids import new_id

from .log import Journal, SessionGone
from .pictures import is_whole, media_type_of

MAX_BYTES = 10 * 1024 * 1024
MAX_COUNT = 100
MAX_TOTAL_BYTES = 500 * 1024 * 1024


async def add(
    journal: Journal, blobs: BlobStore, session_id: str, user_id: str, name: str, content: bytes
) -> RowMapping:
    """Store a picture; gives its row. Raises ``TooLarge``, ``TooMany``, ``Invalid``, ``Conflict``, ``SessionGone``."""
    if len(content) > MAX_BYTES:
        raise TooLarge(
            "attachment_too_large",
            f"The picture is larger than {MAX_BYTES // 1024**2} MiB.",
            "Make it smaller, then attach it again.",
        )
    media_type = media_type_of(content)
    if media_type is None:
        raise Invalid(
            "attachment_type",
            "This is not a PNG, JPEG, WebP or GIF picture.",
            "Attach a picture of one of these kinds.",
        )
    if not await asyncio.to_thread(is_whole, content):
        raise Invalid(
            "attachment_broken",
            "The picture is cut off or damaged, or has more than 200 million points.",
            "Open it, save it anew as PNG or JPEG, then attach that.",
        )
    attachment_id = new_id("att")
    key = f"sessions/{session_id}/attachments/{attachment_id}"
    async with journal.transaction() as transaction:
        connection = transaction.connection
        locked = await connection.execute(
            select(sessions.c.status)
            .where(sessions.c.id == session_id, sessions.c.status != "deleting")
            .with_for_update()
        )
        status = locked.scalar_one_or_none()
        if status is None:
            raise SessionGone
        if status != "active":
            raise Conflict(
                "session_archived",
                "This session is archived.",
                "Restore it first, then attach the picture again.",
            )
        # a retried prompt has rows of its own for the same blobs: each of those counts once
        stored = (
            select(attachments.c.blob_key, attachments.c.size)
            .where(attachments.c.session_id == session_id)
            .distinct()
            .subquery()
        )
        count, total = (
            await connection.execute(
                select(func.count(), func.coalesce(func.sum(stored.c.size), 0)).select_from(stored)
            )
        ).one()
        if count >= MAX_COUNT or total + len(content) > MAX_TOTAL_BYTES:
            raise TooMany(
                "attachments_full",
                f"This session has {count} attachments already, which is the most.",
                "Start a new session.",
            )
        added = await connection.execute(
            insert(attachments)
            .values(
                id=attachment_id,
                session_id=session_id,
                uploaded_by=user_id,
                name="".join(c for c in name if c.isprintable())[-200:] or "picture",
                media_type=media_type,
                size=len(content),
                blob_key=key,
            )
            .returning(attachments)
        )
        row = added.mappings().one()
    try:
        await blobs.put(key, content)
    except BaseException:
        async with journal.engine.begin() as connection:
            await connection.execute(attachments.delete().where(attachments.c.id == attachment_id))
        raise
    return row


async def find(connection: AsyncConnection, session_id: str, attachment_id: str) -> RowMapping:
    found = await connection.execute(
        select(attachments).where(attachments.c.session_id == session_id, attachments.c.id == attachment_id)
    )
    row = found.mappings().one_or_none()
    if row is None:
        raise NotFound(
            "attachment_not_found", "There is no such attachment in this session.", "Attach the file again."
        )
    return row
