"""Putting a job into the queue, on the caller's own transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

DEFAULT_QUEUE = "default"

# An existing job that waits is locked by the update: no worker takes it before this transaction is over, whatever it then sees is complete.
_INSERT = text(
    """
    INSERT INTO procrastinate_jobs AS job (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
    VALUES (:queue, :name, :priority, :lock, :queueing_lock, CAST(:args AS jsonb), :at)
    ON CONFLICT (queueing_lock) WHERE status = 'todo' DO UPDATE
        SET scheduled_at = CASE WHEN excluded.scheduled_at IS NULL THEN NULL
                                ELSE least(job.scheduled_at, excluded.scheduled_at) END
    RETURNING id, xmax = 0 AS is_new
    """
)
_WAKE = text(
    "SELECT pg_notify('procrastinate_any_queue_v1',"
    " json_build_object('type', 'job_inserted', 'job_id', CAST(:id AS bigint))::text)"
)


async def defer(
    connection: AsyncConnection,
    name: str,
    *,
    lock: str | None = None,
    queueing_lock: str | None = None,
    queue: str = DEFAULT_QUEUE,
    priority: int = 0,
    at: datetime | None = None,
    **arguments: Any,
) -> bool:
    """Defer the job ``name``: it exists if the caller's transaction commits, and starts at once then, or not before ``at``.

    Higher priorities go first. ``arguments`` are the job's keyword arguments, of JSON's types; no secrets, they are logged. Call it last in the
    transaction: with a ``queueing_lock`` it may wait for another transaction that has just deferred the same. Returns False if such a job
    waited already: that one will do, and is brought forward if ``at`` is earlier than its time.
    """
    values = {
        "queue": queue,
        "name": name,
        "priority": priority,
        "lock": lock,
        "queueing_lock": queueing_lock,
        "args": orjson.dumps(arguments).decode(),
        "at": at,
    }
    job = (await connection.execute(_INSERT, values)).one()
    if not job.is_new:
        await connection.execute(_WAKE, {"id": job.id})
    return job.is_new
