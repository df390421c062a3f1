"""Two servers in two processes on one database are one to those who watch: what happens at one is told at the other, by notices alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import orjson
import pytest
import websockets

from openinspect import app
from openinspect.identity import credentials, people
from openinspect.protocol import events as e
from openinspect.testing.running_server import RunningServer, running_server
from openinspect.testing.sandbox_double import DoubleProvider

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def _in_another_process(
    database_url: str, folder: Path, token: str, one: RunningServer
) -> AsyncIterator[RunningServer]:
    """Another server, seen by the person whose token this is."""
    await asyncio.to_thread(folder.mkdir)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("another_server.py")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        env={key: value for key, value in os.environ.items() if not key.endswith("_API_KEY")},
    )
    assert process.stdin is not None
    try:
        told = {"database_url": database_url, "folder": str(folder)}
        process.stdin.write(json.dumps(told).encode() + b"\n")
        async with asyncio.timeout(60):
            while True:
                if (folder / "ready.json").exists():
                    break
                assert process.returncode is None, "the other server ended while it was starting"
                await asyncio.sleep(0.02)
        ready = json.loads((folder / "ready.json").read_text())
        headers = {"authorization": f"Bearer {token}"}
        async with httpx2.AsyncClient(base_url=ready["url"], headers=headers, timeout=30) as http:
            yield one._replace(url=ready["url"], door=Path(ready["door"]), token=token, http=http)
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()


async def test_heads_presence_commands_and_deletions_travel_between_processes(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: object) -> None:
        await asyncio.Event().wait()

    # looking at the heads every two seconds would do here what the notices are to do
    monkeypatch.setattr(app.Wiring, "_catch_up", never)
    provider = DoubleProvider(tmp_path / "a" / "door" / "gateway.sock", behaviour=None)
    async with running_server(database_url, tmp_path / "a", provider=provider) as one:
        async with one.wiring.engine.begin() as connection:
            colleague = await people.add(connection, "A colleague", "colleague@example.com", "member")
            token, _ = await credentials.make_token(connection, colleague.id, "test", ["*"], None)
        async with _in_another_process(database_url, tmp_path / "b", token, one) as two:
            session = await one.session("go")
            session_id, prompt_id = session["id"], session["prompts"][0]["id"]
            box = await provider.box()
            box.socket = two.door  # the sandbox has its bridge to the other process
            await box.connect()
            await box.ready()
            await box.command("prompt")
            async with one.watch(session_id) as here:
                await here.until_synced()

                # presence
                async with two.watch(session_id) as there:
                    both = {one.owner.id, colleague.id}
                    async with asyncio.timeout(10):
                        while {person["user_id"] for person in here.people} != both:
                            await here.next()
                        while {person["user_id"] for person in there.people} != both:
                            await there.next()
                        typing = {"type": "here", "state": "active", "typing": True}
                        await there.socket.send(orjson.dumps(typing).decode())
                        while [p["user_id"] for p in here.people if p["typing"]] != [colleague.id]:
                            await here.next()
                async with asyncio.timeout(10):
                    while {person["user_id"] for person in here.people} != {one.owner.id}:
                        await here.next()

                # heads
                await box.say(e.BootLog(step="x", text="said at the other process"), turn_id=prompt_id)
                assert (await here.until("boot.log"))["text"] == "said at the other process"

                # commands
                stopped = await one.http.post(f"/api/sessions/{session_id}/stop")
                assert stopped.status_code == 202
                assert (await box.command("stop", 4))["prompt_id"] == prompt_id
                await box.say(e.TurnEnded(outcome="stopped"), turn_id=prompt_id)
                await here.until("turn.finished")

                # deletions
                deleted = await two.http.delete(f"/api/sessions/{session_id}")
                assert deleted.status_code == 403  # the colleague may not; the owner may, at either
                async with httpx2.AsyncClient(base_url=two.url, headers=one.http.headers) as owner:
                    assert (await owner.delete(f"/api/sessions/{session_id}")).status_code == 202
                with pytest.raises(websockets.ConnectionClosed):
                    while True:
                        await here.next()
                assert here.socket.close_code == 4404
