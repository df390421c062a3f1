"""People: the owner who is there from the first boot, and whoever was added since.

There is always at least one enabled owner: the last one can be neither disabled nor given a lesser role.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple, cast

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from openinspect.db.tables import api_tokens, users, web_sessions
from openinspect.problems import Conflict, Forbidden, NotFound
from openinspect.protocol.ids import new_id

from .permissions import Role, outranks


class User(NamedTuple):
    id: str
    name: str
    email: str
    role: Role
    created_at: datetime
    disabled_at: datetime | None


def as_user(row: RowMapping) -> User:
    return User(
        row["id"], row["name"], row["email"], cast(Role, row["role"]), row["created_at"], row["disabled_at"]
    )


async def ensure_owner(connection: AsyncConnection, name: str, email: str) -> User:
    """The first owner, made if there is nobody yet. Safe when several servers start at once."""
    await connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('openinspect.first_owner'))")
    found = (
        await connection.execute(
            select(users)
            .where(users.c.role == "owner", users.c.disabled_at.is_(None))
            .order_by(users.c.created_at)
            .limit(1)
        )
    ).mappings()
    row = found.one_or_none()
    if row is not None:
        return as_user(row)
    return await add(connection, name, email, "owner")


async def add(connection: AsyncConnection, name: str, email: str, role: Role) -> User:
    """Raises ``Conflict`` when somebody has this address, in whichever case."""
    added = await connection.execute(
        insert(users)
        .values(id=new_id("usr"), name=name, email=email, role=role)
        .on_conflict_do_nothing()
        .returning(users)
    )
    row = added.mappings().one_or_none()
    if row is None:
        raise Conflict(
            "email_taken",
            f"Somebody with the address {email} is there already.",
            "Change that person's entry instead.",
        )
    return as_user(row)


async def get(connection: AsyncConnection, user_id: str) -> User:
    row = (await connection.execute(select(users).where(users.c.id == user_id))).mappings().one_or_none()
    if row is None:
        raise NotFound("user_not_found", "There is no such person.", "See the list of members.")
    return as_user(row)


async def list_all(connection: AsyncConnection) -> list[User]:
    return [
        as_user(row)
        for row in (await connection.execute(select(users).order_by(users.c.created_at))).mappings()
    ]


async def change(
    connection: AsyncConnection,
    actor: User,
    user_id: str,
    *,
    name: str | None = None,
    email: str | None = None,
    role: Role | None = None,
    disabled: bool | None = None,
) -> User:
    """Change a person's entry. Disabling ends all their sessions and tokens at once; a stream that they watch notices within 15 s.

    Raises ``NotFound``, ``Forbidden``, ``Conflict``.
    """
    await connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('openinspect.roles'))")
    user = await get(connection, user_id)
    if user.id != actor.id and not outranks(actor.role, user.role):
        raise Forbidden(
            "outranked", f"An {actor.role} can't change the entry of an {user.role}.", "Ask an owner."
        )
    if role is not None and role != user.role and not outranks(actor.role, role):
        raise Forbidden("outranked", f"An {actor.role} can't make somebody {role}.", "Ask an owner.")
    if user.role == "owner" and user.disabled_at is None and (disabled or (role or "owner") != "owner"):
        owners = await connection.scalar(
            select(func.count())
            .select_from(users)
            .where(users.c.role == "owner", users.c.disabled_at.is_(None))
        )
        if owners == 1:
            raise Conflict("last_owner", "This is the only owner.", "Make somebody else an owner first.")
    values: dict[str, object] = {
        key: value for key, value in (("name", name), ("email", email), ("role", role)) if value is not None
    }
    if disabled is not None:
        values["disabled_at"] = func.now() if disabled else None
    if values:
        try:
            async with connection.begin_nested():
                await connection.execute(update(users).where(users.c.id == user_id).values(**values))
        except IntegrityError as error:
            raise Conflict(
                "email_taken",
                f"Somebody with the address {email} is there already.",
                "Choose another address.",
            ) from error
    if disabled:
        for table in (web_sessions, api_tokens):
            await connection.execute(
                update(table)
                .where(table.c.user_id == user_id, table.c.revoked_at.is_(None))
                .values(revoked_at=func.now())
            )
    return await get(connection, user_id)
