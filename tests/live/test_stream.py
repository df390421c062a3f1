"""Watchers get every event once, in order, whatever they missed and however slow they are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
import structlog
import websockets

from openinspect.api import stream_routes
from openinspect.identity import credentials, people
from openinspect.live import hub
from openinspect.live.watch import follow
from openinspect.protocol import events as e
from openinspect.protocol.stream import Cursor
from openinspect.testing.running_server import RunningServer, running_server
from openinspect.testing.sandbox_double import DoubleProvider, SandboxDouble

pytestmark = pytest.mark.anyio


async def _turn(server: RunningServer) -> tuple[str, str, SandboxDouble]:
    session = await server.session("go")
    box = await server.provider.box()
    await box.connect()
    await box.ready()
    command = await box.command("prompt")
    return session["id"], command["prompt_id"], box


def _by_hand(folder: Path) -> DoubleProvider:
    return DoubleProvider(folder / "door" / "gateway.sock", behaviour=None)


async def test_resuming_gives_what_was_missed_and_nothing_twice(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        session_id, prompt_id, box = await _turn(server)
        after, seen = 0, []

        async def talk() -> None:
            for n in range(200):
                await box.say(e.BootLog(step="x", text=f"line {n}"), turn_id=prompt_id)
                await asyncio.sleep(0.002)

        talking = asyncio.create_task(talk())
        for _ in range(10):  # the socket is dropped ten times
            async with server.watch(session_id, after) as watching:
                for _ in range(3):
                    await watching.next()
                after = watching.seq
                seen += watching.events
        await talking
        await box.until_counted()
        async with server.watch(session_id, after) as watching:
            await watching.until_synced()
            seen += watching.events
        lines = [event["body"]["text"] for event in seen if event["body"]["kind"] == "boot.log"]
        assert lines == [f"line {n}" for n in range(200)]
        assert [event["seq"] for event in seen] == list(range(1, len(seen) + 1))


async def test_who_joins_in_the_middle_of_a_part_gets_the_rest_of_it(
    database_url: str, tmp_path: Path
) -> None:
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        session_id, prompt_id, box = await _turn(server)
        text = "".join(chr(0x1F600 + n % 40) + f"word{n} " for n in range(300))
        async with server.watch(session_id) as early:
            for start in range(0, len(text), 50):
                await box.write(prompt_id, "p1", start, text[start : start + 50])
                if start == 1000:
                    while len(early.parts.get("p1", "")) < 1000:
                        await early.next()
                    have = len(early.parts["p1"])
                    async with server.watch(session_id, early.seq, {"p1": have}) as late:
                        late.parts["p1"] = early.parts["p1"]
                        await late.until_synced()
                        assert late.parts["p1"].startswith(text[:have])
            while len(early.parts.get("p1", "")) < len(text):
                await early.next()
            assert early.parts["p1"] == text
            await box.say(
                e.TextPart(part_id="p1", text=text), e.TurnEnded(outcome="completed"), turn_id=prompt_id
            )
            await early.until("turn.finished")
            assert "p1" not in early.parts
        rows = await server.get(f"/sessions/{session_id}")
        assert rows["open_parts"] == []


async def test_a_bridge_that_comes_back_repeats_an_open_part_without_harm(
    database_url: str, tmp_path: Path
) -> None:
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        session_id, prompt_id, box = await _turn(server)
        async with server.watch(session_id) as watching:
            await box.write(prompt_id, "p1", 0, "Hello, ")
            while watching.parts.get("p1") != "Hello, ":
                await watching.next()
            await box.drop()
            box.running = prompt_id
            await box.connect()
            await box.write(prompt_id, "p1", 0, "Hello, world")
            while watching.parts.get("p1") != "Hello, world":
                await watching.next()


async def test_a_watcher_that_does_not_read_is_cut_off_and_can_resume(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "WATCHER_BYTES", 200_000)
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        session_id, prompt_id, box = await _turn(server)
        async with server.watch(session_id) as watching:
            await watching.until_synced()
            watching.socket.transport.pause_reading()
            for _ in range(60):
                await box.say(*[e.BootLog(step="x", text="y" * 8000)] * 20, turn_id=prompt_id)
            await box.until_counted()
            watching.socket.transport.resume_reading()
            with pytest.raises(websockets.ConnectionClosed):
                while True:
                    await watching.next()
            assert watching.socket.close_code == 4429
            resumed_from = watching.seq
        async with server.watch(session_id, resumed_from) as again:
            await again.until_synced(30)
            assert again.seq == (await server.get(f"/sessions/{session_id}"))["head"]


@pytest.mark.parametrize("after", [2, 1_000_000, 2**62])
async def test_a_cursor_beyond_the_log_begins_anew(database_url: str, tmp_path: Path, after: int) -> None:
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        session_id = (await server.session())["id"]
        async with server.watch(session_id, after, {"p1": 5}) as watching:
            assert await watching.next() == {"type": "reset", "head": 1}
            watching.seq = 0
            await watching.until_synced()
            assert (watching.seq, watching.synced) == (1, 1)
            await server.http.patch(f"/api/sessions/{session_id}", json={"title": "Seen"})
            assert (await watching.until("session.titled"))["title"] == "Seen"


@pytest.mark.parametrize("by_header", [False, True])
async def test_a_cursor_beyond_the_log_begins_anew_for_curl(
    database_url: str, tmp_path: Path, by_header: bool
) -> None:
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        session_id = (await server.session())["id"]
        asked: dict[str, Any] = (
            {"headers": {"last-event-id": "1000000"}} if by_header else {"params": {"after": "1000000"}}
        )
        told: list[str] = []
        async with (
            asyncio.timeout(15),
            server.http.stream("GET", f"/api/sessions/{session_id}/stream", **asked) as answer,
        ):
            async for line in answer.aiter_lines():
                if line.startswith(("id:", "event:")):
                    told.append(line)
                if line == "event: synced":
                    await server.http.patch(f"/api/sessions/{session_id}", json={"title": "Seen"})
                if "id: 2" in told:
                    break
        told = [line for line in told if line != "event: presence"]
        assert told[:5] == ["id: 0", "event: reset", "id: 1", "event: events", "event: synced"]


async def test_a_cursor_ahead_of_this_process_alone_is_no_other_history(
    database_url: str, tmp_path: Path
) -> None:
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        session_id = (await server.session())["id"]
        for title in ("one", "two"):
            await server.http.patch(f"/api/sessions/{session_id}", json={"title": title})
        services = server.wiring.services
        behind = hub.Channel(session_id, 1, services.read)
        async with contextlib.aclosing(
            follow(behind, hub.Watcher(), Cursor(after=2), services.read)
        ) as messages:
            assert orjson.loads(await anext(messages)) == {"type": "synced", "head": 2}
            behind.moved(3)
            told = orjson.loads(await asyncio.wait_for(anext(messages), 10))
            assert [event["seq"] for event in told["events"]] == [3]


@pytest.mark.parametrize("opened", [False, True])
async def test_a_binary_message_is_not_understood_and_no_fault(
    database_url: str, tmp_path: Path, opened: bool
) -> None:
    async with running_server(database_url, tmp_path, provider=_by_hand(tmp_path)) as server:
        session_id = (await server.session())["id"]
        with structlog.testing.capture_logs() as logged:
            async with contextlib.AsyncExitStack() as stack:
                if opened:
                    watching = await stack.enter_async_context(server.watch(session_id))
                    await watching.until_synced()
                    socket = watching.socket
                else:
                    address = server.url.replace("http", "ws", 1) + "/api/stream"
                    socket = await stack.enter_async_context(websockets.connect(address))
                await socket.send(b"\0\1")
                with pytest.raises(websockets.ConnectionClosed):
                    async with asyncio.timeout(10):
                        while True:
                            await socket.recv()
                assert socket.close_code == 4400
        assert [entry for entry in logged if entry["log_level"] == "error"] == []


async def test_a_ticket_works_once_and_for_one_session(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path) as server:
        session = await server.session()
        ticket = (await server.http.post(f"/api/sessions/{session['id']}/stream-ticket")).json()["ticket"]
        address = server.url.replace("http", "ws", 1) + "/api/stream"

        async def use(opening: object) -> int | None:
            async with websockets.connect(address) as socket:
                await socket.send(opening if isinstance(opening, str) else orjson.dumps(opening).decode())
                try:
                    while orjson.loads(await asyncio.wait_for(socket.recv(), 10))["type"] != "synced":
                        pass
                except websockets.ConnectionClosed:
                    return socket.close_code
                return None

        assert await use({"type": "open", "ticket": ticket}) is None
        assert await use({"type": "open", "ticket": ticket}) == 4401
        assert await use({"type": "open", "ticket": "made up"}) == 4401
        for rubbish in ("", "{", '{"type":"ping"}', "x" * 20_000):
            assert await use(rubbish) == 4400


async def test_server_sent_events_resume_by_their_id(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path) as server:
        session = await server.session("say hello")
        await server.until_status(session["id"], session["prompts"][0]["id"], "completed")
        head = (await server.get(f"/sessions/{session['id']}"))["head"]

        async def read(**headers: str) -> list[int]:
            seqs: list[int] = []
            async with server.http.stream(
                "GET", f"/api/sessions/{session['id']}/stream", headers=headers
            ) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("data: "):
                        message = orjson.loads(line[6:])
                        if message["type"] == "synced":
                            return seqs
                        seqs += [event["seq"] for event in message.get("events", [])]
            return seqs

        assert await read() == list(range(1, head + 1))
        assert await read(**{"last-event-id": str(head - 2)}) == [head - 1, head]


@contextlib.asynccontextmanager
async def _events(client: httpx2.AsyncClient, session_id: str) -> AsyncIterator[AsyncIterator[str]]:
    """The lines of a session's server-sent events, once they are up to date."""
    async with client.stream("GET", f"/api/sessions/{session_id}/stream") as answer:
        lines = answer.aiter_lines()
        async for line in lines:
            if line == "event: synced":
                break
        yield lines


