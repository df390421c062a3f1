"""Who stands at the door: a sandbox's token is looked up anew for every request, and decides about everything that the request may do.

There are two: the runtime's, for ``/bridge``, and the agent's, which follows from it, for the rest (``protocol.config``). A token is worth something only while its sandbox lives. What is granted comes from the rows, never from what the request says.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import bindparam, select
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.datastructures import Headers

from openinspect.db.tables import prompts, sandboxes, sessions
from openinspect.identity.credentials import hash_secret
from openinspect.problems import SignInNeeded
from openinspect.protocol.config import agent_token

_OPEN_STATES = ("booting", "ready")
# Made once: making a statement takes longer than asking the database.
_LOOK_UP = (
    select(
        sandboxes.c.id,
        sandboxes.c.session_id,
        sessions.c.model,
        prompts.c.id.label("prompt_id"),
        prompts.c.model.label("prompt_model"),
        prompts.c.author_id,
    )
    .join(sessions, sessions.c.id == sandboxes.c.session_id)
    .outerjoin(prompts, (prompts.c.sandbox_id == sandboxes.c.id) & (prompts.c.status == "running"))
    .where(
        sandboxes.c.token_hash == bindparam("token_hash"),
        sandboxes.c.state.in_(_OPEN_STATES),
        sessions.c.status != "deleting",
    )
)


class SandboxGrant(NamedTuple):
    sandbox_id: str
    session_id: str
    session_model: str
    prompt_id: str | None
    """Of the turn that is running; None: nothing runs, and no effects may happen."""
    prompt_model: str | None
    author_id: str | None
    """Who sent the prompt that is running: effects happen as this person."""


def bearer(headers: Headers) -> str | None:
    """The token of ``Authorization: Bearer …`` or of ``x-api-key``, as the providers' own clients send it."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and token:
        return token.strip()
    return headers.get("x-api-key") or None


def credentials(headers: Headers) -> set[str]:
    """Every token that a request names, in whichever way one of the doors may read it."""
    named = {value.partition(" ")[2].strip() for value in headers.getlist("authorization")}
    named.update(value.strip() for value in headers.getlist("x-api-key"))
    return named - {""}


async def authorise_runtime(engine: AsyncEngine, token: str | None) -> SandboxGrant:
    """Of the runtime's own token. Raises ``SignInNeeded``, also for the agent's."""
    return await authorise(engine, agent_token(token) if token else None)


async def authorise(engine: AsyncEngine, token: str | None) -> SandboxGrant:
    """Of the agent's token. Raises ``SignInNeeded`` for one that is unknown, or whose sandbox has ended."""
    if token:
        # A single look-up needs no transaction around it: two round trips fewer for every request at the door.
        async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            found = await connection.execute(_LOOK_UP, {"token_hash": hash_secret(token)})
            row = found.one_or_none()
        if row is not None:
            return SandboxGrant(
                row.id, row.session_id, row.model, row.prompt_id, row.prompt_model, row.author_id
            )
    raise SignInNeeded(
        "token_invalid",
        "This sandbox's token is unknown, or its sandbox has ended.",
        "Prompt the session again for a new sandbox.",
    )
