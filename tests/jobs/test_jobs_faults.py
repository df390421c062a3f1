"""Jobs when a worker is killed in the middle of one, and when Postgres is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from openinspect.db.engine import create_engine, transaction
from openinspect.db.errors import DatabaseUnavailable
from openinspect.db.migrate import migrate
from openinspect.db.postgres import EmbeddedPostgres
from openinspect.jobs import Jobs, defer, run_worker

pytestmark = pytest.mark.anyio
HERE = Path(__file__).parent


@contextlib.asynccontextmanager
async def worker_process(database_url: str, name: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(HERE / "worker_process.py"), database_url, name, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert await asyncio.wait_for(process.stdout.readline(), 20) in (b"ready\n",)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def notes(engine: AsyncEngine) -> list[tuple[str, str, int]]:
    async with transaction(engine) as connection:
        rows = await connection.execute(text("SELECT worker, what, n FROM notes ORDER BY id"))
        return [(row.worker, row.what, row.n) for row in rows]


async def jobs_left(engine: AsyncEngine) -> int:
    async with transaction(engine) as connection:
        return (await connection.execute(text("SELECT count(*) FROM procrastinate_jobs"))).scalar() or 0


async def until_notes(engine: AsyncEngine, count: int, seconds: float) -> list[tuple[str, str, int]]:
    deadline = time.monotonic() + seconds
    while len(seen := await notes(engine)) < count:
        assert time.monotonic() < deadline, seen
        await asyncio.sleep(0.05)
    return seen


@pytest.fixture
async def notebook(engine: AsyncEngine) -> AsyncEngine:
    async with transaction(engine) as connection:
        await connection.execute(text("DROP TABLE IF EXISTS notes"))
        await connection.execute(
            text("CREATE TABLE notes (id bigint GENERATED ALWAYS AS IDENTITY, worker text, what text, n int)")
        )
    return engine


async def test_a_killed_workers_jobs_are_taken_up_by_another(
    notebook: AsyncEngine, database_url: str
) -> None:
    async with (
        worker_process(database_url, "first") as first,
        worker_process(database_url, "second") as second,
    ):
        second.send_signal(signal.SIGSTOP)  # so that the first one gets them
        async with transaction(notebook) as connection:
            await defer(connection, "slow", lock="held", queueing_lock="q1", n=1, seconds=20)
            await defer(connection, "slow", n=2, seconds=20)
        await until_notes(notebook, 2, 10)
        # A newer one with the same queueing lock waits: of the two one is enough.
        async with transaction(notebook) as connection:
            assert await defer(connection, "slow", lock="held", queueing_lock="q1", n=3, seconds=20) is True
        first.kill()
        second.send_signal(signal.SIGCONT)
        seen = await until_notes(notebook, 6, 15)  # 6 to 8 s on a machine with nothing else to do
        assert sorted(seen[2:]) == [
            ("second", "began", 2),
            ("second", "began", 3),
            ("second", "ended", 2),
            ("second", "ended", 3),
        ]
        deadline = time.monotonic() + 10
        while await jobs_left(notebook):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


async def test_a_worker_that_is_alive_keeps_its_long_job(notebook: AsyncEngine, database_url: str) -> None:
    async with worker_process(database_url, "first"):
        async with transaction(notebook) as connection:
            await defer(connection, "slow", n=1, seconds=9)
        await until_notes(notebook, 1, 10)
        async with worker_process(database_url, "second"):
            seen = await until_notes(notebook, 2, 20)
    assert seen == [("first", "began", 1), ("first", "ended", 1)]


async def test_postgres_is_killed_and_comes_back(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path, durable=False)
    url = await server.start()
    await migrate(url)
    watching = asyncio.create_task(server.watch())
    engine = create_engine(url)
    jobs, runs = Jobs(), []
    begun, release, ready = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @jobs.job("before")
    async def before() -> None:
        runs.append("before")
        begun.set()
        await release.wait()

    @jobs.job("after")
    async def after() -> None:
        runs.append("after")

    worker = asyncio.create_task(run_worker(jobs, url, ready=ready))
    await asyncio.wait_for(ready.wait(), 10)
    async with transaction(engine) as connection:
        await defer(connection, "before")
    await asyncio.wait_for(begun.wait(), 10)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    release.set()  # it ends while the database is away

    async def left() -> bool:
        try:
            return await jobs_left(engine) > 0
        except DatabaseUnavailable:  # a backend may have outlived its postmaster for one more commit
            return True

    deadline = time.monotonic() + 15
    while True:
        try:
            async with transaction(engine) as connection:
                await defer(connection, "after")
            break
        except DatabaseUnavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
    answered = time.monotonic()
    while await left():
        assert time.monotonic() - answered < 10
        await asyncio.sleep(0.02)
    assert runs == ["before", "after"]  # the end of the first was written down, it did not run twice
    assert not worker.done()
    worker.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await worker
    await engine.dispose()
    await server.stop()
    await watching


async def test_a_worker_stops_in_time_although_postgres_is_away(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path, durable=False)
    url = await server.start()
    await migrate(url)
    ready = asyncio.Event()
    worker = asyncio.create_task(run_worker(Jobs(), url, ready=ready, grace_seconds=0.5))
    await asyncio.wait_for(ready.wait(), 10)
    await server.stop()
    await asyncio.sleep(0.3)
    began = time.monotonic()
    worker.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait_for(worker, 15)
    assert time.monotonic() - began < 12


async def test_a_worker_waits_for_a_database_that_is_not_there_yet(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path, durable=False)
    url = await server.start()
    await migrate(url)
    await server.stop()
    ready = asyncio.Event()
    worker = asyncio.create_task(run_worker(Jobs(), url, ready=ready))
    await asyncio.sleep(0.3)
    assert not ready.is_set() and not worker.done()
    await server.start()
    await asyncio.wait_for(ready.wait(), 20)
    worker.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await worker
    await server.stop()
