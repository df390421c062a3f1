"""Sandboxes begin and end without taking anybody's prompt, place or files with them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import text

from openinspect.protocol import events as e
from openinspect.sandboxes.provider import BoxSpec, Handle
from openinspect.sessions.keeper import Keeper
from openinspect.testing.running_server import RunningServer, running_server
from openinspect.testing.sandbox_double import DoubleProvider, SandboxDouble

pytestmark = pytest.mark.anyio


def _held(folder: Path) -> DoubleProvider:
    """Its boxes are driven by the test."""
    return DoubleProvider(folder / "door" / "gateway.sock", behaviour=None)


async def _started(provider: DoubleProvider) -> SandboxDouble:
    box = await provider.box()
    await box.connect()
    await box.ready()
    return box


async def _prompt(server: RunningServer, session_id: str, words: str) -> str:
    answer = await server.http.post(f"/api/sessions/{session_id}/prompts", json={"text": words})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


async def _state(server: RunningServer, sandbox_id: str) -> tuple[str, str | None]:
    async with server.wiring.engine.connect() as connection:
        found = await connection.execute(
            text("SELECT state, reason FROM sandboxes WHERE id = :id"), {"id": sandbox_id}
        )
        return tuple(found.one())


async def _change(server: RunningServer, statement: str, **values: object) -> None:
    async with server.wiring.engine.begin() as connection:
        await connection.execute(text(statement), values)


def _keeper(server: RunningServer) -> Keeper:
    return server.wiring.services.keeper


@pytest.mark.parametrize("late", ["stop_requested_at = now() - interval '1 min'", "deadline_at = now()"])
async def test_a_turn_that_is_ended_from_outside_does_not_take_the_next_one_with_it(
    own_database_url: str, tmp_path: Path, late: str
) -> None:
    provider = _held(tmp_path)
    async with running_server(own_database_url, tmp_path, provider=provider) as server:
        session = await server.session("never ends")
        first = session["prompts"][0]["id"]
        box = await _started(provider)
        await box.command("prompt")
        second = await _prompt(server, session["id"], "innocent")
        await _change(server, f"UPDATE prompts SET {late} WHERE id = :id", id=first)
        await _keeper(server).enforce(first)
        again = await _started(provider)
        command = await again.command("prompt")
        assert command["prompt_id"] == second
        assert (await _state(server, box.sandbox_id))[0] == "stopped"
        await again.say(e.TurnEnded(outcome="completed"), turn_id=second)
        await server.until_status(session["id"], second, "completed")


async def test_a_sandbox_that_was_given_a_prompt_is_not_idle(own_database_url: str, tmp_path: Path) -> None:
    provider = _held(tmp_path)
    async with running_server(own_database_url, tmp_path, provider=provider) as server:
        await server.session("just now")
        box = await _started(provider)
        await box.command("prompt")
        # what the agent said last, before the prompt reached it
        await _change(server, "UPDATE sandboxes SET idle_at = now() - interval '9 h'")
        await _keeper(server).stop_idle(box.sandbox_id)
        assert (await _state(server, box.sandbox_id))[0] == "ready"


async def test_the_limit_of_sandboxes_holds_and_what_runs_no_turn_gives_way(
    own_database_url: str, tmp_path: Path
) -> None:
    provider = _held(tmp_path)
    async with running_server(
        own_database_url, tmp_path, provider=provider, max_concurrent_sandboxes=1
    ) as server:
        for _ in range(3):
            await server.session("hello")
        box = await _started(provider)
        command = await box.command("prompt")
        await asyncio.sleep(2.5)  # a sweep has looked
        async with server.wiring.engine.connect() as connection:
            found = await connection.execute(text("SELECT state, count(*) FROM sandboxes GROUP BY state"))
            assert {row.state: row.count for row in found} == {"ready": 1, "requested": 2}
        # something that the turn left behind goes on, so that the sandbox does not count as idle
        await box.say(e.TurnEnded(outcome="completed"), turn_id=command["prompt_id"])
        await box.until_counted()
        await _change(server, "UPDATE sandboxes SET idle_at = NULL")
        following = await _started(provider)
        assert (await following.command("prompt"))["text"] == "hello"
        assert (await _state(server, box.sandbox_id))[0] == "stopped"


class _Broken(DoubleProvider):
    """Fails in a way that no contract names."""

    tried = 0

    async def create(self, spec: BoxSpec) -> Handle:
        self.tried += 1
        raise RuntimeError("the disk of the host is on fire")


async def test_a_start_that_fails_in_an_unexpected_way_fails_its_prompt_once(
    own_database_url: str, tmp_path: Path
) -> None:
    provider = _Broken(tmp_path / "door" / "gateway.sock")
    async with running_server(own_database_url, tmp_path, provider=provider) as server:
        session = await server.session("hello")
        after = await server.until_status(session["id"], session["prompts"][0]["id"], "failed")
        assert "could not be started" in after["prompts"][0]["reason"]
        assert after["prompts"][0]["remedy"]
        await asyncio.sleep(2.5)
        assert provider.tried == 1


class _Interrupting(DoubleProvider):
    """The process that creates boxes dies in the middle, every time."""

    tried = 0

    async def create(self, spec: BoxSpec) -> Handle:
        self.tried += 1
        raise asyncio.CancelledError


async def test_a_start_that_is_interrupted_again_and_again_is_given_up(
    own_database_url: str, tmp_path: Path
) -> None:
    provider = _Interrupting(tmp_path / "door" / "gateway.sock")
    async with running_server(own_database_url, tmp_path, provider=provider, jobs=False) as server:
        session = await server.session("hello")
        for _ in range(20):
            async with server.wiring.engine.connect() as connection:
                live = await connection.scalar(
                    text("SELECT id FROM sandboxes WHERE state IN ('requested', 'booting')")
                )
            if live is None:
                break
            await asyncio.gather(asyncio.create_task(_keeper(server).check(live)), return_exceptions=True)
        after = await server.until_status(session["id"], session["prompts"][0]["id"], "failed", 1)
        assert "interrupted 3 times" in after["prompts"][0]["reason"]
        assert provider.tried == 3


class _Stuck(DoubleProvider):
    """A box that can't be stopped."""

    async def stop(self, handle: Handle, grace: float = 5.0) -> None:
        raise RuntimeError("it does not listen")


