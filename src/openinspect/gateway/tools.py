"""The tools' door: an MCP server at ``/tools/mcp`` (streamable HTTP, stateless, answers in JSON), with the tools that reach outside of the sandbox.

Today that is ``create_pull_request``. The caller is known by the sandbox's bearer token; what a tool does, it does as the author of the prompt
that is running, and not at all while none is. What comes from the agent is hostile: lengths are bounded, unknown parameters refused, characters
that could disguise a text removed. Doing a thing twice updates what the first time made.

Whatever goes wrong with a tool is an answer to the agent (``isError``) with what to do about it: ``ProblemError`` and ``ForgeError`` say so
themselves; anything else is logged here and told without details. 401 without a valid token, 404 beside the path, 405 for what is not POST (there
are no streams to listen to).

Bounds: ``calls_of_turn`` calls of a tool while one prompt runs (counted in this process), ``seconds`` for one call, 1 MiB for a request (413), which has to
come within ``body_seconds`` (408).
The MCP library takes a second or two to import: that happens at the first request, or by ``warm``.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, Protocol, TypeVar

import structlog
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from openinspect.forges.errors import BranchNotFound, ForgeError, NothingToPropose
from openinspect.problems import ProblemError, SignInNeeded

if TYPE_CHECKING:
    import mcp_types
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

log = structlog.get_logger(__name__)

MAX_TITLE = 256
MAX_BODY = 65_536
_MAX_REQUEST_BYTES = 1024 * 1024
_REMEMBERED_TURNS = 10_000
_GRANT = "openinspect.grant"
_PUSH_FIRST = (
    "If that is the branch of your work: commit, push it with `git push -u origin HEAD`, and call this again."
)
# Marks that change the direction of text, and so could make a title read otherwise than it is.
_DISGUISES = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0xFEFF])
_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029])
_LINES = {0x0A: 0x0A, 0x09: 0x09}


class Granted(Protocol):
    """Who stands at the door; ``grants.SandboxGrant`` is one."""

    @property
    def session_id(self) -> str: ...
    @property
    def prompt_id(self) -> str | None:
        """Of the prompt that is running; None: nothing may be done."""
        ...


def _one_line(value: str) -> str:
    return " ".join(_sound(value).translate(_DISGUISES | dict.fromkeys(_CONTROLS, " ")).split())


def _lines(value: str) -> str:
    text = _sound(value).replace("\r\n", "\n").replace("\r", "\n")
    return text.translate(_DISGUISES | _CONTROLS | _LINES).rstrip()


def _sound(value: str) -> str:
    # Half a surrogate pair can't be stored.
    return value.encode("utf-8", "replace").decode("utf-8")


def _not_empty(value: str) -> str:
    if not value:
        raise ValueError("must not be empty")
    return value


class PullRequestWanted(BaseModel):
    """What the agent asks for, cleaned."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: Annotated[
        str,
        AfterValidator(_one_line),
        AfterValidator(_not_empty),
        Field(max_length=MAX_TITLE, description="One line that says what changes."),
    ]
    body: Annotated[
        str,
        AfterValidator(_lines),
        Field(
            max_length=MAX_BODY,
            description="Markdown: what was changed and why, and how it was tested.",
        ),
    ] = ""
    base: Annotated[
        str | None,
        Field(
            max_length=255,
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._/+@=-]*$",
            description="Branch to merge into. Leave it out for the branch that the session began from.",
        ),
    ] = None
    draft: Annotated[bool, Field(description="Open it as a draft.")] = False
    repository: Annotated[
        str | None,
        Field(
            max_length=200,
            description="The repository's folder name. Needed only when the session has several.",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class PullRequestMade:
    """What the agent is told about it."""

    number: int
    url: str
    created: bool
    """False: it was open already, and has been updated."""
    repository: str
    title: str
    head: str
    base: str
    draft: bool


G = TypeVar("G", bound=Granted)
Authorise = Callable[[str], Awaitable[G | None]]
"""Of the caller's token; None, or ``SignInNeeded`` raised, when it is unknown or revoked."""
CreatePullRequest = Callable[[G, PullRequestWanted], Awaitable[PullRequestMade]]
"""Opens or updates it, as the author of the running prompt. Raises ``ProblemError`` or ``ForgeError`` with a remedy for the agent."""


@dataclass(frozen=True)
class Limits:
    calls_of_turn: int = 10
    seconds: float = 60
    body_seconds: float = 15


class ToolsDoor(Generic[G]):
    """The ASGI app to be mounted at ``/tools``. ``aclose`` it at the end."""

    def __init__(
        self,
        *,
        authorise: Authorise[G],
        create_pull_request: CreatePullRequest[G],
        limits: Limits | None = None,
    ) -> None:
        self._authorise = authorise
        self._create_pull_request = create_pull_request
        self.limits = limits or Limits()
        self._used: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._starting = asyncio.Lock()
        self._manager: StreamableHTTPSessionManager | None = None
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def warm(self) -> None:
        """Import and start the MCP server now, so that the first agent does not wait for it."""
        async with self._starting:
            if self._manager is not None or self._stop.is_set():
                return
            await asyncio.to_thread(_import)
            manager = self._make()
            started = asyncio.Event()
            self._running = asyncio.create_task(self._run(manager, started))
            await started.wait()
            self._manager = manager

    async def aclose(self) -> None:
        self._stop.set()
        if self._running is not None:
            await asyncio.gather(self._running, return_exceptions=True)
        self._manager = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path.rstrip("/") != "/mcp":
            await _problem(404, "not_found", "The tools are at /tools/mcp.")(scope, receive, send)
            return
        if scope["method"] != "POST":
            answer = _problem(405, "method_not_allowed", "This server answers to POST; it has no streams.")
            answer.headers["allow"] = "POST"
            await answer(scope, receive, send)
            return
        grant = await self._grant(scope)
        if grant is None:
            unknown = "This sandbox's token is unknown, or its sandbox has ended."
            await _problem(401, "token_invalid", unknown, close=True)(scope, receive, send)
            return
        await self.warm()
        if self._manager is None:
            await _problem(503, "ending", "The server is stopping.")(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                body = await _body(receive)
        except TimeoutError:
            await _problem(408, "body_too_slow", "The request did not come in time.", close=True)(
                scope, receive, send
            )
            return
        except _TooLarge:
            await _problem(413, "body_too_large", "The request is larger than 1 MiB.", close=True)(
                scope, receive, send
            )
            return
        if body is not None:
            await self._manager.handle_request({**scope, _GRANT: grant}, _again(body, receive), send)

    async def _grant(self, scope: Scope) -> G | None:
        headers = dict(scope["headers"])
        scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return None
        with suppress(SignInNeeded):
            return await self._authorise(token.strip())
        return None

    async def _run(self, manager: StreamableHTTPSessionManager, started: asyncio.Event) -> None:
        # The manager wants to be ended by the task that began it.
        try:
            async with manager.run():
                started.set()
                await self._stop.wait()
        finally:
            started.set()

    def _make(self) -> StreamableHTTPSessionManager:
        import mcp_types
        from mcp.server.lowlevel import Server
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        async def list_tools(_context: Any, _params: Any) -> mcp_types.ListToolsResult:
            return mcp_types.ListToolsResult(tools=[_create_pull_request_tool()])

        async def call_tool(
            context: Any, params: mcp_types.CallToolRequestParams
        ) -> mcp_types.CallToolResult:
            grant: G = context.request.scope[_GRANT]
            text, failed = await self._call(grant, params.name, params.arguments or {})
            return mcp_types.CallToolResult(
                content=[mcp_types.TextContent(type="text", text=text)], is_error=failed
            )

        server: Server[Any] = Server("openinspect", on_list_tools=list_tools, on_call_tool=call_tool)
        return StreamableHTTPSessionManager(
            server, json_response=True, stateless=True, max_request_body_size=_MAX_REQUEST_BYTES
        )

    async def _call(self, grant: G, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
        """The tool's answer, and whether it is an error."""
        if name != "create_pull_request":
            return f"There is no tool {name[:60]!r}. There is create_pull_request.", True
        if grant.prompt_id is None:
            return "No prompt is running in this session, and this can be done only while one is.", True
        try:
            wanted = PullRequestWanted.model_validate(arguments)
        except ValidationError as error:
            return f"Nothing was done: {_told(error)} Correct this and call the tool again.", True
        if not self._count((grant.session_id, grant.prompt_id)):
            return (
                f"This tool was called {self.limits.calls_of_turn} times for this prompt, which is the most. "
                "Tell the person what is left to do; the next prompt counts anew.",
                True,
            )
        try:
            async with asyncio.timeout(self.limits.seconds):
                made = await self._create_pull_request(grant, wanted)
        except (ProblemError, ForgeError) as problem:
            return _told_to_agent(problem), True
        except TimeoutError:
            return (
                "The code host did not answer in time. Call the tool again: it looks up what is there.",
                True,
            )
        except Exception:
            log.exception("tool_failed", tool=name, session=grant.session_id)
            return (
                "Something went wrong on the server, which has noted it. Try once more, then go on without.",
                True,
            )
        done = "Opened" if made.created else "Updated the open"
        kind = "draft pull request" if made.draft else "pull request"
        return (
            f"{done} {kind} #{made.number} of {made.repository}: {made.title} ({made.head} into {made.base})\n{made.url}",
            False,
        )

    def _count(self, turn: tuple[str, str]) -> bool:
        used = self._used.pop(turn, 0)
        self._used[turn] = used + 1
        while len(self._used) > _REMEMBERED_TURNS:
            self._used.popitem(last=False)
        return used < self.limits.calls_of_turn


def _import() -> None:
    import mcp.server.lowlevel
    import mcp.server.streamable_http_manager  # noqa: F401


def _create_pull_request_tool() -> mcp_types.Tool:
    import mcp_types

    return mcp_types.Tool(
        name="create_pull_request",
        title="Create pull request",
        description=(
            "Open a pull request from the session's branch. Commit and push first: `git push -u origin HEAD`. "
            "If one is open for the branch already, its title and body are updated. "
            "Use this rather than the code host's own tools, which have no access from here."
        ),
        input_schema={
            "type": "object",
            "properties": {
                name: _plain_schema(field)
                for name, field in PullRequestWanted.model_json_schema()["properties"].items()
            },
            "required": ["title", "body"],
            "additionalProperties": False,
        },
        annotations=mcp_types.ToolAnnotations(
            read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=True
        ),
    )


def _plain_schema(field: dict[str, Any]) -> dict[str, Any]:
    """The same without what models trip over: alternatives with null, and defaults."""
    kinds = [one for one in field.get("anyOf", []) if one.get("type") != "null"]
    plain = {**field, **(kinds[0] if kinds else {})}
    return {
        name: value for name, value in plain.items() if name not in ("anyOf", "default", "title", "pattern")
    }


def _told(error: ValidationError) -> str:
    faults = [
        f"`{'.'.join(str(place) for place in fault['loc'])[:60] or 'arguments'}`: {fault['msg'][:200]}."
        for fault in error.errors(include_url=False, include_input=False)[:5]
    ]
    return " ".join(faults)


def _told_to_agent(problem: ProblemError | ForgeError) -> str:
    what = problem.message if isinstance(problem, ProblemError) else f"{problem.reason.rstrip('.')}."
    if isinstance(problem, BranchNotFound | NothingToPropose):
        # The code host can't know that the branch it misses lies in the sandbox, still to be pushed.
        return f"{what} {_PUSH_FIRST} {problem.remedy}".strip()
    return f"{what} {problem.remedy}".strip()


class _TooLarge(Exception):
    pass


async def _body(receive: Receive) -> bytes | None:
    """The whole body; None when the client has gone. Raises ``_TooLarge``."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > _MAX_REQUEST_BYTES:
            raise _TooLarge
        if not message.get("more_body", False):
            return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """``receive`` for an app that reads the body which has been read."""
    given = False

    async def read() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return read


def _problem(status: int, code: str, message: str, *, close: bool = False) -> JSONResponse:
    """``close``: the rest of the body, if there is one, is not waited for."""
    headers = {"connection": "close"} if close else None
    return JSONResponse({"error": {"code": code, "message": message}}, status_code=status, headers=headers)
