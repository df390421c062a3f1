"""What a sandbox says, counted once and turned into log entries and their effects.

``count`` is given the numbered records of one sandbox in order. In one transaction it leaves out those that were counted before, appends the
rest to the log, applies what they mean (a checked-out commit is pinned, a ready sandbox gets its prompt, a turn ends) and moves the
sandbox's counter. A record that can't be read becomes a warning in its place: it never holds up the ones behind it. A tool's input that is longer or nested deeper than
the protocol allows is left out, and its event marked ``truncated``.
A sandbox decides nothing but its own work: records about turns that are not its own are left without their turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson
from pydantic import ValidationError
from sqlalchemy import delete, func, select, update
from sqlalchemy.engine import RowMapping

from openinspect.db.tables import commands, open_parts, prompts, sandboxes, session_targets, sessions
from openinspect.protocol import events as e
from openinspect.protocol.frames import SandboxRecord
from openinspect.settings import Settings

from . import sandbox_rows, turns
from .log import Record, Transaction


class Numbered(NamedTuple):
    n: int
    record: SandboxRecord
    size: int = 0
    """About how much of its message it was."""


class OutOfOrder(Exception):
    """A number was skipped: the connection is to be closed, the sandbox sends again from what was counted."""


def understood(record: SandboxRecord) -> e.SandboxEvent:
    """What a record says, within the bounds of the protocol; a warning when it can't be read."""
    try:
        body = e.sandbox_event.validate_python(record.body)
    except ValidationError as error:
        kind = str(record.body.get("kind", "?"))[:60]
        return e.Warned(
            scope="bridge",
            message=f"The sandbox said something that could not be read ({kind}: {error.error_count()} faults); it was left out.",
        )
    if isinstance(body, e.ToolStarted | e.ToolFinished) and not _fits(body.input):
        return body.model_copy(update={"input": {"…": "left out: too long"}, "truncated": True})
    return body


def _fits(value: dict[str, Any]) -> bool:
    try:
        if len(orjson.dumps(value)) > e.TOOL_INPUT_BYTES:
            return False
    except (TypeError, ValueError):  # nested too deep, or numbers that not every reader can hold
        return False
    level: list[Any] = [value]
    for _ in range(e.TOOL_INPUT_DEPTH):
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return True
    return False


async def give_up(transaction: Transaction, sandbox_id: str, settings: Settings, reason: str) -> None:
    """The sandbox has failed, whatever it says of itself. May be repeated."""
    await sandbox_rows.lock_session_of(transaction, sandbox_id)
    found = await transaction.connection.execute(
        select(sandboxes).where(sandboxes.c.id == sandbox_id).with_for_update()
    )
    sandbox = found.mappings().one_or_none()
    if sandbox is not None:
        await end(transaction, sandbox, "failed", settings, reason, "Retry: the next one begins anew.")


async def count(
    transaction: Transaction, sandbox_id: str, numbered: Sequence[Numbered], settings: Settings
) -> int:
    """Gives the number up to which everything is counted when the transaction commits."""
    connection = transaction.connection
    await sandbox_rows.lock_session_of(transaction, sandbox_id)
    found = await connection.execute(select(sandboxes).where(sandboxes.c.id == sandbox_id).with_for_update())
    sandbox = found.mappings().one_or_none()
    if sandbox is None or sandbox["state"] not in sandbox_rows.LIVE_STATES:
        return numbered[-1].n  # it ended: what it still says has no place in the log any more
    counted: int = sandbox["frames_counted"]
    fresh = [item for item in numbered if item.n > counted]
    if not fresh:
        return counted
    if fresh[0].n != counted + 1:
        raise OutOfOrder
    own_turns = await _own_turns(
        transaction, sandbox_id, {item.record.turn_id for item in fresh if item.record.turn_id}
    )
    intake = _Intake(transaction, sandbox, own_turns, settings)
    for item in fresh:
        await intake.take(item.record)
    await intake.flush()
    await connection.execute(
        update(sandboxes)
        .where(sandboxes.c.id == sandbox_id)
        .values(frames_counted=fresh[-1].n, last_seen_at=func.now())
    )
    return fresh[-1].n


async def _own_turns(transaction: Transaction, sandbox_id: str, named: set[str]) -> set[str]:
    if not named:
        return set()
    found = await transaction.connection.scalars(
        select(prompts.c.id).where(prompts.c.sandbox_id == sandbox_id, prompts.c.id.in_(named))
    )
    return set(found)


