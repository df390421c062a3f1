"""The rows of repositories and pull requests. Only here is SQL; every function takes a connection, so that callers choose the transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, Select, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ...db.tables import pull_requests, repositories
from ...protocol.ids import new_id
from ..contract import NewPullRequest, Person, PullRequest, Repository

FORGE = "local"


def _repository(row: Row[Any]) -> Repository:
    return Repository(
        id=row.id,
        forge=row.forge,
        name=row.name,
        location=row.location,
        origin_url=row.origin_url,
        default_branch=row.default_branch,
        created_at=row.created_at,
    )


async def find_repository(connection: AsyncConnection, reference: str) -> Repository | None:
    """By id, name (regardless of case), folder or origin; in this order of preference."""
    c = repositories.c
    matches = or_(
        c.id == reference,
        func.lower(c.name) == reference.lower(),
        c.location == reference,
        c.origin_url == reference,
    )
    found = await connection.execute(select(repositories).where(c.forge == FORGE, matches).limit(10))
    rows = found.all()
    for wanted in (
        lambda r: r.id == reference,
        lambda r: r.name.lower() == reference.lower(),
        lambda r: r.location == reference,
        lambda r: r.origin_url == reference,
    ):
        for row in rows:
            if wanted(row):
                return _repository(row)
    return None


async def list_repositories(connection: AsyncConnection) -> list[Repository]:
    c = repositories.c
    found = await connection.execute(
        select(repositories).where(c.forge == FORGE).order_by(func.lower(c.name)).limit(10_000)
    )
    return [_repository(row) for row in found]


async def names_like(connection: AsyncConnection, name: str) -> set[str]:
    """Names in use that are ``name`` or begin with it, in lower case."""
    lowered = func.lower(repositories.c.name)
    found = await connection.execute(select(lowered).where(lowered.startswith(name.lower(), autoescape=True)))
    return set(found.scalars())


async def insert_repository(
    connection: AsyncConnection,
    *,
    repository_id: str,
    name: str,
    location: str,
    origin_url: str | None,
    default_branch: str | None,
    created_by: str | None,
) -> Repository:
    found = await connection.execute(
        insert(repositories)
        .values(
            id=repository_id,
            forge=FORGE,
            name=name,
            location=location,
            origin_url=origin_url,
            default_branch=default_branch,
            created_by=created_by,
        )
        .returning(repositories)
    )
    return _repository(found.one())


async def set_default_branch(connection: AsyncConnection, repository_id: str, branch: str | None) -> None:
    await connection.execute(
        update(repositories).where(repositories.c.id == repository_id).values(default_branch=branch)
    )


async def delete_repository(connection: AsyncConnection, repository_id: str) -> None:
    """With its pull requests. Raises ``IntegrityError`` while a session refers to it."""
    await connection.execute(delete(repositories).where(repositories.c.id == repository_id))


def _pull_requests() -> Select[Any]:
    return select(pull_requests, repositories.c.name.label("repository_name")).join(
        repositories, repositories.c.id == pull_requests.c.repository_id
    )


def _pull_request(row: Row[Any]) -> PullRequest:
    r = row
    return PullRequest(
        id=r.id,
        repository_id=r.repository_id,
        repository=r.repository_name,
        number=r.number,
        title=r.title,
        body=r.body,
        state=r.state,
        draft=r.draft,
        head=r.head,
        base=r.base,
        head_sha=r.head_sha,
        base_sha=r.base_sha,
        author=Person(name=r.author_name, email=r.author_email, id=r.author_id),
        session_id=r.session_id,
        prompt_id=r.prompt_id,
        merge_method=r.merge_method,
        merge_sha=r.merge_sha,
        merged_by=r.merged_by,
        created_at=r.created_at,
        updated_at=r.updated_at,
        merged_at=r.merged_at,
        closed_at=r.closed_at,
    )


async def pull_request(connection: AsyncConnection, repository_id: str, number: int) -> PullRequest | None:
    c = pull_requests.c
    found = await connection.execute(
        _pull_requests().where(c.repository_id == repository_id, c.number == number)
    )
    row = found.one_or_none()
    return None if row is None else _pull_request(row)


async def open_one(
    connection: AsyncConnection, repository_id: str, head: str, base: str
) -> PullRequest | None:
    """The open pull request of these branches."""
    c = pull_requests.c
    found = await connection.execute(
        _pull_requests().where(
            c.repository_id == repository_id, c.head == head, c.base == base, c.state == "open"
        )
    )
    row = found.one_or_none()
    return None if row is None else _pull_request(row)


async def list_pull_requests(
    connection: AsyncConnection, equal: Mapping[str, str], limit: int
) -> list[PullRequest]:
    """The newest first; ``equal`` are columns and the values that they must have."""
    statement = _pull_requests().order_by(pull_requests.c.created_at.desc(), pull_requests.c.number.desc())
    for column, value in equal.items():
        statement = statement.where(pull_requests.c[column] == value)
    found = await connection.execute(statement.limit(limit))
    return [_pull_request(row) for row in found]


async def insert_pull_request(
    connection: AsyncConnection, new: NewPullRequest, *, head_sha: str, base_sha: str
) -> int:
    """Takes the repository's next number and gives it back. Raises ``IntegrityError`` when one is open for these branches."""
    counter = repositories.c.next_pull_request
    found = await connection.execute(
        update(repositories)
        .where(repositories.c.id == new.repository_id)
        .values(next_pull_request=counter + 1)
        .returning(counter - 1)
    )
    number: int = found.scalar_one()
    await connection.execute(
        insert(pull_requests).values(
            id=new_id("pr"),
            repository_id=new.repository_id,
            number=number,
            session_id=new.session_id,
            prompt_id=new.prompt_id,
            author_id=new.author.id,
            author_name=new.author.name,
            author_email=new.author.email,
            title=new.title,
            body=new.body,
            head=new.head,
            base=new.base,
            head_sha=head_sha,
            base_sha=base_sha,
            state="open",
            draft=new.draft,
        )
    )
    return number


async def change_pull_request(
    connection: AsyncConnection, identifier: str, values: Mapping[str, Any], *, states: Sequence[str]
) -> bool:
    """Set columns while the pull request is in one of ``states``; False when it is not (any more)."""
    c = pull_requests.c
    found = await connection.execute(
        update(pull_requests)
        .where(c.id == identifier, c.state.in_(states))
        .values(**values, updated_at=func.now())
        .returning(c.id)
    )
    return found.one_or_none() is not None
