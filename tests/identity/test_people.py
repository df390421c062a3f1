"""An address is one person's, whoever asks at the same time."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from openinspect.identity import people
from openinspect.problems import Conflict

pytestmark = pytest.mark.anyio


async def test_of_many_who_add_one_address_at_once_one_succeeds(engine: AsyncEngine) -> None:
    async def add(n: int) -> people.User:
        async with engine.begin() as connection:
            return await people.add(
                connection, f"Sam {n}", "sam@example.com" if n % 2 else "Sam@Example.com", "member"
            )

    done = await asyncio.gather(*(add(n) for n in range(6)), return_exceptions=True)
    assert sum(isinstance(one, people.User) for one in done) == 1
    refused = [one for one in done if isinstance(one, BaseException)]
    assert all(isinstance(one, Conflict) and one.code == "email_taken" for one in refused)


async def test_nobody_is_given_the_address_of_another(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        owner = await people.ensure_owner(connection, "Owner", "owner@example.com")
        kim = await people.add(connection, "Kim", "kim@example.com", "member")
        lee = await people.add(connection, "Lee", "lee@example.com", "member")
    for taken in ("lee@example.com", "LEE@example.com"):
        async with engine.begin() as connection:
            with pytest.raises(Conflict, match="is there already"):
                await people.change(connection, owner, kim.id, name="Kim the second", email=taken)
            # what else the transaction does is not lost
            assert (await people.get(connection, kim.id)).name == "Kim"
    async with engine.begin() as connection:
        assert (
            await people.change(connection, owner, lee.id, email="LEE@example.com")
        ).email == "LEE@example.com"
