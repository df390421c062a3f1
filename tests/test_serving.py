"""Whoever only connects, or sends a head or a body without an end, takes nothing from anybody else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.client import connect

from openinspect import bounded_http, serving
from openinspect.bounded_http import expected
from openinspect.serving import listen_tcp

pytestmark = pytest.mark.anyio


async def _hello(scope, receive, send) -> None:
    """Reads the body and answers; at ``/early`` it answers first, at ``/expected`` it says that the body may pause, at ``/slow`` it takes its time."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        return
    assert scope["type"] == "http"
    if scope["path"] == "/expected":
        expected(scope)
    while scope["path"] != "/early" and (message := await receive()).get("more_body"):
        if message["type"] == "http.disconnect":
            return
    status = 401 if scope["path"] == "/early" else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
    if scope["path"] == "/slow":
        await send({"type": "http.response.body", "body": b"o", "more_body": True})
        await asyncio.sleep(1)
        await send({"type": "http.response.body", "body": b"k"})
        return
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def _both() -> AsyncIterator[tuple[int, int]]:
    """The ports of the page and of the door."""
    page, door = listen_tcp("127.0.0.1", 0), listen_tcp("127.0.0.1", 0)
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(serving.run(_hello, _hello, page, door, stop, [], ready))
    await ready.wait()
    try:
        yield page.getsockname()[1], door.getsockname()[1]
    finally:
        stop.set()
        await task
        page.close()
        door.close()


@contextlib.asynccontextmanager
async def _served() -> AsyncIterator[int]:
    async with _both() as (page, _):
        yield page


def _begun(path: str = "/", *headers: str, length: int = 100) -> bytes:
    """A head whose body is still to come."""
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


@contextlib.asynccontextmanager
async def _crowd(port: int, count: int, said: bytes) -> AsyncIterator[list[socket.socket]]:
    crowd: list[socket.socket] = []
    try:
        for n in range(count):
            crowd.append(socket.create_connection(("127.0.0.1", port)))
            with contextlib.suppress(ConnectionError):  # given up already
                crowd[-1].sendall(said)
            if n % 10 == 0:
                await asyncio.sleep(0)  # the server lives in this thread too
        yield crowd
    finally:
        for one in crowd:
            one.close()


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


@pytest.mark.parametrize("listener", ["page", "door"])
@pytest.mark.parametrize(
    "said",
    [
        _begun(),
        _begun("/", "authorization: Bearer mine"),
        _begun("/early"),
        _begun("/expected"),
        _begun("/", "expect: 100-continue"),
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
    ],
    ids=["stranger", "token", "answered", "expected", "continue", "chunks"],
)
async def test_bodies_that_never_come_keep_nobody_out(
    monkeypatch: pytest.MonkeyPatch, listener: str, said: bytes
) -> None:
    monkeypatch.setattr(bounded_http, "MOST_CONNECTIONS", 50)
    async with _both() as (page, door):
        port = page if listener == "page" else door
        async with _crowd(port, 150, said):
            for _ in range(20):
                assert (await _ask(port)).startswith(b"HTTP/1.1 200")


async def test_a_complete_request_is_not_given_up_for_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_http, "MOST_CONNECTIONS", 20)
    async with _served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /slow HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nend")
        assert (await reader.read(1000)).startswith(b"HTTP/1.1 200")
        async with connect(f"ws://127.0.0.1:{port}/") as watcher:
            async with _crowd(port, 60, b""), _crowd(port, 60, _begun()):
                assert (await _ask(port)).startswith(b"HTTP/1.1 200")
            assert (await reader.read(1000)).endswith(b"k")
            await watcher.send("still")
            assert await watcher.recv() == "still"
        writer.close()


async def test_a_body_that_is_expected_keeps_its_place_against_strangers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounded_http, "MOST_CONNECTIONS", 20)
    async with _served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_begun("/expected", length=3))
        await asyncio.sleep(0.05)
        async with _crowd(port, 60, b""), _crowd(port, 60, _begun()):
            assert (await _ask(port)).startswith(b"HTTP/1.1 200")
        writer.write(b"end")
        assert (await reader.read(1000)).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_a_body_has_to_come_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_http, "BODY_SECONDS", 0.3)
    async with _served() as port:
        assert (await _ask(port, _begun() + b"a")).startswith(b"HTTP/1.1 408")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_begun())
        answer = asyncio.create_task(reader.read())
        with contextlib.suppress(ConnectionError):
            for _ in range(50):  # a byte now and then is no way to stay
                writer.write(b"a")
                await writer.drain()
                await asyncio.sleep(0.05)
                if answer.done():
                    break
        said = b"HTTP/1.1 408"
        with contextlib.suppress(ConnectionError):  # a byte that came after the end takes the answer with it
            said = await asyncio.wait_for(answer, 5)
        assert said.startswith(b"HTTP/1.1 408")
        writer.close()


@pytest.mark.parametrize("path", ["/expected", "/slow", "ws"])
async def test_who_is_known_or_served_may_be_silent(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(bounded_http, "BODY_SECONDS", 0.3)
    async with _served() as port:
        if path == "ws":
            async with connect(f"ws://127.0.0.1:{port}/") as watcher:
                await asyncio.sleep(0.8)
                await watcher.send("still")
                assert await watcher.recv() == "still"
            return
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_begun(path, length=3) + (b"end" if path == "/slow" else b""))
        if path == "/expected":
            await asyncio.sleep(0.8)
            writer.write(b"end")
        answer = b""
        while not answer.endswith((b"ok", b"k")):
            answer += await asyncio.wait_for(reader.read(1000), 5) or b"ended too early k"
        assert answer.startswith(b"HTTP/1.1 200") and b"early" not in answer
        writer.close()


async def test_after_an_early_answer_the_rest_is_waited_for_only_shortly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounded_http, "REST_SECONDS", 0.5)
    async with _served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_begun("/early", length=3))
        assert (await reader.read(1000)).startswith(b"HTTP/1.1 401")
        writer.write(b"end")  # in time: the connection serves on
        await asyncio.sleep(0.8)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await reader.read(1000)).startswith(b"HTTP/1.1 200")
        writer.write(_begun("/early", length=3))
        answer = await asyncio.wait_for(reader.read(), 5)  # to the end of the connection
        assert answer.startswith(b"HTTP/1.1 401")
        writer.close()


async def test_the_connections_of_one_token_are_bounded_at_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_http, "MOST_OF_ONE", 5)

    def get(*headers: str) -> bytes:
        return "\r\n".join(["GET / HTTP/1.1", "host: x", *headers, "", ""]).encode()

    async with _both() as (page, door):
        mine = "authorization: Bearer mine"
        async with _crowd(door, 5, _begun("/expected", mine)):
            for again in (mine, "Authorization:  bEARER  mine ", "x-api-key: mine"):
                async with asyncio.timeout(5):
                    while not (await _ask(door, get(again))).startswith(b"HTTP/1.1 429"):  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
            for other in ("authorization: Bearer yours", "x-other: y"):
                assert (await _ask(door, get(other))).startswith(b"HTTP/1.1 200")
            for two in ("authorization: Bearer yours", "x-api-key: yours"):
                assert (await _ask(door, get(two, mine))).startswith(b"HTTP/1.1 400")
        async with asyncio.timeout(5):  # once they are closed there is room again
            while not (await _ask(door, get(mine))).startswith(b"HTTP/1.1 200"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        async with _crowd(page, 20, _begun("/", mine)):
            assert (await _ask(page, get(mine))).startswith(b"HTTP/1.1 200")


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
