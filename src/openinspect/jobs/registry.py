"""Which jobs there are: names, functions, bounds, retries and clocks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ParamSpec

import structlog
from procrastinate import App
from procrastinate.jobs import Job
from procrastinate.retry import BaseRetryStrategy, RetryDecision

from openinspect.jobs.queue import DEFAULT_QUEUE

LONGEST_SECONDS = 30.0

P = ParamSpec("P")
log = structlog.get_logger(__name__)


class JobTimedOut(Exception):
    """The job did not end within its seconds and was cancelled; it will be tried again."""


@dataclass(frozen=True)
class Retry(BaseRetryStrategy):
    """What happens after a failure: wait ``first`` seconds, then twice as long each time up to ``longest``, at most ``attempts`` runs in all."""

    attempts: int = 12
    first: float = 0.2
    longest: float = 60.0

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        if isinstance(exception, asyncio.CancelledError):
            return RetryDecision()  # the worker stops; another one takes it up at once
        if job.attempts + 1 >= self.attempts:
            return None
        pause = min(self.first * 2 ** min(job.attempts, 30), self.longest)
        return RetryDecision(retry_in={"seconds": pause})


@dataclass(frozen=True)
class _Entry:
    name: str
    function: Callable[..., Awaitable[None]]
    queue: str
    retry: Retry
    seconds: float
    cron: str | None = None


class Jobs:
    """The jobs that a worker knows. Functions are closures over what they need, so that nothing here is global."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def job(
        self,
        name: str,
        *,
        queue: str = DEFAULT_QUEUE,
        retry: Retry | None = None,
        seconds: float = LONGEST_SECONDS,
    ) -> Callable[[Callable[P, Awaitable[None]]], Callable[P, Awaitable[None]]]:
        """Register the decorated function under ``name``; it is cancelled after ``seconds`` (30 at most) and then tried again."""

        def register(function: Callable[P, Awaitable[None]]) -> Callable[P, Awaitable[None]]:
            self._add(_Entry(name, function, queue, retry or Retry(), seconds))
            return function

        return register

    def periodic(
        self, name: str, *, every: int, seconds: float = LONGEST_SECONDS
    ) -> Callable[[Callable[[], Awaitable[None]]], Callable[[], Awaitable[None]]]:
        """Run the decorated function every ``every`` seconds, once for all workers together; never two at a time.

        ``every`` divides a minute, or is whole minutes that divide an hour. A run that failed is not tried again: the next one follows.
        """
        cron = _cron(every)

        def register(function: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
            self._add(_Entry(name, function, DEFAULT_QUEUE, Retry(attempts=1), seconds, cron))
            return function

        return register

    def _add(self, entry: _Entry) -> None:
        if entry.name in self._entries:
            raise ValueError(f"a job named {entry.name!r} is registered already")
        if not 0 < entry.seconds <= LONGEST_SECONDS:
            raise ValueError(f"job {entry.name!r}: a job may take {LONGEST_SECONDS:.0f} s at most")
        self._entries[entry.name] = entry

    def add_to(self, app: App) -> None:
        """Make them known to Procrastinate."""
        for entry in self._entries.values():
            lock = f"periodic:{entry.name}" if entry.cron else None
            task = app.task(
                name=entry.name, queue=entry.queue, retry=entry.retry, lock=lock, queueing_lock=lock
            )(_bounded(entry))
            if entry.cron:
                app.periodic(cron=entry.cron, periodic_id=entry.name, lock=lock, queueing_lock=lock)(task)


def _bounded(entry: _Entry) -> Callable[..., Awaitable[None]]:
    async def run(**arguments: Any) -> None:
        if entry.cron:
            arguments.pop(
                "timestamp", None
            )  # the tick it stands for; our sweeps look at the clock and the rows
        bound = asyncio.timeout(entry.seconds)
        try:
            async with bound:
                await entry.function(**arguments)
        except TimeoutError as error:
            if not bound.expired():
                _say_failed(entry, error)
                raise
            timed_out = JobTimedOut(f"job {entry.name} did not end within {entry.seconds:.0f} s")
            _say_failed(entry, timed_out)
            raise timed_out from error
        except Exception as error:
            _say_failed(entry, error)
            raise

    return run


def _say_failed(entry: _Entry, error: Exception) -> None:
    log.warning("job failed", job=entry.name, error=f"{type(error).__name__}: {error}", exc_info=error)


def _cron(every: int) -> str:
    if 0 < every < 60 and 60 % every == 0:
        return f"* * * * * */{every}"
    if every > 0 and every % 60 == 0 and 3600 % every == 0:
        return f"*/{every // 60} * * * *" if every < 3600 else "0 * * * *"
    raise ValueError(f"every {every} s: it has to divide a minute, or be whole minutes that divide an hour")
