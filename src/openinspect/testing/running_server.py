"""A whole server for tests and measurements, in this process: real database, real sockets, real jobs; the sandboxes are doubles unless told otherwise."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import orjson
import websockets

from openinspect import app
from openinspect.identity import credentials, people
from openinspect.sandboxes.provider import SandboxProvider
from openinspect.serving import SOCKET_NAME, listen_door, listen_tcp, run
from openinspect.settings import Settings

from .sandbox_double import DoubleProvider


class Watching:
    """One watcher of a session over the WebSocket, which checks what it is told: no gap, no duplicate."""

    def __init__(self, socket: websockets.ClientConnection, after: int) -> None:
        self.socket = socket
        self.seq = after
        self.events: list[dict[str, Any]] = []
        self.parts: dict[str, str] = {}
        self.people: list[dict[str, Any]] = []
        self.synced: int | None = None

    async def next(self, seconds: float = 10) -> dict[str, Any]:
        message = orjson.loads(await asyncio.wait_for(self.socket.recv(), seconds))
        if message["type"] == "events":
            for event in message["events"]:
                if event["seq"] != self.seq + 1:
                    raise AssertionError(f"event {event['seq']} came after {self.seq}")
                self.seq = event["seq"]
                self.events.append(event)
                self.parts.pop(event["body"].get("part_id", ""), None)
        elif message["type"] == "deltas":
            for delta in message["deltas"]:
                have = self.parts.get(delta["part_id"], "")
                if delta["offset"] > len(have):
                    raise AssertionError(
                        f"a delta at {delta['offset']} came when {len(have)} characters were there"
                    )
                self.parts[delta["part_id"]] = have[: delta["offset"]] + delta["text"]
        elif message["type"] == "presence":
            self.people = message["people"]
        elif message["type"] == "synced":
            self.synced = message["head"]
        return message

    async def until(self, kind: str, seconds: float = 10) -> dict[str, Any]:
        """Read on until an event of this kind; gives its body. One that came already counts."""
        checked = 0
        async with asyncio.timeout(seconds):
            while True:
                for event in self.events[checked:]:
                    if event["body"]["kind"] == kind:
                        return event["body"]
                checked = len(self.events)
                await self.next(seconds)

    async def until_synced(self, seconds: float = 10) -> None:
        async with asyncio.timeout(seconds):
            while self.synced is None:
                await self.next(seconds)


class RunningServer(NamedTuple):
    wiring: app.Wiring
    url: str
    door: Path
    owner: people.User
    token: str
    http: httpx2.AsyncClient
    """With the owner's token."""
    provider: Any

    async def session(self, prompt: str | None = None, **body: Any) -> dict[str, Any]:
        if prompt is not None:
            body["prompt"] = {"text": prompt}
        answer = await self.http.post("/api/sessions", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def get(self, path: str, **params: Any) -> Any:
        answer = await self.http.get(f"/api{path}", params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def until_status(
        self, session_id: str, prompt_id: str, status: str, seconds: float = 20
    ) -> dict[str, Any]:
        """Wait until a prompt has this status; gives the session."""
        async with asyncio.timeout(seconds):
            while True:
                session = await self.get(f"/sessions/{session_id}")
                found = next((one for one in session["prompts"] if one["id"] == prompt_id), None)
                if found is not None and found["status"] == status:
                    return session
                await asyncio.sleep(0.02)

    @contextlib.asynccontextmanager
    async def watch(
        self, session_id: str, after: int = 0, parts: dict[str, int] | None = None
    ) -> AsyncIterator[Watching]:
        ticket = (await self.http.post(f"/api/sessions/{session_id}/stream-ticket")).json()["ticket"]
        address = self.url.replace("http", "ws", 1) + "/api/stream"
        async with websockets.connect(address, max_size=16 * 1024 * 1024, compression=None) as socket:
            opened = {"type": "open", "ticket": ticket, "cursor": {"after": after, "parts": parts or {}}}
            await socket.send(orjson.dumps(opened).decode())
            yield Watching(socket, after)


@contextlib.asynccontextmanager
async def running_server(
    database_url: str,
    folder: Path,
    *,
    provider: SandboxProvider | None = None,
    jobs: bool = True,
    **settings: Any,
) -> AsyncIterator[RunningServer]:
    """``settings`` are fields of ``Settings``. Models are answered by nobody unless ``scripted_model_url`` is given."""
    values: dict[str, Any] = {
        "data_dir": folder,
        "port": 0,
        "scripted_model_url": "http://127.0.0.1:9",
        "anthropic_api_key": None,
        "openai_api_key": None,
        "opencode_api_key": None,
        **settings,
    }
    tcp = listen_tcp("127.0.0.1", 0)
    url = f"http://127.0.0.1:{tcp.getsockname()[1]}"
    chosen = Settings.model_validate(values).model_copy(update={"public_url": url})
    app.prepare_data_dir(chosen)
    door = listen_door(chosen.door_dir)
    socket_path = chosen.door_dir / SOCKET_NAME
    provider = provider or DoubleProvider(socket_path)
    wiring = app.wire(chosen, database_url, provider)
    await wiring.services.forge.start()
    async with wiring.engine.begin() as connection:
        owner = await people.ensure_owner(connection, "Test Owner", "owner@example.com")
        token, _ = await credentials.make_token(connection, owner.id, "test", ["*"], None)
    stop, ready = asyncio.Event(), asyncio.Event()
    background = [asyncio.create_task(wiring.background())]
    if jobs:
        background.append(asyncio.create_task(wiring.work()))
    servers = asyncio.create_task(run(wiring.page, wiring.door, tcp, door, stop, [], ready))
    try:
        async with asyncio.timeout(20):
            await ready.wait()
        async with httpx2.AsyncClient(
            base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=30
        ) as http:
            yield RunningServer(wiring, url, socket_path, owner, token, http, provider)
    finally:
        stop.set()
        wiring.services.hub.close_all()
        for box_id in await provider.list_boxes():
            await provider.release(box_id, None)
        await asyncio.gather(servers, return_exceptions=True)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await wiring.aclose()
        tcp.close()
        door.close()
