"""The keeper gives sandbox rows their boxes: starts, watches and stops them by the provider. Its methods are what the jobs run.

    requested                   → booting    a place was free
    booting                     → ready      the runtime says so
    requested, booting          → failed     it could not start; its deadline passed; its start was interrupted three times in a row
    booting                     → stopped    its start was interrupted; another one takes its place
    booting, ready              → failed     the runtime gave up
    booting, ready              → lost       the box went away
    requested, booting, ready   → stopping   asked for; idle; room is needed; a turn did not end; the server shuts down
    stopping                    → stopped, or failed when that could not be done in time

Every method looks at the row first and may be repeated after a crash at any point. Deadlines, by the database's clock: ``requested`` and
``booting`` share ``sandbox_boot_seconds``; ``stopping`` has ``STOPPING_SECONDS``. Waiting for a free place does not use the deadline up; it is
bounded by the turns that hold the places, because what runs no turn gives way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Literal

import structlog
from sqlalchemy import ColumnElement, and_, exists, func, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import SQLAlchemyError

from openinspect.db.engine import is_lost
from openinspect.db.errors import DatabaseError
from openinspect.db.tables import prompts, sandboxes, sessions
from openinspect.identity.credentials import hash_secret
from openinspect.protocol.config import AgentConfig, Door, RuntimeConfig, agent_token
from openinspect.protocol.events import SandboxChanged
from openinspect.protocol.ids import new_secret
from openinspect.sandboxes.provider import BoxSpec, Handle, Limits, ProviderError, SandboxProvider
from openinspect.settings import Settings

from . import sandbox_rows, turns
from .intake import end
from .log import Journal, SessionGone, Transaction
from .remains import count_remains

log = structlog.get_logger()

STOPPING_SECONDS = 20.0
DOOR_SOCKET = "/opt/openinspect/door/gateway.sock"
INTERRUPTED = "Its start was interrupted."
_MOST_INTERRUPTED = 3
_AT_ONCE = 8
_ASK_SECONDS = 10.0
_STOP_ALL_SECONDS = 45.0
_RETRY = "Retry: the files are kept, and what is already done is not done again."
_RUNS_A_TURN = exists().where(prompts.c.sandbox_id == sandboxes.c.id, prompts.c.status == "running")


class Keeper:
    def __init__(
        self, journal: Journal, provider: SandboxProvider, settings: Settings, agent: AgentConfig
    ) -> None:
        self.journal = journal
        self.provider = provider
        self.settings = settings
        self.agent = agent

    async def _row(self, sandbox_id: str) -> RowMapping | None:
        """The row, and whether it is ``overdue``."""
        async with self.journal.engine.connect() as connection:
            found = await connection.execute(
                select(
                    sandboxes, func.coalesce(sandboxes.c.deadline_at < func.now(), False).label("overdue")
                ).where(sandboxes.c.id == sandbox_id)
            )
            return found.mappings().one_or_none()

    async def _end(
        self, row: RowMapping, state: str, reason: str = "", remedy: str = "", *, go_on: bool = True
    ) -> None:
        async with self.journal.transaction() as transaction:
            await end(transaction, row, state, self.settings, reason, remedy, go_on)

    # ── starting ──────────────────────────────────────────────────────────────────────────────────
    async def start(self, sandbox_id: str) -> None:
        """Give a requested sandbox its box. Leaves it waiting when there is no free place; fails it, with the reason, when it can't be done."""
        row = await self._row(sandbox_id)
        if row is None or row["handle"]:
            return
        if row["state"] == "booting":
            await self._start_was_interrupted(row)
            return
        if row["state"] != "requested":
            return
        token = new_secret("oi_box")
        match await self._take_place(sandbox_id, token):
            case "taken":
                await self._create(row, token)
            case "full":
                await self._make_room()
            case "gone":
                return

    async def _create(self, row: RowMapping, token: str) -> None:
        sandbox_id: str = row["id"]
        try:
            handle = await self.provider.create(self._spec(row, token))
        except Exception as error:
            # whatever it is: a start that is tried again and again helps nobody
            if isinstance(error, ProviderError):
                reason, remedy = error.reason, error.remedy
                log.warning("sandbox.start_failed", sandbox=sandbox_id, reason=reason)
            else:
                reason = f"The sandbox could not be started ({type(error).__name__})."
                remedy = "Look at the server's log, and retry when the cause is mended."
                log.exception("sandbox.start_failed", sandbox=sandbox_id)
            await self._end(row, "failed", reason, remedy)
            await self.provider.release(sandbox_id, None)
            return
        if not await self._keep_handle(sandbox_id, handle):
            await self.provider.release(sandbox_id, handle)

    async def _keep_handle(self, sandbox_id: str, handle: Handle) -> bool:
        """False when the sandbox has ended meanwhile: deleted or stopped."""
        async with self.journal.engine.begin() as connection:
            kept = await connection.execute(
                update(sandboxes)
                .where(sandboxes.c.id == sandbox_id, sandboxes.c.state.in_(sandbox_rows.LIVE_STATES))
                .values(handle=handle)
            )
        return kept.rowcount > 0

    async def _start_was_interrupted(self, row: RowMapping) -> None:
        """Whatever there is of it has a token that nobody knows. Another one takes its place, a few times."""
        await self.provider.release(row["id"], None)
        async with self.journal.engine.connect() as connection:
            last_ready = (
                select(func.coalesce(func.max(sandboxes.c.created_at), func.to_timestamp(0)))
                .where(sandboxes.c.session_id == row["session_id"], sandboxes.c.ready_at.is_not(None))
                .scalar_subquery()
            )
            before = await connection.scalar(
                select(func.count()).where(
                    sandboxes.c.session_id == row["session_id"],
                    sandboxes.c.reason == INTERRUPTED,
                    sandboxes.c.created_at > last_ready,
                )
            )
        if (before or 0) + 1 < _MOST_INTERRUPTED:
            await self._end(row, "stopped", INTERRUPTED)
        else:
            await self._end(
                row,
                "failed",
                f"Its start was interrupted {_MOST_INTERRUPTED} times.",
                "Look at the server's log for what ends it while sandboxes start, then retry.",
            )

    async def _take_place(self, sandbox_id: str, token: str) -> Literal["taken", "full", "gone"]:
        """From requested to booting, within the bound of how many may live at the same time."""
        async with self.journal.transaction() as transaction:
            connection = transaction.connection
            await connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('openinspect.places'))")
            session_id = await sandbox_rows.lock_session_of(transaction, sandbox_id)
            if session_id is None:
                return "gone"
            taken = await connection.scalar(
                select(func.count())
                .select_from(sandboxes)
                .where(sandboxes.c.state.in_(("booting", "ready", "stopping")))
            )
            full = (taken or 0) >= self.settings.max_concurrent_sandboxes
            waiting = f"Waiting for a free place: {taken} sandboxes are running, which is the most this server allows."
            changed = await connection.execute(
                update(sandboxes)
                .where(sandboxes.c.id == sandbox_id, sandboxes.c.state == "requested")
                .values(
                    deadline_at=func.now() + timedelta(seconds=self.settings.sandbox_boot_seconds),
                    **(
                        {"reason": waiting}
                        if full
                        else {
                            "state": "booting",
                            "token_hash": hash_secret(agent_token(token)),
                            "reason": None,
                        }
                    ),
                )
            )
            if changed.rowcount == 0:
                return "gone"
            if full:
                return "full"
            try:
                await transaction.append(session_id, SandboxChanged(sandbox_id=sandbox_id, state="booting"))
            except SessionGone:
                return "gone"
            return "taken"

    async def _make_room(self) -> None:
        """Stop the sandbox that has been idle for longest, else one that runs no turn but has something running that was left behind."""
        async with self.journal.engine.connect() as connection:
            candidate = await connection.scalar(
                select(sandboxes.c.id)
                .where(sandboxes.c.state == "ready", ~_RUNS_A_TURN)
                .order_by(sandboxes.c.idle_at.nulls_last(), sandboxes.c.ready_at)
                .limit(1)
            )
        if candidate is not None:
            await self.stop(
                candidate, "Stopped to make room for another session; the files are kept.", only=~_RUNS_A_TURN
            )

    def _spec(self, row: RowMapping, token: str) -> BoxSpec:
        settings = self.settings
        return BoxSpec(
            box_id=row["id"],
            disk_id=row["session_id"],
            runtime=RuntimeConfig(
                sandbox_id=row["id"], token=token, door=Door(socket=DOOR_SOCKET), agent=self.agent
            ),
            limits=Limits(
                memory_mib=settings.sandbox_memory_mib,
                cpu_cores=settings.sandbox_cpu_cores,
                processes=settings.sandbox_processes,
                disk_mib=settings.sandbox_disk_mib,
            ),
        )

    # ── ending ────────────────────────────────────────────────────────────────────────────────────
    async def stop(
        self, sandbox_id: str, reason: str, *, only: ColumnElement[bool] | None = None, go_on: bool = True
    ) -> None:
        """Stop a sandbox and keep its files, where its row is as ``only`` says. The turn that runs in it, if any, ends with the reason."""
        async with self.journal.transaction() as transaction:
            session_id = await sandbox_rows.lock_session_of(transaction, sandbox_id)
            if session_id is None:
                return
            await self._begin_stopping(transaction, session_id, sandbox_id, reason, only)
        row = await self._row(sandbox_id)
        if row is not None and row["state"] == "stopping":
            await self._finish_stopping(row, go_on)

    async def _begin_stopping(
        self,
        transaction: Transaction,
        session_id: str,
        sandbox_id: str,
        reason: str,
        only: ColumnElement[bool] | None = None,
    ) -> None:
        """From then on no prompt is given to it. The transaction has the session's row locked."""
        may = sandboxes.c.state.in_(("requested", "booting", "ready"))
        changed = await transaction.connection.execute(
            update(sandboxes)
            .where(sandboxes.c.id == sandbox_id, may if only is None else and_(may, only))
            .values(
                state="stopping",
                reason=reason,
                deadline_at=func.now() + timedelta(seconds=STOPPING_SECONDS),
            )
        )
        if changed.rowcount == 0:
            return
        status = await transaction.connection.scalar(
            select(sessions.c.status).where(sessions.c.id == session_id)
        )
        if status != "deleting":
            await transaction.append(
                session_id, SandboxChanged(sandbox_id=sandbox_id, state="stopping", reason=reason)
            )

    async def _finish_stopping(self, row: RowMapping, go_on: bool = True) -> None:
        """What can't be stopped is tried again until its deadline, and is given up then."""
        try:
            if row["handle"]:
                await self.provider.stop(row["handle"])
                await count_remains(self.journal, self.provider, row, self.settings)
            await self.provider.release(row["id"], row["handle"])
        except Exception as error:
            log.exception("sandbox.stop_failed", sandbox=row["id"])
            if not row["overdue"]:
                return
            why = error.reason if isinstance(error, ProviderError) else type(error).__name__
            await self._end(
                row,
                "failed",
                f"It could not be stopped: {why}",
                "Look at the server's log; a new one starts with the next prompt.",
                go_on=go_on,
            )
            return
        await self._end(row, "stopped", row["reason"] or "", go_on=go_on)

    async def stop_all(self, reason: str) -> list[str]:
        """Stop every sandbox, several at a time, and give out no more work. One that can't be stopped keeps none of the others.

        Without the database, or when it takes longer than ``_STOP_ALL_SECONDS``, the boxes are ended by the provider alone; the next server's
        sweep puts their rows right. Gives the boxes that still run.
        """
        try:
            async with asyncio.timeout(_STOP_ALL_SECONDS):
                await self._stop_rows(reason)
        except (TimeoutError, SQLAlchemyError, DatabaseError) as error:
            if not isinstance(error, TimeoutError) and not is_lost(error):
                raise
            log.warning("sandbox.stopped_without_database", reason=reason, error=type(error).__name__)
            await self._each(await self.provider.list_boxes(), self._stop_box)
        return [box_id for box_id in await self.provider.list_boxes() if await self._runs(box_id)]

    async def _stop_rows(self, reason: str) -> None:
        async with asyncio.timeout(_ASK_SECONDS), self.journal.engine.connect() as connection:
            live = (
                await connection.scalars(
                    select(sandboxes.c.id).where(sandboxes.c.state.in_(sandbox_rows.LIVE_STATES))
                )
            ).all()
        await self._each(live, lambda sandbox_id: self.stop(sandbox_id, reason, go_on=False))

    async def _each(self, names: Sequence[str], stop: Callable[[str], Awaitable[None]]) -> None:
        """Raises when the database was lost meanwhile; what else goes wrong is logged."""
        places = asyncio.Semaphore(_AT_ONCE)

        async def stop_one(name: str) -> None:
            async with places:
                await stop(name)

        results = await asyncio.gather(*map(stop_one, names), return_exceptions=True)
        for name, result in zip(names, results, strict=True):
            if isinstance(result, BaseException) and not is_lost(result):
                log.error("sandbox.stop_failed", sandbox=name, error=type(result).__name__)
        for result in results:
            if isinstance(result, BaseException) and is_lost(result):
                raise result

    async def _stop_box(self, box_id: str) -> None:
        await self.provider.stop(await self.provider.find(box_id))

    async def _runs(self, box_id: str) -> bool:
        return (await self.provider.status(await self.provider.find(box_id))).state == "running"

    async def stop_idle(self, sandbox_id: str) -> None:
        """Stop a sandbox in which nothing has run for long enough, if that is still so."""
        idle_since = func.now() - timedelta(seconds=self.settings.sandbox_idle_seconds)
        await self.stop(
            sandbox_id,
            "Stopped because nothing ran in it for a while; the files are kept, and the next prompt starts it again.",
            only=and_(sandboxes.c.state == "ready", sandboxes.c.idle_at <= idle_since, ~_RUNS_A_TURN),
        )

    async def enforce(self, prompt_id: str) -> None:
        """End a turn whose stop, or whose deadline, the sandbox has not heeded: by ending the sandbox."""
        async with self.journal.transaction() as transaction:
            connection = transaction.connection
            about = await connection.execute(
                select(prompts.c.session_id, prompts.c.sandbox_id).where(prompts.c.id == prompt_id)
            )
            prompt = about.one_or_none()
            if prompt is None or prompt.sandbox_id is None:
                return
            await sandbox_rows.lock_session_of(transaction, prompt.sandbox_id)
            found = await connection.execute(
                select(
                    (
                        prompts.c.stop_requested_at + timedelta(seconds=turns.ENFORCE_SECONDS) <= func.now()
                    ).label("stop_due"),
                    (prompts.c.deadline_at <= func.now()).label("overdue"),
                ).where(prompts.c.id == prompt_id, prompts.c.status == "running")
            )
            due = found.one_or_none()
            if due is None or not (due.stop_due or due.overdue):
                return
            # the sandbox first: so the prompt that comes next is not given to it
            await self._begin_stopping(
                transaction,
                prompt.session_id,
                prompt.sandbox_id,
                "Stopped: the agent did not heed the request to stop in time."
                if due.stop_due
                else "Stopped: its turn took too long.",
            )
            if due.stop_due:
                await turns.finish(transaction, prompt_id, "stopped", self.settings)
            else:
                await turns.finish(
                    transaction,
                    prompt_id,
                    "failed",
                    self.settings,
                    f"The turn took longer than {_span(self.settings.turn_seconds)}, which is the most it may.",
                    "Retry to go on from where it was, or split the task.",
                )
        row = await self._row(prompt.sandbox_id)
        if row is not None and row["state"] == "stopping":
            await self._finish_stopping(row)

    # ── watching ──────────────────────────────────────────────────────────────────────────────────
    async def check(self, sandbox_id: str) -> None:
        """Look whether a sandbox is what its row says, and whether its deadline has passed."""
        row = await self._row(sandbox_id)
        if row is None:
            return
        match row["state"]:
            case "requested" | "booting" if row["overdue"]:
                step = f" It was at the step “{row['boot_step']}”." if row["boot_step"] else ""
                await self._end(
                    row,
                    "failed",
                    f"The sandbox was not ready within {_span(self.settings.sandbox_boot_seconds)}.{step}",
                    "Look at the boot log above; retry when the cause is mended.",
                )
                await self.provider.release(row["id"], row["handle"])
            case "requested" | "booting" if not row["handle"]:
                await self.start(sandbox_id)
            case "booting" | "ready":
                await self._check_box(row)
            case "stopping":
                await self._finish_stopping(row)
            case _:
                await self.provider.release(sandbox_id, row["handle"])

    async def _check_box(self, row: RowMapping) -> None:
        handle = row["handle"]
        if not handle:
            # ready already, and who started it was killed before it could note what it had started
            handle = await self.provider.find(row["id"])
            await self._keep_handle(row["id"], handle)
        status = await self.provider.status(handle)
        if status.state == "running":
            return
        # its last words may have come meanwhile; the runtime's own report says more than an exit code
        fresh = await self._row(row["id"])
        if fresh is None or fresh["state"] not in sandbox_rows.LIVE_STATES:
            return
        state = "lost" if status.state == "gone" or row["state"] == "ready" else "failed"
        tail = status.log_tail.strip().splitlines()[-1:] if row["state"] == "booting" else []
        reason = "The sandbox ended unexpectedly" + (f": {status.reason}" if status.reason else "") + "."
        if tail:
            reason += f" Last line of its log: {tail[0][:300]}"
        log.warning("sandbox.lost", sandbox=row["id"], reason=reason)
        # what it said while nobody listened, the end of its turn perhaps
        await count_remains(self.journal, self.provider, row, self.settings)
        await self._end(row, state, reason, _RETRY)
        await self.provider.release(row["id"], row["handle"])

    async def advance(self, session_id: str) -> None:
        """Give a waiting prompt its sandbox, where nobody has."""
        async with self.journal.transaction() as transaction:
            await turns.advance(transaction, session_id, self.settings)


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
