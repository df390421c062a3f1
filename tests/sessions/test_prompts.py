"""Prompts that went wrong are tried again, with all that belongs to them."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import httpx2
import pytest

from openinspect.identity import credentials, people
from openinspect.protocol import events as e
from openinspect.testing.running_server import RunningServer, running_server
from openinspect.testing.sandbox_double import DoubleProvider, SandboxDouble

pytestmark = pytest.mark.anyio

PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def _by_hand(folder: Path) -> DoubleProvider:
    return DoubleProvider(folder / "door" / "gateway.sock", behaviour=None)


async def _failed(server: RunningServer, body: dict[str, Any], session_id: str) -> tuple[str, SandboxDouble]:
    """A prompt that has failed: its id, and the sandbox that is idle again."""
    answer = await server.http.post(f"/api/sessions/{session_id}/prompts", json=body)
    assert answer.status_code == 201, answer.text
    prompt_id = answer.json()["id"]
    box = await server.provider.box()
    await box.connect()
    await box.ready()
    await box.command("prompt")
    await box.say(e.TurnEnded(outcome="failed", reason="It broke."), turn_id=prompt_id)
    await server.until_status(session_id, prompt_id, "failed")
    return prompt_id, box


async def test_a_retried_prompt_has_its_pictures(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        session_id = (await server.session())["id"]
        path = f"/api/sessions/{session_id}"
        names = []
        for name in ("one.png", "two.png"):
            sent = await server.http.post(f"{path}/attachments", files={"file": (name, PICTURE)})
            assert sent.status_code == 201, sent.text
            names.append(sent.json()["id"])
        prompt_id, box = await _failed(server, {"text": "", "attachments": names}, session_id)
        again = (await server.http.post(f"{path}/prompts/{prompt_id}/retry")).json()
        assert again["text"] == ""
        assert [one["name"] for one in again["attachments"]] == ["one.png", "two.png"]
        command = await box.command("prompt")
        assert command["prompt_id"] == again["id"]
        assert [one["name"] for one in command["attachments"]] == ["one.png", "two.png"]
        for one in again["attachments"]:
            assert (await server.http.get(f"{path}/attachments/{one['id']}")).content == PICTURE
        events = (await server.get(f"/sessions/{session_id}/events", after=0))["events"]
        queued = [event["body"] for event in events if event["body"]["kind"] == "prompt.queued"]
        assert [len(body["attachments"]) for body in queued] == [2, 2]
        assert not {one["id"] for one in again["attachments"]} & set(names)


async def test_a_retry_is_given_back_until_it_ends_badly_and_whoever_asks(
    database_url: str, tmp_path: Path
) -> None:
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        session_id = (await server.session())["id"]
        path = f"/api/sessions/{session_id}/prompts"
        prompt_id, box = await _failed(server, {"text": "mend it"}, session_id)
        other = (await server.http.post(path, json={"text": "meanwhile"})).json()["id"]
        assert (await box.command("prompt"))["prompt_id"] == other
        async with server.wiring.engine.begin() as connection:
            colleague = await people.add(connection, "A colleague", "colleague@example.com", "member")
            token, _ = await credentials.make_token(connection, colleague.id, "test", ["*"], None)
        async with httpx2.AsyncClient(
            base_url=server.url, headers={"authorization": f"Bearer {token}"}
        ) as theirs:

            async def retry(by: httpx2.AsyncClient) -> dict[str, Any]:
                answer = await by.post(f"{path}/{prompt_id}/retry")
                assert answer.status_code == 201, answer.text
                return answer.json()

            first = await retry(server.http)
            assert (first["status"], (await retry(theirs))["id"]) == ("queued", first["id"])
            assert (await server.http.delete(f"{path}/{first['id']}")).status_code == 204
            second = await retry(theirs)
            assert second["id"] != first["id"]
            assert (second["status"], second["author"]["id"]) == ("queued", colleague.id)
            await box.say(e.TurnEnded(outcome="completed"), turn_id=other)
            assert (await box.command("prompt"))["prompt_id"] == second["id"]
            await box.say(e.TurnEnded(outcome="completed"), turn_id=second["id"])
            await server.until_status(session_id, second["id"], "completed")
            assert (await retry(server.http))["id"] == second["id"]


async def test_a_retry_takes_the_sessions_row_before_the_prompts(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        session_id = (await server.session())["id"]
        prompt_id, _ = await _failed(server, {"text": "mend it"}, session_id)
        async with server.wiring.engine.begin() as connection:
            await connection.exec_driver_sql(f"SELECT 1 FROM sessions WHERE id = '{session_id}' FOR UPDATE")
            retrying = asyncio.create_task(
                server.http.post(f"/api/sessions/{session_id}/prompts/{prompt_id}/retry")
            )
            async with asyncio.timeout(10), server.wiring.services.reader.connect() as watching:
                while True:
                    waiting = await watching.exec_driver_sql(
                        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
                    )
                    if waiting.first():
                        break
                    await asyncio.sleep(0.01)
            await connection.exec_driver_sql(
                f"SELECT 1 FROM prompts WHERE id = '{prompt_id}' FOR UPDATE NOWAIT"
            )
        assert (await retrying).status_code == 201
