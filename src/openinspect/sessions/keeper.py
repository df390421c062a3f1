"""The keeper gives sandbox rows their boxes: starts, watches, stops and removes them by the provider. Its methods are what the jobs run.

    requested ──start──▶ booting ──(the runtime says ready)──▶ ready ──stop──▶ stopping ──▶ stopped
         └────────────────┴── failed (could not start, deadline passed, runtime gave up)   ready ──▶ lost (the box went away)

Every method looks at the row first and may be repeated after a crash at any point. Deadlines: ``requested`` and ``booting`` share
``sandbox_boot_seconds``; ``stopping`` has ``STOPPING_SECONDS``. Waiting for a free place does not use the deadline up.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import delete, func, select, update
from sqlalchemy.engine import RowMapping

from openinspect.blobs.store import BlobStore
from openinspect.db.tables import attachments, events, prompts, sandboxes, sessions
from openinspect.identity.credentials import hash_secret
from openinspect.models import accounts
from openinspect.protocol.config import AgentConfig, Door, RuntimeConfig
from openinspect.protocol.events import SandboxChanged
from openinspect.protocol.ids import new_secret
from openinspect.sandboxes.provider import BoxSpec, Limits, ProviderError, SandboxProvider
from openinspect.settings import Settings

from . import turns
from .intake import end
from .log import Journal, SessionGone

log = structlog.get_logger()

STOPPING_SECONDS = 20.0
DOOR_SOCKET = "/opt/openinspect/door/gateway.sock"


class Keeper:
    def __init__(
        self,
        journal: Journal,
        provider: SandboxProvider,
        settings: Settings,
        agent: AgentConfig,
        blobs: BlobStore,
    ) -> None:
        self.journal = journal
        self.provider = provider
        self.settings = settings
        self.agent = agent
        self.blobs = blobs

    async def _row(self, sandbox_id: str) -> RowMapping | None:
        async with self.journal.engine.connect() as connection:
            found = await connection.execute(select(sandboxes).where(sandboxes.c.id == sandbox_id))
            return found.mappings().one_or_none()

    # ── starting ──────────────────────────────────────────────────────────────────────────────────
    async def start(self, sandbox_id: str) -> None:
        """Give a requested sandbox its box. Leaves it waiting when there is no free place; fails it, with the reason, when it can't be done."""
        row = await self._row(sandbox_id)
        if (
            row is None
            or row["state"] not in ("requested", "booting")
            or (row["state"] == "booting" and row["handle"])
        ):
            return
        if row["state"] == "requested" and not await self._free_place(row):
            return
        if row["state"] == "booting":
            # a crash interrupted its start: whatever there is of it has a token that nobody knows. Another one takes its place
            await self.provider.release(sandbox_id, None)
            await self._end(row, "stopped", "Its start was interrupted.")
            return
        token = new_secret("oi_box")
        if not await self._booting(sandbox_id, token):
            return
        try:
            handle = await self.provider.create(self._spec(row, token))
        except ProviderError as error:
            log.warning("sandbox.start_failed", sandbox=sandbox_id, reason=error.reason)
            await self._end(row, "failed", error.reason, error.remedy)
            await self.provider.release(sandbox_id, None)
            return
        async with self.journal.engine.begin() as connection:
            kept = await connection.execute(
                update(sandboxes)
                .where(sandboxes.c.id == sandbox_id, sandboxes.c.state.in_(turns.LIVE_STATES))
                .values(handle=handle)
            )
        if kept.rowcount == 0:  # ended meanwhile: deleted or stopped
            await self.provider.release(sandbox_id, handle)

    async def _free_place(self, row: RowMapping) -> bool:
        async with self.journal.transaction() as transaction:
            connection = transaction.connection
            await connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('openinspect.places'))")
            taken = await connection.scalar(
                select(func.count())
                .select_from(sandboxes)
                .where(sandboxes.c.state.in_(("booting", "ready", "stopping")))
            )
            if (taken or 0) < self.settings.max_concurrent_sandboxes:
                return True
            reason = f"Waiting for a free place: {taken} sandboxes are running, which is the most this server allows."
            await connection.execute(
                update(sandboxes)
                .where(sandboxes.c.id == row["id"])
                .values(
                    reason=reason,
                    deadline_at=datetime.now(UTC) + timedelta(seconds=self.settings.sandbox_boot_seconds),
                )
            )
            idle = await connection.scalar(
                select(sandboxes.c.id)
                .where(sandboxes.c.state == "ready", sandboxes.c.idle_at.is_not(None))
                .order_by(sandboxes.c.idle_at)
                .limit(1)
            )
        if idle is not None:
            await self.stop(idle, "Stopped to make room for another session; the files are kept.")
        return False

    async def _booting(self, sandbox_id: str, token: str) -> bool:
        async with self.journal.transaction() as transaction:
            session_id = await turns.lock_session_of(transaction, sandbox_id)
            if session_id is None:
                return False
            changed = await transaction.connection.execute(
                update(sandboxes)
                .where(sandboxes.c.id == sandbox_id, sandboxes.c.state == "requested")
                .values(
                    state="booting",
                    token_hash=hash_secret(token),
                    reason=None,
                    deadline_at=datetime.now(UTC) + timedelta(seconds=self.settings.sandbox_boot_seconds),
                )
                .returning(sandboxes.c.session_id)
            )
            if changed.one_or_none() is None:
                return False
            try:
                await transaction.append(session_id, SandboxChanged(sandbox_id=sandbox_id, state="booting"))
            except SessionGone:
                return False
            return True

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
    async def stop(self, sandbox_id: str, reason: str) -> None:
        """Stop a sandbox and keep its files. The turn that runs in it, if any, ends with the reason."""
        async with self.journal.transaction() as transaction:
            session_id = await turns.lock_session_of(transaction, sandbox_id)
            if session_id is None:
                return
            changed = await transaction.connection.execute(
                update(sandboxes)
                .where(sandboxes.c.id == sandbox_id, sandboxes.c.state.in_(("requested", "booting", "ready")))
                .values(
                    state="stopping",
                    reason=reason,
                    deadline_at=datetime.now(UTC) + timedelta(seconds=STOPPING_SECONDS),
                )
                .returning(sandboxes.c.id)
            )
            if changed.one_or_none() is not None:
                status = await transaction.connection.scalar(
                    select(sessions.c.status).where(sessions.c.id == session_id)
                )
                if status != "deleting":
                    await transaction.append(
                        session_id, SandboxChanged(sandbox_id=sandbox_id, state="stopping", reason=reason)
                    )
        row = await self._row(sandbox_id)
        if row is None or row["state"] != "stopping":
            return
        if row["handle"]:
            await self.provider.stop(row["handle"])
        await self.provider.release(sandbox_id, row["handle"])
        await self._end(row, "stopped", reason)

    async def stop_all(self, reason: str) -> None:
        """Stop every sandbox, several at a time."""
        async with self.journal.engine.connect() as connection:
            live = list(
                (
                    await connection.scalars(
                        select(sandboxes.c.id).where(sandboxes.c.state.in_(turns.LIVE_STATES))
                    )
                ).all()
            )
        places = asyncio.Semaphore(4)

        async def stop_one(sandbox_id: str) -> None:
            async with places:
                await self.stop(sandbox_id, reason)

        await asyncio.gather(*(stop_one(sandbox_id) for sandbox_id in live))

    async def stop_idle(self, sandbox_id: str) -> None:
        """Stop a sandbox in which nothing has run for long enough, if that is still so."""
        row = await self._row(sandbox_id)
        if row is None or row["state"] != "ready" or row["idle_at"] is None:
            return
        quiet = datetime.now(UTC) - row["idle_at"]
        if quiet >= timedelta(seconds=self.settings.sandbox_idle_seconds):
            await self.stop(
                sandbox_id,
                "Stopped because nothing ran in it for a while; the files are kept, and the next prompt starts it again.",
            )

    async def _end(self, row: RowMapping, state: str, reason: str = "", remedy: str = "") -> None:
        async with self.journal.transaction() as transaction:
            await end(transaction, row, state, self.settings, reason, remedy)

    async def check(self, sandbox_id: str) -> None:
        """Look whether a sandbox is what its row says, and whether its deadline has passed."""
        row = await self._row(sandbox_id)
        if row is None:
            return
        if row["state"] not in turns.LIVE_STATES:
            await self.provider.release(sandbox_id, row["handle"])
            return
        overdue = row["deadline_at"] is not None and row["deadline_at"] < datetime.now(UTC)
        if row["state"] in ("requested", "booting") and overdue:
            step = f" It was at the step “{row['boot_step']}”." if row["boot_step"] else ""
            reason = f"The sandbox was not ready within {self.settings.sandbox_boot_seconds} s.{step}"
            await self._end(
                row, "failed", reason, "Look at the boot log above; retry when the cause is mended."
            )
            await self.provider.release(sandbox_id, row["handle"])
        elif row["state"] == "requested" or (row["state"] == "booting" and not row["handle"]):
            await self.start(sandbox_id)
        elif row["state"] == "stopping":
            await self.stop(sandbox_id, row["reason"] or "")
        else:
            await self._check_box(row)

    async def _check_box(self, row: RowMapping) -> None:
        status = await self.provider.status(row["handle"])
        if status.state == "running":
            return
        # its last words may still be under way; the runtime's own report says more than an exit code
        fresh = await self._row(row["id"])
        if fresh is None or fresh["state"] not in turns.LIVE_STATES:
            return
        state = "lost" if status.state == "gone" or row["state"] == "ready" else "failed"
        tail = status.log_tail.strip().splitlines()[-1:] if row["state"] == "booting" else []
        reason = "The sandbox ended unexpectedly" + (f": {status.reason}" if status.reason else "") + "."
        if tail:
            reason += f" Last line of its log: {tail[0][:300]}"
        log.warning("sandbox.lost", sandbox=row["id"], reason=reason)
        await self._end(
            row, state, reason, "Retry: the files are kept, and what is already done is not done again."
        )
        await self.provider.release(row["id"], row["handle"])

    async def enforce(self, prompt_id: str) -> None:
        """End a turn whose stop, or whose deadline, the sandbox has not heeded: by ending the sandbox."""
        async with self.journal.engine.connect() as connection:
            found = await connection.execute(
                select(prompts).where(prompts.c.id == prompt_id, prompts.c.status == "running")
            )
            prompt = found.mappings().one_or_none()
        if prompt is None:
            return
        now = datetime.now(UTC)
        stop_due = (
            prompt["stop_requested_at"] is not None
            and prompt["stop_requested_at"] + timedelta(seconds=turns.STOP_SECONDS) <= now
        )
        overdue = prompt["deadline_at"] is not None and prompt["deadline_at"] <= now
        if stop_due:
            async with self.journal.transaction() as transaction:
                await turns.finish(transaction, prompt_id, "stopped", self.settings)
            await self.stop(
                prompt["sandbox_id"], "Stopped: the agent did not heed the request to stop in time."
            )
        elif overdue:
            limit = (
                f"{self.settings.turn_seconds // 60} min"
                if self.settings.turn_seconds >= 120
                else f"{self.settings.turn_seconds} s"
            )
            async with self.journal.transaction() as transaction:
                await turns.finish(
                    transaction,
                    prompt_id,
                    "failed",
                    self.settings,
                    f"The turn took longer than {limit}, which is the most it may.",
                    "Retry to go on from where it was, or split the task.",
                )
            await self.stop(prompt["sandbox_id"], "Stopped: its turn took too long.")

    # ── deleting ──────────────────────────────────────────────────────────────────────────────────
    async def delete(self, session_id: str) -> None:
        """Remove everything that a session had: sandbox, files, blobs, rows. Repeats itself safely."""
        async with self.journal.engine.connect() as connection:
            status = await connection.scalar(select(sessions.c.status).where(sessions.c.id == session_id))
            boxes = (
                (await connection.execute(select(sandboxes).where(sandboxes.c.session_id == session_id)))
                .mappings()
                .all()
            )
        if status != "deleting":
            return
        for row in boxes:
            if row["state"] in turns.LIVE_STATES:
                if row["handle"]:
                    await self.provider.stop(row["handle"], grace=1.0)
                await self._end(row, "stopped", "The session was deleted.")
            await self.provider.release(row["id"], row["handle"])
        await self.provider.delete_disk(session_id)
        await self.blobs.delete_prefix(f"sessions/{session_id}/")
        async with self.journal.engine.begin() as connection:
            await connection.execute(delete(events).where(events.c.session_id == session_id))
            await connection.execute(
                delete(sessions).where(sessions.c.id == session_id, sessions.c.status == "deleting")
            )

    # ── tidying ───────────────────────────────────────────────────────────────────────────────────
    async def advance(self, session_id: str) -> None:
        async with self.journal.transaction() as transaction:
            await turns.advance(transaction, session_id, self.settings)

    async def reap(self) -> int:
        """Release boxes that no live row knows, and disks of sessions that are gone. Gives how many."""
        reaped = 0
        boxes = await self.provider.list_boxes()
        disks = await self.provider.list_disks()
        async with self.journal.engine.connect() as connection:
            known = set(
                (
                    await connection.scalars(
                        select(sandboxes.c.id).where(sandboxes.c.state.in_(turns.LIVE_STATES))
                    )
                ).all()
            )
            kept = (
                set((await connection.scalars(select(sessions.c.id).where(sessions.c.id.in_(disks)))).all())
                if disks
                else set()
            )
        for box_id in boxes:
            if box_id not in known:
                await self.provider.release(box_id, None)
                reaped += 1
        for disk_id in disks:
            if disk_id not in kept:
                await self.provider.delete_disk(disk_id)
                reaped += 1
        return reaped

    async def prune_attachments(self) -> None:
        """Delete uploads that no prompt has taken within a day."""
        async with self.journal.engine.begin() as connection:
            old = await connection.execute(
                delete(attachments)
                .where(
                    attachments.c.prompt_id.is_(None),
                    attachments.c.created_at < datetime.now(UTC) - timedelta(days=1),
                )
                .returning(attachments.c.blob_key)
            )
            keys = list(old.scalars())
        for key in keys:
            await self.blobs.delete(key)

    async def settle_abandoned_calls(self, started_before: datetime) -> None:
        """Model calls whose server died under way never end by themselves: the log says so, and their reservation is freed."""
        async with self.journal.transaction() as transaction:
            for settled in await accounts.settle_abandoned(transaction.connection, started_before):
                await transaction.append(settled.session_id, settled.event, turn_id=settled.prompt_id)
