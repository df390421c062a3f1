"""Pull requests of a session: opened for the person whose prompt runs, and written into the log.

Opening is idempotent: the code host finds the open one of the same head and base and updates it, also after a crash between opening it and
writing it down; the log then says ``updated``.

Merging, closing and reopening are written down when the log's last word about a pull request is another one than the code host's: so each of them once,
however often it is asked for, and also when it was done with git itself or a crash came between doing it and writing it down.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from sqlalchemy import literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection

from openinspect.db.tables import events, prompts, session_targets, users
from openinspect.forges import contract
from openinspect.forges.contract import Forge
from openinspect.problems import Conflict, Invalid
from openinspect.protocol.events import Person, PullRequestChanged

from .lifecycle import get_locked
from .log import Journal, SessionGone

Change = Literal["opened", "updated", "merged", "closed", "reopened"]
SOMEBODY = Person(id=None, name="Somebody")


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
    await _record_opened(journal, opened, Person(id=author.id, name=author.name), prompt_id)
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


async def _record_opened(journal: Journal, one: contract.PullRequest, by: Person, prompt_id: str) -> None:
    change = "opened" if one.created else "updated"
    try:
        async with journal.transaction() as transaction:
            if one.session_id is not None:
                await transaction.append(one.session_id, _changed(one, change, by), turn_id=prompt_id)
    except SessionGone:
        return  # it was deleted in this very moment: there is no log to write to


async def record_state(journal: Journal, one: contract.PullRequest, by: Person | None = None) -> None:
    """Write into the session's log that its pull request was merged, closed or reopened, unless its last word is just that.

    ``by`` closed or reopened it. Who merged it is known to the code host; somebody who did so with git itself has no name. Does nothing when the pull
    request has no session, or that is gone.
    """
    if one.session_id is None:
        return
    async with journal.engine.connect() as connection:
        if await _last_state(connection, one) == one.state:
            return
    try:
        async with journal.transaction() as transaction:
            await get_locked(transaction, one.session_id)
            # under the session's row: of two who find the same, one writes it down
            if await _last_state(transaction.connection, one) == one.state:
                return
            if one.state == "merged":
                by = await _person(transaction.connection, one.merged_by)
            change = "reopened" if one.state == "open" else one.state
            await transaction.append(one.session_id, _changed(one, change, by or SOMEBODY))
    except SessionGone:
        return


async def _last_state(connection: AsyncConnection, one: contract.PullRequest) -> str | None:
    """The state that the session's log tells of."""
    state = events.c.body["state"].astext
    return await connection.scalar(
        select(state)
        .where(
            events.c.session_id == one.session_id,
            events.c.kind == literal_column("'pull_request'"),  # a literal, as the index has it
            events.c.body["pull_request_id"].astext == one.id,
        )
        .order_by(events.c.seq.desc())
        .limit(1)
    )


async def _person(connection: AsyncConnection, user_id: str | None) -> Person | None:
    name = await connection.scalar(select(users.c.name).where(users.c.id == user_id)) if user_id else None
    return Person(id=user_id, name=name) if name is not None else None


def _changed(one: contract.PullRequest, change: Change, by: Person) -> PullRequestChanged:
    return PullRequestChanged(
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
    )
