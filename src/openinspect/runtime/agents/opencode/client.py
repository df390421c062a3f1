"""OpenCode's HTTP API and event stream, typed: the few calls that are needed.

Every call has a time; ``ServerGone`` means that the process can't be reached, ``Unanswered`` that it took too long, ``Refused`` that it answered
with an error. Fields that are not ours to know are left out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import httpx2
import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from openinspect.runtime.wording import clean_tree

CALL_SECONDS = 20.0
FIRST_CALL_SECONDS = 120.0
"""The first calls of an instance boot it: plugins, tool servers."""
_MAX_EVENT_BYTES = 64 * 1024 * 1024


class ServerGone(Exception):
    """The server can't be reached."""


class Unanswered(ServerGone):
    """The server did not answer in time. A busy machine may be the cause as well as a process that hangs."""


class Refused(Exception):
    """The server answered with an error status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"OpenCode answered {status}: {text[:500]}")
        self.status = status
        self.text = text


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Times(_Part):
    start: float | None = None
    end: float | None = None
    created: float | None = None
    completed: float | None = None


class Tokens(_Part):
    class Cache(_Part):
        read: float = 0
        write: float = 0

    input: float = 0
    output: float = 0
    reasoning: float = 0
    cache: Cache = Cache()


class ErrorInfo(_Part):
    name: str = "UnknownError"
    data: dict[str, Any] = {}


class MessageInfo(_Part):
    id: str
    sessionID: str
    role: Literal["user", "assistant"]
    time: Times = Times()
    error: ErrorInfo | None = None
    finish: str | None = None
    summary: Any = None
    modelID: str = ""
    providerID: str = ""


class _InMessage(_Part):
    id: str
    messageID: str
    sessionID: str


class TextPiece(_InMessage):
    type: Literal["text"]
    text: str
    synthetic: bool = False
    ignored: bool = False
    time: Times | None = None


class ReasoningPiece(_InMessage):
    type: Literal["reasoning"]
    text: str
    time: Times | None = None


class ToolState(_Part):
    status: Literal["pending", "running", "completed", "error"]
    input: dict[str, Any] = {}
    output: str = ""
    error: str = ""
    title: str | None = None
    metadata: dict[str, Any] | None = None
    time: Times = Times()


class ToolPiece(_InMessage):
    type: Literal["tool"]
    tool: str
    callID: str = ""
    state: ToolState


class StepFinishPiece(_InMessage):
    type: Literal["step-finish"]
    reason: str = ""
    tokens: Tokens = Tokens()


class CompactionPiece(_InMessage):
    type: Literal["compaction"]


Piece = Annotated[
    TextPiece | ReasoningPiece | ToolPiece | StepFinishPiece | CompactionPiece, Field(discriminator="type")
]
_PIECES = {"text", "reasoning", "tool", "step-finish", "compaction"}
_piece = TypeAdapter[Piece](Piece)


def piece(value: dict[str, Any]) -> Piece | None:
    """A part of a message, or None for kinds that say nothing to us."""
    return _piece.validate_python(value) if value.get("type") in _PIECES else None


class MessageWithParts(_Part):
    info: MessageInfo
    parts: list[dict[str, Any]] = []


class QuestionOptionInfo(_Part):
    label: str
    description: str = ""


class QuestionInfo(_Part):
    question: str
    header: str = ""
    options: list[QuestionOptionInfo] = []
    multiple: bool = False


class QuestionRequest(_Part):
    id: str
    sessionID: str
    questions: list[QuestionInfo]


class SessionInfo(_Part):
    id: str
    parentID: str | None = None
    title: str = ""
    time: dict[str, float] = {}


class StatusInfo(_Part):
    type: str
    attempt: int = 0
    message: str = ""
    next: float = 0
    """Milliseconds since 1970."""


def parse_json(data: bytes) -> Any:
    """JSON as OpenCode writes it, in which a half of a surrogate pair may stand alone."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return clean_tree(json.loads(data))


