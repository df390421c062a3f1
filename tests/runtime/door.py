"""A door for tests: the bridge's other side as the protocol says it, git over HTTP, a way to the scripted model, attachments and diffs.

It holds the sandbox to the rules: numbers without a gap, nothing counted twice, deltas that fit onto each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from openinspect.protocol.commands import Command
from openinspect.protocol.config import agent_token
from openinspect.protocol.events import ReasoningPart, TextPart, sandbox_event
from openinspect.protocol.frames import (
    CommandFrame,
    Counted,
    Deltas,
    Events,
    Hello,
    Seen,
    Welcome,
    from_sandbox,
)

TOKEN = "oi_box_test"
AGENT_TOKEN = agent_token(TOKEN)


class Door:
    """``events`` are all that was counted, as (turn, event); ``parts`` the text of open parts as a watcher would have it."""

    def __init__(
        self, socket: Path, repositories: Path | None = None, models: dict[str, str] | None = None
    ) -> None:
        self.socket = socket
        self.repositories = repositories
        self.models = models or {}
        self.counted = 0
        self.events: list[tuple[str | None, Any]] = []
        self.bodies: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.parts: dict[str, str] = {}
        self.closed_parts: set[str] = set()
        self.delta_frames = 0
        self.hellos: list[Hello] = []
        self.beats: list[Any] = []
        self.diffs: dict[str, dict[str, Any]] = {}
        self.attachments: dict[str, tuple[str, bytes]] = {}
        self.mcp_requests: list[dict[str, Any]] = []
        self.git_headers: list[str | None] = []
        self.git_pause = 0.0
        self.model_requests: list[bytes] = []
        self.token: str | None = TOKEN
        self.counting = True
        self.drop_every: int | None = None
        """Drop the connection after so many messages."""
        self.commands: list[CommandFrame] = []
        self._commands_made = 0
        self._changed = asyncio.Event()
        self._command_wake = asyncio.Event()
        self._websocket: WebSocket | None = None
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._client = httpx2.AsyncClient(timeout=None, trust_env=False)

    async def __aenter__(self) -> Door:
        await self.up()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.down()
        await self._client.aclose()

    async def up(self) -> None:
        app = Starlette(
            routes=[
                WebSocketRoute("/bridge", self._bridge),
                Route("/bridge/attachments/{id}", self._attachment),
                Route("/bridge/diffs/{directory}", self._diff, methods=["PUT"]),
                Route("/git/{path:path}", self._git, methods=["GET", "POST"]),
                Route("/llm/{provider}/{path:path}", self._llm, methods=["POST"]),
                Route("/tools/mcp", self._mcp, methods=["GET", "POST", "DELETE"]),
            ]
        )
        config = uvicorn.Config(
            app,
            uds=str(self.socket),
            log_level="error",
            lifespan="off",
            ws="websockets-sansio",
            ws_max_size=4 << 20,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._task = asyncio.create_task(self._serve(self._server))
        while not self._server.started:  # noqa: ASYNC110 - uvicorn has nothing to wait for
            await asyncio.sleep(0.01)

    @staticmethod
    async def _serve(server: uvicorn.Server) -> None:
        # Without uvicorn's own signal handling.
        with contextlib.suppress(asyncio.CancelledError):
            await server._serve()

    async def down(self) -> None:
        assert self._server is not None and self._task is not None
        self._server.should_exit = True
        await self.drop()
        await asyncio.wait({self._task}, timeout=5)
        self._task.cancel()
        self.socket.unlink(missing_ok=True)

    async def drop(self) -> None:
        """Cut the bridge's connection off."""
        websocket, self._websocket = self._websocket, None
        if websocket is not None:
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await websocket.close(1012)

    # ── what a test does ──────────────────────────────────────────────────────────────────────────
    def command(self, command: Command) -> int:
        self._commands_made += 1
        self.commands.append(CommandFrame(n=self._commands_made, command=command))
        self._command_wake.set()
        return self._commands_made

    async def until(self, condition: Callable[[], Any], seconds: float = 60.0) -> Any:
        """Wait for something that follows from what comes in; fails with what came."""
        try:
            async with asyncio.timeout(seconds):
                while not (value := condition()):
                    if self.faults:
                        raise AssertionError(self.faults)
                    self._changed.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.1):
                            await self._changed.wait()
                return value
        except TimeoutError:
            heard = "\n".join(str(body)[:300] for body in self.bodies[-30:])
            raise AssertionError(
                f"it did not come about within {seconds} s; the last events:\n{heard}"
            ) from None

    def of(self, kind: str, turn: str | None = None) -> list[Any]:
        return [
            event
            for turn_id, event in self.events
            if event.kind == kind and (turn is None or turn_id == turn)
        ]

    async def ended(self, turn: str, seconds: float = 60.0) -> Any:
        return (await self.until(lambda: self.of("turn.ended", turn), seconds))[0]

    async def ready(self, seconds: float = 60.0) -> Any:
        found = await self.until(lambda: self.of("sandbox.ready") or self.of("sandbox.failed"), seconds)
        assert found[0].kind == "sandbox.ready", found[0]
        return found[0]

    # ── the bridge ────────────────────────────────────────────────────────────────────────────────
    async def _bridge(self, websocket: WebSocket) -> None:
        await websocket.accept()
        if self.token is None or websocket.headers.get("authorization") != f"Bearer {self.token}":
            await websocket.close(4401, "unknown token")
            return
        sending: asyncio.Task[None] | None = None
        try:
            hello = from_sandbox.validate_json(await websocket.receive_text())
            assert isinstance(hello, Hello)
            self.hellos.append(hello)
            self._websocket = websocket
            offsets: dict[str, int] = {}
            await websocket.send_text(
                Welcome(protocol=hello.protocol, counted=self.counted).model_dump_json()
            )
            self._saw(hello.commands_seen)
            sending = asyncio.create_task(self._send_commands(websocket, hello.commands_seen))
            messages = 0
            while True:
                frame = from_sandbox.validate_json(await websocket.receive_text())
                messages += 1
                if isinstance(frame, Events):
                    await self._count(websocket, frame)
                elif isinstance(frame, Deltas):
                    self._take_deltas(frame, offsets)
                elif isinstance(frame, Seen):
                    self._saw(frame.n)
                else:
                    self.beats.append(frame)
                self._changed.set()
                if self.drop_every is not None and messages >= self.drop_every:
                    await websocket.close(1012)
                    return
        except WebSocketDisconnect:
            return
        except (ValueError, AssertionError) as error:
            self.faults.append(f"{type(error).__name__}: {error}")
        finally:
            if sending is not None:
                sending.cancel()

    def _saw(self, n: int) -> None:
        self.commands = [each for each in self.commands if each.n > n]

    async def _send_commands(self, websocket: WebSocket, sent: int) -> None:
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            while True:
                self._command_wake.clear()
                for each in self.commands:
                    if each.n > sent:
                        await websocket.send_text(each.model_dump_json())
                        sent = each.n
                await self._command_wake.wait()

    async def _count(self, websocket: WebSocket, frame: Events) -> None:
        if not self.counting:
            return
        for number, record in enumerate(frame.records, frame.first):
            if number <= self.counted:
                continue
            if number != self.counted + 1:
                self.faults.append(f"number {number} came after {self.counted}")
            event = sandbox_event.validate_python(record.body)
            self.counted = number
            self.bodies.append(record.body)
            self.events.append((record.turn_id, event))
            if isinstance(event, TextPart | ReasoningPart):
                self.closed_parts.add(event.part_id)
                self.parts.pop(event.part_id, None)
        await websocket.send_text(Counted(n=self.counted).model_dump_json())

    def _take_deltas(self, frame: Deltas, offsets: dict[str, int]) -> None:
        self.delta_frames += 1
        for delta in frame.deltas:
            if delta.part_id in self.closed_parts:
                self.faults.append(f"a delta of {delta.part_id} came after its whole")
            if offsets.get(delta.part_id, 0) != delta.offset:
                self.faults.append(
                    f"{delta.part_id}: offset {delta.offset} where {offsets.get(delta.part_id, 0)} follows"
                )
            offsets[delta.part_id] = delta.offset + len(delta.text)
            known = self.parts.get(delta.part_id, "")
            overlap = known[delta.offset : offsets[delta.part_id]]
            if not delta.text.startswith(overlap):
                self.faults.append(f"{delta.part_id}: the text sent again is another one")
            self.parts[delta.part_id] = known[: delta.offset] + delta.text + known[offsets[delta.part_id] :]

    # ── the rest of the door ──────────────────────────────────────────────────────────────────────
    def _authorised(self, request: Request) -> bool:
        given = request.headers.get("authorization") or f"Bearer {request.headers.get('x-api-key')}"
        if self.token is None:
            return False
        runtimes = request.url.path.startswith("/bridge")
        return given == f"Bearer {self.token if runtimes else agent_token(self.token)}"

    async def _attachment(self, request: Request) -> Response:
        found = self.attachments.get(request.path_params["id"])
        if not self._authorised(request) or found is None:
            return Response(status_code=404)
        return Response(found[1], media_type=found[0])

    async def _diff(self, request: Request) -> Response:
        if not self._authorised(request):
            return Response(status_code=401)
        self.diffs[request.path_params["directory"]] = orjson.loads(await request.body())
        return Response(status_code=204)

    async def _llm(self, request: Request) -> Response:
        base = self.models.get(request.path_params["provider"])
        if not self._authorised(request) or base is None:
            return JSONResponse({"error": {"message": "no such provider"}}, 401)
        path = request.path_params["path"].removeprefix("v1/")
        keep = {
            k: v for k, v in request.headers.items() if k not in ("host", "content-length", "accept-encoding")
        }
        body = await request.body()
        self.model_requests = [*self.model_requests[-5:], body]
        upstream = self._client.build_request("POST", f"{base}/{path}", headers=keep, content=body)
        answer = await self._client.send(upstream, stream=True)

        async def stream() -> AsyncIterator[bytes]:
            try:
                async for block in answer.aiter_raw():
                    yield block
            except httpx2.HTTPError:
                return
            finally:
                await answer.aclose()

        drop = ("content-length", "transfer-encoding", "connection")
        headers = {k: v for k, v in answer.headers.items() if k.lower() not in drop}
        return StreamingResponse(stream(), answer.status_code, headers)

    async def _mcp(self, request: Request) -> Response:
        """Just enough of a tool server: one tool, ``greet``."""
        if not self._authorised(request):
            return Response(status_code=401)
        if request.method != "POST":
            return Response(status_code=405)
        message = orjson.loads(await request.body())
        self.mcp_requests.append(message)
        match message.get("method"):
            case "initialize":
                result: Any = {
                    "protocolVersion": message["params"]["protocolVersion"],
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "test", "version": "1"},
                }
            case "tools/list":
                schema = {"type": "object", "properties": {"name": {"type": "string"}}}
                result = {"tools": [{"name": "greet", "description": "Greets.", "inputSchema": schema}]}
            case "tools/call":
                name = message["params"].get("arguments", {}).get("name")
                result = {"content": [{"type": "text", "text": f"Hello {name}"}]}
            case _:
                return Response(status_code=202)
        return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "result": result})

    async def _git(self, request: Request) -> Response:
        self.git_headers.append(request.headers.get("authorization"))
        await asyncio.sleep(self.git_pause)
        if not self._authorised(request) or self.repositories is None:
            return Response("no", 401)
        process = await asyncio.create_subprocess_exec(
            *("git", "http-backend"),
            env={
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(self.repositories),
                "GIT_HTTP_EXPORT_ALL": "1",
                "REMOTE_USER": "sandbox",
                "REQUEST_METHOD": request.method,
                "QUERY_STRING": request.url.query,
                "CONTENT_TYPE": request.headers.get("content-type", ""),
                "HTTP_CONTENT_ENCODING": request.headers.get("content-encoding", ""),
                "PATH_INFO": "/" + request.path_params["path"],
                **({"GIT_PROTOCOL": p} if (p := request.headers.get("git-protocol")) else {}),
                "GIT_CONFIG_COUNT": "2",
                "GIT_CONFIG_KEY_0": "http.receivepack",
                "GIT_CONFIG_VALUE_0": "true",
                "GIT_CONFIG_KEY_1": "safe.directory",
                "GIT_CONFIG_VALUE_1": "*",
            },
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate(await request.body())
        head, _, body = output.partition(b"\r\n\r\n")
        status, headers = 200, {}
        for entry in head.decode().split("\r\n"):
            name, _, value = entry.partition(": ")
            if name == "Status":
                status = int(value[:3])
            else:
                headers[name] = value
        return Response(body, status, headers)
