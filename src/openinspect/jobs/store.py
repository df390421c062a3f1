"""Procrastinate's access to Postgres, made to outlive the loss of the database, of workers, and of a race or two.

Changes against the library's own behaviour, each for a reason:
- A lost database does not stop a worker: fetching, listening and heartbeats wait and go on; the end of a job is written down when the database is back.
- A job's end is only written by the worker that still holds it, so that a job taken over by another is not ended by the first.
- The end of a job with a lock wakes the workers: the next one with that lock must not wait for the poll.
- A notification that arrives while a fetch is under way makes it fetch again: it may have come a moment too late for the fetch's snapshot.
- A job that failed while a newer one with its queueing lock waits is dropped: the newer one does its work.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any, LiteralString

import psycopg
import structlog
from procrastinate import exceptions
from procrastinate.connector import Notify
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager
from procrastinate.psycopg_connector import PsycopgConnector
from psycopg_pool import AsyncConnectionPool

from openinspect.db.engine import conninfo, is_lost
from openinspect.db.listening import listen

_WAKE_WITHIN_SECONDS = 5.0
_WAKE = (
    "pg_notify('procrastinate_any_queue_v1', json_build_object('type', 'job_inserted', 'job_id', id)::text)"
)
# Locked first, in a step of its own: functions in a locking SELECT would run before the lock.
_HELD = """
    WITH held AS MATERIALIZED (SELECT id, lock FROM procrastinate_jobs
        WHERE id = %(job_id)s AND status = 'doing' AND worker_id = %(worker_id)s FOR UPDATE)
"""
_FINISH: LiteralString = f"""{_HELD}
    SELECT procrastinate_finish_job_v1(id, %(status)s, %(delete_job)s)::text,
           CASE WHEN lock IS NOT NULL THEN {_WAKE}::text END FROM held
"""
_RETRY: LiteralString = f"""{_HELD}
    SELECT procrastinate_retry_job_v2(id, %(retry_at)s, NULL, NULL, NULL)::text, {_WAKE}::text FROM held
"""

# Workers count as dead by their heartbeat, but not before they had the time to send one after Postgres itself came back.
_RESCUE: LiteralString = f"""
    WITH beat AS (
        UPDATE procrastinate_workers SET last_heartbeat = now() WHERE id = %(own)s
    ), dead AS (
        SELECT job.id, job.queueing_lock, job.attempts
        FROM procrastinate_jobs AS job LEFT JOIN procrastinate_workers AS worker ON worker.id = job.worker_id
        WHERE job.status = 'doing' AND job.worker_id IS DISTINCT FROM %(own)s
          AND (worker.id IS NULL OR greatest(worker.last_heartbeat, pg_postmaster_start_time())
                                    < now() - make_interval(secs => %(stalled)s))
        ORDER BY job.id LIMIT 100 FOR UPDATE OF job SKIP LOCKED
    ), ranked AS (
        SELECT *, row_number() OVER (PARTITION BY coalesce(queueing_lock, id::text) ORDER BY id) AS place FROM dead
    ), again AS (
        UPDATE procrastinate_jobs AS job
        SET status = CASE WHEN job.attempts >= %(most)s THEN 'failed' ELSE 'todo' END::procrastinate_job_status,
            attempts = job.attempts + 1, scheduled_at = NULL, abort_requested = false, worker_id = NULL
        FROM ranked
        WHERE ranked.id = job.id AND ranked.place = 1 AND NOT EXISTS (
            SELECT FROM procrastinate_jobs AS newer
            WHERE newer.status = 'todo' AND newer.queueing_lock = ranked.queueing_lock)
        RETURNING job.id
    ), superfluous AS (
        DELETE FROM procrastinate_jobs WHERE id IN (SELECT id FROM ranked EXCEPT SELECT id FROM again)
    )
    SELECT id, {_WAKE} AS woken FROM again
"""
_MOST_RESCUES = 20  # a job that has taken so many workers down with it is at fault itself

_PRUNE_JOBS: LiteralString = """
    DELETE FROM procrastinate_jobs WHERE status IN ('failed', 'aborted', 'cancelled', 'succeeded') AND id <= (
        SELECT id FROM procrastinate_jobs WHERE status IN ('failed', 'aborted', 'cancelled', 'succeeded')
        ORDER BY id DESC OFFSET %(kept)s LIMIT 1)
"""
_PRUNE_WORKERS: LiteralString = """
    DELETE FROM procrastinate_workers WHERE last_heartbeat < now() - interval '1 hour' AND id <> %(own)s