class _Intake:
    def __init__(
        self, transaction: Transaction, sandbox: RowMapping, own_turns: set[str], settings: Settings
    ) -> None:
        self.transaction = transaction
        self.sandbox = sandbox
        self.session_id: str = sandbox["session_id"]
        self.own_turns = own_turns
        self.settings = settings
        self.ended = False
        self._records: list[Record] = []
        self._whole_parts: list[str] = []

    async def take(self, record: SandboxRecord) -> None:
        if self.ended:
            return
        turn_id = record.turn_id if record.turn_id in self.own_turns else None
        body = understood(record)
        match body:
            case e.TurnEnded():
                await self.flush()
                if turn_id is not None:
                    await turns.finish(
                        self.transaction, turn_id, body.outcome, self.settings, body.reason, body.remedy
                    )
            case e.SandboxReady():
                self._records.append(Record(body, turn_id))
                await self.flush()
                await self._ready(body)
            case e.SandboxFailed():
                self._records.append(Record(body, turn_id))
                await self.flush()
                await end(self.transaction, self.sandbox, "failed", self.settings, body.reason, body.remedy)
                self.ended = True
            case _:
                if isinstance(body, e.TextPart | e.ReasoningPart):
                    self._whole_parts.append(body.part_id)
                elif isinstance(body, e.BootStep):
                    await self._boot_step(body)
                elif isinstance(body, e.CheckedOut):
                    await self._checked_out(body)
                self._records.append(Record(body, turn_id))

    async def flush(self) -> None:
        if self._whole_parts:
            await self.transaction.connection.execute(
                delete(open_parts).where(
                    open_parts.c.session_id == self.session_id, open_parts.c.part_id.in_(self._whole_parts)
                )
            )
            self._whole_parts = []
        if self._records:
            records, self._records = self._records, []
            await self.transaction.append_records(self.session_id, records)

    async def _ready(self, body: e.SandboxReady) -> None:
        await self.transaction.connection.execute(
            update(sandboxes)
            .where(sandboxes.c.id == self.sandbox["id"], sandboxes.c.state == "booting")
            .values(
                state="ready",
                ready_at=func.now(),
                idle_at=func.now(),
                deadline_at=None,
                boot_step=None,
                runtime_version=body.runtime_version,
            )
        )
        await self.transaction.append(
            self.session_id, e.SandboxChanged(sandbox_id=self.sandbox["id"], state="ready")
        )
        await turns.advance(self.transaction, self.session_id, self.settings, locked=True)

    async def _boot_step(self, body: e.BootStep) -> None:
        if body.state == "started":
            await self.transaction.connection.execute(
                update(sandboxes).where(sandboxes.c.id == self.sandbox["id"]).values(boot_step=body.step)
            )

    async def _checked_out(self, body: e.CheckedOut) -> None:
        await self.transaction.connection.execute(
            update(session_targets)
            .where(
                session_targets.c.session_id == self.session_id,
                session_targets.c.directory == body.directory,
                session_targets.c.base_sha.is_(None),
            )
            .values(base_sha=body.base_sha)
        )


async def end(
    transaction: Transaction,
    sandbox: RowMapping,
    state: str,
    settings: Settings,
    reason: str = "",
    remedy: str = "",
    go_on: bool = True,
) -> None:
    """A sandbox has ended as ``stopped``, ``failed`` or ``lost``: so has the turn that ran in it. May be repeated.

    Where things may ``go_on``, the next prompt gets another sandbox at once; else the sweep of the next server gives it one.
    """
    connection = transaction.connection
    session_id: str = sandbox["session_id"]
    await connection.execute(select(sessions.c.id).where(sessions.c.id == session_id).with_for_update())
    ended = await connection.execute(
        update(sandboxes)
        .where(sandboxes.c.id == sandbox["id"], sandboxes.c.state.in_(sandbox_rows.LIVE_STATES))
        .values(
            state=state, reason=reason or None, remedy=remedy or None, ended_at=func.now(), deadline_at=None
        )
        .returning(sandboxes.c.ready_at)
    )
    row = ended.one_or_none()
    if row is None:
        return
    await connection.execute(delete(commands).where(commands.c.sandbox_id == sandbox["id"]))
    deleting = (
        await connection.scalar(select(sessions.c.status).where(sessions.c.id == session_id)) == "deleting"
    )
    if deleting:
        return
    await transaction.append(
        session_id,
        e.SandboxChanged.model_validate(
            {"sandbox_id": sandbox["id"], "state": state, "reason": reason, "remedy": remedy}
        ),
    )
    running = await connection.execute(
        select(prompts.c.id, prompts.c.stop_requested_at).where(
            prompts.c.sandbox_id == sandbox["id"], prompts.c.status == "running"
        )
    )
    prompt = running.one_or_none()
    if prompt is not None:
        if prompt.stop_requested_at is not None:
            await turns.finish(transaction, prompt.id, "stopped", settings, go_on=go_on)
        else:
            await turns.finish(
                transaction,
                prompt.id,
                "failed",
                settings,
                reason or "The sandbox ended while the turn was running.",
                remedy or "Retry: the files are kept, and what is already done is not done again.",
                go_on=go_on,
            )
        return
    if row.ready_at is None and state != "stopped":
        await turns.fail_queued(
            transaction, session_id, reason or "The sandbox did not start.", remedy or "Retry."
        )
    if go_on:
        await turns.advance(transaction, session_id, settings, locked=True)
