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

from .janitor import Janitor
from .keeper import Keeper
from .sweep import UNSEEN_SECONDS, due

SWEEP_SECONDS = 2
TIDY_SECONDS = 30
PRUNE_SECONDS = 600
_LONGEST_CALL = timedelta(hours=2)


def register(keeper: Keeper, janitor: Janitor) -> Jobs:
    """The jobs that a worker of this server runs."""
    jobs = Jobs()

    for name, method in (
        ("sandbox.check", keeper.check),
        ("sandbox.stop_idle", keeper.stop_idle),
        ("prompt.enforce", keeper.enforce),
        ("session.advance", keeper.advance),
        ("session.delete", janitor.delete),
    ):
        _about_one(jobs, name, method)

    unseen = 0.0  # of what this process finds when it starts nobody knows whether it still lives

    @jobs.periodic("sweep", every=SWEEP_SECONDS)
    async def sweep() -> None:
        nonlocal unseen
        found = await due(keeper.journal.engine, keeper.settings, unseen)
        unseen = UNSEEN_SECONDS
        if found:
            async with transaction(keeper.journal.engine) as connection:
                for name, one in found:
                    await defer_about(connection, name, one)

    @jobs.periodic("reap", every=TIDY_SECONDS)
    async def reap() -> None:
        await janitor.reap()

    @jobs.periodic("attachments.prune", every=PRUNE_SECONDS)
    async def prune_attachments() -> None:
        await janitor.prune_attachments()

    @jobs.periodic("calls.settle", every=TIDY_SECONDS)
    async def settle_abandoned_calls() -> None:
        await janitor.settle_abandoned_calls(datetime.now(UTC) - _LONGEST_CALL)

    return jobs


def _about_one(jobs: Jobs, name: str, method: Callable[[str], Awaitable[None]]) -> None:
    @jobs.job(name)
    async def run(id: str) -> None:
        await method(id)


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
