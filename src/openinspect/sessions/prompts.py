"""The prompt queue of a session: first in, first out, one running at a time.

A prompt may be edited and cancelled while it is queued, and retried once it has failed, was stopped or was cancelled. ``client_request_id``
makes enqueuing repeatable: the same id with the same content gives the prompt that is there, with other content a ``Conflict``. At most
``max_unfinished_prompts`` are queued or running.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import func, insert, select, update
from sqlalchemy.engine import RowMapping

from openinspect.db.tables import attachments, prompts, sessions
from openinspect.models.catalogue import check_effort, find
from openinspect.problems import Conflict, Invalid, NotFound, TooMany
from openinspect.protocol.events import AttachmentInfo, Person, PromptCancelled, PromptEdited, PromptQueued
from openinspect.protocol.ids import new_id
from openinspect.settings import Settings

from .lifecycle import get_locked
from .log import SessionGone, Transaction
from .turns import advance

MAX_TEXT = 64_000


def choose_model(model: str | None, effort: str | None) -> tuple[str | None, str | None]:
    """The catalogue's full name of a model, and the effort checked against it. Raises ``Invalid`` with what there is instead."""
    if model is None:
        return None, effort
    found = find(model)
    return found.id, check_effort(found, effort)


async def enqueue(
    transaction: Transaction,
    session_id: str,
    author: Person,
    settings: Settings,
    *,
    text: str,
    model: str | None = None,
    effort: str | None = None,
    attachment_ids: Sequence[str] = (),
    client_request_id: str | None = None,
    retry_of: str | None = None,
) -> str:
    """Queue a prompt, and begin it if it can begin. Gives its id. ``retry_of`` names a prompt whose pictures it brings along.

    Raises ``SessionGone``, ``Conflict`` (archived; request id used for something else), ``TooMany`` (queue full), ``Invalid``.
    """
    connection = transaction.connection
    if not text.strip() and not attachment_ids and retry_of is None:
        raise Invalid(
            "prompt_empty", "The prompt is empty.", "Write what is to be done, or attach a picture."
        )
    if len(text) > MAX_TEXT:
        raise Invalid(
            "prompt_too_long",
            f"The prompt has {len(text):,} characters; {MAX_TEXT:,} is the most.",
            "Shorten it, or put the rest into a file of the repository.",
        )
    unfinished = (
        select(func.count())
        .select_from(prompts)
        .where(prompts.c.session_id == session_id, prompts.c.status.in_(("queued", "running")))
        .scalar_subquery()
    )
    # the row is locked before it is counted: two prompts at the same time can't both be the last that fits
    await connection.exec_driver_sql(
        "SELECT 1 FROM sessions WHERE id = %(id)s FOR UPDATE", {"id": session_id}
    )
    taken = await connection.execute(
        update(sessions)
        .where(sessions.c.id == session_id, sessions.c.status != "deleting")
        .values(
            next_position=sessions.c.next_position + 1,
            title=func.coalesce(sessions.c.title, title_from(text)),
        )
        .returning(
            sessions.c.status,
            sessions.c.next_position,
            sessions.c.model,
            sessions.c.effort,
            unfinished.label("unfinished"),
        )
    )
    session = taken.one_or_none()
    if session is None:
        raise SessionGone
    model, effort = _for_session(model, effort, session.model)
    fingerprint = hashlib.sha256(
        orjson.dumps([author.id, text, model, effort, list(attachment_ids)])
    ).hexdigest()
    if client_request_id is not None:
        earlier = await connection.execute(
            select(prompts.c.id, prompts.c.fingerprint).where(
                prompts.c.session_id == session_id, prompts.c.client_request_id == client_request_id
            )
        )
        if (row := earlier.one_or_none()) is not None:
            if row.fingerprint != fingerprint:
                raise Conflict(
                    "request_id_reused",
                    "This request id was used for another prompt.",
                    "Use a new request id for new content.",
                )
            return row.id
    if session.status != "active":
        raise Conflict(
            "session_archived", "This session is archived.", "Restore it first, then prompt again."
        )
    waiting = session.unfinished
    if waiting >= settings.max_unfinished_prompts:
        raise TooMany(
            "queue_full",
            f"{waiting} prompts are unfinished already, which is the most.",
            "Wait for one to finish, or cancel one.",
        )
    prompt_id = new_id("prm")
    if retry_of is not None:
        infos = await _attach_again(transaction, session_id, prompt_id, retry_of)
    else:
        infos = await _attach(transaction, session_id, prompt_id, attachment_ids)
    await connection.execute(
        insert(prompts).values(
            id=prompt_id,
            session_id=session_id,
            position=session.next_position - 1,
            author_id=author.id,
            text=text,
            model=model,
            effort=effort,
            status="queued",
            client_request_id=client_request_id,
            fingerprint=fingerprint,
            retry_of=retry_of,
        )
    )
    await transaction.append(
        session_id,
        PromptQueued(
            prompt_id=prompt_id,
            author=author,
            text=text,
            model=model or session.model,
            effort=effort if model or effort else session.effort,
            attachments=infos,
            retry_of=retry_of,
        ),
        turn_id=prompt_id,
    )
    await advance(transaction, session_id, settings, locked=True)
    return prompt_id


def _for_session(model: str | None, effort: str | None, session_model: str) -> tuple[str | None, str | None]:
    if model is not None:
        return choose_model(model, effort)
    if effort is not None:
        return None, check_effort(session_model, effort)
    return None, None


