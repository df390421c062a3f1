"""Sessions, their prompts, attachments, log and diff."""

from __future__ import annotations

import contextlib
import hashlib
from typing import Annotated, Literal

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response, UploadFile
from sqlalchemy.engine import RowMapping

from openinspect.forges.errors import BranchNameUnusable, BranchNotFound, EmptyRepository
from openinspect.identity.credentials import Principal
from openinspect.models import catalogue
from openinspect.models.availability import require_available
from openinspect.problems import Forbidden, TooLarge
from openinspect.protocol.diffs import RepositoryDiff
from openinspect.protocol.events import AttachmentInfo
from openinspect.sessions import attachments, lifecycle, log, prompts, questions, reading, sandbox_rows, turns
from openinspect.sessions.lifecycle import TargetRequest
from openinspect.sessions.log import SessionGone

from .access import TheServices, person, require
from .models import (
    Answers,
    DiffView,
    EventPage,
    NewPrompt,
    NewSession,
    PromptChange,
    PromptView,
    SessionChange,
    SessionDetail,
    SessionPage,
)
from .services import Services
from .session_views import detail, new_session, prompt_view, summary

router = APIRouter(prefix="/api/sessions", tags=["sessions"])

Reader = Annotated[Principal, Depends(require("sessions.read"))]
Creator = Annotated[Principal, Depends(require("sessions.create"))]
Prompter = Annotated[Principal, Depends(require("sessions.prompt"))]
Manager = Annotated[Principal, Depends(require("sessions.manage"))]


# ── sessions ──────────────────────────────────────────────────────────────────────────────────────
@router.get("")
async def list_sessions(
    principal: Reader,
    services: TheServices,
    status: Literal["active", "archived"] = "active",
    mine: bool = False,
    q: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    before: Annotated[str | None, Query(max_length=100)] = None,
) -> SessionPage:
    async with services.reader.connect() as connection:
        page = await reading.page(
            connection,
            status=status,
            owner_id=principal.user.id if mine else None,
            query=q,
            before=before,
            limit=limit,
        )
        rows = await reading.read(connection, page.ids)
    return SessionPage(items=[summary(one) for one in rows], next=page.next)


@router.post("", status_code=201)
async def create_session(body: NewSession, principal: Creator, services: TheServices) -> SessionDetail:
    model = catalogue.find(body.model or services.settings.default_model)
    require_available(services.settings, model)
    owner = person(principal)
    if body.prompt is not None:
        _may_prompt(principal)
        if body.prompt.model:
            require_available(services.settings, catalogue.find(body.prompt.model))
    for target in body.targets:
        # before the transaction: git takes its time, and the code host connections of its own
        async with services.reader.connect() as connection:
            repository = await lifecycle.find_repository(connection, target.repository)
        if target.branch is not None:
            await _branch_exists(services, repository, target.branch, principal)
        elif repository["default_branch"] is None:
            with contextlib.suppress(EmptyRepository):
                await services.forge.default_branch(repository["id"])  # it may have one by now
    async with services.journal.transaction() as transaction:
        created = await lifecycle.create(
            transaction,
            owner,
            title=body.title,
            targets=[TargetRequest(target.repository, target.branch) for target in body.targets],
            model=model.id,
            effort=body.effort,
            client_request_id=body.client_request_id,
            fingerprint=_fingerprint(body),
        )
        if created.id is None:
            raise SessionGone  # made by the same request before, and deleted since
        if created.row is not None and body.prompt is not None:
            await prompts.enqueue(
                transaction,
                created.id,
                owner,
                services.settings,
                text=body.prompt.text,
                model=body.prompt.model,
                effort=body.prompt.effort,
                attachment_ids=body.prompt.attachments,
                client_request_id=body.prompt.client_request_id,
            )
    if created.row is None or body.prompt is not None:
        return await _detail(services, created.id)
    return new_session(created.row, owner, created.targets)


def _fingerprint(body: NewSession) -> str:
    """Stands for what is asked for, without the ids of the requests."""
    asked = body.model_dump(mode="json", exclude={"client_request_id": True, "prompt": {"client_request_id"}})
    return hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()


async def _branch_exists(
    services: Services, repository: RowMapping, branch: str, principal: Principal
) -> None:
    """Raises ``BranchNotFound``, with the branches that there are for who may read them; in an empty repository any branch may be the first."""
    try:
        await services.forge.branch_head(repository["id"], branch)
    except EmptyRepository:
        return
    except BranchNameUnusable:
        raise
    except BranchNotFound:
        known: list[str] = []
        if "repositories.read" in principal.permissions:
            known = [one.name for one in await services.forge.list_branches(repository["id"], limit=10)]
        raise BranchNotFound(
            f"The repository {repository['name']} has no branch “{branch}”",
            f"Choose one of: {', '.join(known)}." if known else "Choose a branch that is there.",
        ) from None


