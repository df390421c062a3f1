"""What lists and pages show of sessions: rows read together, a handful of queries for any number of sessions. Nothing here changes anything."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import func, or_, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from openinspect.db.tables import (
    attachments,
    diffs,
    open_parts,
    prompts,
    pull_requests,
    repositories,
    sandboxes,
    session_targets,
    sessions,
    users,
)
from openinspect.problems import NotFound

from .log import SessionGone
from .sandbox_rows import LIVE_STATES

UNFINISHED = ("queued", "running")


class SessionRows(NamedTuple):
    """One session with what belongs to it."""

    session: RowMapping
    """Columns of ``sessions`` and ``owner_name``."""
    targets: list[RowMapping]
    """Columns of ``session_targets`` and ``repository``."""
    unfinished: list[RowMapping]
    last_finished: RowMapping | None
    sandbox: RowMapping | None
    """The newest one, live or not."""
    pull_requests: list[RowMapping]
    waits_for_answer: bool


class Page(NamedTuple):
    ids: list[str]
    next: str | None


async def page(
    connection: AsyncConnection,
    *,
    status: str = "active",
    owner_id: str | None = None,
    query: str | None = None,
    before: str | None = None,
    limit: int = 50,
) -> Page:
    """Ids of sessions, the one that something happened in last first. ``before`` is what the page before gave as ``next``."""
    wanted = select(sessions.c.id, sessions.c.updated_at).where(sessions.c.status == status)
    if owner_id is not None:
        wanted = wanted.where(sessions.c.owner_id == owner_id)
    if query:
        pattern = "%" + query.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        wanted = wanted.where(or_(sessions.c.title.ilike(pattern), sessions.c.id == query))
    if before is not None:
        at, _, session_id = before.partition("~")
        try:
            moment = datetime.fromisoformat(at)
        except ValueError:
            return Page([], None)
        wanted = wanted.where(
            or_(
                sessions.c.updated_at < moment,
                (sessions.c.updated_at == moment) & (sessions.c.id < session_id),
            )
        )
    found = (
        await connection.execute(
            wanted.order_by(sessions.c.updated_at.desc(), sessions.c.id.desc()).limit(limit + 1)
        )
    ).all()
    more = len(found) > limit
    found = found[:limit]
    return Page(
        [row.id for row in found], f"{found[-1].updated_at.isoformat()}~{found[-1].id}" if more else None
    )


async def read(connection: AsyncConnection, ids: Sequence[str]) -> list[SessionRows]:
    """The sessions of these ids, in this order; those that are gone are left out."""
    if not ids:
        return []
    found = await connection.execute(
        select(sessions, users.c.name.label("owner_name"))
        .outerjoin(users, users.c.id == sessions.c.owner_id)
        .where(sessions.c.id.in_(ids), sessions.c.status != "deleting")
    )
    heads = {row["id"]: row for row in found.mappings()}
    targets = _group(
        await connection.execute(
            select(session_targets, repositories.c.name.label("repository"))
            .join(repositories, repositories.c.id == session_targets.c.repository_id)
            .where(session_targets.c.session_id.in_(ids))
            .order_by(session_targets.c.session_id, session_targets.c.position)
        )
    )
    author = users.c.name.label("author_name")
    unfinished = _group(
        await connection.execute(
            select(prompts, author)
            .outerjoin(users, users.c.id == prompts.c.author_id)
            .where(prompts.c.session_id.in_(ids), prompts.c.status.in_(UNFINISHED))
            .order_by(prompts.c.position)
        )
    )
    finished = _group(
        await connection.execute(
            select(prompts, author)
            .ext(distinct_on(prompts.c.session_id))
            .outerjoin(users, users.c.id == prompts.c.author_id)
            .where(prompts.c.session_id.in_(ids), prompts.c.status.in_(("completed", "failed", "stopped")))
            .order_by(prompts.c.session_id, prompts.c.finished_at.desc())
        )
    )
    boxes = _group(
        await connection.execute(
            select(sandboxes)
            .ext(distinct_on(sandboxes.c.session_id))
            .where(sandboxes.c.session_id.in_(ids))
            .order_by(sandboxes.c.session_id, sandboxes.c.created_at.desc())
        )
    )
    requests = _group(
        await connection.execute(
            select(pull_requests, repositories.c.name.label("repository"))
            .join(repositories, repositories.c.id == pull_requests.c.repository_id)
            .where(pull_requests.c.session_id.in_(ids))
            .order_by(pull_requests.c.created_at)
        )
    )
    running = [
        row["session_id"] for rows in unfinished.values() for row in rows if row["status"] == "running"
    ]
    asking = await _waiting_for_answer(connection, running)
    return [
        SessionRows(
            session=heads[session_id],
            targets=targets[session_id],
            unfinished=sorted(
                unfinished[session_id], key=lambda row: (row["status"] != "running", row["position"])
            ),
            last_finished=finished[session_id][0] if finished[session_id] else None,
            sandbox=boxes[session_id][0] if boxes[session_id] else None,
            pull_requests=requests[session_id],
            waits_for_answer=session_id in asking,
        )
        for session_id in ids
        if session_id in heads
    ]


async def read_one(connection: AsyncConnection, session_id: str) -> SessionRows:
    """Raises ``SessionGone``."""
    found = await read(connection, [session_id])
    if not found:
        raise SessionGone
    return found[0]


def activity(rows: SessionRows) -> str:
    """What a session is doing: derived, so that it can't disagree with the rows."""
    if not rows.unfinished:
        return "idle"
    if rows.unfinished[0]["status"] == "running":
        return "waiting" if rows.waits_for_answer else "running"
    return "starting" if rows.sandbox is not None and rows.sandbox["state"] in LIVE_STATES else "queued"


