"""Turns: a queued prompt becomes the running one, and ends.

    queued ──advance──▶ running ──finish──▶ completed | failed | stopped
       ├──cancel──▶ cancelled
       └──the sandbox can't be started──▶ failed

``advance`` is level-triggered: it looks at the rows of one session and does the next thing, if there is one. It is called in the same
transaction as whatever may have made a next thing possible (a prompt, the end of a turn, a sandbox that is ready) and by the sweep, so that
nothing depends on a call that a crash has swallowed. It takes the session's row lock and waits for nothing else.

Deadlines, by the database's clock: a running turn has ``turn_seconds``; a requested stop has ``ENFORCE_SECONDS``, then the sandbox is ended and
the turn with it.
Silence never ends a turn.
"""

from __future__ import annotations

from typing import Literal

from sqlalchemy import delete, func, select, update
from sqlalchemy.engine import RowMapping

from openinspect.db.tables import (
    attachments,
    events,
    open_parts,
    prompts,
    sandboxes,
    sessions,
)
from openinspect.problems import Conflict
from openinspect.protocol.commands import Identity, ModelChoice, RunPrompt, StopTurn
from openinspect.protocol.events import (
    AttachmentInfo,
    Person,
    PromptCancelled,
    ReasoningPart,
    StopRequested,
    TextPart,
    TurnFinished,
    TurnStarted,
)
from openinspect.settings import Settings

from .log import Transaction
from .sandbox_rows import COMMITTER, live_sandbox, request_sandbox

STOP_SECONDS = 5.0
"""A stopped turn has ended by then, always."""
ENFORCE_SECONDS = 4.5
"""What has not ended by itself by then is ended from outside."""
AGENT = Person(id=None, name="Open-Inspect")


_LOOK = """
SELECT sessions.*, prompt.id AS prompt_id, prompt.status AS prompt_status, sandbox.id AS sandbox_id, sandbox.state AS sandbox_state
FROM sessions
LEFT JOIN LATERAL (
    SELECT id, status FROM prompts WHERE session_id = sessions.id AND status IN ('queued', 'running')
    ORDER BY status DESC, position LIMIT 1
) AS prompt ON true
LEFT JOIN LATERAL (
    SELECT id, state FROM sandboxes WHERE session_id = sessions.id AND state IN ('requested', 'booting', 'ready', 'stopping')
) AS sandbox ON true
WHERE sessions.id = %(session)s AND sessions.status = 'active'
"""


async def advance(
    transaction: Transaction, session_id: str, settings: Settings, *, locked: bool = False
) -> None:
    """Do the next thing for a session. Nothing to do, or a session that is gone or archived, is no error.

    ``locked``: the transaction has the session's row already.
    """
    connection = transaction.connection
    if not locked:
        # locked first and looked at then: a statement sees what was committed when it began, not what it waited for
        await connection.exec_driver_sql(
            "SELECT 1 FROM sessions WHERE id = %(session)s FOR UPDATE", {"session": session_id}
        )
    found = await connection.exec_driver_sql(_LOOK, {"session": session_id})
    session = found.mappings().one_or_none()
    if session is None or session["prompt_status"] != "queued":
        return
    if session["sandbox_id"] is None:
        await request_sandbox(transaction, session, settings)
    elif session["sandbox_state"] == "ready":
        await _start(transaction, session, session["prompt_id"], session["sandbox_id"], settings)


_BEGIN = """
WITH begun AS (
    UPDATE prompts SET status = 'running', started_at = now(), sandbox_id = %(sandbox)s, deadline_at = now() + make_interval(secs => %(seconds)s)
    WHERE id = %(prompt)s RETURNING *
), busy AS (
    UPDATE sandboxes SET idle_at = NULL WHERE id = %(sandbox)s
)
SELECT begun.*, users.name AS author_name, users.email AS author_email,
    EXISTS (SELECT 1 FROM attachments WHERE prompt_id = begun.id) AS has_attachments
FROM begun LEFT JOIN users ON users.id = begun.author_id
"""