def _may_prompt(principal: Principal) -> None:
    if "sessions.prompt" not in principal.permissions:
        raise Forbidden(
            "not_permitted",
            "This needs the permission sessions.prompt.",
            "Ask an admin, or use a token with this scope.",
        )


async def _detail(services: Services, session_id: str) -> SessionDetail:
    async with services.reader.connect() as connection:
        rows = await reading.read_one(connection, session_id)
        shown = [*rows.unfinished, *([rows.last_finished] if rows.last_finished else [])]
        attached = await reading.attachments_of(connection, [row["id"] for row in shown])
        parts = await reading.open_parts_of(connection, session_id)
    connected = rows.sandbox is not None and services.bridge.connected(rows.sandbox["id"])
    return detail(rows, attached, parts, connected=connected)


@router.get("/{session_id}")
async def get_session(session_id: str, _: Reader, services: TheServices) -> SessionDetail:
    return await _detail(services, session_id)


@router.patch("/{session_id}")
async def change_session(
    session_id: str, body: SessionChange, principal: Manager, services: TheServices
) -> SessionDetail:
    if body.model:
        require_available(services.settings, catalogue.find(body.model))
    async with services.journal.transaction() as transaction:
        await lifecycle.change(
            transaction, session_id, person(principal), title=body.title, model=body.model, effort=body.effort
        )
    return await _detail(services, session_id)


@router.post("/{session_id}/archive")
async def archive_session(session_id: str, principal: Manager, services: TheServices) -> SessionDetail:
    """Put a session away: its sandbox is stopped, everything else is kept."""
    async with services.journal.transaction() as transaction:
        await lifecycle.archive(transaction, session_id, person(principal))
        sandbox = await sandbox_rows.live_sandbox(transaction, session_id)
    if sandbox is not None:
        await services.keeper.stop(sandbox["id"], "Stopped: the session was archived.")
    return await _detail(services, session_id)


@router.post("/{session_id}/restore")
async def restore_session(session_id: str, principal: Manager, services: TheServices) -> SessionDetail:
    async with services.journal.transaction() as transaction:
        await lifecycle.restore(transaction, session_id, person(principal))
    return await _detail(services, session_id)


@router.delete("/{session_id}", status_code=202)
async def delete_session(session_id: str, principal: Manager, services: TheServices) -> None:
    """Delete a session with its sandbox, files, attachments and transcript. It can't be brought back. Its pull requests stay."""
    async with services.journal.transaction() as transaction:
        row = await lifecycle.get_locked(transaction, session_id)
        if row["owner_id"] != principal.user.id and "sessions.delete_any" not in principal.permissions:
            raise Forbidden(
                "not_owner", "Only the session's owner or an admin may delete it.", "Archive it instead."
            )
        await lifecycle.begin_delete(transaction, session_id)
    services.hub.deleted(session_id)
    await services.defer("session.delete", session_id)


# ── prompts ───────────────────────────────────────────────────────────────────────────────────────
@router.post("/{session_id}/prompts", status_code=201)
async def add_prompt(
    session_id: str, body: NewPrompt, principal: Prompter, services: TheServices
) -> PromptView:
    if body.model:
        require_available(services.settings, catalogue.find(body.model))
    async with services.journal.transaction() as transaction:
        prompt_id = await prompts.enqueue(
            transaction,
            session_id,
            person(principal),
            services.settings,
            text=body.text,
            model=body.model,
            effort=body.effort,
            attachment_ids=body.attachments,
            client_request_id=body.client_request_id,
        )
    return await _prompt(services, session_id, prompt_id)


async def _prompt(services: Services, session_id: str, prompt_id: str) -> PromptView:
    async with services.reader.connect() as connection:
        row = await reading.prompt(connection, session_id, prompt_id)
        attached = await reading.attachments_of(connection, [prompt_id])
    return prompt_view(row, row["session_model"], row["session_effort"], attached.get(prompt_id, []))


@router.patch("/{session_id}/prompts/{prompt_id}")
async def change_prompt(
    session_id: str, prompt_id: str, body: PromptChange, principal: Prompter, services: TheServices
) -> PromptView:
    async with services.journal.transaction() as transaction:
        await prompts.edit(transaction, session_id, prompt_id, body.text, person(principal))
    return await _prompt(services, session_id, prompt_id)


