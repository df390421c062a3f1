"""The janitor removes what nobody needs any more. Each of its methods may be repeated at any time, and fails without the others.

Nothing that may hold a person's work is removed because it is not known: a server that was given another database, or an older copy of it, knows
none of the disks in its folder. A session's disk goes with the session, by ``delete``, whose row stays until all else is gone.
"""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta

import structlog
from sqlalchemy import delete, func, select

from openinspect.blobs.store import BlobStore
from openinspect.db.tables import attachments, events, sandboxes, sessions
from openinspect.models import accounts
from openinspect.sandboxes.provider import SandboxProvider
from openinspect.settings import Settings

from . import sandbox_rows
from .intake import end
from .log import Journal, SessionGone

log = structlog.get_logger()

_UNTAKEN = timedelta(days=1)


class Janitor:
    def __init__(
        self, journal: Journal, provider: SandboxProvider, settings: Settings, blobs: BlobStore
    ) -> None:
        self.journal = journal
        self.provider = provider
        self.settings = settings
        self.blobs = blobs
        self._strange_disks = 0

    async def delete(self, session_id: str) -> None:
        """Remove everything that a session had, once it is marked as deleting: sandbox, files, blobs, rows."""
        async with self.journal.engine.connect() as connection:
            status = await connection.scalar(select(sessions.c.status).where(sessions.c.id == session_id))
            found = await connection.execute(select(sandboxes).where(sandboxes.c.session_id == session_id))
            boxes = found.mappings().all()
        if status != "deleting":
            return
        for row in boxes:
            if row["state"] in sandbox_rows.LIVE_STATES:
                if row["handle"]:
                    await self.provider.stop(row["handle"], grace=1.0)
                async with self.journal.transaction() as transaction:
                    await end(transaction, row, "stopped", self.settings, "The session was deleted.")
            await self.provider.release(row["id"], row["handle"])
        await self.provider.delete_disk(session_id)
        await self.blobs.delete_prefix(f"sessions/{session_id}/")
        async with self.journal.engine.begin() as connection:
            await connection.execute(delete(events).where(events.c.session_id == session_id))
            await connection.execute(
                delete(sessions).where(sessions.c.id == session_id, sessions.c.status == "deleting")
            )

    async def reap(self) -> int:
        """Release boxes that no live row knows. Gives how many. Disks of no known session stay; that there are any is told in the log."""
        boxes = await self.provider.list_boxes()
        disks = await self.provider.list_disks()
        async with self.journal.engine.connect() as connection:
            live = await connection.scalars(
                select(sandboxes.c.id).where(sandboxes.c.state.in_(sandbox_rows.LIVE_STATES))
            )
            strange_boxes = sorted(set(boxes) - set(live))
            known = await connection.scalars(select(sessions.c.id).where(sessions.c.id.in_(disks)))
            strange_disks = set(disks) - set(known)
        for box_id in strange_boxes:
            await self.provider.release(box_id, None)
        if len(strange_disks) != self._strange_disks:
            self._strange_disks = len(strange_disks)
            log.warning(
                "sandbox.disks_of_no_session", count=len(strange_disks), some=sorted(strange_disks)[:5]
            )
        return len(strange_boxes)

    async def prune_attachments(self) -> None:
        """Delete uploads that no prompt has taken within a day."""
        async with self.journal.engine.begin() as connection:
            old = await connection.execute(
                delete(attachments)
                .where(attachments.c.prompt_id.is_(None), attachments.c.created_at < func.now() - _UNTAKEN)
                .returning(attachments.c.blob_key)
            )
            keys = list(old.scalars())
        for key in keys:
            await self.blobs.delete(key)

    async def settle_abandoned_calls(self, started_before: datetime) -> None:
        """Model calls whose server died under way never end by themselves: the log says so, and their reservation is freed."""
        async with self.journal.engine.connect() as connection:
            concerned = await accounts.sessions_with_abandoned(connection, started_before)
        for session_id in concerned:
            with contextlib.suppress(SessionGone):
                async with self.journal.transaction() as transaction:
                    for settled in await accounts.settle_abandoned(
                        transaction.connection, session_id, started_before
                    ):
                        await transaction.append(session_id, settled.event, turn_id=settled.prompt_id)
