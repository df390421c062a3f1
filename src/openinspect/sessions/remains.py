"""What a sandbox that is gone had still to say: read from its box before that is removed, and counted as if it had come over the bridge.

While the server is away a sandbox works on and keeps what it says in its spool. When it dies before anybody has heard it (the machine was
restarted, or both were killed), its box still holds that: texts, commits, the end of the turn. Called by whoever is about to end a sandbox
whose box has ended, before ``intake.end`` and before ``provider.release``.
"""

from __future__ import annotations

import structlog
from pydantic import ValidationError
from sqlalchemy import func, select, update
from sqlalchemy.engine import RowMapping

from openinspect.db.engine import is_lost
from openinspect.db.tables import sandboxes
from openinspect.protocol.frames import SandboxRecord
from openinspect.sandboxes.provider import ProviderError, SandboxProvider, Spooled
from openinspect.settings import Settings

from . import sandbox_rows
from .intake import Numbered, OutOfOrder, count
from .log import Journal, SessionGone

log = structlog.get_logger()


async def count_remains(
    journal: Journal, provider: SandboxProvider, sandbox: RowMapping, settings: Settings
) -> int:
    """Count what an ended box has in its spool and nobody has counted yet; gives how many records that were.

    Whatever of the box still lives is ended first, so that nothing is said behind what is read. Counted in transactions of at most 1,000
    records, so that a call that was cut off goes on where it was. From the first of them on the sandbox is ``stopping``, so that no prompt is
    begun in it. The row may be older than the database's; a sandbox that has ended there is left alone. What can't be read is logged and
    given up, so that it never keeps a sandbox from ending; only a database that is away raises.
    """
    sandbox_id: str = sandbox["id"]
    async with journal.engine.connect() as connection:
        begun = await connection.scalar(
            select(sandboxes.c.frames_counted).where(sandboxes.c.id == sandbox_id)
        )
    if begun is None:
        return 0
    after: int = begun
    try:
        if sandbox["handle"]:
            await provider.stop(sandbox["handle"], grace=0)
        while (spooled := await provider.spooled(sandbox_id, sandbox["handle"], after)).records:
            upto = await _count(journal, sandbox_id, spooled, settings)
            if upto is None or upto <= after:
                break
            after = upto
    except (OutOfOrder, SessionGone, ProviderError) as error:
        log.warning("sandbox.remains_left", sandbox=sandbox_id, counted=after, reason=repr(error))
    except Exception as error:
        if is_lost(error):
            raise
        log.exception("sandbox.remains_left", sandbox=sandbox_id, counted=after)
    if after > begun:
        log.info("sandbox.remains_counted", sandbox=sandbox_id, records=after - begun)
    return after - begun


async def _count(journal: Journal, sandbox_id: str, spooled: Spooled, settings: Settings) -> int | None:
    numbered = [Numbered(n, _record(data)) for n, data in enumerate(spooled.records, spooled.first)]
    async with journal.transaction() as transaction:
        connection = transaction.connection
        await sandbox_rows.lock_session_of(transaction, sandbox_id)
        row = sandboxes.c.id == sandbox_id
        state = await connection.scalar(select(sandboxes.c.state).where(row).with_for_update())
        if state not in sandbox_rows.LIVE_STATES:
            return None
        if state != "stopping":
            # the end of a turn begins the next one in a sandbox that is ready, and this one is gone
            await connection.execute(update(sandboxes).where(row).values(state="stopping"))
        upto = await count(transaction, sandbox_id, numbered, settings)
        if any(item.record.body.get("kind") == "sandbox.ready" for item in numbered):
            # it had come up: what it was to do waits for another one, and has not failed
            await connection.execute(
                update(sandboxes).where(row, sandboxes.c.ready_at.is_(None)).values(ready_at=func.now())
            )
        return upto


def _record(data: bytes) -> SandboxRecord:
    try:
        return SandboxRecord.model_validate_json(data)
    except ValidationError:
        # It becomes a warning in its place.
        return SandboxRecord(body={})
