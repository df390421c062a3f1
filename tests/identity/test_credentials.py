"""The token of the commands on a server's own machine: one for each data folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from openinspect.cli.client import folder_id
from openinspect.identity import credentials, people
from openinspect.settings import Settings

pytestmark = pytest.mark.anyio


async def test_a_start_replaces_the_token_of_its_own_folder_and_no_other(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    async def start(name: str) -> str:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        async with engine.begin() as connection:
            return await credentials.renew_local_token(
                connection, owner.id, folder_id(Settings.model_validate({"data_dir": folder}))
            )

    async def works(secret: str) -> bool:
        async with engine.begin() as connection:
            return await credentials.by_token(connection, secret) is not None

    async with engine.begin() as connection:
        owner = await people.ensure_owner(connection, "Owner", "owner@example.com")
    first, other = await start("one"), await start("two")
    assert (await works(first), await works(other)) == (True, True)
    again = await start("one")
    assert (await works(first), await works(other), await works(again)) == (False, True, True)