async def _end_of(lines: AsyncIterator[str]) -> list[str]:
    async with asyncio.timeout(10):
        return [line async for line in lines if line.startswith(("event: closed", 'data: {"code"'))]


@pytest.mark.parametrize("ending", ["disabled", "token revoked", "signed out", "demoted"])
async def test_a_stream_ends_with_the_credential_that_opened_it(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(stream_routes, "PING_SECONDS", 0.2)
    async with running_server(database_url, tmp_path, jobs=False) as server:
        session_id = (await server.session())["id"]
        async with server.wiring.engine.begin() as connection:
            user = await people.add(
                connection, "Somebody", f"{ending.replace(' ', '-')}@example.com", "member"
            )
            link, _ = await credentials.make_signin_link(connection, user.id)
            scopes = ["tokens.manage", "sessions.read" if ending != "demoted" else "*"]
            secret, token = await credentials.make_token(connection, user.id, "test", scopes, None)
        async with httpx2.AsyncClient(base_url=server.url, headers={"x-openinspect": "1"}) as client:
            if ending == "signed out":
                assert (await client.post("/api/signin", json={"token": link})).status_code == 200
            else:
                client.headers["authorization"] = f"Bearer {secret}"
            theirs = server._replace(http=client)
            async with theirs.watch(session_id) as watching, _events(client, session_id) as lines:
                await watching.until_synced()
                await asyncio.sleep(0.5)  # while the credential is good, looking at it ends nothing
                if ending == "token revoked":
                    answer = await client.delete(f"/api/tokens/{token['id']}")
                elif ending == "signed out":
                    answer = await client.post("/api/signout")
                elif ending == "disabled":
                    answer = await server.http.patch(f"/api/users/{user.id}", json={"disabled": True})
                else:
                    async with server.wiring.engine.begin() as connection:
                        await connection.exec_driver_sql(
                            "UPDATE api_tokens SET scopes = '{models.read}' WHERE id = %(id)s",
                            {"id": token["id"]},
                        )
                    answer = None
                assert answer is None or answer.is_success, answer.text
                with pytest.raises(websockets.ConnectionClosed):
                    while True:
                        await watching.next()
                assert watching.socket.close_code == 4401
                assert (await _end_of(lines))[0] == "event: closed"


async def test_watchers_of_a_deleted_session_are_told_so(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path, jobs=False) as server:
        session_id = (await server.session())["id"]
        async with server.watch(session_id) as watching, _events(server.http, session_id) as lines:
            await watching.until_synced()
            assert (await server.http.delete(f"/api/sessions/{session_id}")).status_code == 202
            with pytest.raises(websockets.ConnectionClosed):
                while True:
                    await watching.next()
            assert watching.socket.close_code == 4404
            assert (await _end_of(lines))[1].startswith('data: {"code":4404')
            # the server's task may still be at its end
            for _ in range(500):
                if not server.wiring.services.hub.watched():
                    break
                await asyncio.sleep(0.01)
            assert server.wiring.services.hub.watched() == []


async def test_a_stream_that_nobody_reads_holds_nothing(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path, jobs=False) as server:
        session_id = (await server.session())["id"]
        services = server.wiring.services
        async with services.reader.connect() as connection:
            principal = await credentials.by_token(connection, server.token)
        assert principal is not None
        answer = await stream_routes.stream_events(session_id, principal, services)
        assert services.hub.watched() == []
        begun = aiter(answer.body_iterator)
        await anext(begun)
        assert services.hub.watched() == [session_id]
        await begun.aclose()  # type: ignore[attr-defined]
        assert services.hub.watched() == []


async def test_one_person_has_so_many_streams_and_no_more(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path, jobs=False, max_streams_per_person=2) as server:
        session_id = (await server.session())["id"]
        ticket = (await server.http.post(f"/api/sessions/{session_id}/stream-ticket")).json()["ticket"]
        address = server.url.replace("http", "ws", 1) + "/api/stream"
        async with _events(server.http, session_id), server.watch(session_id) as watching:
            await watching.until_synced()
            for refused in (
                await server.http.get(f"/api/sessions/{session_id}/stream"),
                await server.http.post(f"/api/sessions/{session_id}/stream-ticket"),
            ):
                assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_streams")
                assert refused.json()["error"]["remedy"]
            async with websockets.connect(address) as socket:
                await socket.send(orjson.dumps({"type": "open", "ticket": ticket}).decode())
                with pytest.raises(websockets.ConnectionClosed):
                    await asyncio.wait_for(socket.recv(), 10)
                assert socket.close_code == 4429
            async with server.wiring.engine.begin() as connection:
                user = await people.add(connection, "Lee", "lee@example.com", "viewer")
                secret, _ = await credentials.make_token(connection, user.id, "test", ["*"], None)
            headers = {"authorization": f"Bearer {secret}"}
            async with (
                httpx2.AsyncClient(base_url=server.url, headers=headers) as theirs,
                _events(theirs, session_id),
            ):
                pass
        for _ in range(500):
            if not server.wiring.services.places.open:
                break
            await asyncio.sleep(0.01)
        assert server.wiring.services.places.open == {}
        async with _events(server.http, session_id):
            pass


async def test_a_defect_of_the_stream_is_logged_and_closes_it(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defective(*_: object) -> AsyncIterator[bytes]:
        raise RuntimeError("a defect")

    monkeypatch.setattr(stream_routes, "follow", defective)
    async with running_server(database_url, tmp_path, jobs=False) as server:
        session_id = (await server.session())["id"]
        with structlog.testing.capture_logs() as logged:
            async with server.watch(session_id) as watching:
                with pytest.raises(websockets.ConnectionClosed):
                    while True:
                        await watching.next()
        assert watching.socket.close_code == 1011
        assert [entry["log_level"] for entry in logged if entry["event"] == "stream.failed"] == ["error"]
