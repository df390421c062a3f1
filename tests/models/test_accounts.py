import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from openinspect.db.tables import model_calls, prompts, sessions
from openinspect.models.accounts import (
    BudgetSpent,
    CallOutcome,
    Reservation,
    SessionMissing,
    reserve,
    sessions_with_abandoned,
    settle,
    settle_abandoned,
)
from openinspect.models.catalogue import find
from openinspect.models.prices import Usage
from openinspect.protocol.ids import new_id

pytestmark = pytest.mark.anyio

OPUS = find("claude-opus-5")  # 5 and 25 dollars per million


async def new_session(engine: AsyncEngine) -> tuple[str, str]:
    session_id, prompt_id = new_id("ses"), new_id("prm")
    async with engine.begin() as connection:
        await connection.execute(insert(sessions).values(id=session_id, model=OPUS.id))
        await connection.execute(
            insert(prompts).values(
                id=prompt_id, session_id=session_id, position=1, text="x", status="running", fingerprint="x"
            )
        )
    return session_id, prompt_id


def a_call(session_id: str, prompt_id: str | None, budget: str | None = None, **sizes: int) -> Reservation:
    return Reservation(
        session_id=session_id,
        prompt_id=prompt_id,
        model=OPUS,
        scripted=False,
        input_tokens=sizes.get("input_tokens", 10_000),
        output_tokens=sizes.get("output_tokens", 10_000),
        budget_usd=None if budget is None else Decimal(budget),
    )


def an_answer(call: Reservation, input_tokens: int = 10_000, output_tokens: int = 2_000) -> CallOutcome:
    return CallOutcome(
        call,
        Usage(input_tokens, output_tokens, cache_read_tokens=1_000),
        True,
        http_status=200,
        duration_ms=1234,
    )


async def cost_of(engine: AsyncEngine, session_id: str) -> Decimal:
    async with engine.begin() as connection:
        found = await connection.execute(select(sessions.c.cost_usd).where(sessions.c.id == session_id))
        return found.scalar_one()


async def test_a_call_is_counted_once_for_its_prompt_and_its_session(engine: AsyncEngine):
    session_id, prompt_id = await new_session(engine)
    async with engine.begin() as connection:
        call_id = await reserve(connection, a_call(session_id, prompt_id))
    for expected in (True, False, False):
        async with engine.begin() as connection:
            settled = await settle(connection, call_id, an_answer(a_call(session_id, prompt_id)))
        assert (settled is not None) is expected
        if settled is not None:
            assert (settled.session_id, settled.prompt_id) == (session_id, prompt_id)
            assert settled.event.cost_usd == pytest.approx(0.0955)
            assert settled.event.duration_ms == 1234
    async with engine.begin() as connection:
        prompt = (await connection.execute(select(prompts).where(prompts.c.id == prompt_id))).mappings().one()
        call = (
            (await connection.execute(select(model_calls).where(model_calls.c.id == call_id)))
            .mappings()
            .one()
        )
    assert (prompt["input_tokens"], prompt["output_tokens"]) == (10_000, 2_000)
    assert prompt["cost_usd"] == Decimal("0.0955") == await cost_of(engine, session_id)
    assert call["status"] == "settled" and call["cache_read_tokens"] == 1_000
    assert call["reserved_usd"] > call["cost_usd"]


async def test_a_call_that_got_no_answer_costs_nothing(engine: AsyncEngine):
    session_id, prompt_id = await new_session(engine)
    async with engine.begin() as connection:
        call_id = await reserve(connection, a_call(session_id, prompt_id))
        settled = await settle(
            connection,
            call_id,
            CallOutcome(
                a_call(session_id, prompt_id),
                Usage(5, 5),
                answered=False,
                http_status=529,
                duration_ms=3,
                error="overloaded",
            ),
        )
    assert settled is not None and settled.event.cost_usd == 0 and settled.event.error == "overloaded"
    assert await cost_of(engine, session_id) == 0


