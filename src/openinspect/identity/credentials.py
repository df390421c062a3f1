"""What lets somebody in: sign-in links, cookie sessions and API tokens.

All three are 256 random bits, shown once and stored as their SHA-256: a copy of the database lets nobody in. A sign-in link works once and for
15 minutes; a cookie session lasts 30 days from its last use; an API token until it expires or is revoked. The time of last use is written
at most once a minute. Whoever stays connected asks again and again whether the credential still lets them (``still_permits``).
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Table, delete, func, insert, or_, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from openinspect.db.tables import api_tokens, signin_links, users, web_sessions
from openinspect.problems import Invalid, NotFound, SignInNeeded
from openinspect.protocol.ids import new_id, new_secret

from .people import User, as_user
from .permissions import PERMISSIONS, permissions_of

SIGN_IN_LINK_LIFETIME = timedelta(minutes=15)
WEB_SESSION_LIFETIME = timedelta(days=30)
LOCAL_TOKEN = "commands on this machine"
_LAST_USE_GRAIN = timedelta(minutes=1)


class Principal(NamedTuple):
    """Who asks, and what they may do by the credential that they came with."""

    user: User
    permissions: frozenset[str]
    credential_id: str
    by_cookie: bool
    renewed: bool = False
    """The cookie session was put off by this very request: the browser is to keep its cookie for so much longer, too."""


def hash_secret(secret: str) -> str:
    """For storing and looking up; the secrets are random, so that a plain hash is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


# ── sign-in links ─────────────────────────────────────────────────────────────────────────────────
async def make_signin_link(connection: AsyncConnection, user_id: str) -> tuple[str, datetime]:
    """A secret for ``sign_in``, and until when it works."""
    secret, expires = new_secret("oi_link"), datetime.now(UTC) + SIGN_IN_LINK_LIFETIME
    await connection.execute(delete(signin_links).where(signin_links.c.expires_at < func.now()))
    await connection.execute(
        insert(signin_links).values(token_hash=hash_secret(secret), user_id=user_id, expires_at=expires)
    )
    return secret, expires


async def sign_in(connection: AsyncConnection, link_secret: str) -> tuple[str, User]:
    """Use a sign-in link up. Gives the secret of a new cookie session. Raises ``SignInNeeded``."""
    used = await connection.execute(
        update(signin_links)
        .where(
            signin_links.c.token_hash == hash_secret(link_secret),
            signin_links.c.used_at.is_(None),
            signin_links.c.expires_at > func.now(),
        )
        .values(used_at=func.now())
        .returning(signin_links.c.user_id)
    )
    user_id = used.scalar_one_or_none()
    row = (
        (await connection.execute(select(users).where(users.c.id == user_id, users.c.disabled_at.is_(None))))
        .mappings()
        .one_or_none()
        if user_id
        else None
    )
    if row is None:
        raise SignInNeeded(
            "link_invalid",
            "This sign-in link was used already, or is older than 15 minutes.",
            "Ask for a new one: run `openinspect signin` on the server's machine, or ask an admin.",
        )
    secret = new_secret("oi_web")
    await connection.execute(
        insert(web_sessions).values(
            id=new_id("web"),
            user_id=user_id,
            token_hash=hash_secret(secret),
            expires_at=datetime.now(UTC) + WEB_SESSION_LIFETIME,
        )
    )
    return secret, as_user(row)


async def sign_out(connection: AsyncConnection, credential_id: str) -> None:
    await connection.execute(
        update(web_sessions).where(web_sessions.c.id == credential_id).values(revoked_at=func.now())
    )


# ── who is asking ─────────────────────────────────────────────────────────────────────────────────
async def by_cookie(connection: AsyncConnection, secret: str) -> Principal | None:
    row = await _find(connection, web_sessions, web_sessions.c.token_hash == hash_secret(secret))
    if row is None:
        return None
    renewed = _stale(row["last_used_at"])
    if renewed:
        await connection.execute(
            update(web_sessions)
            .where(web_sessions.c.id == row["credential_id"])
            .values(last_used_at=func.now(), expires_at=datetime.now(UTC) + WEB_SESSION_LIFETIME)
        )
    return _principal(row)._replace(renewed=renewed)


async def by_token(connection: AsyncConnection, secret: str) -> Principal | None:
    row = await _find(connection, api_tokens, api_tokens.c.token_hash == hash_secret(secret))
    if row is None:
        return None
    if _stale(row["last_used_at"]):
        await connection.execute(
            update(api_tokens).where(api_tokens.c.id == row["credential_id"]).values(last_used_at=func.now())
        )
    return _principal(row)


