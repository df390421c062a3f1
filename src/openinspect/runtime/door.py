"""The way to the gateway.

``Forwarder`` listens on the loopback and splices bytes to the gateway's unix socket, so that git, the agent and its tools can use plain HTTP;
where the door is an address they use that. Before the first bytes of a push go on, ``before_push`` is awaited: what is pushed is to be told first.
``DoorClient`` is the runtime's own way: attachments and diffs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import httpx2

from openinspect.protocol.commands import RunPrompt
from openinspect.protocol.config import Door
from openinspect.protocol.diffs import RepositoryDiff

from .agents.contract import File

PORT = 7300
"""Tried first, so that the addresses of remotes stay what they are over restarts."""
MAX_CONNECTIONS = 256
DIAL_SECONDS = 10.0
FETCH_SECONDS = 60.0
PUT_SECONDS = 20.0
MAX_ATTACHMENT_BYTES = 32 * 1024 * 1024
_BLOCK = 256 * 1024
_PUSH = b"service=git-receive-pack"
"""What git asks for first when it pushes."""


class DoorError(Exception):
    """The gateway can't be reached or refused; the text says which."""


class Forwarder:
    """``url`` is what everything inside uses, without a slash at the end."""

    def __init__(self, door: Door, before_push: Callable[[], Awaitable[None]]) -> None:
        self._door = door
        self._before_push = before_push
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self.url = (door.url or "").rstrip("/")

    async def start(self) -> None:
        if self._door.socket is None:
            return
        for port in (PORT, 0):
            try:
                self._server = await asyncio.start_server(
                    self._accept, "127.0.0.1", port, limit=_BLOCK, backlog=MAX_CONNECTIONS
                )
                break
            except OSError:
                if port == 0:
                    raise
        assert self._server is not None
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or self._door.socket is None:
            return
        self._open.add(task)
        try:
            if len(self._open) > MAX_CONNECTIONS:
                return
            async with asyncio.timeout(DIAL_SECONDS):
                far_reader, far_writer = await asyncio.open_unix_connection(self._door.socket, limit=_BLOCK)
            try:
                await asyncio.gather(self._send(reader, far_writer), _splice(far_reader, writer))
            finally:
                far_writer.close()
        except (OSError, TimeoutError) as error:
            # Whoever dialled sees a closed connection; the gateway may be restarting.
            print(f"openinspect door: {error or type(error).__name__}", flush=True)
        except asyncio.CancelledError:
            return
        finally:
            self._open.discard(task)
            writer.close()

    async def _send(self, reader: asyncio.StreamReader, far_writer: asyncio.StreamWriter) -> None:
        first = await reader.read(_BLOCK)
        if _PUSH in first.partition(b"\r\n")[0]:
            await self._before_push()
        far_writer.write(first)
        await _splice(reader, far_writer)


async def _splice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while block := await reader.read(_BLOCK):
            writer.write(block)
            await writer.drain()
    except ConnectionError:
        writer.close()
        return
    with contextlib.suppress(OSError):
        writer.write_eof()


class DoorClient:
    def __init__(self, door: Door, token: str) -> None:
        transport = httpx2.AsyncHTTPTransport(uds=door.socket) if door.socket is not None else None
        self._http = httpx2.AsyncClient(
            base_url=door.url or "http://gateway",
            transport=transport,
            headers={"authorization": f"Bearer {token}"},
            timeout=PUT_SECONDS,
            trust_env=False,
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def attachments(self, prompt: RunPrompt) -> list[File]:
        """The prompt's attachments. Raises ``DoorError``."""
        files: list[File] = []
        for attachment in prompt.attachments:
            answer = await self._call("GET", f"/bridge/attachments/{attachment.id}", FETCH_SECONDS)
            if len(answer.content) > MAX_ATTACHMENT_BYTES:
                raise DoorError(f"the attachment “{attachment.name}” is too large")
            files.append(File(attachment.name, attachment.media_type, answer.content))
        return files

    async def put_diff(self, diff: RepositoryDiff) -> None:
        """Raises ``DoorError``."""
        await self._call(
            "PUT", f"/bridge/diffs/{diff.directory}", PUT_SECONDS, diff.model_dump_json().encode()
        )

    async def _call(
        self, method: str, path: str, seconds: float, body: bytes | None = None
    ) -> httpx2.Response:
        headers = {} if body is None else {"content-type": "application/json"}
        try:
            async with asyncio.timeout(seconds):
                answer = await self._http.request(
                    method, path, content=body, headers=headers, timeout=seconds
                )
        except (httpx2.HTTPError, TimeoutError) as error:
            raise DoorError(f"the gateway can't be reached ({error or type(error).__name__})") from error
        if answer.status_code >= 400:
            raise DoorError(f"the gateway answered {answer.status_code}")
        return answer
