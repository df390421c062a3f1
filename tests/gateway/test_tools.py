from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx2
import pytest
from mcp.client.session import ClientSession
from mcp.client.streamable_http import streamable_http_client
from starlette.applications import Starlette
from starlette.routing import Mount

from openinspect.forges.errors import BranchNotFound
from openinspect.gateway.tools import Limits, PullRequestMade, PullRequestWanted, ToolsDoor
from openinspect.problems import Conflict

pytestmark = pytest.mark.anyio

RUNNING = "oi_sbx_running"
IDLE = "oi_sbx_idle"


class Grant(NamedTuple):
    session_id: str
    prompt_id: str | None


class Door:
    """The door, with a code host that only notes what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.wanted: list[PullRequestWanted] = []
        self.problem: Exception | None = None
        self.pause = 0.0
        self.door = ToolsDoor(
            authorise=self._authorise,
            create_pull_request=self._create,
            limits=Limits(seconds=0.5, body_seconds=0.5),
        )

    async def _authorise(self, token: str) -> Grant | None:
        return {RUNNING: Grant("ses_1", "prm_1"), IDLE: Grant("ses_1", None)}.get(token)

    async def _create(self, grant: Grant, wanted: PullRequestWanted) -> PullRequestMade:
        await asyncio.sleep(self.pause)
        if self.problem is not None:
            raise self.problem
        self.wanted.append(wanted)
        return PullRequestMade(
            number=7,
            url="http://inspect.example/pull/7",
            created=len(self.wanted) == 1,
            repository="widgets",
            title=wanted.title,
            head="open-inspect/ab12",
            base=wanted.base or "main",
            draft=wanted.draft,
        )

    async def call(self, arguments: dict[str, Any], *, token: str = RUNNING) -> tuple[str, bool]:
        async with httpx2.AsyncClient(trust_env=False, timeout=20) as client:
            answer = await client.post(
                f"{self.url}/tools/mcp",
                json={
                    "jsonrpc": "2.0",
                    "id": 1,
                    "method": "tools/call",
                    "params": {"name": "create_pull_request", "arguments": arguments},
                },
                headers={
                    "authorization": f"Bearer {token}",
                    "accept": "application/json, text/event-stream",
                    "mcp-protocol-version": "2025-06-18",
                },
            )
        assert answer.status_code == 200, answer.text
        result = answer.json()["result"]
        return result["content"][0]["text"], result.get("isError", False)


@pytest.fixture
async def door(serve_app: Any) -> AsyncIterator[Door]:
    one = Door()
    async with serve_app(Starlette(routes=[Mount("/tools", one.door)])) as url:
        one.url = url
        yield one
        await one.door.aclose()


async def test_the_official_client_lists_and_calls_it(door: Door):
    async with (
        httpx2.AsyncClient(trust_env=False, headers={"authorization": f"Bearer {RUNNING}"}) as client,
        streamable_http_client(f"{door.url}/tools/mcp", http_client=client) as streams,
        ClientSession(streams[0], streams[1]) as session,
    ):
        await session.initialize()
        [tool] = (await session.list_tools()).tools
        assert tool.name == "create_pull_request"
        assert tool.input_schema["required"] == ["title", "body"]
        assert tool.input_schema["properties"]["base"]["type"] == "string"
        result = await session.call_tool("create_pull_request", {"title": "Fix it", "body": "Why"})
        assert not result.is_error
        assert "#7 of widgets: Fix it" in str(result.content)


async def test_the_same_again_is_an_update(door: Door):
    first, failed = await door.call({"title": "Fix it", "body": "Why"})
    assert first.startswith("Opened pull request #7") and not failed
    again, failed = await door.call({"title": "Fix it well", "body": "Why", "draft": True})
    assert again.startswith("Updated the open draft pull request #7") and not failed


async def test_texts_are_cleaned(door: Door):
    await door.call(
        {
            "title": "  Fix\x00 \u202ethe\r\nbug\x1b[31m ",
            "body": "One\r\n\x07two\ttabs\u2066\n\n",
            "base": "release/1.0",
            "repository": "widgets",
        }
    )
    [wanted] = door.wanted
    assert wanted.title == "Fix the bug [31m"
    assert wanted.body == "One\ntwo\ttabs"
    assert (wanted.base, wanted.repository, wanted.draft) == ("release/1.0", "widgets", False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "`title`"),
        ({"title": " \x00\n", "body": "x"}, "must not be empty"),
        ({"title": "x" * 257, "body": "x"}, "256"),
        ({"title": "x", "body": "x" * 65_537}, "65536"),
        ({"title": "x", "body": "x", "base": "--upload-pack=evil"}, "`base`"),
        ({"title": "x", "body": "x", "base": "a b"}, "`base`"),
        ({"title": "x", "body": "x", "author": "somebody else"}, "`author`"),
        ({"title": ["x"], "body": "x"}, "`title`"),
        ({"title": "x", "body": "x", "draft": "perhaps"}, "`draft`"),
    ],
    ids=["nothing", "empty", "title", "body", "option", "space", "unknown", "kind", "draft"],
)
async def test_bad_parameters_are_told_and_nothing_is_done(door: Door, arguments: dict[str, Any], says: str):
    text, failed = await door.call(arguments)
    assert failed and says in text and "Nothing was done" in text and len(text) < 2_000
    assert not door.wanted


async def test_nothing_is_done_while_no_prompt_runs(door: Door):
    text, failed = await door.call({"title": "x", "body": "x"}, token=IDLE)
    assert failed and "No prompt is running" in text and not door.wanted


async def test_a_turn_has_ten_calls(door: Door):
    outcomes = [await door.call({"title": "x", "body": "x"}) for _ in range(12)]
    assert [failed for _, failed in outcomes] == [False] * 10 + [True] * 2
    assert "10 times" in outcomes[-1][0] and len(door.wanted) == 10


async def test_errors_say_what_to_do(door: Door):
    door.problem = BranchNotFound("There is no branch 'work'", "Choose one that exists, such as main.")
    text, failed = await door.call({"title": "x", "body": "x"})
    assert failed and text.startswith("There is no branch 'work'. If that is the branch of your work: ")
    assert "git push -u origin HEAD" in text and "such as main" in text
    door.problem = Conflict("no_turn", "No turn is running.", "Wait for one.")
    assert await door.call({"title": "x", "body": "x"}) == ("No turn is running. Wait for one.", True)
    door.problem = RuntimeError("internal detail")
    text, failed = await door.call({"title": "x", "body": "x"})
    assert failed and "internal detail" not in text
    door.problem, door.pause = None, 5
    text, failed = await door.call({"title": "x", "body": "x"})
    assert failed and "in time" in text


async def test_only_a_sandbox_gets_in(door: Door):
    async with httpx2.AsyncClient(trust_env=False, timeout=20) as client:
        for headers in ({}, {"authorization": "Bearer nobody"}, {"authorization": RUNNING}):
            answer = await client.post(f"{door.url}/tools/mcp", json={}, headers=headers)
            assert answer.status_code == 401
        known = {"authorization": f"Bearer {RUNNING}"}
        assert (await client.get(f"{door.url}/tools/mcp", headers=known)).status_code == 405
        assert (await client.delete(f"{door.url}/tools/mcp", headers=known)).status_code == 405
        assert (await client.post(f"{door.url}/tools/other", headers=known)).status_code == 404
        for content in (b"", b"nonsense", b"[]", b"{}", b"\xff"):
            answer = await client.post(
                f"{door.url}/tools/mcp",
                content=content,
                headers=known | {"accept": "application/json, text/event-stream"},
            )
            assert 400 <= answer.status_code < 500, content
        answer = await client.post(
            f"{door.url}/tools/mcp", content=b"x" * 1_100_000, headers=known | {"accept": "application/json"}
        )
        assert answer.status_code == 413


@pytest.mark.parametrize(("token", "status"), [(RUNNING, b"408"), ("unknown", b"401")])
async def test_a_body_that_never_comes_is_not_waited_for(door: Door, token: str, status: bytes):
    await door.call({"title": "The library is there", "body": ""})
    reader, writer = await asyncio.open_connection("127.0.0.1", int(door.url.rpartition(":")[2]))
    head = (
        f"POST /tools/mcp HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 100\r\n\r\n"
    )
    writer.write(head.encode() + b"{")
    answer = await asyncio.wait_for(reader.read(), 5)  # to the end of the connection
    assert answer.startswith(b"HTTP/1.1 " + status) and b"connection: close" in answer
    writer.close()


async def test_a_web_socket_is_closed(door: Door):
    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    await door.door({"type": "websocket", "path": "/mcp", "headers": []}, receive, send)
    assert said == [{"type": "websocket.close", "code": 1008}]


async def test_an_unknown_tool_is_an_error_of_the_tool(door: Door):
    await door.door.warm()
    text, failed = await door.door._call(Grant("ses_1", "prm_1"), "rm", {})  # pyright: ignore[reportPrivateUsage]
    assert failed and "create_pull_request" in text
