"""Whoever only connects, or sends a head without an end, takes nothing from anybody else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from openinspect import bounded_http, serving
from openinspect.serving import listen_tcp

pytestmark = pytest.mark.anyio


async def _hello(scope, receive, send) -> None:
    assert scope["type"] == "http"
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def _served() -> AsyncIterator[int]:
    page, door = listen_tcp("127.0.0.1", 0), listen_tcp("127.0.0.1", 0)
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(serving.run(_hello, _hello, page, door, stop, [], ready))
    await ready.wait()
    try:
        yield page.getsockname()[1]
    finally:
        stop.set()
        await task
        page.close()
        door.close()


async def _ask(port: int, head: bytes = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionError):  # the answer may come before all was sent
        writer.write(head)
        await writer.drain()
    try:
        return await asyncio.wait_for(reader.read(4096), 10)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_a_crowd_that_says_nothing_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_http, "MOST_CONNECTIONS", 50)
    async with _served() as port:
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
        try:
            for _ in range(20):
                assert (await _ask(port)).startswith(b"HTTP/1.1 200")
        finally:
            for one in idle:
                one.close()


async def test_a_busy_connection_is_not_given_up_for_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_http, "MOST_CONNECTIONS", 20)
    async with _served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
        assert (await _ask(port)).startswith(b"HTTP/1.1 200")
        writer.write(b"end")
        assert (await reader.read(100)).startswith(b"HTTP/1.1 200")
        for one in idle:
            one.close()
        writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\nx-long: " + b"y" * 1_000_000,
        b"GET /" + b"y" * 1_000_000,
        b"GET / HTTP/1.1\r\n" + b"x-many: y\r\n" * 100_000,
    ],
    ids=["header", "address", "headers"],
)
async def test_a_head_without_an_end_is_refused(head: bytes) -> None:
    async with _served() as port:
        answer = await _ask(port, head)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 431")
        assert (await _ask(port)).startswith(b"HTTP/1.1 200")


async def test_a_head_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_http, "HEAD_SECONDS", 0.3)
    async with _served() as port:
        for begun in (b"", b"GET / HTTP/1.1\r\nhost:"):
            assert await _ask(port, begun) == b""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
        writer.write(request)
        assert (await reader.read(1000)).endswith(b"ok")
        await asyncio.sleep(0.5)  # kept alive between requests
        writer.write(request)
        assert (await reader.read(1000)).endswith(b"ok")
        writer.write(b"GET / HTT")
        assert await asyncio.wait_for(reader.read(1000), 5) == b""
        writer.close()
