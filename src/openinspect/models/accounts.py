"""The books of model calls: a row for every call, reserved before it goes out and settled when its answer has ended.

States of a row of ``model_calls``: ``reserved → settled`` (an answer came, whole or cut short; what it used is counted) or ``failed`` (no answer came,
or the server died while it was under way; nothing is counted). Deadline of ``reserved``: the server's sweep turns it to ``failed``. A call that
ends after it was swept is settled all the same; a second settling of the same call does nothing.

Budget: what the session has spent, and the most that its calls under way can cost, never pass it by more than one call. A call by itself is
let through as long as its input can still be paid; one beside others only when the most that it can cost can be paid too. A model without a
known price is refused where there is a budget.

These functions work on the caller's transaction, so that the event of a settled call is appended to the log in the same one. Locks are
taken in the order that the sessions take them: the session's row first.

Errors: ``BudgetSpent``, ``SessionMissing``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import extract, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from openinspect.db.tables import model_calls, sessions
from openinspect.problems import NotFound, ProblemError
from openinspect.protocol.events import ModelCalled
from openinspect.protocol.ids import new_id

from .catalogue import Model
from .prices import Usage, cost, highest_cost

_MAX_ERROR = 500


class BudgetSpent(ProblemError):
    """The session's budget does not allow the call."""

    status = 402


class SessionMissing(NotFound):
    def __init__(self) -> None:
        super().__init__("session_not_found", "The session of this model call is gone.")


@dataclass(frozen=True, slots=True)
class Reservation:
    """A call that is about to be made."""

    session_id: str
    prompt_id: str | None
    model: Model
    scripted: bool
    input_tokens: int
    """The most that the input can be, as far as one can tell from its size."""
    output_tokens: int
    """The most that the answer may have."""
    budget_usd: Decimal | None = None
    """Of the whole session; None: no bound."""


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """How a call ended."""

    reservation: Reservation
    """As it was reserved."""
    usage: Usage
    answered: bool
    """An answer came, whole or in part: what was used is paid for."""
    http_status: int | None
    """Of the provider; None when it was not reached."""
    duration_ms: int
    error: str | None = None
    """What went wrong, without secrets, also where a part of the answer came."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What is to be appended to the session's log."""

    session_id: str
    prompt_id: str | None
    event: ModelCalled


# Written in one statement, taking the session's row as the condition: a session that is gone gets no call, and no violated key. The commit is not waited
# for to reach the disk: what a crash of the database takes away is written again when the call is settled.
_RESERVE = """
WITH hurried AS (SELECT set_config('synchronous_commit', 'off', true))
INSERT INTO model_calls (id, session_id, prompt_id, provider, model, scripted, status, reserved_usd)
SELECT %(id)s, sessions.id, %(prompt)s, %(provider)s, %(model)s, %(scripted)s, 'reserved', %(reserved)s
FROM sessions, hurried WHERE sessions.id = %(session)s AND sessions.status <> 'deleting'
RETURNING id
"""

_SETTLE = """
WITH session AS MATERIALIZED (
    SELECT id FROM sessions WHERE id = %(session)s AND status <> 'deleting' FOR UPDATE
), closed AS (
    INSERT INTO model_calls AS call (
        id, session_id, prompt_id, provider, model, scripted, status, reserved_usd, input_tokens, output_tokens,
        cache_read_tokens, cache_write_tokens, cost_usd, http_status, started_at, finished_at
    )
    SELECT %(id)s, session.id, %(prompt)s, %(provider)s, %(model)s, %(scripted)s, %(status)s, 0, %(input)s, %(output)s,
        %(read)s, %(written)s, %(cost)s, %(http_status)s, now() - %(milliseconds)s * interval '1 millisecond', now()
    FROM session
    ON CONFLICT (id) DO UPDATE SET
        status = excluded.status, input_tokens = excluded.input_tokens, output_tokens = excluded.output_tokens,
        cache_read_tokens = excluded.cache_read_tokens, cache_write_tokens = excluded.cache_write_tokens,
        cost_usd = excluded.cost_usd, http_status = excluded.http_status, finished_at = excluded.finished_at
    WHERE call.status = 'reserved' OR (call.status = 'failed' AND call.http_status IS NULL AND call.cost_usd IS NULL)
    RETURNING call.session_id, call.prompt_id
), prompt AS (
    UPDATE prompts SET input_tokens = input_tokens + %(input)s, output_tokens = output_tokens + %(output)s,
        cost_usd = prompts.cost_usd + coalesce(%(cost)s, 0)
    FROM closed WHERE prompts.id = closed.prompt_id AND prompts.session_id = closed.session_id
), total AS (
    UPDATE sessions SET cost_usd = sessions.cost_usd + coalesce(%(cost)s, 0) FROM closed WHERE sessions.id = closed.session_id
)
SELECT count(*) FROM closed
"""


async def reserve(connection: AsyncConnection, reservation: Reservation) -> str:
    """Write the call down before it is made, and return its id. Raises ``BudgetSpent``, ``SessionMissing``."""
    model = reservation.model
    highest = highest_cost(model, reservation.input_tokens, reservation.output_tokens)
    if reservation.budget_usd is not None:
        locked = await connection.execute(
            select(sessions.c.cost_usd).where(sessions.c.id == reservation.session_id).with_for_update()
        )
        spent = locked.scalar_one_or_none()
        if spent is None:
            raise SessionMissing
        await _check_budget(connection, reservation, reservation.budget_usd, Decimal(spent), highest)
    added = await connection.exec_driver_sql(
        _RESERVE, _named(new_id("mdl"), reservation) | {"reserved": highest or Decimal(0)}
    )
    call_id = added.scalar_one_or_none()
    if call_id is None:
        raise SessionMissing
    return call_id