async def attachments_of(
    connection: AsyncConnection, prompt_ids: Sequence[str]
) -> dict[str, list[RowMapping]]:
    if not prompt_ids:
        return defaultdict(list)
    found = await connection.execute(
        select(attachments)
        .where(attachments.c.prompt_id.in_(prompt_ids))
        .order_by(attachments.c.created_at, attachments.c.id)
    )
    return _group(found, "prompt_id")


async def open_parts_of(connection: AsyncConnection, session_id: str) -> list[RowMapping]:
    found = await connection.execute(
        select(open_parts).where(open_parts.c.session_id == session_id).order_by(open_parts.c.updated_at)
    )
    return list(found.mappings())


async def diffs_of(connection: AsyncConnection, session_id: str) -> list[RowMapping]:
    found = await connection.execute(
        select(diffs)
        .outerjoin(
            session_targets,
            (session_targets.c.session_id == diffs.c.session_id)
            & (session_targets.c.directory == diffs.c.directory),
        )
        .where(diffs.c.session_id == session_id)
        .order_by(func.coalesce(session_targets.c.position, 99))
    )
    return list(found.mappings())


async def _waiting_for_answer(connection: AsyncConnection, ids: Sequence[str]) -> set[str]:
    """Sessions whose newest event about a question is that one was asked."""
    if not ids:
        return set()
    found = await connection.exec_driver_sql(
        "SELECT newest.session_id FROM (SELECT DISTINCT ON (session_id) session_id, kind, turn_id FROM events WHERE session_id = ANY(%(ids)s) "
        "AND kind IN ('question.asked', 'question.answered', 'question.closed') ORDER BY session_id, seq DESC) AS newest "
        "JOIN prompts ON prompts.id = newest.turn_id AND prompts.status = 'running' WHERE newest.kind = 'question.asked'",
        {"ids": list(ids)},
    )
    return {row[0] for row in found}


def _group(found, key: str = "session_id") -> dict[str, list[RowMapping]]:
    grouped: dict[str, list[RowMapping]] = defaultdict(list)
    for row in found.mappings():
        grouped[row[key]].append(row)
    return grouped


async def prompt(connection: AsyncConnection, session_id: str, prompt_id: str) -> RowMapping:
    """Columns of ``prompts``, ``author_name``, and the session's ``session_model`` and ``session_effort``. Raises ``NotFound``."""
    found = await connection.execute(
        select(
            prompts,
            users.c.name.label("author_name"),
            sessions.c.model.label("session_model"),
            sessions.c.effort.label("session_effort"),
        )
        .join(sessions, sessions.c.id == prompts.c.session_id)
        .outerjoin(users, users.c.id == prompts.c.author_id)
        .where(prompts.c.session_id == session_id, prompts.c.id == prompt_id)
    )
    row = found.mappings().one_or_none()
    if row is None:
        raise NotFound(
            "prompt_not_found", "There is no such prompt in this session.", "See the session's queue."
        )
    return row
