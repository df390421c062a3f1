"""A worker in a process of its own: ``worker_process.py DATABASE_URL NAME``. Its one job notes that it began, waits, and notes that it ended."""

from __future__ import annotations

import asyncio
import sys

from sqlalchemy import text

from openinspect.db.engine import create_engine, transaction
from openinspect.jobs import Jobs, run_worker


async def main(database_url: str, name: str) -> None:
    jobs, engine, ready = Jobs(), create_engine(database_url, pool_size=2), asyncio.Event()

    async def note(what: str, n: int) -> None:
        async with transaction(engine) as connection:
            await connection.execute(
                text("INSERT INTO notes (worker, what, n) VALUES (:worker, :what, :n)"),
                {"worker": name, "what": what, "n": n},
            )

    @jobs.job("slow")
    async def slow(n: int, seconds: float) -> None:
        await note("began", n)
        await asyncio.sleep(seconds if name == "first" else 0)
        await note("ended", n)

    worker = asyncio.create_task(run_worker(jobs, database_url, ready=ready))
    await ready.wait()
    print("ready", flush=True)
    await worker


asyncio.run(main(*sys.argv[1:]))