async def _start(
    transaction: Transaction, session: RowMapping, prompt_id: str, sandbox_id: str, settings: Settings
) -> None:
    connection = transaction.connection
    begun = await connection.exec_driver_sql(
        _BEGIN, {"sandbox": sandbox_id, "prompt": prompt_id, "seconds": settings.turn_seconds}
    )
    prompt = begun.mappings().one()
    model, effort = (
        prompt["model"] or session["model"],
        prompt["effort"] if prompt["model"] or prompt["effort"] else session["effort"],
    )
    provider, _, model_id = model.partition("/")
    attached: list[RowMapping] = []
    if prompt["has_attachments"]:
        found = await connection.execute(
            select(attachments)
            .where(attachments.c.prompt_id == prompt_id)
            .order_by(attachments.c.created_at, attachments.c.id)
        )
        attached = list(found.mappings())
    text = prompt["text"]
    if prompt["retry_of"]:
        done = await already_done(transaction, prompt["session_id"], prompt["retry_of"])
        text = f"{text}\n\n[{_retry_note(done)}]"
    await transaction.issue(
        sandbox_id,
        RunPrompt(
            prompt_id=prompt["id"],
            text=text,
            model=ModelChoice(provider=provider, model=model_id, effort=effort),
            author=Identity(name=prompt["author_name"], email=prompt["author_email"])
            if prompt["author_name"]
            else COMMITTER,
            attachments=[
                AttachmentInfo(id=row["id"], name=row["name"], media_type=row["media_type"], size=row["size"])
                for row in attached
            ],
            title=session["title"] or "Session",
        ),
    )
    await transaction.append(
        session["id"], TurnStarted(prompt_id=prompt["id"], model=model, effort=effort), turn_id=prompt["id"]
    )


def _retry_note(done: list[str]) -> str:
    begun = "A previous attempt at this was interrupted."
    if not done:
        return f"{begun} The files are as it left them: look at their state first."
    return (
        f"{begun} Already done, and not to be done again: {'; '.join(done)}. "
        "The files are as it left them: look at their state first, then go on with what is missing."
    )


async def already_done(transaction: Transaction, session_id: str, turn_id: str) -> list[str]:
    """What a turn, and those that it retried, have left behind outside the sandbox or as commits: one line each, at most 50."""
    chain = [turn_id]
    while len(chain) < 10:
        earlier = await transaction.connection.scalar(
            select(prompts.c.retry_of).where(prompts.c.id == chain[-1])
        )
        if earlier is None:
            break
        chain.append(earlier)
    found = await transaction.connection.execute(
        select(events.c.kind, events.c.body)
        .where(
            events.c.session_id == session_id,
            events.c.turn_id.in_(chain),
            events.c.kind.in_(("commit", "git.pushed", "pull_request")),
        )
        .order_by(events.c.seq)
        .limit(50)
    )
    lines: list[str] = []
    for kind, body in found:
        if kind == "commit":
            lines.append(f"committed {body['sha'][:10]} “{body['subject']}”")
        elif kind == "git.pushed":
            lines.append(
                f"pushed {(body['new_sha'] or '')[:10]} to {body['ref'].removeprefix('refs/heads/')}"
            )
        else:
            lines.append(f"pull request #{body['number']} “{body['title']}” {body['change']}")
    return list(dict.fromkeys(lines))


