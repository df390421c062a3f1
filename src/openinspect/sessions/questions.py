"""Questions that the agent asks, and a person's answer to one."""

from __future__ import annotations

from sqlalchemy import select

from openinspect.db.tables import events, prompts, sessions
from openinspect.problems import Conflict, NotFound
from openinspect.protocol.commands import AnswerQuestion
from openinspect.protocol.events import Person, QuestionAnswered

from .log import SessionGone, Transaction

_KINDS = ("question.asked", "question.answered", "question.closed")


async def answer(
    transaction: Transaction, session_id: str, question_id: str, answers: list[list[str]], by: Person
) -> None:
    """Give an answer to the sandbox. Raises ``NotFound``; ``Conflict`` when the question is no longer open."""
    connection = transaction.connection
    locked = await connection.execute(
        select(sessions.c.id)
        .where(sessions.c.id == session_id, sessions.c.status != "deleting")
        .with_for_update()
    )
    if locked.one_or_none() is None:
        raise SessionGone
    found = await connection.execute(
        select(events.c.kind, events.c.turn_id)
        .where(
            events.c.session_id == session_id,
            events.c.kind.in_(_KINDS),
            events.c.body["question_id"].astext == question_id,
        )
        .order_by(events.c.seq.desc())
        .limit(1)
    )
    newest = found.one_or_none()
    if newest is None:
        raise NotFound(
            "question_not_found",
            "There is no such question in this session.",
            "It may have been asked in another session.",
        )
    sandbox_id = await connection.scalar(
        select(prompts.c.sandbox_id).where(prompts.c.id == newest.turn_id, prompts.c.status == "running")
    )
    if newest.kind != "question.asked" or sandbox_id is None:
        raise Conflict(
            "question_closed", "This question is no longer open.", "Write what you want to say as a prompt."
        )
    await transaction.issue(sandbox_id, AnswerQuestion(question_id=question_id, answers=answers))
    await transaction.append(
        session_id, QuestionAnswered(question_id=question_id, answers=answers, by=by), turn_id=newest.turn_id
    )
