"""Pull requests of a session: opened for the person whose prompt runs, and written into the log.

Opening is idempotent: the code host finds the open one of the same head and base and updates it, also after a crash between opening it and
writing it down; the log then says ``updated``.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from sqlalchemy import select

from openinspect.db.tables import prompts, session_targets, sessions, users
from openinspect.forges import contract
from openinspect.forges.contract import Forge
from openinspect.problems import Conflict, Invalid
from openinspect.protocol.events import Person, PullRequestChanged

from .log import Journal, SessionGone


class Wanted(NamedTuple):
    title: str
    body: str
    base: str | None = None
    draft: bool = False
    repository: str | None = None
    """Needed only when the session has several."""


async def open_for_turn(
    journal: Journal, forge: Forge, session_id: str, prompt_id: str, wanted: Wanted, link: str
) -> contract.PullRequest:
    """Open, or update, the pull request of the session's branch as the author of the running prompt.

    Raises ``Invalid``, ``Conflict`` and ``ForgeError``, all with a remedy that an agent can follow.
    """
    async with journal.engine.connect() as connection:
        rows = await connection.execute(
            select(session_targets)
            .where(session_targets.c.session_id == session_id)
            .order_by(session_targets.c.position)
        )
        targets = list(rows.mappings())
        author = (
            await connection.execute(
                select(users.c.id, users.c.name, users.c.email)
                .join(prompts, prompts.c.author_id == users.c.id)
                .where(prompts.c.id == prompt_id, prompts.c.status == "running")
            )
        ).one_or_none()
    if author is None:
        raise Conflict("no_turn", "No turn is running.", "Pull requests are opened while a prompt runs.")
    target = _choose(targets, wanted.repository)
    opened = await forge.open_pull_request(
        contract.NewPullRequest(
            repository_id=target["repository_id"],
            head=target["work_branch"],
            base=wanted.base or target["base_branch"],
            title=wanted.title,
            body=f"{wanted.body.rstrip()}\n\n---\nFrom [this session]({link}), prompted by {author.name}.".lstrip(),
            draft=wanted.draft,
            author=contract.Person(name=author.name, email=author.email, id=author.id),
            session_id=session_id,
            prompt_id=prompt_id,
        )
    )
    await record_change(
        journal,
        opened,
        "opened" if opened.created else "updated",
        Person(id=author.id, name=author.name),
        prompt_id,
    )
    return opened


def _choose(targets, name: str | None):
    if not targets:
        raise Invalid(
            "no_repository",
            "This session has no repository.",
            "A pull request needs one; tell the person what you found instead.",
        )
    if name is None:
        if len(targets) > 1:
            known = ", ".join(target["directory"] for target in targets)
            raise Invalid(
                "repository_needed", "This session has several repositories.", f"Say which one: {known}."
            )
        return targets[0]
    for target in targets:
        if target["directory"].lower() == name.lower():
            return target
    known = ", ".join(target["directory"] for target in targets)
    raise Invalid(
        "repository_unknown",
        f"“{name[:100]}” is not a repository of this session.",
        f"Its repositories: {known}.",
    )


async def record_change(
    journal: Journal,
    one: contract.PullRequest,
    change: Literal["opened", "updated", "merged", "closed", "reopened"],
    by: Person,
    turn_id: str | None = None,
) -> None:
    """Write into the session's log what happened to its pull request; nothing when it has no session, or that is gone."""
    if one.session_id is None:
        return
    try:
        async with journal.transaction() as transaction:
            known = await transaction.connection.scalar(
                select(sessions.c.id).where(sessions.c.id == one.session_id)
            )
            if known is None:
                return
            await transaction.append(
                one.session_id,
                PullRequestChanged(
                    pull_request_id=one.id,
                    repository=one.repository,
                    number=one.number,
                    title=one.title,
                    head=one.head,
                    base=one.base,
                    state=one.state,
                    draft=one.draft,
                    change=change,
                    by=by,
                ),
                turn_id=turn_id,
            )
    except SessionGone:
        return  # it was deleted in this very moment: there is no log to write to