async def test_the_budget_is_never_passed_by_more_than_one_call(engine: AsyncEngine):
    session_id, prompt_id = await new_session(engine)

    async def one() -> bool:
        try:
            async with engine.begin() as connection:
                call_id = await reserve(connection, a_call(session_id, prompt_id, "1.00"))
        except BudgetSpent:
            return False
        await asyncio.sleep(0.01)
        async with engine.begin() as connection:
            await settle(
                connection, call_id, an_answer(a_call(session_id, prompt_id), 10_000, 10_000)
            )  # 0.2955 dollars
        return True

    outcomes = [outcome for _ in range(10) for outcome in await asyncio.gather(*[one() for _ in range(6)])]
    spent = await cost_of(engine, session_id)
    assert Decimal("1.00") - Decimal("0.0625") <= spent <= Decimal("1.2955")
    assert outcomes.count(True) == 4


async def test_beside_a_call_under_way_only_what_surely_fits_is_let_through(engine: AsyncEngine):
    session_id, prompt_id = await new_session(engine)
    async with engine.begin() as connection:
        await reserve(connection, a_call(session_id, prompt_id, "0.50"))  # at most 0.35
    with pytest.raises(BudgetSpent, match="set aside"):
        async with engine.begin() as connection:
            await reserve(connection, a_call(session_id, prompt_id, "0.50"))
    async with engine.begin() as connection:
        assert await reserve(connection, a_call(session_id, prompt_id, "0.50", output_tokens=1_000))


async def test_a_spent_budget_says_how_much_and_what_to_do(engine: AsyncEngine):
    session_id, prompt_id = await new_session(engine)
    async with engine.begin() as connection:
        await connection.execute(update(sessions).where(sessions.c.id == session_id).values(cost_usd=2))
    with pytest.raises(BudgetSpent) as caught:
        async with engine.begin() as connection:
            await reserve(connection, a_call(session_id, prompt_id, "2"))
    assert "$2.00" in caught.value.message and "OPENINSPECT_BUDGET_USD" in caught.value.remedy


async def test_without_a_known_price_a_budget_cannot_be_kept(engine: AsyncEngine):
    session_id, prompt_id = await new_session(engine)
    nameless = OPUS.model_copy(update={"bare_id": "of-another-day"})
    reservation = Reservation(session_id, prompt_id, nameless, False, 10, 10, Decimal(5))
    with pytest.raises(BudgetSpent, match="price"):
        async with engine.begin() as connection:
            await reserve(connection, reservation)


async def test_a_session_that_is_gone_gets_no_call(engine: AsyncEngine):
    for budget in (None, "5"):
        with pytest.raises(SessionMissing):
            async with engine.begin() as connection:
                await reserve(connection, a_call("ses_gone", None, budget))


async def test_a_call_of_a_deleted_session_is_settled_as_nothing(engine: AsyncEngine):
    session_id, prompt_id = await new_session(engine)
    async with engine.begin() as connection:
        call_id = await reserve(connection, a_call(session_id, prompt_id))
    async with engine.begin() as connection:
        await connection.execute(sessions.delete().where(sessions.c.id == session_id))
    async with engine.begin() as connection:
        assert await settle(connection, call_id, an_answer(a_call(session_id, prompt_id))) is None


async def test_a_reservation_that_a_crash_took_away_is_settled_all_the_same(engine: AsyncEngine):
    session_id, prompt_id = await new_session(engine)
    for expected in (True, False):
        async with engine.begin() as connection:
            settled = await settle(connection, "mdl_lost", an_answer(a_call(session_id, prompt_id)))
        assert (settled is not None) is expected
    assert await cost_of(engine, session_id) == Decimal("0.0955")


async def test_calls_of_a_dead_server_are_settled_as_failed_and_a_late_end_still_counts(engine: AsyncEngine):
    session_id, prompt_id = await new_session(engine)
    async with engine.begin() as connection:
        call_id = await reserve(connection, a_call(session_id, prompt_id))
        assert not await settle_abandoned(connection, session_id, datetime.now(UTC) - timedelta(hours=1))
    async with engine.begin() as connection:
        soon = datetime.now(UTC) + timedelta(seconds=5)
        assert session_id in await sessions_with_abandoned(connection, soon)
        mine = await settle_abandoned(connection, session_id, soon)
    assert len(mine) == 1 and mine[0].event.cost_usd is None and mine[0].event.error
    async with engine.begin() as connection:
        assert session_id not in await sessions_with_abandoned(connection, soon)
        assert not await settle_abandoned(connection, session_id, soon)
        assert await settle(connection, call_id, an_answer(a_call(session_id, prompt_id)))
        assert await settle(connection, call_id, an_answer(a_call(session_id, prompt_id))) is None
    assert await cost_of(engine, session_id) == Decimal("0.0955")
