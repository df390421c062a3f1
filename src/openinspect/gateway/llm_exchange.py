"""One call of a model on its way to the provider and back: reserved, sent with the real key, passed through as it comes, metered, settled.

``Exchange.run`` raises ``Refused`` while nothing has been answered yet, and ``Broken`` when the provider's answer ended before its time. Whatever
happens, also when it is cancelled, a call that was reserved is settled.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal

import httpx2
import structlog
from starlette.types import Send

from openinspect.models.accounts import CallOutcome, Reservation
from openinspect.models.availability import Upstream
from openinspect.models.catalogue import Provider
from openinspect.models.prices import Usage
from openinspect.problems import ProblemError

from .llm_policy import MAX_BODY_BYTES, Call, Refused, harmless_betas
from .llm_usage import Reading, UsageReader

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LlmGrant:
    """What the holder of a sandbox's token may do with models."""

    session_id: str
    prompt_id: str | None
    """Of the prompt that is running; None: nothing is, and no model may be called."""
    models: frozenset[str]
    """As ``provider/model``: the session's, the prompt's, and their providers' small models."""
    budget_usd: Decimal | None = None
    """What the whole session may spend."""


@dataclass(frozen=True)
class Limits:
    body_bytes: int = MAX_BODY_BYTES
    body_seconds: float = 60
    """For one wait on the caller while it sends its request."""
    drain_seconds: float = 5
    """For taking, unread, the rest of a request that is too large."""
    connect_seconds: float = 10
    idle_seconds: float = 600
    """For one wait on the provider while it answers, or on the caller while it takes the answer."""
    total_seconds: float = 7200
    calls: int = 256
    """Under way at a time, of all sessions."""
    calls_of_session: int = 32
    error_bytes: int = 64 * 1024
    settle_seconds: float = 60


Reserve = Callable[[Reservation], Awaitable[str]]
"""Writes the call down and returns its id; ``accounts.reserve`` in a transaction. Raises ``ProblemError``."""
Settle = Callable[[str, CallOutcome], Awaitable[None]]
"""Counts what the call used and appends its event; ``accounts.settle`` in a transaction. Doing it twice does no harm."""

_PASSED_BACK = (b"content-type", b"retry-after", b"retry-after-ms", b"request-id", b"x-request-id")
_LOOKS_LIKE_KEY = re.compile(rb"\b(?:sk|pk|rk|key|zen)[-_][A-Za-z0-9*_\-.]{6,}")


class Broken(Exception):
    """The provider's answer ended before its time; the caller's ends the same way."""


class Books:
    """Reserving and settling, with what to do when the database is away."""

    def __init__(self, reserve: Reserve, settle: Settle, settle_seconds: float) -> None:
        self._reserve = reserve
        self._settle = settle
        self._settle_seconds = settle_seconds
        self._settling: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        await asyncio.gather(*self._settling, return_exceptions=True)

    async def reserve(self, reservation: Reservation) -> str:
        try:
            return await self._reserve(reservation)
        except ProblemError as problem:
            kind = "billing_error" if problem.status == 402 else "permission_error"
            status = problem.status if problem.status in (402, 503) else 403
            raise Refused(status, kind, problem.message, problem.remedy) from problem
        except Exception as error:
            log.error("llm_call_not_reserved", error=type(error).__name__)
            raise Refused(
                503, "api_error", "The call could not be written down, so it was not made.", retry_after=2
            ) from error

    async def settle(self, call_id: str, outcome: CallOutcome) -> None:
        """Goes on by itself when the caller is cancelled."""
        task = asyncio.ensure_future(self._settle_surely(call_id, outcome))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        await asyncio.shield(task)

    async def _settle_surely(self, call_id: str, outcome: CallOutcome) -> None:
        deadline = time.monotonic() + self._settle_seconds
        pause = 0.05
        while True:
            try:
                await self._settle(call_id, outcome)
            except ProblemError as problem:
                # The session is being deleted: there is nothing left to count for.
                log.info("llm_call_not_settled", call=call_id, code=problem.code)
                return
            except Exception as error:
                if time.monotonic() + pause > deadline:
                    log.error("llm_call_not_settled", call=call_id, error=type(error).__name__)
                    return
                log.warning("llm_settling_again", call=call_id, error=type(error).__name__)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5)
            else:
                return


