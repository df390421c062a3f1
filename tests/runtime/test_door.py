"""The way to the gateway: a plain splice, bounded, that outlives the gateway's restarts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from openinspect.protocol.commands import Identity, ModelChoice, RunPrompt
from openinspect.protocol.config import Door as DoorConfig
from openinspect.protocol.diffs import RepositoryDiff
from openinspect.protocol.events import AttachmentInfo
from openinspect.runtime import door as doors
from openinspect.runtime.door import DoorClient, DoorError, Forwarder

from .door import TOKEN, Door

pytestmark = pytest.mark.anyio


async def nothing() -> None:
    return


@pytest.fixture
async def forwarder(door: Door) -> AsyncIterator[Forwarder]:
    running = Forwarder(DoorConfig(socket=str(door.socket)), nothing)
    await running.start()
    yield running
    await running.close()


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with Door(tmp_path / "gateway.sock") as running:
        yield running


async def test_requests_pass_and_large_bodies_too(forwarder: Forwarder, door: Door) -> None:
    door.attachments["att_1"] = ("application/octet-stream", os.urandom(3_000_000))
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {TOKEN}"}, trust_env=False) as client:
        answers = await asyncio.gather(
            *(client.get(f"{forwarder.url}/bridge/attachments/att_1") for _ in range(5))
        )
        assert {answer.content == door.attachments["att_1"][1] for answer in answers} == {True}
        refused = await client.get(
            f"{forwarder.url}/bridge/attachments/att_1", headers={"authorization": "Bearer no"}
        )
        assert refused.status_code == 404


async def test_a_gateway_that_is_away_is_a_closed_connection(forwarder: Forwarder, door: Door) -> None:
    await door.down()
    async with httpx2.AsyncClient(trust_env=False) as client:
        with pytest.raises(httpx2.HTTPError):
            await client.get(f"{forwarder.url}/bridge/attachments/x")
        await door.up()
        assert (await client.get(f"{forwarder.url}/bridge/attachments/x")).status_code == 404


async def test_connections_are_bounded(forwarder: Forwarder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "MAX_CONNECTIONS", 2)
    host, port = forwarder.url.removeprefix("http://").split(":")
    held = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
    async with asyncio.timeout(10):
        while len(forwarder._open) < 2:  # noqa: ASYNC110 - the forwarder tells nobody
            await asyncio.sleep(0.005)
        reader, writer = await asyncio.open_connection(host, int(port))
        assert await reader.read() == b""
    for _, each in [*held, (reader, writer)]:
        each.close()


async def test_two_sandboxes_on_one_machine_do_not_fight_for_a_port(door: Door) -> None:
    both = [Forwarder(DoorConfig(socket=str(door.socket)), nothing) for _ in range(2)]
    for each in both:
        await each.start()
    assert both[0].url != both[1].url
    for each in both:
        await each.close()


async def test_a_door_by_address_is_used_directly() -> None:
    forwarder = Forwarder(DoorConfig(url="https://gateway.example.invalid/"), nothing)
    await forwarder.start()
    assert forwarder.url == "https://gateway.example.invalid"
    await forwarder.close()


async def test_attachments_and_diffs(door: Door) -> None:
    client = DoorClient(DoorConfig(socket=str(door.socket)), TOKEN)
    door.attachments["att_1"] = ("image/png", b"png")
    prompt = RunPrompt(
        prompt_id="p",
        text="t",
        model=ModelChoice(provider="a", model="b"),
        author=Identity(name="Ada Example", email="ada@example.invalid"),
        attachments=[AttachmentInfo(id="att_1", name="a.png", media_type="image/png", size=3)],
    )
    (file,) = await client.attachments(prompt)
    assert (file.name, file.media_type, file.data) == ("a.png", "image/png", b"png")
    await client.put_diff(RepositoryDiff(directory="widgets", base_sha="0" * 40, head_sha=None, files=[]))
    assert door.diffs["widgets"]["base_sha"] == "0" * 40
    door.attachments.clear()
    with pytest.raises(DoorError, match="404"):
        await client.attachments(prompt)
    await door.down()
    with pytest.raises(DoorError, match="can't be reached"):
        await client.attachments(prompt)
    await client.close()
