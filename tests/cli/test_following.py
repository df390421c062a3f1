"""A command that follows a prompt ends when the prompt does, whichever way that is, and its exit code says which."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from openinspect.cli import cursors
from openinspect.protocol.events import TurnEnded
from openinspect.testing.running_server import RunningServer, running_server
from openinspect.testing.sandbox_double import Behaviour, DoubleProvider, SandboxDouble

pytestmark = pytest.mark.anyio


async def _begin(server: RunningServer, folder: Path, *arguments: str) -> asyncio.subprocess.Process:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OPENINSPECT_")}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "openinspect", *arguments),
        env={
            **kept,
            "OPENINSPECT_DATA_DIR": str(folder),
            "OPENINSPECT_URL": server.url,
            "OPENINSPECT_TOKEN": server.token,
            "COLUMNS": "200",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def _ended(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    try:
        out, err = await asyncio.wait_for(process.communicate(), 30)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise AssertionError("the command did not end") from None
    said = out.decode() + err.decode()
    assert "Traceback" not in said, said
    return process.returncode, said


async def _first_session(server: RunningServer) -> str:
    async with asyncio.timeout(30):
        while True:
            found = (await server.get("/sessions"))["items"]
            if found:
                return found[0]["id"]
            await asyncio.sleep(0.05)


def _provider(folder: Path) -> DoubleProvider:
    """Of boxes that the test drives by hand."""
    return DoubleProvider(folder / "door" / "gateway.sock", behaviour=None)


@pytest.mark.parametrize("flags", [(), ("--json",)])
async def test_run_ends_when_its_prompt_is_taken_back(
    database_url: str, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    async with running_server(database_url, tmp_path, provider=_provider(tmp_path)) as server:
        process = await _begin(server, tmp_path / "here", "run", "Never begun", *flags)
        session_id = await _first_session(server)
        answer = await server.http.post(f"/api/sessions/{session_id}/stop")  # its sandbox still starts
        assert answer.is_success, answer.text
        code, said = await _ended(process)
        assert code == 1
        assert "taken back" in said or "prompt.cancelled" in said
        await server.http.delete(f"/api/sessions/{session_id}")


async def test_a_retry_ends_as_its_turn_does(database_url: str, tmp_path: Path) -> None:
    provider = DoubleProvider(tmp_path / "door" / "gateway.sock", behaviour=_fails_twice())
    async with running_server(database_url, tmp_path, provider=provider) as server:
        session_id = (await server.session("Do it"))["id"]
        first = (await server.get(f"/sessions/{session_id}"))["prompts"][0]["id"]
        await server.until_status(session_id, first, "failed")
        for expected in (1, 0):
            process = await _begin(server, tmp_path / "here", "sessions", "retry", session_id)
            code, said = await _ended(process)
            assert code == expected, said
        again = await _begin(server, tmp_path / "here", "sessions", "prompt", session_id, "More", "--json")
        code, said = await _ended(again)
        assert code == 0
        assert json.loads(said.splitlines()[-1])["body"]["kind"] == "turn.finished"


def _fails_twice() -> Behaviour:
    turns = 0

    async def behave(double: SandboxDouble) -> None:
        nonlocal turns
        await double.connect()
        await double.command("configure")
        await double.ready()
        while True:
            command = await double.command("prompt", seconds=60)
            turns += 1
            ended = TurnEnded(
                outcome="failed" if turns <= 2 else "completed", reason="No." if turns <= 2 else ""
            )
            await double.say(ended, turn_id=command["prompt_id"])

    return behave


async def test_attaching_where_nothing_runs_says_so_and_how_to_leave(
    database_url: str, tmp_path: Path
) -> None:
    async with running_server(database_url, tmp_path, provider=_provider(tmp_path)) as server:
        made = await server.http.post("/api/sessions", json={})
        session_id = made.json()["id"]
        process = await _begin(server, tmp_path / "here", "sessions", "attach", session_id)
        assert process.stderr is not None
        async with asyncio.timeout(30):
            said = await process.stderr.readuntil(b"Ctrl-C leaves")
        assert b"Nothing runs" in said
        process.send_signal(signal.SIGINT)
        code, left = await _ended(process)
        assert code == 130
        assert f"sessions attach {session_id}" in left


async def test_attaching_to_an_archived_session_shows_what_there_is_and_ends(
    database_url: str, tmp_path: Path
) -> None:
    async with running_server(database_url, tmp_path) as server:
        session_id, prompt_id = await _with_a_prompt(server)
        await server.until_status(session_id, prompt_id, "completed")
        answer = await server.http.post(f"/api/sessions/{session_id}/archive")
        assert answer.is_success, answer.text
        here = tmp_path / "here"
        here.mkdir()
        code, said = await _ended(await _begin(server, here, "sessions", "attach", session_id))
        assert code == 0, said
        assert "This session is archived" in said
        assert "completed in" in said
        code, said = await _ended(await _begin(server, here, "sessions", "attach", session_id))
        assert code == 0, said  # from where one left it there is nothing more
        assert "completed in" not in said


async def _with_a_prompt(server: RunningServer) -> tuple[str, str]:
    session_id = (await server.session("Do it"))["id"]
    return session_id, (await server.get(f"/sessions/{session_id}"))["prompts"][0]["id"]


async def test_attaching_until_idle_ends_when_all_that_waits_has_run_and_as_the_last_turn_did(
    database_url: str, tmp_path: Path
) -> None:
    provider = DoubleProvider(tmp_path / "door" / "gateway.sock", behaviour=_fails_twice())
    async with running_server(database_url, tmp_path, provider=provider) as server:
        session_id, first = await _with_a_prompt(server)
        code, said = await _ended(
            await _begin(server, tmp_path / "here", "sessions", "attach", session_id, "--until-idle")
        )
        assert code == 1, said
        assert "failed in" in said
        await server.until_status(session_id, first, "failed")
        for text in ("It fails again", "It succeeds"):
            answer = await server.http.post(f"/api/sessions/{session_id}/prompts", json={"text": text})
            assert answer.is_success, answer.text
        for flags in ((), ("--json",), ()):  # the last finds it idle
            process = await _begin(
                server, tmp_path / "here", "sessions", "attach", session_id, "--until-idle", *flags
            )
            code, said = await _ended(process)
            assert code == 0, said
            assert "It succeeds" in said


async def test_attaching_after_a_backup_was_restored_shows_the_log_from_its_beginning(
    database_url: str, tmp_path: Path
) -> None:
    async with running_server(database_url, tmp_path, provider=_provider(tmp_path)) as server:
        session_id = (await server.http.post("/api/sessions", json={})).json()["id"]
        here = tmp_path / "here"
        here.mkdir()
        cursors.keep(here, session_id, 1_000_000)
        process = await _begin(server, here, "sessions", "attach", session_id, "--json")
        assert process.stdout is not None
        async with asyncio.timeout(30):
            first = json.loads(await process.stdout.readline())
        assert (first["seq"], first["body"]["kind"]) == (1, "session.created")
        process.send_signal(signal.SIGINT)
        code, left = await _ended(process)
        assert code == 130
        assert "a backup was restored" in left
        assert cursors.read(here) == {session_id: 1}
