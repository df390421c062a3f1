"""The model server's HTTP side: the providers' own APIs, played from a script.

| path | what |
|---|---|
| `POST /anthropic/v1/messages` | Anthropic Messages |
| `POST /openai/v1/chat/completions`, `/openai/v1/responses` | OpenAI |
| `POST /opencode/v1/messages`, `…/chat/completions`, `…/responses` | all three, as OpenCode Zen offers them |
| `GET …/v1/models` | the models of the script |
| `GET /_scripted/requests?after=N`, `/_scripted/counters`, `/_scripted/health` | what reached the model |
| `DELETE /_scripted/requests` | forget them |

Every response carries `x-scripted-model: 1`. A key is asked for only when one is set; then any other is refused with
401. Requests above 32 MiB are refused with 413.
Streams are paced by the script; when the client leaves, the stream ends at once and the record says `left`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openinspect.testing.answer import Answer, Breakdown, Cut, Pause, Refusal, count
from openinspect.testing.conversation import BadRequest
from openinspect.testing.dialects import Dialect, Frame
from openinspect.testing.dialects.anthropic import Anthropic
from openinspect.testing.dialects.openai_chat import OpenAIChat
from openinspect.testing.dialects.openai_responses import OpenAIResponses
from openinspect.testing.director import Attempts, direct
from openinspect.testing.recorder import Outcome, Record, Recorder
from openinspect.testing.script import Script

MAX_BODY = 32 * 1024 * 1024
FLUSH_BYTES = 16 * 1024

_DIALECTS: dict[str, Dialect] = {
    "messages": Anthropic(),
    "chat/completions": OpenAIChat(),
    "responses": OpenAIResponses(),
}
_FAMILIES = {"messages": "anthropic", "chat/completions": "chat", "responses": "responses"}
_MOUNTS = {
    "anthropic": ("messages",),
    "openai": ("chat/completions", "responses"),
    "opencode": ("messages", "chat/completions", "responses"),
}
_MODELS = {
    "anthropic": [
        "claude-haiku-4-5",
        "claude-sonnet-4-5",
        "claude-sonnet-4-6",
        "claude-opus-4-5",
        "claude-opus-4-6",
    ],
    "openai": ["gpt-5.2", "gpt-5.4", "gpt-5.2-codex", "gpt-5.3-codex", "gpt-5.3-codex-spark"],
    "opencode": ["kimi-k2.5", "minimax-m2.5", "glm-5"],
}


class ModelServer:
    """One script on the air. `app` is the ASGI application, `recorder` what reached it."""

    def __init__(self, script: Script, *, delay_ms: float | None = None, key: str | None = None) -> None:
        self.script = script
        self.recorder = Recorder()
        self._delay_ms = delay_ms
        self._key = key
        self._attempts = Attempts()
        routes = [
            Route("/_scripted/requests", self._requests, methods=["GET", "DELETE"]),
            Route("/_scripted/counters", self._counters),
            Route("/_scripted/health", self._health),
        ]
        for mount, paths in _MOUNTS.items():
            routes.append(Route(f"/{mount}/v1/models", self._models))
            routes += [Route(f"/{mount}/v1/{path}", self._generate, methods=["POST"]) for path in paths]
        self.app: ASGIApp = _marked(Starlette(routes=routes))

    async def _generate(self, request: Request) -> Response:
        name = request.url.path.split("/v1/", 1)[1]
        dialect = _DIALECTS[name]
        headers = dict(request.headers)
        record = self.recorder.begin(request.url.path, _FAMILIES[name], headers)

        def refuse(refusal: Refusal) -> Response:
            self.recorder.end(record, refusal.status, "refused")
            body = dialect.error(refusal.status, refusal.message)
            waits = {} if refusal.retry_after is None else {"retry-after": f"{refusal.retry_after:g}"}
            return JSONResponse(body, refusal.status, waits)

        if not self._may(headers):
            return refuse(Refusal(401, "the API key is missing or not the one this server was started with"))
        try:
            raw = await _body(request)
        except BadRequest as error:
            return refuse(Refusal(413, str(error)))
        try:
            body = _parsed(raw)
            if not isinstance(body, dict):
                raise BadRequest("the body is not a JSON object")
            conversation = dialect.read(body, headers)
        except (ValueError, BadRequest, AttributeError, TypeError, RecursionError) as error:
            return refuse(Refusal(400, f"the request can't be read: {error}"))
        conversation.size = len(raw)
        self.recorder.understood(record, conversation, body)
        answer = direct(self.script, conversation, self._attempts, self._delay_ms)
        self.recorder.answered(record, answer)
        if answer.refusal is not None:
            return refuse(answer.refusal)
        counted = count(answer, conversation)
        if conversation.stream:
            frames = dialect.stream(answer, conversation, counted)
            return _Play(frames, "text/event-stream", self.recorder, record)
        broken = next((part for part in answer.parts if isinstance(part, Breakdown)), None)
        if broken is not None:
            return refuse(Refusal(500, broken.message))
        document = dialect.document(answer, conversation, counted)
        return _Play(_whole(answer, document), "application/json", self.recorder, record)

    def _may(self, headers: dict[str, str]) -> bool:
        if self._key is None:
            return True
        given = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        return hmac.compare_digest(given.encode(), self._key.encode())

    async def _models(self, request: Request) -> Response:
        mount = request.url.path.split("/")[1]
        names = self.script.models or _MODELS[mount]
        if mount == "anthropic":
            entries: list[dict[str, Any]] = [
                {"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"}
                for name in names
            ]
            ends = {"has_more": False, "first_id": names[0], "last_id": names[-1]}
            return JSONResponse({"data": entries, **ends})
        entries = [
            {"id": name, "object": "model", "created": 1767225600, "owned_by": "scripted"} for name in names
        ]
        return JSONResponse({"object": "list", "data": entries})

    async def _requests(self, request: Request) -> Response:
        if request.method == "DELETE":
            self.recorder.clear()
            return Response(status_code=204)
        after = request.query_params.get("after", "0")
        if not re.fullmatch(r"\d{1,12}", after):
            return JSONResponse({"error": "after must be a request's number"}, 400)
        return JSONResponse([record.model_dump() for record in self.recorder.records(int(after))])

    async def _counters(self, request: Request) -> Response:
        return JSONResponse(self.recorder.counters())

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"script": self.script.name, "ok": True})


class _Play(Response):
    """Sends frames at their pace; watches for the client leaving; drops the connection where a frame says so."""

    def __init__(self, frames: Iterator[Frame], media_type: str, recorder: Recorder, record: Record) -> None:
        super().__init__(status_code=200, media_type=media_type)
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-store"
        self._frames = frames
        self._recorder = recorder
        self._record = record

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        playing = asyncio.create_task(self._play(send))
        leaving = asyncio.create_task(_left(receive))
        outcome: Outcome = "left"
        try:
            await asyncio.wait({playing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if playing.done():
                outcome = playing.result()
        except OSError:
            outcome = "left"
        finally:
            for task in (playing, leaving):
                task.cancel()
            await asyncio.gather(playing, leaving, return_exceptions=True)
            self._recorder.end(self._record, 200, outcome)

    async def _play(self, send: Send) -> Outcome:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        due = time.monotonic()
        held = bytearray()

        async def flush() -> None:
            if held:
                await send({"type": "http.response.body", "body": bytes(held), "more_body": True})
                held.clear()
                # Sending need not wait for anything, and others want their turn as well.
                await asyncio.sleep(0)

        for frame in self._frames:
            if frame.delay_s:
                await flush()
                # Against a running clock: many small sleeps would add up to more than was asked for.
                due = max(due, time.monotonic() - 0.05) + frame.delay_s
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            if frame.cut:
                await flush()
                return "cut"
            held += frame.data
            if frame.delay_s or len(held) >= FLUSH_BYTES:
                await flush()
        await flush()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return "completed"


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _whole(answer: Answer, document: dict[str, Any]) -> Iterator[Frame]:
    body = json.dumps(document, ensure_ascii=False).encode()
    yield Frame(delay_s=sum(part.seconds for part in answer.parts if isinstance(part, Pause)))
    if any(isinstance(part, Cut) for part in answer.parts):
        yield Frame(body[: len(body) // 2])
        yield Frame(cut=True)
    yield Frame(body)


def _parsed(raw: bytes) -> Any:
    parsed = json.loads(raw)
    if b"\\ud" in raw.lower():
        # Half a surrogate pair is valid in JSON, but can't be said again in UTF-8.
        return json.loads(json.dumps(parsed, ensure_ascii=False).encode("utf-8", "replace"))
    return parsed


async def _body(request: Request) -> bytes:
    raw = bytearray()
    async for piece in request.stream():
        raw += piece
        if len(raw) > MAX_BODY:
            raise BadRequest(f"the request is larger than {MAX_BODY} bytes")
    return bytes(raw)


def _marked(app: ASGIApp) -> ASGIApp:
    async def marked(scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"x-scripted-model", b"1")]
            await send(message)

        await app(scope, receive, sending)

    return marked


# --- running it --------------------------------------------------------------------------------------------------


class Uvicorn(uvicorn.Server):
    """uvicorn that leaves the process's signal handlers alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(port: int) -> socket.socket:
    """A listening socket on the loopback; port 0 chooses one. Raises OSError when the port is taken."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", port))
        bound.listen(512)
    except OSError:
        bound.close()
        raise
    return bound


def _about_no_cut(record: logging.LogRecord) -> bool:
    return "returned without completing response" not in record.getMessage()


def uvicorn_for(app: ASGIApp) -> Uvicorn:
    """The server to run `app` with. Cut connections are on purpose, so nothing is logged about them."""
    logging.getLogger("uvicorn.error").addFilter(_about_no_cut)
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="error",
        interface="asgi3",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
        timeout_keep_alive=30,
        ws="none",
    )
    return Uvicorn(config)