async def test_a_sandbox_that_can_not_be_stopped_is_given_up_at_its_deadline(
    own_database_url: str, tmp_path: Path
) -> None:
    provider = _Stuck(tmp_path / "door" / "gateway.sock", behaviour=None)
    async with running_server(own_database_url, tmp_path, provider=provider, jobs=False) as server:
        session = await server.session("one")
        keeper = _keeper(server)
        async with server.wiring.engine.connect() as connection:
            sandbox_id = await connection.scalar(text("SELECT id FROM sandboxes"))
        await keeper.check(sandbox_id)
        box = await _started(provider)
        await box.command("prompt")
        await keeper.stop(sandbox_id, "A test stops it.")
        assert (await _state(server, sandbox_id))[0] == "stopping"
        second = await _prompt(server, session["id"], "two")
        await keeper.check(sandbox_id)
        assert (await _state(server, sandbox_id))[0] == "stopping"
        await _change(server, "UPDATE sandboxes SET deadline_at = now() - interval '1 s'")
        await keeper.check(sandbox_id)
        state, reason = await _state(server, sandbox_id)
        assert state == "failed"
        assert reason is not None and "could not be stopped" in reason
        shown = await server.get(f"/sessions/{session['id']}")
        assert shown["sandbox"]["state"] == "requested"  # for the one that waits
        assert [one["status"] for one in shown["prompts"] if one["id"] == second] == ["queued"]


async def test_shutting_down_starts_nothing_and_keeps_what_waits(
    own_database_url: str, tmp_path: Path
) -> None:
    provider = _held(tmp_path)
    async with running_server(own_database_url, tmp_path, provider=provider) as server:
        session = await server.session("runs")
        first = session["prompts"][0]["id"]
        box = await _started(provider)
        await box.command("prompt")
        second = await _prompt(server, session["id"], "waits")
        await _keeper(server).stop_all("Stopped: a test shuts down.")
        async with server.wiring.engine.connect() as connection:
            states = (await connection.scalars(text("SELECT state FROM sandboxes"))).all()
        shown = await server.get(f"/sessions/{session['id']}")
        assert list(states) == ["stopped"]
        assert {one["id"]: one["status"] for one in shown["prompts"]} == {first: "failed", second: "queued"}
        # and the next server's sweep goes on with it
        again = await _started(provider)
        assert (await again.command("prompt"))["prompt_id"] == second


async def test_a_server_with_another_database_removes_nobodys_files(
    own_database_url: str, tmp_path: Path
) -> None:
    provider = _held(tmp_path)
    provider.disks.add("ses_of_another_database")
    async with running_server(own_database_url, tmp_path, provider=provider, jobs=False) as server:
        from openinspect.sessions.janitor import Janitor

        services = server.wiring.services
        janitor = Janitor(services.journal, provider, services.settings, services.blobs)
        await janitor.reap()
        assert "ses_of_another_database" in provider.disks


async def test_a_turn_that_ends_while_it_is_stopped_is_no_deadlock(
    own_database_url: str, tmp_path: Path
) -> None:
    provider = _held(tmp_path)
    async with running_server(own_database_url, tmp_path, provider=provider) as server:
        for _ in range(10):
            session = await server.session("quick")
            prompt = session["prompts"][0]["id"]
            box = await _started(provider)
            await box.command("prompt")
            await _change(
                server,
                "UPDATE prompts SET stop_requested_at = now() - interval '1 min' WHERE id = :id",
                id=prompt,
            )
            await asyncio.gather(
                box.say(e.TurnEnded(outcome="stopped"), turn_id=prompt), _keeper(server).enforce(prompt)
            )
            await server.until_status(session["id"], prompt, "stopped")
            await server.http.delete(f"/api/sessions/{session['id']}")


async def test_what_sandboxes_do_makes_no_session_newer(own_database_url: str, tmp_path: Path) -> None:
    async with running_server(own_database_url, tmp_path) as server:
        session = await server.session("hello")
        await server.until_status(session["id"], session["prompts"][0]["id"], "completed")
        before = (await server.get(f"/sessions/{session['id']}"))["updated_at"]
        await _keeper(server).stop_all("Stopped: a test shuts down.")
        after = await server.get(f"/sessions/{session['id']}")
        assert after["sandbox"]["state"] == "stopped"
        assert after["updated_at"] == before


async def test_a_sandbox_whose_handle_was_never_noted_is_taken_over(
    own_database_url: str, tmp_path: Path
) -> None:
    """Who started it was killed in between; it got ready all the same."""
    provider = _held(tmp_path)
    async with running_server(own_database_url, tmp_path, provider=provider) as server:
        await server.session("hello")
        box = await _started(provider)
        await box.command("prompt")
        await _change(server, "UPDATE sandboxes SET handle = NULL")
        await _keeper(server).check(box.sandbox_id)
        assert (await _state(server, box.sandbox_id))[0] == "ready"
        async with server.wiring.engine.connect() as connection:
            found = await connection.execute(text("SELECT handle FROM sandboxes"))
            assert found.scalar_one() is not None