@router.delete("/{session_id}/prompts/{prompt_id}", status_code=204)
async def cancel_prompt(session_id: str, prompt_id: str, principal: Prompter, services: TheServices) -> None:
    """Take a queued prompt back."""
    async with services.journal.transaction() as transaction:
        await prompts.cancel(transaction, session_id, prompt_id, person(principal))


@router.post("/{session_id}/prompts/{prompt_id}/retry", status_code=201)
async def retry_prompt(
    session_id: str, prompt_id: str, principal: Prompter, services: TheServices
) -> PromptView:
    async with services.journal.transaction() as transaction:
        new = await prompts.retry(transaction, session_id, prompt_id, person(principal), services.settings)
    return await _prompt(services, session_id, new)


@router.post("/{session_id}/stop", status_code=202)
async def stop(session_id: str, principal: Prompter, services: TheServices) -> None:
    """Stop the running turn. It has ended within five seconds."""
    async with services.journal.transaction() as transaction:
        await log.head(transaction.connection, session_id)
        prompt_id = await turns.stop(transaction, session_id, person(principal), services.settings)
    services.watch_stop(prompt_id)


@router.post("/{session_id}/questions/{question_id}", status_code=202)
async def answer_question(
    session_id: str, question_id: str, body: Answers, principal: Prompter, services: TheServices
) -> None:
    """Answer what the agent asked: for each of its questions the labels chosen, or free text."""
    async with services.journal.transaction() as transaction:
        await questions.answer(transaction, session_id, question_id, body.answers, person(principal))


# ── attachments ───────────────────────────────────────────────────────────────────────────────────
@router.post("/{session_id}/attachments", status_code=201)
async def upload_attachment(
    session_id: str, file: UploadFile, principal: Prompter, services: TheServices
) -> AttachmentInfo:
    content = await file.read(attachments.MAX_BYTES + 1)
    if len(content) > attachments.MAX_BYTES:
        raise TooLarge(
            "attachment_too_large",
            "The picture is larger than 10 MiB.",
            "Make it smaller, then attach it again.",
        )
    row = await attachments.add(
        services.journal, services.blobs, session_id, principal.user.id, file.filename or "picture", content
    )
    return AttachmentInfo(id=row["id"], name=row["name"], media_type=row["media_type"], size=row["size"])


@router.get("/{session_id}/attachments/{attachment_id}")
async def get_attachment(session_id: str, attachment_id: str, _: Reader, services: TheServices) -> Response:
    async with services.reader.connect() as connection:
        row = await attachments.find(connection, session_id, attachment_id)
    return Response(
        await services.blobs.get(row["blob_key"]),
        media_type=row["media_type"],
        headers={"cache-control": "private, max-age=31536000, immutable", "content-disposition": "inline"},
    )


# ── log and diff ──────────────────────────────────────────────────────────────────────────────────
@router.get("/{session_id}/events", response_model=EventPage)
async def get_events(
    session_id: str,
    _: Reader,
    services: TheServices,
    request: Request,
    after: Annotated[int | None, Query(ge=0, le=2**62)] = None,
    before: Annotated[int | None, Query(ge=0, le=2**62)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> Response:
    """A page of the log, always oldest first: the events after ``after``, or the newest before ``before`` (or of all).
    It has fewer than ``limit`` when they are large: ``more`` tells whether there are others."""
    async with services.reader.connect() as connection:
        head = await log.head(connection, session_id)
        if after is not None:
            found = await log.read_after(connection, session_id, after, limit)
            more = bool(found) and found[-1].seq < head
        else:
            found = await log.read_before(
                connection, session_id, before if before is not None else head + 1, limit
            )
            more = bool(found) and found[0].seq > 1
    body = b'{"events":[%s],"head":%d,"more":%s}' % (
        b",".join(event.encode() for event in found),
        head,
        orjson.dumps(more),
    )
    return Response(body, media_type="application/json")


@router.get("/{session_id}/diff")
async def get_diff(session_id: str, _: Reader, services: TheServices) -> DiffView:
    """What the session's work trees differ by from the commits that it began from, as of its last turn."""
    async with services.reader.connect() as connection:
        await log.head(connection, session_id)
        rows = await reading.diffs_of(connection, session_id)
    return DiffView(
        repositories=[RepositoryDiff.model_validate(row["body"]) for row in rows],
        updated_at=max((row["updated_at"] for row in rows), default=None),
    )
