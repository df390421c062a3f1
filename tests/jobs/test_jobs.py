"""Jobs on a real Postgres: transactions, locks, retries, clocks, latency."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from openinspect.db.engine import transaction
from openinspect.jobs import Jobs, Retry, defer, run_worker

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def working(jobs: Jobs, database_url: str, **options: Any) -> AsyncIterator[asyncio.Task[None]]:
    ready = asyncio.Event()
    task = asyncio.create_task(run_worker(jobs, database_url, ready=ready, **options))
    await asyncio.wait_for(ready.wait(), 10)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, 15)


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


async def put(engine: AsyncEngine, name: str, **options: Any) -> bool:
    async with transaction(engine) as connection:
        return await defer(connection, name, **options)


async def statuses(engine: AsyncEngine, name: str) -> list[str]:
    async with transaction(engine) as connection:
        rows = await connection.execute(
            text("SELECT status::text FROM procrastinate_jobs WHERE task_name = :name ORDER BY id"),
            {"name": name},
        )
        return [status for (status,) in rows]


async def until_statuses(engine: AsyncEngine, name: str, expected: list[str]) -> None:
    deadline = time.monotonic() + 10
    while (seen := await statuses(engine, name)) != expected:
        assert time.monotonic() < deadline, seen
        await asyncio.sleep(0.01)


async def test_a_job_exists_only_if_its_transaction_commits(engine: AsyncEngine, database_url: str) -> None:
    jobs, seen = Jobs(), []

    @jobs.job("note")
    async def note(what: str, numbers: list[int]) -> None:
        seen.append((what, numbers))

    async with working(jobs, database_url):
        with contextlib.suppress(ZeroDivisionError):
            async with transaction(engine) as connection:
                await defer(connection, "note", what="rolled back", numbers=[])
                _ = 1 / 0
        async with transaction(engine) as connection:
            assert await defer(connection, "note", what="kept", numbers=[1, 2])
            await asyncio.sleep(0.05)
            assert seen == []
        await until(lambda: seen)
        await until_statuses(engine, "note", [])  # nothing stays of a job that succeeded
        assert seen == [("kept", [1, 2])]


async def test_from_commit_to_start_takes_milliseconds(engine: AsyncEngine, database_url: str) -> None:
    jobs, started = Jobs(), []

    @jobs.job("race")
    async def race() -> None:
        started.append(time.perf_counter())

    async with working(jobs, database_url):
        delays = []
        for count in range(1, 41):
            async with transaction(engine) as connection:
                await defer(connection, "race")
            committed = time.perf_counter()
            await until(lambda count=count: len(started) == count)
            delays.append(started[-1] - committed)
        # Without LISTEN it would be half a second; the worst ones belong to a busy machine.
        assert sorted(delays)[len(delays) // 2] < 0.05
        assert sorted(delays)[-3] < 0.5


async def test_of_those_with_a_queueing_lock_one_waits(engine: AsyncEngine, database_url: str) -> None:
    jobs, runs = Jobs(), []

    @jobs.job("tidy")
    async def tidy() -> None:
        runs.append(1)

    async with transaction(engine) as connection:
        assert await defer(connection, "tidy", queueing_lock="t1") is True
        assert await defer(connection, "tidy", queueing_lock="t1") is False
        assert await defer(connection, "tidy", queueing_lock="t2") is True
        assert (await connection.execute(text("SELECT 1"))).scalar() == 1  # the transaction is still good
    assert await put(engine, "tidy", queueing_lock="t1") is False
    assert await statuses(engine, "tidy") == ["todo", "todo"]
    async with working(jobs, database_url):
        await until(lambda: len(runs) == 2)
        await until_statuses(engine, "tidy", [])


async def test_a_job_that_waits_sees_what_the_second_one_to_defer_it_changed(
    engine: AsyncEngine, database_url: str
) -> None:
    jobs, found = Jobs(), []

    @jobs.job("look")
    async def look() -> None:
        async with transaction(engine) as connection:
            found.append((await connection.execute(text("SELECT count(*) FROM changes"))).scalar())

    async with transaction(engine) as connection:
        await connection.execute(text("CREATE TABLE changes (n int)"))
        await defer(connection, "look", queueing_lock="look")
    async with transaction(engine) as connection:
        await connection.execute(text("INSERT INTO changes VALUES (1)"))
        assert await defer(connection, "look", queueing_lock="look") is False
        async with working(jobs, database_url):
            await asyncio.sleep(0.2)
            assert found == []  # it waits for us, though the first transaction is long over
            await connection.commit()
            committed = time.monotonic()
            await until(lambda: found)
            assert time.monotonic() - committed < 0.8  # woken, not found by the poll
    assert found == [1]


async def test_a_later_time_is_kept_and_can_be_brought_forward(
    engine: AsyncEngine, database_url: str
) -> None:
    jobs, ran = Jobs(), []

    @jobs.job("later")
    async def later(which: str) -> None:
        ran.append((which, time.monotonic()))

    began = time.monotonic()
    soon, far = datetime.now(UTC) + timedelta(seconds=0.5), datetime.now(UTC) + timedelta(hours=1)
    await put(engine, "later", at=soon, which="soon")
    await put(engine, "later", at=far, queueing_lock="far", which="far")
    async with working(jobs, database_url):
        await until(lambda: ran)
        assert ran[0][0] == "soon" and 0.45 < ran[0][1] - began < 4
        assert await put(engine, "later", queueing_lock="far", which="ignored") is False
        await until(lambda: len(ran) == 2)
        assert ran[1][0] == "far"


async def test_of_those_with_a_lock_one_runs_in_order_and_the_next_follows_at_once(
    engine: AsyncEngine, database_url: str
) -> None:
    jobs, running, order = Jobs(), set(), []

    @jobs.job("step")
    async def step(n: int) -> None:
        assert not running
        running.add(n)
        await asyncio.sleep(0.02)
        running.discard(n)
        order.append(n)

    for n in range(20):
        await put(engine, "step", lock="one", n=n)
    began = time.monotonic()
    async with working(jobs, database_url), working(jobs, database_url):
        await until(lambda: len(order) == 20)
        assert order == list(range(20))
        assert time.monotonic() - began < 8  # by the poll it would be 20 s


async def test_a_failed_job_is_tried_again_and_in_the_end_kept_as_failed(
    engine: AsyncEngine, database_url: str
) -> None:
    jobs, attempts = Jobs(), []

    @jobs.job("flaky", retry=Retry(attempts=3, first=0.05))
    async def flaky(good_after: int) -> None:
        attempts.append(good_after)
        if attempts.count(good_after) <= good_after:
            raise ConnectionError("not yet")

    async with working(jobs, database_url):
        await put(engine, "flaky", good_after=2)
        await until_statuses(engine, "flaky", [])
        assert attempts == [2, 2, 2]
        await put(engine, "flaky", good_after=9)
        await until_statuses(engine, "flaky", ["failed"])
        assert attempts.count(9) == 3


async def test_a_failed_job_gives_way_to_a_newer_one_with_its_queueing_lock(
    engine: AsyncEngine, database_url: str
) -> None:
    jobs, runs, go = Jobs(), [], asyncio.Event()

    @jobs.job("again", retry=Retry(first=0.01))
    async def again(n: int) -> None:
        runs.append(n)
        if n == 1:
            await go.wait()
            raise ConnectionError("the first fails")

    async with working(jobs, database_url):
        await put(engine, "again", queueing_lock="again", n=1)
        await until(lambda: runs)
        assert await put(
            engine,
            "again",
            queueing_lock="again",
            lock="hold",
            n=2,
            at=datetime.now(UTC) + timedelta(seconds=2),
        )
        go.set()
        await until(lambda: runs == [1, 2])
        await until_statuses(engine, "again", [])


async def test_a_job_that_takes_too_long_is_cancelled_and_tried_again(
    engine: AsyncEngine, database_url: str
) -> None:
    jobs, runs = Jobs(), []

    @jobs.job("hang", seconds=0.1, retry=Retry(first=0.01))
    async def hang() -> None:
        runs.append(1)
        if len(runs) == 1:
            await asyncio.sleep(60)

    async with working(jobs, database_url):
        await put(engine, "hang")
        await until_statuses(engine, "hang", [])
        assert len(runs) == 2


def test_no_job_may_ask_for_more_than_thirty_seconds() -> None:
    with pytest.raises(ValueError, match="30 s at most"):
        Jobs().job("long", seconds=31)(lambda: asyncio.sleep(0))
    with pytest.raises(ValueError, match="divide a minute"):
        Jobs().periodic("odd", every=7)


async def test_a_periodic_job_runs_once_for_all_workers(engine: AsyncEngine, database_url: str) -> None:
    jobs, ticks = Jobs(), []

    @jobs.periodic("tick", every=1)
    async def tick() -> None:
        ticks.append(time.time())

    async with working(jobs, database_url), working(jobs, database_url):
        began = time.time()
        await until(lambda: len(ticks) >= 4)
        assert len(ticks) <= time.time() - began + 3
    async with transaction(engine) as connection:
        rows = await connection.execute(text("SELECT count(*) FROM procrastinate_periodic_defers"))
        assert (rows.scalar() or 0) <= 2


async def test_a_worker_that_is_stopped_lets_jobs_end_and_puts_the_rest_back(
    engine: AsyncEngine, database_url: str
) -> None:
    jobs, ended = Jobs(), []

    @jobs.job("work")
    async def work(seconds: float) -> None:
        ended.append(f"began {seconds}")
        await asyncio.sleep(seconds)
        ended.append(f"ended {seconds}")

    async with working(jobs, database_url, grace_seconds=0.5):
        await put(engine, "work", seconds=0.2)
        await put(engine, "work", seconds=20)
        await until(lambda: len(ended) == 2)
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 5
    assert "ended 0.2" in ended and "ended 20" not in ended
    assert await statuses(engine, "work") == ["todo"]
    async with transaction(engine) as connection:
        await connection.execute(text("DELETE FROM procrastinate_jobs"))
        assert (await connection.execute(text("SELECT count(*) FROM procrastinate_workers"))).scalar() == 0


async def test_the_table_stays_small(
    engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openinspect.jobs.worker._KEPT", 5)
    monkeypatch.setattr("openinspect.jobs.worker._PRUNE_SECONDS", 0.1)
    async with transaction(engine) as connection:
        await connection.execute(
            text(
                "INSERT INTO procrastinate_jobs (queue_name, task_name, status)"
                " SELECT 'default', 'old', 'failed' FROM generate_series(1, 50)"
            )
        )
        await defer(connection, "old", at=datetime.now(UTC) + timedelta(hours=1))
    async with working(Jobs(), database_url):
        deadline = time.monotonic() + 10
        while len(await statuses(engine, "old")) > 6:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
    assert (await statuses(engine, "old")).count("todo") == 1
