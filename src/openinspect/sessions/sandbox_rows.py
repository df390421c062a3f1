"""The sandboxes of sessions, as rows: at most one live one each.

Whoever changes a sandbox's row holds its session's row, so that one order of locks holds everywhere: the session first.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import func, insert, select
from sqlalchemy.engine import RowMapping

from openinspect.db.tables import sandboxes, session_targets, sessions
from openinspect.protocol.commands import Configure, Identity, TargetSpec
from openinspect.protocol.events import SandboxChanged
from openinspect.protocol.ids import new_id
from openinspect.settings import Settings

from .log import Transaction

LIVE_STATES = ("requested", "booting", "ready", "stopping")
COMMITTER = Identity(name="Open-Inspect", email="agent@open-inspect.invalid")


async def live_sandbox(transaction: Transaction, session_id: str) -> RowMapping | None:
    found = await transaction.connection.execute(
        select(sandboxes).where(sandboxes.c.session_id == session_id, sandboxes.c.state.in_(LIVE_STATES))
    )
    return found.mappings().one_or_none()


async def lock_session_of(transaction: Transaction, sandbox_id: str) -> str | None:
    """Lock the session that a sandbox belongs to; None when the sandbox is not known. Everybody takes a session's lock before its sandbox's."""
    session_id = await transaction.connection.scalar(
        select(sandboxes.c.session_id).where(sandboxes.c.id == sandbox_id)
    )
    if session_id is not None:
        await transaction.connection.execute(
            select(sessions.c.id).where(sessions.c.id == session_id).with_for_update()
        )
    return session_id


async def request_sandbox(
    transaction: Transaction, session: RowMapping, settings: Settings, provider: str = "local"
) -> str:
    """A new sandbox row with its first command. A job takes it from there; the sweep finds it when the job is lost."""
    connection = transaction.connection
    sandbox_id = new_id("sbx")
    await connection.execute(
        insert(sandboxes).values(
            id=sandbox_id,
            session_id=session["id"],
            provider=provider,
            state="requested",
            token_hash=f"none:{sandbox_id}",  # nobody's: the token is made when the sandbox is started
            deadline_at=func.now() + timedelta(seconds=settings.sandbox_boot_seconds),
        )
    )
    targets = await connection.execute(
        select(session_targets)
        .where(session_targets.c.session_id == session["id"])
        .order_by(session_targets.c.position)
    )
    await transaction.issue(
        sandbox_id,
        Configure(
            session_id=session["id"],
            targets=[
                TargetSpec(
                    directory=row["directory"],
                    git_path=f"/git/{row['directory']}",
                    base_branch=row["base_branch"],
                    base_sha=row["base_sha"],
                    work_branch=row["work_branch"],
                )
                for row in targets.mappings()
            ],
            committer=COMMITTER,
        ),
    )
    await transaction.append(session["id"], SandboxChanged(sandbox_id=sandbox_id, state="requested"))
    transaction.wanted_sandboxes.append(sandbox_id)
    return sandbox_id
