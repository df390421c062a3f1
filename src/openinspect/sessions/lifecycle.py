"""Sessions begin, are renamed, archived, restored and deleted.

    active ⇄ archived          (archiving needs an empty queue; the sandbox is stopped, its files are kept)
    active | archived → deleting → gone

``deleting`` is left by a job alone (``janitor.delete``), which removes sandbox, files, blobs and rows, and may be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from openinspect.db.tables import prompts, repositories, session_targets, sessions
from openinspect.models.catalogue import check_effort, find
from openinspect.problems import Conflict, Invalid, NotFound
from openinspect.protocol.events import (
    Person,
    SessionArchived,
    SessionCreated,
    SessionRestored,
    SessionTitled,
    Target,
)
from openinspect.protocol.ids import new_id, short_id

from .log import SessionGone, Transaction

BRANCH_PREFIX = "openinspect/"


class TargetRequest(NamedTuple):
    repository: str
    """Id or name."""
    branch: str | None


class Created(NamedTuple):
    id: str | None
    row: RowMapping | None
    """None: it is not new, this request id made it before."""
    targets: list[dict[str, object]]


def work_branch(session_id: str) -> str:
    """The branch that a session's work goes to. It may also push to others that begin with this and a ``-``."""
    return BRANCH_PREFIX + short_id(session_id)


async def find_repository(connection: AsyncConnection, name_or_id: str) -> RowMapping:
    found = await connection.execute(
        select(repositories).where(
            or_(repositories.c.id == name_or_id, func.lower(repositories.c.name) == name_or_id.lower())
        )
    )
    row = found.mappings().one_or_none()
    if row is None:
        known = (
            await connection.scalars(select(repositories.c.name).order_by(repositories.c.name).limit(10))
        ).all()
        remedy = f"Known are: {', '.join(known)}." if known else "Add it first: `openinspect repos add PATH`."
        raise NotFound("repository_not_found", f"There is no repository “{name_or_id[:100]}”.", remedy)
    return row


async def create(
    transaction: Transaction,
    owner: Person,
    *,
    title: str | None,
    targets: Sequence[TargetRequest],
    model: str,
    effort: str | None,
    client_request_id: str | None = None,
    fingerprint: str | None = None,
) -> Created:
    """A new session, or the one that the same request made before. ``fingerprint`` stands for all that the request asks for: the same request id
    with another is refused. Raises ``NotFound``, ``Invalid``, ``Conflict``."""
    connection = transaction.connection
    chosen = find(model)
    effort = check_effort(chosen, effort)
    if client_request_id is not None:
        earlier = await _by_request(transaction, owner, client_request_id, fingerprint)
        if earlier is not None:
            return Created(earlier, None, [])
    session_id = new_id("ses")
    rows: list[dict[str, object]] = []
    names: dict[str, str] = {}
    for position, target in enumerate(targets):
        repository = await find_repository(connection, target.repository)
        if repository["name"] in names.values():
            raise Invalid(
                "repository_twice",
                f"The repository {repository['name']} is named twice.",
                "Name each repository once.",
            )
        branch = target.branch or repository["default_branch"]
        if branch is None:
            branch = "main"  # an empty repository: its first branch
        names[repository["id"]] = repository["name"]
        rows.append(
            {
                "session_id": session_id,
                "position": position,
                "repository_id": repository["id"],
                "directory": repository["name"],
                "base_branch": branch,
                "work_branch": work_branch(session_id),
            }
        )
    added = await connection.execute(
        insert(sessions)
        .values(
            id=session_id,
            title=title,
            owner_id=owner.id,
            model=chosen.id,
            effort=effort,
            client_request_id=client_request_id,
            fingerprint=fingerprint,
        )
        .on_conflict_do_nothing()
        .returning(sessions)
    )
    row = added.mappings().one_or_none()
    if row is None:  # the same request came twice at the same time, and the other was first
        return Created(await _by_request(transaction, owner, client_request_id, fingerprint), None, [])
    if rows:
        await connection.execute(insert(session_targets), rows)
    await transaction.append(
        session_id,
        SessionCreated(
            by=owner,
            model=chosen.id,
            effort=effort,
            targets=[
                Target(
                    repository_id=str(row["repository_id"]),
                    repository=str(row["directory"]),
                    directory=str(row["directory"]),
                    base_branch=str(row["base_branch"]),
                    work_branch=str(row["work_branch"]),
                )
                for row in rows
            ],
        ),
    )
    return Created(session_id, row, rows)


async def _by_request(
    transaction: Transaction, owner: Person, client_request_id: str | None, fingerprint: str | None
) -> str | None:
    found = await transaction.connection.execute(
        select(sessions.c.id, sessions.c.fingerprint).where(
            sessions.c.owner_id == owner.id, sessions.c.client_request_id == client_request_id
        )
    )
    row = found.one_or_none()
    if row is None:
        return None
    if row.fingerprint not in (None, fingerprint):
        raise Conflict(
            "request_id_reused",
            "This request id was used for another session.",
            "Use a new request id for new content.",
        )
    return row.id


async def get_locked(transaction: Transaction, session_id: str) -> RowMapping:
    found = await transaction.connection.execute(
        select(sessions).where(sessions.c.id == session_id, sessions.c.status != "deleting").with_for_update()
    )
    row = found.mappings().one_or_none()
    if row is None:
        raise SessionGone
    return row


async def change(
    transaction: Transaction,
    session_id: str,
    by: Person,
    *,
    title: str | None = None,
    model: str | None = None,
    effort: str | None = None,
) -> None:
    row = await get_locked(transaction, session_id)
    values: dict[str, object] = {}
    if model is not None or effort is not None:
        chosen = find(model or row["model"])
        values = {"model": chosen.id, "effort": check_effort(chosen, effort)}
    if title is not None and title != row["title"]:
        values["title"] = title
        await transaction.append(session_id, SessionTitled(title=title, by=by))
    if values:
        await transaction.connection.execute(
            update(sessions).where(sessions.c.id == session_id).values(**values)
        )


async def archive(transaction: Transaction, session_id: str, by: Person) -> None:
    """May be repeated. Raises ``Conflict`` while prompts are unfinished. The caller stops the sandbox."""
    row = await get_locked(transaction, session_id)
    if row["status"] == "archived":
        return
    unfinished = await transaction.connection.scalar(
        select(func.count())
        .select_from(prompts)
        .where(prompts.c.session_id == session_id, prompts.c.status.in_(("queued", "running")))
    )
    if unfinished:
        raise Conflict(
            "session_busy",
            "Prompts are still running or queued.",
            "Stop the running one and cancel the queued ones first.",
        )
    await transaction.connection.execute(
        update(sessions).where(sessions.c.id == session_id).values(status="archived", archived_at=func.now())
    )
    await transaction.append(session_id, SessionArchived(by=by))


async def restore(transaction: Transaction, session_id: str, by: Person) -> None:
    """May be repeated."""
    row = await get_locked(transaction, session_id)
    if row["status"] == "active":
        return
    await transaction.connection.execute(
        update(sessions).where(sessions.c.id == session_id).values(status="active", archived_at=None)
    )
    await transaction.append(session_id, SessionRestored(by=by))


async def begin_delete(transaction: Transaction, session_id: str) -> None:
    """From here on nobody sees the session, nothing is appended to its log, and its sandbox's token opens nothing. May be repeated."""
    await transaction.connection.execute(
        update(sessions).where(sessions.c.id == session_id).values(status="deleting")
    )