async def still_permits(connection: AsyncConnection, credential_id: str, permission: str) -> bool:
    """Whether a credential that let somebody in does so now, with this permission. Asking is not using it."""
    table = web_sessions if credential_id.startswith("web_") else api_tokens
    row = await _find(connection, table, table.c.id == credential_id)
    return row is not None and permission in _principal(row).permissions


def _principal(row: RowMapping) -> Principal:
    user = as_user(row)
    allowed = permissions_of(user.role)
    if "scopes" not in row:
        return Principal(user, allowed, row["credential_id"], by_cookie=True)
    scopes = set(row["scopes"])
    return Principal(
        user, allowed if "*" in scopes else allowed & scopes, row["credential_id"], by_cookie=False
    )


async def _find(connection: AsyncConnection, table: Table, which: ColumnElement[bool]) -> RowMapping | None:
    """The credential with its person, if both are alive."""
    columns: list[Any] = [users, table.c.id.label("credential_id"), table.c.last_used_at]
    if table is api_tokens:
        columns.append(table.c.scopes)
    found = await connection.execute(
        select(*columns)
        .join(users, users.c.id == table.c.user_id)
        .where(
            which,
            table.c.revoked_at.is_(None),
            users.c.disabled_at.is_(None),
            or_(table.c.expires_at.is_(None), table.c.expires_at > func.now()),
        )
    )
    return found.mappings().one_or_none()


def _stale(last_used: datetime | None) -> bool:
    return last_used is None or datetime.now(UTC) - last_used > _LAST_USE_GRAIN


# ── API tokens ────────────────────────────────────────────────────────────────────────────────────
async def make_token(
    connection: AsyncConnection, user_id: str, name: str, scopes: list[str], expires_in_days: int | None
) -> tuple[str, RowMapping]:
    """A new API token: its secret, and its row."""
    unknown = sorted(set(scopes) - set(PERMISSIONS) - {"*"})
    if unknown:
        raise Invalid(
            "unknown_scope",
            f"There is no permission called {', '.join(unknown)}.",
            f"The permissions: {', '.join(PERMISSIONS)}, or * for all.",
        )
    secret = new_secret("oi_pat")
    expires = datetime.now(UTC) + timedelta(days=expires_in_days) if expires_in_days else None
    row = await connection.execute(
        insert(api_tokens)
        .values(
            id=new_id("tok"),
            user_id=user_id,
            name=name,
            token_hash=hash_secret(secret),
            scopes=scopes,
            expires_at=expires,
        )
        .returning(api_tokens)
    )
    return secret, row.mappings().one()


async def renew_local_token(connection: AsyncConnection, user_id: str, folder_id: str) -> str:
    """The token by which commands on the server's own machine speak for its owner: a new one at each start, the earlier ones end.

    Each data folder has one of its own: other servers may be on the same database.
    """
    name = f"{LOCAL_TOKEN} ({folder_id})"
    await connection.execute(
        update(api_tokens)
        .where(
            api_tokens.c.user_id == user_id,
            api_tokens.c.name == name,
            api_tokens.c.revoked_at.is_(None),
        )
        .values(revoked_at=func.now())
    )
    await connection.execute(
        delete(api_tokens).where(
            api_tokens.c.user_id == user_id,
            api_tokens.c.name == name,
            api_tokens.c.created_at < datetime.now(UTC) - timedelta(days=7),
        )
    )
    secret, _ = await make_token(connection, user_id, name, ["*"], None)
    return secret


async def list_tokens(connection: AsyncConnection, user_id: str) -> list[RowMapping]:
    found = await connection.execute(
        select(api_tokens)
        .where(api_tokens.c.user_id == user_id)
        .order_by(api_tokens.c.created_at.desc())
        .limit(500)
    )
    return list(found.mappings())


async def revoke_token(connection: AsyncConnection, user_id: str, token_id: str) -> None:
    """May be repeated. Raises ``NotFound`` for a token that is not this person's."""
    found = await connection.execute(
        update(api_tokens)
        .where(api_tokens.c.id == token_id, api_tokens.c.user_id == user_id)
        .values(revoked_at=func.coalesce(api_tokens.c.revoked_at, func.now()))
    )
    if found.rowcount == 0:
        raise NotFound(
            "token_not_found",
            "There is no such token of yours.",
            "`openinspect tokens list`, and the page's settings, show yours.",
        )
