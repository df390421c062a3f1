"""The jobs of the heart, each a thin call of the keeper, and the sweep that finds rows without a job.

Jobs about one sandbox share a lock, so that its box is started, checked and stopped by one at a time. What a person waits for (dispatching a
prompt, stopping a turn) is done where it is asked for, never by a job that could wait for a lock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from openinspect.db.engine import transaction
from openinspect.jobs import Jobs, defer

from .keeper import Keeper
from .sweep import due

SWEEP_SECONDS = 2
TIDY_SECONDS = 30
_LONGEST_CALL = timedelta(hours=2)


def register(keeper: Keeper) -> Jobs:
    """The jobs that a worker of this server runs."""
    jobs = Jobs()

    @jobs.job("sandbox.check")
    async def check(id: str) -> None:
        await keeper.check(id)

    @jobs.job("sandbox.stop_idle")
    async def stop_idle(id: str) -> None:
        await keeper.stop_idle(id)

    @jobs.job("prompt.enforce")
    async def enforce(id: str) -> None:
        await keeper.enforce(id)

    @jobs.job("session.advance")
    async def advance(id: str) -> None:
        await keeper.advance(id)

    @jobs.job("session.delete")
    async def delete(id: str) -> None:
        await keeper.delete(id)

    @jobs.periodic("sweep", every=SWEEP_SECONDS)
    async def sweep() -> None:
        found = await due(keeper.journal.engine, keeper.settings)
        if found:
            async with transaction(keeper.journal.engine) as connection:
                for name, one in found:
                    await defer_about(connection, name, one)

    @jobs.periodic("tidy", every=TIDY_SECONDS)
    async def tidy() -> None:
        await keeper.reap()
        await keeper.prune_attachments()
        await keeper.settle_abandoned_calls(datetime.now(UTC) - _LONGEST_CALL)

    return jobs


async def defer_about(
    connection: AsyncConnection, name: str, one: str, *, at: datetime | None = None
) -> None:
    """Defer a job for the row that it is about; one that waits already will do."""
    lock = f"sandbox:{one}" if name.startswith("sandbox.") else None
    await defer(connection, name, lock=lock, queueing_lock=f"{name}:{one}", at=at, id=one)


def deferrer(keeper: Keeper) -> Callable[[str, str], Awaitable[None]]:
    """Defers by name and id, in a transaction of its own."""

    async def defer_one(name: str, one: str) -> None:
        async with transaction(keeper.journal.engine) as connection:
            await defer_about(connection, name, one)

    return defer_one


async def want_sandbox(connection: AsyncConnection, sandbox_id: str) -> None:
    """For ``Journal.want``: start a requested sandbox."""
    await defer_about(connection, "sandbox.check", sandbox_id)
