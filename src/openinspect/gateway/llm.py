"""The models' door: each provider's own API at ``/llm/<provider>/v1/<path>``, with the real key added outside of the sandbox.

A call goes through these steps, and each of them can end it
    1. ``authorise(token)``: the caller's token, from ``Authorization: Bearer`` or ``x-api-key``, says which session it is. Unknown: 401. Whatever key
       the caller sent is dropped.
    2. ``llm_policy``: path, model, and nothing that runs or is kept at the provider. Else 403, 404, 405, 413.
    3. A prompt must be running in the session. Else 403.
    4. ``reserve``: a row for the call, within the session's budget. Else 402 (``BudgetSpent``), and nothing has gone out.
    5. The provider's address, which comes from the catalogue or the settings alone, is asked with the server's key. The answer passes through as it
       comes. Redirects are not followed. An error of the provider is passed on without what looks like a key; one about our key becomes a
       sentence that says whose key is meant.
    6. ``settle``: what the answer used, before the last byte of the answer is sent, so that a turn that ends with it has its costs complete.

When the caller hangs up, the provider's connection is closed at once and what had arrived is counted. When the provider's answer breaks off, ours breaks
off too, as if there were no gateway. Refusals have the shape of the provider's own errors, and statuses that SDKs don't repeat.

Bounds: ``Limits``. Settling is tried again for ``settle_seconds``; a call that could not be settled stays reserved until the sweep.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import httpx2
import structlog
from starlette.types import Message, Receive, Scope, Send

from openinspect.models.availability import provider_availability, upstream
from openinspect.models.catalogue import Api, Provider, provider
from openinspect.problems import SignInNeeded
from openinspect.settings import Settings

from .llm_exchange import Books, Broken, Exchange, Limits, LlmGrant, Reserve, Settle
from .llm_policy import Refused, check, endpoint_of, refusal_body

log = structlog.get_logger(__name__)


Authorise = Callable[[str], Awaitable[LlmGrant | None]]
"""Of the caller's token; None, or ``SignInNeeded`` raised, when it is unknown or revoked."""


class _Gone(Exception):
    """The caller has hung up."""


