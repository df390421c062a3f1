"""Running jobs: in the server's process or in one of its own. Every worker also takes up the jobs of dead ones and tidies up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable

import anyio
import structlog
from procrastinate import App, exceptions
from procrastinate.worker import Worker

from openinspect.jobs.registry import Jobs
from openinspect.jobs.store import Connector, Manager, lost

HEARTBEAT_SECONDS = 1.5
STALLED_SECONDS = 6.0  # a worker without a heartbeat for so long is dead
_POLL_SECONDS = 2.0
_PRUNE_SECONDS = 60.0
_KEPT = 1_000
_NEVER = 1e9  # our own loop gives the sign of life

log = structlog.get_logger(__name__)


async def run_worker(
    jobs: Jobs,
    database_url: str,
    *,
    concurrency: int = 16,
    grace_seconds: float = 5.0,
    ready: asyncio.Event | None = None,
) -> None:
    """Run jobs until cancelled, at most ``concurrency`` at a time; ``ready`` is set once it takes them.

    Cancelled, it takes no more jobs, gives those that run ``grace_seconds`` to end, and puts the rest back for another worker. A lost database is
    waited for.
    """
    logging.getLogger("procrastinate").setLevel(
        logging.CRITICAL
    )  # we say ourselves what fails, without the arguments
    pause = 0.1
    while True:
        began = time.monotonic()
        try:
            await _run_once(jobs, database_url, concurrency, grace_seconds, ready)
        except exceptions.ConnectorException as error:
            log.warning("worker lost the database", error=str(error.__cause__ or error).strip())
        except Exception as error:
            log.error(
                "worker stopped, it starts again", error=f"{type(error).__name__}: {error}", exc_info=error
            )
        pause = 0.1 if time.monotonic() - began > 30 else min(pause * 2, 5.0)
        await asyncio.sleep(pause)


async def _run_once(
    jobs: Jobs, database_url: str, concurrency: int, grace_seconds: float, ready: asyncio.Event | None
) -> None:
    connector = Connector(database_url)
    app = App(connector=connector)
    app.job_manager = manager = Manager(connector)
    jobs.add_to(app)
    async with app.open_async():
        worker = Worker(
            app,
            concurrency=concurrency,
            fetch_job_polling_interval=_POLL_SECONDS,
            abort_job_polling_interval=_POLL_SECONDS,
            shutdown_graceful_timeout=grace_seconds,
            delete_jobs="successful",
            install_signal_handlers=False,
            update_heartbeat_interval=_NEVER,
            stalled_worker_timeout=STALLED_SECONDS,
        )
        running = asyncio.create_task(worker.run(), name="jobs")
        rescuing = asyncio.create_task(_rescue(worker, manager, ready), name="jobs of dead workers")
        try:
            await asyncio.wait({running, rescuing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            with anyio.CancelScope(shield=True):
                worker.stop()
                await asyncio.wait({running}, timeout=grace_seconds + 3)
                await _end(running)
                await _end(rescuing)
        for task in (running, rescuing):
            if not task.cancelled() and (error := task.exception()):
                raise error


async def _end(task: asyncio.Task[None]) -> None:
    # The worker ignores the first cancellation (it stops in an orderly way) and heeds the second.
    for _ in range(3):
        if task.done():
            return
        task.cancel()
        await asyncio.wait({task}, timeout=0.5)


async def _rescue(worker: Worker, manager: Manager, ready: asyncio.Event | None) -> None:
    """Give signs of life, and look for jobs whose worker gives none."""
    await manager.registered.wait()
    if ready is not None:
        ready.set()
    not_before, pruned, previous = 0.0, 0.0, time.time()
    while (own := worker.worker_id) is not None:
        now = time.time()
        if now - previous > STALLED_SECONDS / 2:
            not_before = (
                now + STALLED_SECONDS
            )  # the machine slept, or we did: let the others' hearts beat first
        previous = now
        stalled = STALLED_SECONDS if now >= not_before else 1e9
        if rescued := await _unless_lost(manager.beat_and_rescue(own, stalled)):
            log.warning("took up the jobs of a dead worker", jobs=rescued)
        if now - pruned > _PRUNE_SECONDS:
            pruned = now
            await _unless_lost(manager.prune(own, _KEPT))
        await asyncio.sleep(HEARTBEAT_SECONDS)


async def _unless_lost(query: Awaitable[list[int] | None]) -> list[int] | None:
    with contextlib.suppress(
        exceptions.UniqueViolation
    ):  # the same was deferred at this very moment; the next round sees it
        try:
            return await query
        except exceptions.ConnectorException as error:
            if isinstance(error, exceptions.UniqueViolation) or not lost(error):
                raise
    return None