class Client:
    def __init__(self, url: str, password: str, seconds: float = CALL_SECONDS) -> None:
        """``seconds``: for calls that have no time of their own."""
        self._seconds = seconds
        self._http = httpx2.AsyncClient(
            base_url=url,
            auth=("opencode", password),
            timeout=seconds,
            limits=httpx2.Limits(max_connections=20),
            trust_env=False,
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def call(
        self,
        method: str,
        path: str,
        directory: str | None,
        body: Any = None,
        seconds: float | None = None,
        **query: Any,
    ) -> Any:
        """One request; gives the JSON of the answer. Raises ``ServerGone``, ``Unanswered``, ``Refused``."""
        seconds = self._seconds if seconds is None else seconds
        if directory is not None:
            query["directory"] = directory
        try:
            async with asyncio.timeout(seconds):
                answer = await self._http.request(
                    method,
                    path,
                    params=query,
                    content=None if body is None else orjson.dumps(body),
                    headers={} if body is None else {"content-type": "application/json"},
                    timeout=seconds,
                )
        except (httpx2.TimeoutException, TimeoutError) as error:
            raise Unanswered(f"no answer within {seconds:.0f} s") from error
        except (
            httpx2.HTTPError,
            RuntimeError,
        ) as error:  # a RuntimeError: the client was closed under the call
            raise ServerGone(str(error) or type(error).__name__) from error
        if answer.status_code >= 400:
            raise Refused(answer.status_code, answer.text)
        return parse_json(answer.content) if answer.content and answer.status_code != 204 else None

    async def version(self) -> str:
        health = await self.call("GET", "/global/health", None, None, FIRST_CALL_SECONDS)
        return str(health.get("version", "unknown"))

    async def create_session(self, directory: str, title: str) -> str:
        made = await self.call("POST", "/session", directory, {"title": title}, FIRST_CALL_SECONDS)
        return SessionInfo.model_validate(made).id

    async def session_exists(self, directory: str, session: str) -> bool:
        try:
            await self.call("GET", f"/session/{session}", directory, None, FIRST_CALL_SECONDS)
        except Refused as refused:
            if refused.status in (400, 404):
                return False
            raise
        return True

    async def delete_session(self, directory: str, session: str) -> None:
        await self.call("DELETE", f"/session/{session}", directory)

    async def prompt(self, directory: str, session: str, body: dict[str, Any]) -> None:
        await self.call("POST", f"/session/{session}/prompt_async", directory, body, FIRST_CALL_SECONDS)

    async def messages(
        self, directory: str, session: str, limit: int, seconds: float | None = None
    ) -> list[MessageWithParts]:
        """The newest ones, oldest first."""
        found = await self.call("GET", f"/session/{session}/message", directory, None, seconds, limit=limit)
        return [MessageWithParts.model_validate(each) for each in found]

    async def message(self, directory: str, session: str, message: str) -> MessageWithParts | None:
        try:
            found = await self.call("GET", f"/session/{session}/message/{message}", directory)
        except Refused as refused:
            if refused.status in (400, 404):
                return None
            raise
        return MessageWithParts.model_validate(found)

    async def status(self, directory: str, session: str, seconds: float | None = None) -> StatusInfo:
        found = await self.call("GET", "/session/status", directory, None, seconds)
        return StatusInfo.model_validate(found.get(session, {"type": "idle"}))

    async def abort(self, directory: str, session: str, seconds: float) -> None:
        await self.call("POST", f"/session/{session}/abort", directory, None, seconds)

    async def questions(self, directory: str) -> list[QuestionRequest]:
        return [
            QuestionRequest.model_validate(each) for each in await self.call("GET", "/question", directory)
        ]

    async def answer_question(self, directory: str, question: str, answers: list[list[str]]) -> None:
        await self.call("POST", f"/question/{question}/reply", directory, {"answers": answers})

    async def permissions(self, directory: str) -> list[str]:
        return [str(each["id"]) for each in await self.call("GET", "/permission", directory)]

    async def allow(self, directory: str, permission: str) -> None:
        await self.call("POST", f"/permission/{permission}/reply", directory, {"reply": "once"})

    async def dispose(self, directory: str) -> None:
        """Forget the instance of a directory: the next call reads its configuration anew."""
        await self.call("POST", "/instance/dispose", directory)

    async def connect_tools(self, directory: str, name: str) -> None:
        """Connect a tool server that is not connected."""
        servers = await self.call("GET", "/mcp", directory, None, FIRST_CALL_SECONDS)
        if (servers.get(name) or {}).get("status") != "connected":
            await self.call("POST", f"/mcp/{name}/connect", directory, None, FIRST_CALL_SECONDS)

    async def events(self) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Type and properties of every event of the server, until the stream ends. Raises ``ServerGone``."""
        try:
            async with self._http.stream(
                "GET", "/global/event", timeout=httpx2.Timeout(10.0, read=None)
            ) as answer:
                if answer.status_code != 200:
                    raise ServerGone(f"the event stream answered {answer.status_code}")
                pending = bytearray()
                async for block in answer.aiter_raw():
                    pending += block
                    start = 0
                    while (end := pending.find(b"\n", start)) >= 0:
                        if pending.startswith(b"data:", start):
                            event = parse_json(bytes(pending[start + 5 : end])).get("payload", {})
                            yield str(event.get("type", "")), event.get("properties") or {}
                        start = end + 1
                    del pending[:start]
                    if len(pending) > _MAX_EVENT_BYTES:
                        raise ServerGone("an event of the stream is too long")
        except (httpx2.HTTPError, RuntimeError) as error:
            raise ServerGone(str(error) or type(error).__name__) from error
