"""uvicorn's HTTP protocol with bounds where it has none: how long and how large a request's head may be, how long its body may take, and how many
connections there are.

    waiting (for a head) ──headers complete──▶ sending (its body) ──body complete──▶ busy ──answer complete──▶ waiting …
       │ ``HEAD_SECONDS`` after a head was begun, or the connection made: closed
       │ more than ``HEAD_BYTES`` of a head: 431, closed
       │ ``REST_SECONDS`` after an answer to a body that has not ended: closed
       └ a place is needed: the one that has been silent longest is closed
    sending
       │ ``BODY_SECONDS`` of silence, or fewer than ``BODY_RATE`` bytes/s beyond them: 408, closed
       │ a place is needed: as for waiting
       └ ``expected``: see below

A listener has at most ``max_connections`` places. Who sends a request at once keeps its place against somebody who opens thousands and says nothing, or begins
thousands of bodies that never end: only a connection that owes something is ever given up for a new one, and never one whose request is complete (a stream, a
long answer) or that has become a WebSocket.

An app that has found out who somebody is, and that the body may pause for long (git computes a pack while it sends it), calls ``expected(scope)``: this
request's body may then be silent for ``EXPECTED_SECONDS``, and is given up for a new connection only when nothing else is left.

Where the callers of a listener can be told apart by a credential (``who``), each has at most ``most_of_one`` connections: a request on one more is
answered with 429, and one that names two credentials with 400. Nothing here says whether a credential is valid: who has none that is valid is answered 401
by the app, and then waits.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import Callable, MutableMapping
from collections.abc import Set as AbstractSet
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 10.0
BODY_SECONDS = 30.0
BODY_RATE = 2048
EXPECTED_SECONDS = 130.0
"""A little more than git's door waits itself, whose words are better."""
REST_SECONDS = 10.0
MOST_CONNECTIONS = 4096
MOST_OF_ONE = 128

_EXTENSION = "openinspect.expected"
_REFUSAL = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"

Who = Callable[[Headers], AbstractSet[str]]
"""All credentials that a request carries: one, or none."""


def max_connections() -> int:
    """Of one listener: a quarter of the descriptors that this process may have, so that there are always some left for its work."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, soft // 4)


def expected(scope: MutableMapping[str, Any]) -> None:
    """The sender of this request is known, and its body may pause. On a server without these bounds it does nothing."""
    if (mark := scope.get("extensions", {}).get(_EXTENSION)) is not None:
        mark()


def bounded_protocol(most: int, who: Who | None = None) -> type[HttpToolsProtocol]:
    """The protocol of one listener with at most so many connections."""

    class Bounded(_Bounded):
        waiting: dict[_Bounded, None] = {}
        pausing: dict[_Bounded, None] = {}
        of_one: Counter[str] = Counter()
        most_connections = most
        most_of_one = min(MOST_OF_ONE, max(1, most // 8))
        credential = staticmethod(who or _nobody)

    return Bounded


def _nobody(_headers: Headers) -> AbstractSet[str]:
    return frozenset()


def _refusing(status: int, text: str) -> ASGIApp:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        body = text.encode() + b"\n"
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


_TOO_MANY = _refusing(429, "You have too many connections open here. Close some, then try again.")
_TWO = _refusing(400, "This request names two credentials. Send one.")


class _Bounded(HttpToolsProtocol):
    waiting: dict[_Bounded, None]
    """Those that owe a head or a body, the one that has been silent longest first."""
    pausing: dict[_Bounded, None]
    """The same for bodies that are ``expected``."""
    of_one: Counter[str]
    """Connections by credential."""
    most_connections: int
    most_of_one: int
    credential: Callable[[Headers], AbstractSet[str]]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._in_head = False
        self._in_body = False
        self._is_expected = False
        self._head_bytes = 0
        self._body_bytes = 0
        self._body_began = 0.0
        self._heard = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._one: str | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            longest = next(iter(self.waiting), None) or next(iter(self.pausing), self)
            longest.give_up()
        self._wait()
        self._arm(HEAD_SECONDS, self.give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        self._forget()  # from here on another protocol has the connection
        super().handle_websocket_upgrade()

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        super().data_received(data)
        if self._in_body:
            self._body_bytes += len(data)
            self._wait()
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
                self.transport.write(_REFUSAL)
                self.give_up()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {_EXTENSION: self._expect}  # type: ignore[typeddict-item]
        self._in_head, self._head_bytes = True, 0
        if self._timer is None:
            self._arm(HEAD_SECONDS, self.give_up)

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body, self._is_expected = False, True, False
        self._body_bytes, self._body_began = 0, self.loop.time()
        self._disarm()
        self._wait()
        app = self.app
        self.app = self._refusal() or app  # type: ignore[assignment]
        try:
            super().on_headers_complete()
        finally:
            self.app = app

    def on_message_complete(self) -> None:
        self._in_body = False
        self._disarm()
        if self.cycle is not None and self.cycle.response_complete:
            self._arm(
                self.timeout_keep_alive, self.give_up
            )  # uvicorn's own timer has ended with the first bytes
        else:
            self._leave()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.pipeline and not self.transport.is_closing():
            self._is_expected = False
            self._wait()
            if (
                self._in_body
            ):  # an answer such as 401 or 413 came before the body's end: it may still come, but not for long
                self._arm(REST_SECONDS, self.give_up)

    def _refusal(self) -> ASGIApp | None:
        """Count this connection for the credential of its request rather than for the last one's, unless that has as many as it may."""
        credentials = self.credential(Headers(raw=self.headers))
        if len(credentials) > 1:
            return _TWO
        one = next(iter(credentials), None)
        if one == self._one:
            return None
        self._uncount()
        if one is not None:
            if self.of_one[one] >= self.most_of_one:
                return _TOO_MANY
            self._one = one
            self.of_one[one] += 1
        return None

    def _uncount(self) -> None:
        if self._one is not None:
            self.of_one[self._one] -= 1
            if self.of_one[self._one] <= 0:
                del self.of_one[self._one]
            self._one = None

    def _expect(self) -> None:
        if self._in_body:
            self._is_expected = True
            self._wait()

    def _wait(self) -> None:
        """Stand last among those that owe something."""
        self._leave()
        (self.pausing if self._is_expected else self.waiting)[self] = None
        if self._in_body and self._timer is None:
            self._arm(BODY_SECONDS, self._look)

    def _leave(self) -> None:
        self.waiting.pop(self, None)
        self.pausing.pop(self, None)

    def _look(self) -> None:
        """Whether the body comes fast enough; while we don't read, the sender can't be faster."""
        self._timer = None
        now = self.loop.time()
        if self.flow.read_paused:
            self._heard = now
            self._body_began += BODY_SECONDS
        silent, most = now - self._heard, EXPECTED_SECONDS if self._is_expected else BODY_SECONDS
        slow = not self._is_expected and now - self._body_began > BODY_SECONDS + self._body_bytes / BODY_RATE
        if silent < most and not slow:
            self._arm(min(BODY_SECONDS, max(most - silent, 0.01)), self._look)
            return
        if not self.cycle.response_started and not self.transport.is_closing():
            self.transport.write(_TOO_SLOW)
        self.give_up()

    def _arm(self, seconds: float, then: Callable[[], None]) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, then)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget(self) -> None:
        self._in_head = self._in_body = False
        self._disarm()
        self._uncount()
        self._leave()

    def give_up(self) -> None:
        """Close the connection, and forget what has come of its request."""
        self._forget()
        self.connections.discard(self)
        if not self.transport.is_closing():
            self.transport.close()