async def _check_budget(
    connection: AsyncConnection,
    reservation: Reservation,
    budget: Decimal,
    spent: Decimal,
    highest: Decimal | None,
) -> None:
    model = reservation.model
    raise_it = "An administrator can raise OPENINSPECT_BUDGET_USD; a new session has a budget of its own."
    if highest is None:
        raise BudgetSpent(
            "price_unknown",
            f"The price of {model.id} is not known, so that the session's budget of {_dollars(budget)} could not be kept.",
            "Choose a model with a known price, or have the budget lifted.",
        )
    found = await connection.execute(
        select(func.count(), func.coalesce(func.sum(model_calls.c.reserved_usd), 0)).where(
            model_calls.c.session_id == reservation.session_id, model_calls.c.status == "reserved"
        )
    )
    under_way, reserved = found.one()
    alone = cost(model, Usage(reservation.input_tokens)) or Decimal(0)
    wanted = highest if under_way else alone
    if spent + Decimal(reserved) + wanted > budget or spent >= budget:
        beside = f", {_dollars(Decimal(reserved))} are set aside for calls under way" if under_way else ""
        raise BudgetSpent(
            "budget_spent",
            f"This session may spend {_dollars(budget)} on models. It has spent {_dollars(spent)}{beside}, "
            f"and this call to {model.id} could cost {_dollars(wanted)} more.",
            raise_it,
        )


async def settle(connection: AsyncConnection, call_id: str, outcome: CallOutcome) -> Settled | None:
    """Count what a call used, for its prompt and its session. None when it was settled before, or its session is gone."""
    reservation = outcome.reservation
    usage = outcome.usage.sane() if outcome.answered else Usage()
    price = cost(reservation.model, usage) if outcome.answered else Decimal(0)
    closed = await connection.exec_driver_sql(
        _SETTLE,
        _named(call_id, reservation)
        | {
            "status": "settled" if outcome.answered else "failed",
            "input": usage.input_tokens,
            "output": usage.output_tokens,
            "read": usage.cache_read_tokens,
            "written": usage.cache_write_tokens,
            "cost": price,
            "http_status": outcome.http_status,
            "milliseconds": outcome.duration_ms,
        },
    )
    if not closed.scalar_one():
        return None
    return Settled(
        session_id=reservation.session_id,
        prompt_id=reservation.prompt_id,
        event=ModelCalled(
            provider=reservation.model.provider,
            model=reservation.model.bare_id,
            scripted=reservation.scripted,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            cost_usd=None if price is None else float(price),
            duration_ms=outcome.duration_ms,
            error=None if outcome.error is None else outcome.error[:_MAX_ERROR],
        ),
    )


def _named(call_id: str, reservation: Reservation) -> dict[str, Any]:
    return {
        "id": call_id,
        "session": reservation.session_id,
        "prompt": reservation.prompt_id,
        "provider": reservation.model.provider,
        "model": reservation.model.bare_id,
        "scripted": reservation.scripted,
    }


async def sessions_with_abandoned(
    connection: AsyncConnection, started_before: datetime, *, limit: int = 500
) -> list[str]:
    """Sessions with calls that began before that time and never ended, at most ``limit``."""
    found = await connection.scalars(
        select(model_calls.c.session_id)
        .where(model_calls.c.status == "reserved", model_calls.c.started_at < started_before)
        .distinct()
        .limit(limit)
    )
    return list(found)


async def settle_abandoned(
    connection: AsyncConnection, session_id: str, started_before: datetime
) -> list[Settled]:
    """Settle as failed a session's calls that began before that time and never ended: their server died.

    What such a call cost is not known: it counts as nothing, and the event says so.
    """
    # the session's row first, as everybody does
    await connection.execute(select(sessions.c.id).where(sessions.c.id == session_id).with_for_update())
    calls = model_calls.c
    failed = await connection.execute(
        update(model_calls)
        .where(calls.session_id == session_id, calls.status == "reserved", calls.started_at < started_before)
        .values(status="failed", finished_at=func.now())
        .returning(
            calls.session_id,
            calls.prompt_id,
            calls.provider,
            calls.model,
            calls.scripted,
            (extract("epoch", func.now() - calls.started_at) * 1000).label("milliseconds"),
        )
    )
    return [
        Settled(
            session_id=row.session_id,
            prompt_id=row.prompt_id,
            event=ModelCalled(
                provider=row.provider,
                model=row.model,
                scripted=row.scripted,
                input_tokens=0,
                output_tokens=0,
                cache_read_tokens=0,
                cache_write_tokens=0,
                cost_usd=None,
                duration_ms=int(row.milliseconds),
                error="The server ended while this call was under way; what it cost is not known.",
            ),
        )
        for row in failed
    ]


def _dollars(amount: Decimal) -> str:
    return f"${amount:.4f}" if amount < 1 else f"${amount:.2f}"