def title_from(text: str) -> str | None:
    """The first line of a prompt, cut at a word to at most 80 characters; None when it has no words."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), None)
    if line is None:
        return None
    return line if len(line) <= 80 else line[:79].rsplit(" ", 1)[0] + "…"


async def _attach(
    transaction: Transaction, session_id: str, prompt_id: str, ids: Sequence[str]
) -> list[AttachmentInfo]:
    if not ids:
        return []
    taken = await transaction.connection.execute(
        update(attachments)
        .where(
            attachments.c.session_id == session_id,
            attachments.c.id.in_(list(ids)),
            attachments.c.prompt_id.is_(None),
        )
        .values(prompt_id=prompt_id)
        .returning(attachments)
    )
    found = {row["id"]: row for row in taken.mappings()}
    missing = [attachment_id for attachment_id in ids if attachment_id not in found]
    if missing:
        raise Invalid(
            "attachment_not_found",
            "An attachment is not there, or was sent with another prompt already.",
            "Attach the file again.",
        )
    return [_info(found[attachment_id]) for attachment_id in ids]


async def _attach_again(
    transaction: Transaction, session_id: str, prompt_id: str, earlier_id: str
) -> list[AttachmentInfo]:
    """The pictures of an earlier prompt, for this one too: rows of its own that share the blobs, which go with the session."""
    found = await transaction.connection.execute(
        select(attachments)
        .where(attachments.c.session_id == session_id, attachments.c.prompt_id == earlier_id)
        .order_by(attachments.c.created_at, attachments.c.id)
    )
    rows = [{**row, "id": new_id("att"), "prompt_id": prompt_id} for row in found.mappings()]
    if rows:
        await transaction.connection.execute(insert(attachments), rows)
    return [_info(row) for row in rows]


def _info(row: Mapping[Any, Any]) -> AttachmentInfo:
    return AttachmentInfo(id=row["id"], name=row["name"], media_type=row["media_type"], size=row["size"])


async def _get(transaction: Transaction, session_id: str, prompt_id: str) -> RowMapping:
    """The prompt's row, locked. Raises ``SessionGone``, ``NotFound``."""
    # the session's row first, as everybody else does: the two locks are then always taken in the same order
    await get_locked(transaction, session_id)
    found = await transaction.connection.execute(
        select(prompts).where(prompts.c.session_id == session_id, prompts.c.id == prompt_id).with_for_update()
    )
    row = found.mappings().one_or_none()
    if row is None:
        raise NotFound(
            "prompt_not_found", "There is no such prompt in this session.", "See the session's queue."
        )
    return row


def _must_be_queued(row: RowMapping) -> None:
    if row["status"] != "queued":
        what = "running" if row["status"] == "running" else f"{row['status']} already"
        raise Conflict(
            "prompt_not_queued",
            f"This prompt is {what}.",
            "Only prompts that still wait can be changed; stop the running one instead.",
        )


async def edit(transaction: Transaction, session_id: str, prompt_id: str, text: str, by: Person) -> None:
    row = await _get(transaction, session_id, prompt_id)
    _must_be_queued(row)
    if not text.strip():
        has_attachment = await transaction.connection.scalar(
            select(attachments.c.id).where(attachments.c.prompt_id == prompt_id).limit(1)
        )
        if has_attachment is None:
            raise Invalid("prompt_empty", "The prompt is empty.", "Cancel it instead.")
    if text == row["text"]:
        return
    await transaction.connection.execute(update(prompts).where(prompts.c.id == prompt_id).values(text=text))
    await transaction.append(
        session_id, PromptEdited(prompt_id=prompt_id, text=text, by=by), turn_id=prompt_id
    )


async def cancel(transaction: Transaction, session_id: str, prompt_id: str, by: Person) -> None:
    """May be repeated."""
    row = await _get(transaction, session_id, prompt_id)
    if row["status"] == "cancelled":
        return
    _must_be_queued(row)
    await transaction.connection.execute(
        update(prompts).where(prompts.c.id == prompt_id).values(status="cancelled", finished_at=func.now())
    )
    await transaction.append(session_id, PromptCancelled(prompt_id=prompt_id, by=by), turn_id=prompt_id)


async def retry(
    transaction: Transaction, session_id: str, prompt_id: str, by: Person, settings: Settings
) -> str:
    """Queue a failed, stopped or cancelled prompt again, as a new one that knows what the old one has already done. Gives its id.

    May be repeated, by anybody: while a retry is unfinished, or once one has completed, that is the one.
    """
    row = await _get(transaction, session_id, prompt_id)
    if row["status"] not in ("failed", "stopped", "cancelled"):
        raise Conflict(
            "prompt_not_failed",
            f"This prompt is {row['status']}.",
            "Only a prompt that failed, was stopped or was cancelled can be retried.",
        )
    earlier: str | None = await transaction.connection.scalar(
        select(prompts.c.id)
        .where(
            prompts.c.session_id == session_id,
            prompts.c.retry_of == prompt_id,
            prompts.c.status.in_(("queued", "running", "completed")),
        )
        .order_by(prompts.c.position.desc())
        .limit(1)
    )
    if earlier is not None:
        return earlier
    return await enqueue(
        transaction,
        session_id,
        by,
        settings,
        text=row["text"],
        model=row["model"],
        effort=row["effort"],
        retry_of=prompt_id,
    )
