"""Prompts become turns, in order, one at a time, and end."""

from __future__ import annotations

from pathlib import Path

import pytest

from openinspect.protocol import events as e
from openinspect.testing.running_server import running_server
from openinspect.testing.sandbox_double import DoubleProvider

pytestmark = pytest.mark.anyio


async def test_a_prompt_becomes_a_turn_and_ends(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path) as server:
        session = await server.session("Say hello")
        prompt_id = session["prompts"][0]["id"]
        async with server.watch(session["id"]) as watching:
            finished = await watching.until("turn.finished")
            assert finished["status"] == "completed"
            kinds = [event["body"]["kind"] for event in watching.events]
        assert (
            kinds.index("prompt.queued")
            < kinds.index("turn.started")
            < kinds.index("text")
            < kinds.index("turn.finished")
        )
        after = await server.until_status(session["id"], prompt_id, "completed")
        assert after["activity"] == "idle"
        assert after["last_outcome"] == "completed"
        assert after["title"] == "Say hello"


async def test_prompts_run_in_order_one_at_a_time(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path) as server:
        session = await server.session("first")
        for text in ("second", "third"):
            answer = await server.http.post(f"/api/sessions/{session['id']}/prompts", json={"text": text})
            assert answer.status_code == 201
        async with server.watch(session["id"]) as watching:
            while sum(event["body"]["kind"] == "turn.finished" for event in watching.events) < 3:
                await watching.next()
        order = [
            event["body"]["kind"]
            for event in watching.events
            if event["body"]["kind"] in ("turn.started", "turn.finished")
        ]
        assert order == ["turn.started", "turn.finished"] * 3
        texts = [event["body"]["text"] for event in watching.events if event["body"]["kind"] == "text"]
        assert texts == ["You said: first", "You said: second", "You said: third"]


async def test_the_same_request_id_gives_the_same_prompt(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path) as server:
        session = await server.session()
        path = f"/api/sessions/{session['id']}/prompts"
        first = await server.http.post(path, json={"text": "once", "client_request_id": "r1"})
        again = await server.http.post(path, json={"text": "once", "client_request_id": "r1"})
        other = await server.http.post(path, json={"text": "twice", "client_request_id": "r1"})
        assert first.json()["id"] == again.json()["id"]
        assert (other.status_code, other.json()["error"]["code"]) == (409, "request_id_reused")


async def test_the_queue_is_bounded_and_its_prompts_can_be_edited_and_cancelled(
    database_url: str, tmp_path: Path
) -> None:
    provider = DoubleProvider(tmp_path / "door" / "gateway.sock", behaviour=None)
    async with running_server(database_url, tmp_path, provider=provider, max_unfinished_prompts=3) as server:
        session = await server.session("one")
        path = f"/api/sessions/{session['id']}/prompts"
        two = (await server.http.post(path, json={"text": "two"})).json()
        three = (await server.http.post(path, json={"text": "three"})).json()
        full = await server.http.post(path, json={"text": "four"})
        assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
        assert (
            await server.http.patch(f"{path}/{two['id']}", json={"text": "two, edited"})
        ).status_code == 200
        assert (await server.http.delete(f"{path}/{three['id']}")).status_code == 204
        assert (await server.http.delete(f"{path}/{three['id']}")).status_code == 204
        box = await provider.box()
        await box.connect()
        await box.ready()
        first = await box.command("prompt")
        refused = await server.http.patch(f"{path}/{first['prompt_id']}", json={"text": "too late"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "prompt_not_queued")
        await box.say(e.TurnEnded(outcome="completed"), turn_id=first["prompt_id"])
        assert (await box.command("prompt"))["text"] == "two, edited"


async def test_a_sandbox_that_does_not_heed_a_stop_is_ended_in_time(
    database_url: str, tmp_path: Path
) -> None:
    provider = DoubleProvider(tmp_path / "door" / "gateway.sock", behaviour=None)
    async with running_server(database_url, tmp_path, provider=provider) as server:
        session = await server.session("work for ever")
        prompt_id = session["prompts"][0]["id"]
        box = await provider.box()
        await box.connect()
        await box.ready()
        await box.command("prompt")
        await box.write(prompt_id, "p1", 0, "half a sen")
        assert (await server.http.post(f"/api/sessions/{session['id']}/stop")).status_code == 202
        assert (await server.http.post(f"/api/sessions/{session['id']}/stop")).status_code == 202
        await box.command("stop")
        async with server.watch(session["id"]) as watching:
            assert (await watching.until("turn.finished", 10))["status"] == "stopped"
        await server.until_status(session["id"], prompt_id, "stopped")
        assert [event["body"]["kind"] for event in watching.events].count("stop.requested") == 1


async def test_a_lost_sandbox_fails_its_turn_with_a_reason_and_retry_goes_on(
    database_url: str, tmp_path: Path
) -> None:
    provider = DoubleProvider(tmp_path / "door" / "gateway.sock", behaviour=None)
    async with running_server(database_url, tmp_path, provider=provider) as server:
        session = await server.session("mend it")
        prompt_id = session["prompts"][0]["id"]
        box = await provider.box()
        await box.connect()
        await box.ready()
        await box.command("prompt")
        await box.say(
            e.Committed(directory="repo", sha="a" * 40, subject="Mend it", author="Test Owner"),
            turn_id=prompt_id,
        )
        await box.until_counted()
        await provider.release(box.sandbox_id, None)
        after = await server.until_status(session["id"], prompt_id, "failed")
        assert "sandbox" in after["prompts"][0]["reason"].lower()
        assert "Retry" in after["prompts"][0]["remedy"]
        answer = await server.http.post(f"/api/sessions/{session['id']}/prompts/{prompt_id}/retry")
        assert answer.status_code == 201
        again = await provider.box()
        await again.connect()
        await again.ready()
        command = await again.command("prompt")
        assert "committed aaaaaaaaaa “Mend it”" in command["text"]
        assert command["text"].startswith("mend it\n")
        assert "not to be done again" in command["text"]
