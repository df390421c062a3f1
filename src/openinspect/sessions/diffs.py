"""The differences of a session's work trees to the commits that it began from: told by its sandbox, the newest of each is kept."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from openinspect.db.tables import diffs, session_targets
from openinspect.problems import NotFound
from openinspect.protocol.diffs import RepositoryDiff


async def keep(connection: AsyncConnection, session_id: str, directory: str, told: RepositoryDiff) -> None:
    """In place of the one before. Raises ``NotFound`` for a directory that is none of the session's repositories."""
    known = await connection.scalar(
        select(session_targets.c.directory).where(
            session_targets.c.session_id == session_id, session_targets.c.directory == directory
        )
    )
    if known is None:
        raise NotFound("directory_unknown", "This is not a repository of the session.")
    body = told.model_copy(update={"directory": directory}).model_dump(mode="json")
    statement = insert(diffs).values(session_id=session_id, directory=directory, body=body)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["session_id", "directory"],
            set_={"body": statement.excluded.body, "updated_at": func.now()},
        )
    )
