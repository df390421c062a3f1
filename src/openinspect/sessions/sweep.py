"""The sweep: which rows need a job and have none. The rows tell, by the database's clock, so that nothing depends on a job that a crash has swallowed.

One statement, because every worker asks it every two seconds for as long as it runs.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Interval,
    Select,
    bindparam,
    func,
    literal,
    or_,
    select,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from openinspect.db.tables import prompts, sandboxes, sessions
from openinspect.settings import Settings

from . import sandbox_rows, turns

UNSEEN_SECONDS = 25.0
"""A sandbox that has not been heard of for so long is looked at; its bridge says something every 10 s, noted every 15 s."""
_AT_ONCE = 1_000


async def due(
    engine: AsyncEngine, settings: Settings, unseen: float = UNSEEN_SECONDS
) -> list[tuple[str, str]]:
    """Names of jobs, each with the id of the row that it is about; at most 1,000 of a name, the rest with the next sweep.

    ``unseen``: seconds after which a sandbox that has not been heard of is looked at.
    """
    spans = {"idle": timedelta(seconds=settings.sandbox_idle_seconds), "unseen": timedelta(seconds=unseen)}
    async with engine.connect() as connection:
        found = await connection.execute(_DUE, spans)
        return sorted((row.name, row.id) for row in found)


def _found(name: str, about: ColumnElement[str], *where: ColumnElement[bool]) -> Select[str, Any]:
    # in parentheses by way of a subquery: a limit of its own for each
    found = select(about.label("id")).where(*where).distinct().limit(_AT_ONCE).subquery()
    return select(literal(name).label("name"), found.c.id)


_DUE = union_all(
    _found(
        "sandbox.check",
        sandboxes.c.id,
        sandboxes.c.state.in_(sandbox_rows.LIVE_STATES),
        or_(
            sandboxes.c.state != "ready",
            sandboxes.c.deadline_at < func.now(),
            func.coalesce(sandboxes.c.last_seen_at, sandboxes.c.created_at)
            < func.now() - bindparam("unseen", type_=Interval),
        ),
    ),
    _found(
        "sandbox.stop_idle",
        sandboxes.c.id,
        sandboxes.c.state == "ready",
        sandboxes.c.idle_at < func.now() - bindparam("idle", type_=Interval),
    ),
    _found(
        "prompt.enforce",
        prompts.c.id,
        prompts.c.status == "running",
        or_(
            prompts.c.stop_requested_at < func.now() - timedelta(seconds=turns.ENFORCE_SECONDS),
            prompts.c.deadline_at < func.now(),
        ),
    ),
    _found(
        "session.advance",
        prompts.c.session_id,
        prompts.c.status == "queued",
        prompts.c.session_id.not_in(select(prompts.c.session_id).where(prompts.c.status == "running")),
        prompts.c.session_id.not_in(
            select(sandboxes.c.session_id).where(sandboxes.c.state.in_(("requested", "booting", "stopping")))
        ),
    ),
    _found("session.delete", sessions.c.id, sessions.c.status == "deleting"),
)