class Exchange:
    """One call on its way to the provider and back."""

    def __init__(
        self,
        client: httpx2.AsyncClient,
        books: Books,
        limits: Limits,
        owner: Provider,
        place: Upstream,
        call: Call,
        grant: LlmGrant,
        headers: dict[bytes, bytes],
        send: Send,
    ) -> None:
        self._client = client
        self._books = books
        self._limits = limits
        self._owner = owner
        self._place = place
        self._call = call
        self._caller_headers = headers
        self._send = send
        self._reader = UsageReader(call.endpoint, stream=call.stream, estimated_input=call.input_tokens)
        self._reservation = Reservation(
            session_id=grant.session_id,
            prompt_id=grant.prompt_id,
            model=call.model,
            scripted=place.scripted,
            input_tokens=call.input_tokens,
            output_tokens=call.output_tokens,
            budget_usd=grant.budget_usd,
        )
        self._status: int | None = None
        self._began = time.monotonic()

    async def run(self) -> None:
        if self._call.endpoint == "messages/count_tokens":
            await self._pass(None)
            return
        call_id = await self._books.reserve(self._reservation)
        self._began = time.monotonic()
        try:
            await self._pass(call_id)
        except (Broken, Refused) as ended:
            await self._end(call_id, str(ended))
            raise
        except BaseException:
            # Cancelled: the caller has hung up, or the server stops.
            await self._end(call_id, "The agent hung up before the answer had ended.")
            raise

    async def _pass(self, call_id: str | None) -> None:
        request = self._client.build_request(
            "POST",
            f"{self._place.base_url}/{self._call.endpoint}",
            headers=self._headers(),
            content=self._call.body,
        )
        try:
            response = await self._client.send(request, stream=True)
        except httpx2.HTTPError as error:
            raise self._unreachable(error) from error
        try:
            self._status = response.status_code
            if 200 <= response.status_code < 300:
                await self._stream(response, call_id)
            else:
                await self._pass_error(response, call_id)
        finally:
            await response.aclose()

    async def _stream(self, response: httpx2.Response, call_id: str | None) -> None:
        await self._start(response.status_code, _passed_back(response))
        try:
            async for chunk in response.aiter_raw():
                async with asyncio.timeout(self._limits.idle_seconds):
                    await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
                self._reader.feed(chunk)
        except (httpx2.HTTPError, TimeoutError) as error:
            raise Broken(f"The answer broke off ({type(error).__name__}).") from error
        if call_id is not None:
            await self._end(call_id)
        await self._send({"type": "http.response.body", "body": b""})

    async def _pass_error(self, response: httpx2.Response, call_id: str | None) -> None:
        body = b""
        with suppress(httpx2.HTTPError):
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > self._limits.error_bytes:
                    body = body[: self._limits.error_bytes]
                    break
        status = response.status_code
        if status in (401, 403) and not self._place.scripted and _is_about_key(status, body):
            raise Refused(
                401,
                "authentication_error",
                f"{self._owner.name} refused the key that this server has for it.",
                f"An administrator has to correct {self._owner.key_variable} in the server's environment.",
            )
        if 300 <= status < 400:
            raise Refused(
                502, "api_error", f"{self._owner.name} answered with a redirect, which is not followed."
            )
        if call_id is not None:
            await self._end(call_id, f"{self._owner.name} answered {status}.")
        await self._start(status, _passed_back(response))
        await self._send({"type": "http.response.body", "body": self._scrubbed(body)})

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _end(self, call_id: str, error: str | None = None) -> None:
        answered = self._status is not None and 200 <= self._status < 300
        reading = self._reader.reading() if answered else Reading(Usage(), True, None)
        if error is None and reading.error is not None:
            error = f"{self._owner.name} ended its answer with an error ({reading.error})."
        elif error is not None and answered and not reading.complete:
            error = f"{error} What had arrived of it is counted by its length."
        await self._books.settle(
            call_id,
            CallOutcome(
                reservation=self._reservation,
                usage=reading.usage,
                answered=answered,
                http_status=self._status,
                duration_ms=round((time.monotonic() - self._began) * 1000),
                error=error,
            ),
        )

    def _headers(self) -> dict[str, str]:
        headers = {
            "content-type": "application/json",
            "accept": "text/event-stream" if self._call.stream else "application/json",
            # Uncompressed, so that the answer can be read as it passes.
            "accept-encoding": "identity",
            "user-agent": "open-inspect",
        }
        key = self._place.key.get_secret_value().strip() if self._place.key else None
        if self._owner.api == "anthropic":
            version = self._caller_headers.get(b"anthropic-version", b"2023-06-01").decode("latin-1")
            headers["anthropic-version"] = version[:20]
            betas = harmless_betas(self._caller_headers.get(b"anthropic-beta", b"").decode("latin-1"))
            if betas:
                headers["anthropic-beta"] = betas
            if key:
                headers["x-api-key"] = key
        elif key:
            headers["authorization"] = f"Bearer {key}"
        return headers

    def _unreachable(self, error: httpx2.HTTPError) -> Refused:
        timed_out = isinstance(error, httpx2.TimeoutException)
        what = "did not answer in time" if timed_out else "can't be reached"
        where = "The scripted model server" if self._place.scripted else self._owner.name
        return Refused(
            504 if timed_out else 502,
            "api_error",
            f"{where} {what} ({type(error).__name__}).",
            "Check that the server has a way out to it." if not self._place.scripted else "Start it again.",
        )

    def _scrubbed(self, body: bytes) -> bytes:
        if self._place.key is not None:
            body = body.replace(self._place.key.get_secret_value().strip().encode(), b"(key)")
        return _LOOKS_LIKE_KEY.sub(b"(key)", body)


def _passed_back(response: httpx2.Response) -> list[tuple[bytes, bytes]]:
    found = [(name.lower(), value) for name, value in response.headers.raw]
    return [(name, value) for name, value in found if name in _PASSED_BACK] + [
        (b"cache-control", b"no-store")
    ]


def _is_about_key(status: int, body: bytes) -> bool:
    return status == 401 or b"api key" in body.lower() or b"api_key" in body.lower()
