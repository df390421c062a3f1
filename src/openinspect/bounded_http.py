"""uvicorn's HTTP protocol with bounds where it has none: how long and how large a request's head may be, and how many connections there are.

    waiting (for a head) ──headers complete──▶ busy ──answer complete──▶ waiting …
       │ ``HEAD_SECONDS`` after a head was begun, or the connection made: closed
       │ more than ``HEAD_BYTES`` of a head: 431, closed
       └ a place is needed: the one that has waited longest is closed

A listener has at most ``max_connections`` places. Who sends a head at once keeps its place against somebody who opens thousands and says nothing:
only a waiting connection is ever given up for a new one.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 10.0
MOST_CONNECTIONS = 4096
_REFUSAL = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def max_connections() -> int:
    """Of one listener: a quarter of the descriptors that this process may have, so that there are always some left for its work."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, soft // 4)


def bounded_protocol(most: int) -> type[HttpToolsProtocol]:
    """The protocol of one listener with at most so many connections."""

    class Bounded(_Bounded):
        waiting: dict[_Bounded, None] = {}
        most_connections = most

    return Bounded


class _Bounded(HttpToolsProtocol):
    waiting: dict[_Bounded, None]
    """Those without a request under way, the one that has waited longest first."""
    most_connections: int

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._in_head = False
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            longest = next(iter(self.waiting), self)
            longest.give_up()
        self._wait()
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self.waiting.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
                self.transport.write(_REFUSAL)
                self.give_up()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        if self._head_timer is None:
            self._arm()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._disarm()
        self.waiting.pop(self, None)
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.pipeline and not self.transport.is_closing():
            self._wait()

    def _wait(self) -> None:
        self.waiting.pop(self, None)
        self.waiting[self] = None

    def _arm(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.give_up)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def give_up(self) -> None:
        """Close the connection, and forget what has come of its request."""
        self._disarm()
        self.waiting.pop(self, None)
        self.connections.discard(self)
        self._in_head = False
        if not self.transport.is_closing():
            self.transport.close()
