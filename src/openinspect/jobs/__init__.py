"""Durable, short jobs on the same Postgres: the narrow face of Procrastinate.

A job looks at the rows, does the next thing and ends; it may run twice (after a crash it does), so it must find its place in the rows.

    jobs = Jobs()

    @jobs.job("sessions.dispatch")
    async def dispatch(session_id: str) -> None: ...

    @jobs.periodic("sessions.sweep", every=5)
    async def sweep() -> None: ...

    async with transaction(engine) as connection:
        ...                                                              # change rows first, defer last
        await defer(connection, "sessions.dispatch", queueing_lock=f"dispatch:{id}", session_id=id)

    await run_worker(jobs, database_url)                                 # until cancelled

States of a job: ``todo → doing →`` gone when it succeeded, ``todo`` again with a later time when it failed and has attempts left, else ``failed``
(the newest 1,000 such are kept). Figures: 30 s at most for one run; a few milliseconds from commit to start; a dead worker's jobs are taken up
within 6 to 8 s; a later time (``at``) is noticed within two seconds.

Two kinds of lock, both strings:
- ``queueing_lock``: at most one job with it *waits*. Deferring another one is a success and does nothing more, except that the waiting one starts
  only after this transaction is over: what it changed will be seen.
- ``lock``: at most one job with it *runs*, in the order in which they were deferred; one that failed holds up the others until it is tried again.
  Nothing that a person waits for (stop, cancel, dispatch) should have one.
"""

from openinspect.jobs.queue import defer
from openinspect.jobs.registry import Jobs, JobTimedOut, Retry
from openinspect.jobs.worker import run_worker

__all__ = ["JobTimedOut", "Jobs", "Retry", "defer", "run_worker"]