async def finish(
    transaction: Transaction,
    prompt_id: str,
    status: Literal["completed", "failed", "stopped"],
    settings: Settings,
    reason: str = "",
    remedy: str = "",
    go_on: bool = True,
) -> bool:
    """End a running turn, and begin the next where things may ``go_on``. False when it had ended already.

    The transaction has the session's row locked.
    """
    connection = transaction.connection
    ended = await connection.execute(
        update(prompts)
        .where(prompts.c.id == prompt_id, prompts.c.status == "running")
        .values(
            status=status,
            finished_at=func.now(),
            reason=reason or None,
            remedy=remedy or None,
            deadline_at=None,
        )
        .returning(prompts)
    )
    prompt = ended.mappings().one_or_none()
    if prompt is None:
        return False
    session_id = prompt["session_id"]
    torn = await connection.execute(
        delete(open_parts)
        .where(open_parts.c.session_id == session_id, open_parts.c.turn_id == prompt_id)
        .returning(open_parts)
    )
    for part in torn.mappings():
        kind = TextPart if part["kind"] == "text" else ReasoningPart
        await transaction.append(
            session_id, kind(part_id=part["part_id"], text=part["text"], truncated=True), turn_id=prompt_id
        )
    await transaction.append(
        session_id,
        TurnFinished(
            prompt_id=prompt_id,
            status=status,
            reason=reason,
            remedy=remedy,
            done=[] if status == "completed" else await already_done(transaction, session_id, prompt_id),
            duration_ms=int((prompt["finished_at"] - prompt["started_at"]).total_seconds() * 1000),
            input_tokens=prompt["input_tokens"],
            output_tokens=prompt["output_tokens"],
            cost_usd=float(prompt["cost_usd"]),
        ),
        turn_id=prompt_id,
    )
    await connection.execute(
        update(sandboxes).where(sandboxes.c.id == prompt["sandbox_id"]).values(idle_at=func.now())
    )
    if go_on:
        await advance(transaction, session_id, settings, locked=True)
    return True


async def fail_queued(transaction: Transaction, session_id: str, reason: str, remedy: str) -> None:
    """The next queued prompt can't be run: it fails with the reason, so that nobody waits for ever."""
    waiting = await transaction.connection.execute(
        select(prompts.c.id)
        .where(prompts.c.session_id == session_id, prompts.c.status == "queued")
        .order_by(prompts.c.position)
        .limit(1)
        .with_for_update()
    )
    prompt_id = waiting.scalar_one_or_none()
    if prompt_id is None:
        return
    await transaction.connection.execute(
        update(prompts)
        .where(prompts.c.id == prompt_id)
        .values(status="failed", finished_at=func.now(), reason=reason, remedy=remedy or None)
    )
    await transaction.append(
        session_id,
        TurnFinished(
            prompt_id=prompt_id,
            status="failed",
            reason=reason,
            remedy=remedy,
            duration_ms=0,
            input_tokens=0,
            output_tokens=0,
            cost_usd=0,
        ),
        turn_id=prompt_id,
    )


async def stop(transaction: Transaction, session_id: str, by: Person, settings: Settings) -> str:
    """Ask the running turn to stop; while the sandbox is still starting, take the prompt that waits for it back. Gives the prompt's id.

    May be repeated. Raises ``Conflict`` when nothing runs or waits.
    """
    connection = transaction.connection
    await connection.execute(select(sessions.c.id).where(sessions.c.id == session_id).with_for_update())
    found = await connection.execute(
        select(prompts)
        .where(prompts.c.session_id == session_id, prompts.c.status.in_(("queued", "running")))
        .order_by(prompts.c.status.desc(), prompts.c.position)
        .limit(1)
    )
    prompt = found.mappings().one_or_none()
    if prompt is None:
        raise Conflict("nothing_running", "Nothing is running in this session.", "There is nothing to stop.")
    if prompt["status"] == "queued":
        await connection.execute(
            update(prompts)
            .where(prompts.c.id == prompt["id"])
            .values(status="cancelled", finished_at=func.now())
        )
        await transaction.append(
            session_id, PromptCancelled(prompt_id=prompt["id"], by=by), turn_id=prompt["id"]
        )
        return prompt["id"]
    if prompt["stop_requested_at"] is not None:
        return prompt["id"]
    await connection.execute(
        update(prompts)
        .where(prompts.c.id == prompt["id"])
        .values(stop_requested_at=func.now(), stop_requested_by=by.id)
    )
    await transaction.append(session_id, StopRequested(prompt_id=prompt["id"], by=by), turn_id=prompt["id"])
    sandbox = await live_sandbox(transaction, session_id)
    if sandbox is None or sandbox["id"] != prompt["sandbox_id"]:
        await finish(transaction, prompt["id"], "stopped", settings, "Stopped; its sandbox was gone already.")
    else:
        await transaction.issue(sandbox["id"], StopTurn(prompt_id=prompt["id"]))
    return prompt["id"]