"""

log = structlog.get_logger(__name__)


def lost(error: exceptions.ConnectorException) -> bool:
    return error.__cause__ is not None and is_lost(error.__cause__)


def _pool(**options: Any) -> AsyncConnectionPool:
    # Without a check before each use: everything here copes with a connection that turns out to be dead.
    return AsyncConnectionPool(**{**options, "check": None})


class Connector(PsycopgConnector):
    """A small pool of its own, and a listener that comes back."""

    def __init__(self, database_url: str) -> None:
        self._address = conninfo(database_url)
        super().__init__(
            conninfo=self._address,
            kwargs={"autocommit": True},
            min_size=1,
            max_size=4,
            timeout=5.0,
            name="jobs",
            pool_factory=_pool,
        )
        self.notifications = 0  # how many have arrived
        self._on_notification: Notify | None = None

    async def listen_notify(self, on_notification: Notify, channels: Iterable[str]) -> None:
        self._on_notification = on_notification
        pause = 0.05
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._address, autocommit=True
                ) as connection:
                    async for notice in listen(connection, list(channels)):
                        if notice is None:
                            pause = 0.05
                            # Something may have been deferred while nobody listened.
                            await self.wake()
                        else:
                            self.notifications += 1
                            await on_notification(channel=notice.channel, payload=notice.payload)
            except (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError) as error:
                log.warning("jobs: listener lost the database", error=str(error).strip())
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)

    async def wake(self, after: float = 0) -> None:
        """Make this process's worker look for jobs, ``after`` so many seconds."""
        await asyncio.sleep(after)
        if self._on_notification is not None:
            self.notifications += 1
            await self._on_notification(channel="", payload=json.dumps({"type": "job_inserted", "job_id": 0}))


class Manager(JobManager):
    connector: Connector

    def __init__(self, connector: Connector) -> None:
        super().__init__(connector)
        self.registered = asyncio.Event()
        self._waking: set[asyncio.Task[None]] = set()

    async def register_worker(self) -> int:
        worker_id = await super().register_worker()
        self.registered.set()
        return worker_id

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        while True:
            seen = self.connector.notifications
            try:
                job = await super().fetch_job(queues, worker_id)
            except exceptions.UniqueViolation:
                continue  # another worker has taken a job with the same lock at the same moment
            except exceptions.ConnectorException as error:
                if not lost(error):
                    raise
                await asyncio.sleep(0.2)
                return None
            if job is not None or self.connector.notifications == seen:
                return job

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:
        values = {"status": status.value, "delete_job": delete_job}
        await self._until_written(job, lambda: self._held(_FINISH, job, **values))

    async def retry_job(
        self,
        job: Job,
        retry_at: datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        lock: str | None = None,
    ) -> None:
        try:
            await self._until_written(job, lambda: self._held(_RETRY, job, retry_at=retry_at))
        except exceptions.UniqueViolation:
            await self.finish_job(job, Status.SUCCEEDED, delete_job=True)
            return
        # Not left to the poll: the first retries come sooner than that.
        after = max((retry_at - datetime.now(UTC)).total_seconds(), 0) + 0.01 if retry_at else 0
        if after < _WAKE_WITHIN_SECONDS:
            waking = asyncio.create_task(self.connector.wake(after))
            self._waking.add(waking)
            waking.add_done_callback(self._waking.discard)

    async def _held(self, query: LiteralString, job: Job, **values: Any) -> None:
        await self.connector.execute_query_one_async(query, job_id=job.id, worker_id=job.worker_id, **values)

    async def _until_written(self, job: Job, write: Callable[[], Awaitable[None]]) -> None:
        # Without an end on purpose: while this worker lives nobody else takes the job. Its stop is bounded instead.
        pause = 0.05
        while True:
            try:
                return await write()
            except exceptions.NoResult:
                log.warning("job was taken over by another worker", job=job.task_name, id=job.id)
                return
            except exceptions.ConnectorException as error:
                if isinstance(error, exceptions.UniqueViolation) or not lost(error):
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)

    async def defer_periodic_job(self, job: Job, periodic_id: str, defer_timestamp: int) -> int | None:
        return await self._unless_lost(
            "a tick was skipped", super().defer_periodic_job(job, periodic_id, defer_timestamp)
        )

    async def unregister_worker(self, worker_id: int) -> None:
        await self._unless_lost("a worker's row stays", super().unregister_worker(worker_id))

    async def prune_stalled_workers(self, seconds_since_heartbeat: float) -> list[int]:
        return []  # see rescue and prune

    async def _unless_lost(self, consequence: str, query: Awaitable[Any]) -> Any:
        try:
            return await query
        except exceptions.ConnectorException as error:
            if not lost(error):
                raise
            log.warning("jobs: the database does not answer", consequence=consequence)
            return None

    async def beat_and_rescue(self, own: int, stalled: float) -> list[int]:
        """Give a sign of life, put the jobs of workers back that gave none for ``stalled`` seconds, and wake everybody; these jobs' ids."""
        rows = await self.connector.execute_query_all_async(
            _RESCUE, own=own, stalled=stalled, most=_MOST_RESCUES
        )
        return [row["id"] for row in rows]

    async def prune(self, own: int, kept: int) -> None:
        """Delete all but the newest ``kept`` ended jobs, and the rows of workers that are long gone."""
        await self.connector.execute_query_async(_PRUNE_JOBS, kept=kept)
        await self.connector.execute_query_async(_PRUNE_WORKERS, own=own)
