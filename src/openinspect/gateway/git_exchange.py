"""One HTTP request of git: its body in pieces, its answer in pieces, and the knowledge that the client has gone.

Starlette's streaming answers either don't notice a client that leaves, or read the very body that we still want; so this speaks ASGI
itself. No more than one piece in each direction is held in memory. Every single wait for the client is bounded by ``idle_seconds``.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any

from starlette.types import Message, Receive, Scope, Send

_PIECE = 64 * 1024


class ClientGone(Exception):
    """The client closed its connection, or nothing came from it or went to it for too long."""


class BodyRefused(Exception):
    """The body can't be read: ``status`` and text are the answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Exchange:
    def __init__(self, scope: Scope, receive: Receive, send: Send, *, idle_seconds: float) -> None:
        self.scope = scope
        self.started = False
        self._receive = receive
        self._send = send
        self._idle_seconds = idle_seconds
        self._body_ended = False

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout(self._idle_seconds):
                return await self._receive()
        except TimeoutError as error:
            raise ClientGone("nothing came for too long") from error

    async def raw_body(self) -> AsyncIterator[bytes]:
        """The body as it came over the wire."""
        while not self._body_ended:
            message = await self._next()
            if message["type"] == "http.disconnect":
                raise ClientGone("the client went away")
            self._body_ended = not message.get("more_body", False)
            if piece := message.get("body", b""):
                yield piece

    async def body(self, encoding: str) -> AsyncIterator[bytes]:
        """The body without its ``Content-Encoding`` (none or gzip), in pieces of at most 64 KiB. Raises ``BodyRefused``."""
        if encoding in ("", "identity"):
            async for piece in self.raw_body():
                yield piece
            return
        if encoding not in ("gzip", "x-gzip"):
            raise BodyRefused(415, f"The body's encoding {encoding!r} is not known; send gzip or none.")
        inflater = zlib.decompressobj(wbits=31)
        try:
            async for piece in self.raw_body():
                while piece:
                    # bounded output: a small body may stand for a very large one
                    if out := inflater.decompress(piece, _PIECE):
                        yield out
                    piece = inflater.unconsumed_tail
            if out := inflater.flush():
                yield out
        except zlib.error as error:
            raise BodyRefused(400, "The body is no valid gzip.") from error
        if not inflater.eof:
            raise BodyRefused(400, "The gzip body ends too early.")

    async def discard_body(self, *, most_bytes: int) -> None:
        """Read what is left of the body, so that the client comes to read our answer. Gives up after ``most_bytes``."""
        async for piece in self.raw_body():
            most_bytes -= len(piece)
            if most_bytes < 0:
                return

    async def start(self, status: int, content_type: str, headers: Mapping[str, str] | None = None) -> None:
        fields = {"content-type": content_type, "cache-control": "no-cache, max-age=0, must-revalidate"}
        fields.update(headers or {})
        self.started = True
        await self._out(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()
                ],
            }
        )

    async def write(self, piece: bytes) -> None:
        await self._out({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self) -> None:
        await self._out({"type": "http.response.body", "body": b"", "more_body": False})

    async def answer(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        """A whole answer of plain text; git prints it after ``remote:``."""
        await self.start(status, "text/plain; charset=utf-8", headers)
        await self.write(text.encode() + b"\n")
        await self.end()

    async def _out(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self._idle_seconds):
                await self._send(message)
        except (TimeoutError, OSError) as error:
            raise ClientGone("the client takes no more") from error

    async def while_client_is_there(self, work: Coroutine[Any, Any, None]) -> None:
        """Do ``work``, but stop it as soon as the client goes. Only after the body has been read to its end."""
        task = asyncio.create_task(work)
        watcher = asyncio.create_task(self._until_gone())
        try:
            await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientGone("the client went away")
            await task
        finally:
            for one in (watcher, task):
                one.cancel()
            await asyncio.gather(watcher, task, return_exceptions=True)

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