class LlmDoor:
    """The ASGI app to be mounted at ``/llm``. ``aclose`` it at the end: calls that have ended are settled first."""

    def __init__(
        self,
        settings: Settings,
        *,
        authorise: Authorise,
        reserve: Reserve,
        settle: Settle,
        limits: Limits | None = None,
    ) -> None:
        self._settings = settings
        self._authorise = authorise
        self.limits = limits or Limits()
        self._books = Books(reserve, settle, self.limits.settle_seconds)
        self._clients: dict[bool, httpx2.AsyncClient] = {}
        self._under_way: dict[str, int] = {}

    async def aclose(self) -> None:
        await self._books.aclose()
        for client in self._clients.values():
            await client.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        provider_id, _, rest = path.lstrip("/").partition("/v1/")
        owner = provider(provider_id)
        api: Api = owner.api if owner else "openai-chat"
        try:
            if owner is None:
                raise Refused(
                    404, "not_found_error", f"There is no model provider at {path[:100]!r} of the gateway."
                )
            await self._serve(owner, rest, scope, receive, send)
        except Refused as refused:
            await _answer_refusal(send, api, refused)
        except (_Gone, Broken) as ended:
            log.info(
                "llm_call_ended_early", provider=provider_id, why=type(ended).__name__.strip("_").lower()
            )

    async def _serve(self, owner: Provider, rest: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name: value for name, value in scope["headers"]}
        token = _token(headers)
        grant = await self._grant(token) if token else None
        if grant is None:
            raise Refused(
                401,
                "authentication_error",
                "The gateway does not know this token, or the sandbox that it belongs to has ended.",
            )
        endpoint = endpoint_of(owner, scope["method"], rest)
        place = upstream(self._settings, owner)
        if place is None:
            state = provider_availability(self._settings, owner)
            raise Refused(403, "permission_error", state.reason, state.remedy)
        with _Slot(self._under_way, grant.session_id, self.limits):
            raw = await self._body(headers, receive)
            call = check(owner, endpoint, raw, grant.models)
            del raw
            if grant.prompt_id is None:
                raise Refused(
                    403,
                    "permission_error",
                    "No prompt is running in this session, and models can be used only while one is.",
                    "Send a prompt.",
                )
            client = self._client(scripted=place.scripted)
            exchange = Exchange(client, self._books, self.limits, owner, place, call, grant, headers, send)
            await _until_gone(exchange.run(), receive, self.limits.total_seconds)

    async def _grant(self, token: str) -> LlmGrant | None:
        try:
            return await self._authorise(token)
        except SignInNeeded:
            return None
        except Exception as error:
            log.error("llm_not_authorised", error=type(error).__name__)
            raise Refused(
                503, "api_error", "The server can't look up the sandbox's token just now.", retry_after=2
            ) from error

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise Refused(415, "invalid_request_error", "The gateway reads request bodies uncompressed only.")
        pieces: list[bytes] = []
        size = 0
        length = headers.get(b"content-length", b"0")
        size_said = int(length) if length.isdigit() and len(length) < 16 else 0
        while size_said <= self.limits.body_bytes:
            try:
                async with asyncio.timeout(self.limits.body_seconds):
                    message = await receive()
            except TimeoutError:
                raise Refused(
                    408, "invalid_request_error", "The request's body did not arrive in time."
                ) from None
            if message["type"] == "http.disconnect":
                raise _Gone
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > self.limits.body_bytes:
                break
            if not message.get("more_body"):
                return b"".join(pieces)
        await self._drain(receive)
        mib = self.limits.body_bytes // (1024 * 1024)
        raise Refused(
            413,
            "request_too_large",
            f"The request is larger than {mib} MiB.",
            "Send fewer or smaller attachments.",
        )

    async def _drain(self, receive: Receive) -> None:
        # A caller that is cut off while it sends would see a lost connection instead of our answer.
        left = 2 * self.limits.body_bytes
        with suppress(TimeoutError):
            async with asyncio.timeout(self.limits.drain_seconds):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if message["type"] == "http.disconnect" or not message.get("more_body"):
                        return

    def _client(self, *, scripted: bool) -> httpx2.AsyncClient:
        # The scripted server is on this machine: no proxy of the environment lies between.
        client = self._clients.get(scripted)
        if client is None:
            client = self._clients[scripted] = httpx2.AsyncClient(
                trust_env=not scripted,
                follow_redirects=False,
                timeout=httpx2.Timeout(
                    self.limits.idle_seconds, connect=self.limits.connect_seconds, pool=10
                ),
                limits=httpx2.Limits(
                    max_connections=self.limits.calls + 16, max_keepalive_connections=64, keepalive_expiry=60
                ),
            )
        return client


class _Slot:
    """Counts a session's calls under way, within the bounds."""

    def __init__(self, under_way: dict[str, int], session_id: str, limits: Limits) -> None:
        self._under_way = under_way
        self._session_id = session_id
        self._limits = limits

    def __enter__(self) -> None:
        mine = self._under_way.get(self._session_id, 0)
        if mine >= self._limits.calls_of_session or sum(self._under_way.values()) >= self._limits.calls:
            whose = "This session" if mine >= self._limits.calls_of_session else "The server"
            raise Refused(
                429, "rate_limit_error", f"{whose} has too many model calls under way.", retry_after=2
            )
        self._under_way[self._session_id] = mine + 1

    def __exit__(self, *_: object) -> None:
        left = self._under_way[self._session_id] - 1
        if left:
            self._under_way[self._session_id] = left
        else:
            del self._under_way[self._session_id]


async def _until_gone(work: Awaitable[None], receive: Receive, seconds: float) -> None:
    """Do the work until it is done, the caller hangs up (``_Gone``) or the time is over (``Broken``)."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_hung_up(receive))
    try:
        await asyncio.wait({working, watching}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended = working.done()
        watching.cancel()
        if not ended:
            working.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)
    if ended:
        working.result()
    elif not watching.cancelled():
        raise _Gone
    else:
        raise Broken("It took too long.")


async def _hung_up(receive: Receive) -> None:
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            return


def _token(headers: dict[bytes, bytes]) -> str | None:
    scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get(b"x-api-key", b"").decode("latin-1").strip() or None


async def _answer_refusal(send: Send, api: Api, refused: Refused) -> None:
    body = refusal_body(api, refused)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if refused.retry_after is not None:
        headers.append((b"retry-after", str(refused.retry_after).encode()))
    elif refused.status < 500:
        headers.append((b"x-should-retry", b"false"))
    if refused.status in (408, 413):
        # The rest of the body has not been read.
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
