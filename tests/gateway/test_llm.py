from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from pydantic import SecretStr
from sqlalchemy import select
from starlette.types import Receive, Scope, Send

from openinspect.db.tables import prompts
from openinspect.gateway.llm_exchange import Limits
from openinspect.models.catalogue import provider
from openinspect.settings import Settings
from openinspect.testing import ScriptedModel

pytestmark = pytest.mark.anyio

Served = Any  # of conftest.py

KEY = "sk-real-0123456789abcdef"


@pytest.fixture(scope="module")
def _running() -> Iterator[ScriptedModel]:
    with ScriptedModel() as running:
        yield running


@pytest.fixture
def model(_running: ScriptedModel) -> ScriptedModel:
    _running.play("playground")
    return _running


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch):
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "OPENCODE_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def door(serve_llm: Any, model: ScriptedModel, tmp_path: Path) -> AsyncIterator[Served]:
    async with serve_llm(Settings(data_dir=tmp_path, scripted_model_url=model.url)) as running:
        yield running


def messages(prompt: str, *, stream: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "model": "claude-sonnet-4-6",
        "max_tokens": 1000,
        "stream": stream,
        "messages": [{"role": "user", "content": prompt}],
    } | more


def responses(prompt: str, *, stream: bool = True, **more: Any) -> dict[str, Any]:
    content = [{"type": "input_text", "text": prompt}]
    return {"model": "gpt-5.4", "stream": stream, "input": [{"role": "user", "content": content}]} | more


def chat(prompt: str, *, stream: bool = True, **more: Any) -> dict[str, Any]:
    return {"model": "glm-5", "stream": stream, "messages": [{"role": "user", "content": prompt}]} | more


FAMILIES = [
    pytest.param("anthropic/v1/messages", messages, id="anthropic"),
    pytest.param("openai/v1/responses", responses, id="responses"),
    pytest.param("opencode/v1/chat/completions", chat, id="chat"),
]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(("path", "body"), FAMILIES)
async def test_an_answer_passes_unchanged_and_what_it_used_is_counted(
    door: Served, model: ScriptedModel, path: str, body: Any, stream: bool
):
    token = await door.new_session()
    answer = await door.ask(token, path, body("say 50 words", stream=stream))
    assert answer.status_code == 200, answer.text
    [call] = await door.settled(token)
    direct = await door.client.post(f"{model.url}/{path}", json=orjson.loads(_sent(body, stream)))
    assert _without_ids(answer.text) == _without_ids(direct.text)
    assert answer.headers["content-type"].split(";")[0] == direct.headers["content-type"].split(";")[0]
    assert "x-scripted-model" not in answer.headers

    assert call.status == "settled" and call.scripted and call.http_status == 200
    assert call.input_tokens > 0 and call.output_tokens >= 40
    assert call.cost_usd is not None and 0 < call.cost_usd <= call.reserved_usd
    record = model.requests[0]
    assert (call.input_tokens, call.output_tokens) == _told(answer, stream)
    assert "authorization" not in record.headers and "x-api-key" not in record.headers
    [event] = door.events
    assert event.error is None and event.output_tokens == call.output_tokens
    async with door.engine.connect() as connection:
        found = await connection.execute(select(prompts).where(prompts.c.id == door.grants[token].prompt_id))
        assert found.mappings().one()["cost_usd"] == call.cost_usd


def _sent(body: Any, stream: bool) -> bytes:
    asked = body("say 50 words", stream=stream)
    if "messages" in asked and "max_tokens" not in asked and stream:
        asked["stream_options"] = {"include_usage": True}
    return orjson.dumps(asked)


def _without_ids(text: str) -> int:
    # Ids and times differ from answer to answer; their lengths hardly do.
    return len(text) // 200


def _told(answer: httpx2.Response, stream: bool) -> tuple[int, int]:
    """What the answer itself says that it used, the last numbers of it."""
    found: dict[str, int] = {}

    def look(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("usage"), dict):
                found.update({k: v for k, v in value["usage"].items() if isinstance(v, int)})
            for inner in value.values():
                look(inner)

    lines = (
        [line[5:] for line in answer.text.splitlines() if line.startswith("data:")]
        if stream
        else [answer.text]
    )
    for line in lines:
        if line.strip() != "[DONE]":
            look(orjson.loads(line))
    cached = found.get("cache_read_input_tokens", 0) + found.get("cache_creation_input_tokens", 0)
    if "prompt_tokens" in found:
        return found["prompt_tokens"], found["completion_tokens"]
    return found["input_tokens"] + cached, found["output_tokens"]


async def test_the_real_key_is_added_and_the_callers_is_dropped(
    serve_app: Any, serve_llm: Any, model: ScriptedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for provider_id, path, body, header in (
        ("anthropic", "anthropic/v1/messages", messages("say hi"), "x-api-key"),
        ("openai", "openai/v1/responses", responses("say hi"), "authorization"),
    ):
        async with Recording(serve_app) as upstream:
            _redirect(monkeypatch, provider_id, f"{upstream.url}/v1")
            settings = Settings(data_dir=tmp_path)
            setattr(settings, f"{provider_id}_api_key", SecretStr(KEY))
            async with serve_llm(settings) as door:
                token = await door.new_session()
                answer = await door.client.post(
                    f"{door.url}/llm/{path}?key=theirs&beta=true",
                    json=body,
                    headers={
                        "x-api-key": token,
                        "cookie": "a=b",
                        "openai-organization": "org-theirs",
                        "x-forwarded-host": "elsewhere.example",
                        "anthropic-beta": "files-api-2025-04-14, interleaved-thinking-2025-05-14,mcp-client-2025-04-04",
                    },
                )
                assert answer.status_code == 200
        [seen] = upstream.seen
        assert seen["path"] == "/v1/" + path.partition("/v1/")[2] and seen["query"] == b""
        assert KEY in seen["headers"][header]
        assert token not in str(seen)
        assert not {"cookie", "openai-organization", "x-forwarded-host"} & set(seen["headers"])
        if provider_id == "anthropic":
            assert seen["headers"]["anthropic-beta"] == "interleaved-thinking-2025-05-14"


async def test_a_providers_errors_come_without_the_key(
    serve_app: Any, serve_llm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with Recording(serve_app) as upstream:
        _redirect(monkeypatch, "openai", f"{upstream.url}/v1")
        settings = Settings(data_dir=tmp_path)
        settings.openai_api_key = SecretStr(KEY)
        async with serve_llm(settings) as door:
            token = await door.new_session()
            upstream.answer = (
                400,
                [(b"retry-after", b"3"), (b"set-cookie", b"x=y")],
                f"bad {KEY} sk-other_abc12".encode(),
            )
            answer = await door.ask(token, "openai/v1/responses", responses("x"))
            assert answer.status_code == 400 and answer.text == "bad (key) (key)"
            assert answer.headers["retry-after"] == "3" and "set-cookie" not in answer.headers
            upstream.answer = (401, [], b'{"error":{"message":"Incorrect API key provided: sk-rea***cdef"}}')
            answer = await door.ask(token, "openai/v1/responses", responses("x"))
            assert answer.status_code == 401
            assert "OPENAI_API_KEY" in answer.json()["error"]["message"] and "sk-" not in answer.text
            upstream.answer = (302, [(b"location", b"http://127.0.0.1:1/")], b"")
            answer = await door.ask(token, "openai/v1/responses", responses("x"))
            assert answer.status_code == 502 and len(upstream.seen) == 3
            calls = await door.settled(token, 3)
            assert [(call.status, call.http_status, call.cost_usd) for call in calls] == [
                ("failed", 400, 0),
                ("failed", 401, 0),
                ("failed", 302, 0),
            ]


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("anthropic/v1/files", 404, "Files, batches"),
        ("anthropic/v1/messages/batches", 404, "/messages"),
        ("openai/v1/files", 404, "/responses"),
        ("openai/v1/responses/../files", 404, "provider"),
        ("openai/v1/embeddings", 404, "/responses"),
        ("opencode/v1/messages", 404, "/chat/completions"),
        ("nobody/v1/messages", 404, "no model provider"),
        ("", 404, "no model provider"),
    ],
)
async def test_only_generation_is_open(door: Served, model: ScriptedModel, path: str, status: int, says: str):
    token = await door.new_session()
    answer = await door.ask(token, path, messages("x"))
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]
    assert not model.requests


async def test_refusals_speak_as_the_provider_does(door: Served, model: ScriptedModel):
    idle, busy = await door.new_session(running=False), await door.new_session()
    answer = await door.ask(busy, "anthropic/v1/messages", messages("x", model="claude-opus-5"))
    assert answer.status_code == 403 and answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == "permission_error"
    assert "claude-haiku-4-5, anthropic/claude-sonnet-4-6" in answer.json()["error"]["message"]
    answer = await door.ask(idle, "openai/v1/responses", responses("x"))
    assert answer.status_code == 403 and "No prompt is running" in answer.json()["error"]["message"]
    for token in ("nobody", "Bearer", "x" * 5000):
        answer = await door.ask(token, "openai/v1/responses", responses("x"))
        assert answer.status_code == 401 and answer.json()["error"]["code"] == "authentication_error"
    answer = await door.client.get(
        f"{door.url}/llm/openai/v1/responses", headers={"authorization": f"Bearer {busy}"}
    )
    assert answer.status_code == 405
    for content in (
        b"",
        b"nonsense",
        b"[]",
        b'{"model": "gpt-5.4"',
        b'{"model":["gpt-5.4"]}',
        b"\xff\xfe",
        b"[" * 5000,
    ):
        answer = await door.client.post(
            f"{door.url}/llm/openai/v1/responses", content=content, headers={"x-api-key": busy}
        )
        assert answer.status_code in (400, 403), content
    assert not model.requests and not await door.calls(busy)


async def test_without_a_key_it_says_which_one_is_missing(serve_llm: Any, tmp_path: Path):
    async with serve_llm(Settings(data_dir=tmp_path)) as door:
        token = await door.new_session()
        answer = await door.ask(token, "anthropic/v1/messages", messages("x"))
        assert answer.status_code == 403 and "ANTHROPIC_API_KEY" in answer.json()["error"]["message"]


async def test_a_body_is_bounded(serve_llm: Any, model: ScriptedModel, tmp_path: Path):
    settings = Settings(data_dir=tmp_path, scripted_model_url=model.url)
    async with serve_llm(settings, Limits(body_bytes=100_000)) as door:
        token = await door.new_session()
        answer = await door.ask(token, "anthropic/v1/messages", messages("x" * 100_001))
        assert answer.status_code == 413 and answer.json()["error"]["type"] == "request_too_large"

        async def pieces():
            for _ in range(30):
                yield b"x" * 5_000

        answer = await door.client.post(
            f"{door.url}/llm/anthropic/v1/messages", content=pieces(), headers={"x-api-key": token}
        )
        assert answer.status_code == 413
        answer = await door.ask(token, "anthropic/v1/messages", messages("say hi"))
        assert answer.status_code == 200


async def test_words_pass_as_they_come(door: Served):
    token = await door.new_session()
    times: list[float] = []
    async with door.client.stream(
        "POST",
        f"{door.url}/llm/anthropic/v1/messages",
        json=messages("say 20 words every 30 ms"),
        headers={"x-api-key": token},
    ) as answer:
        async for _ in answer.aiter_raw():
            times.append(time.monotonic())
    assert len(times) >= 5 and times[-1] - times[0] > 0.4


async def test_who_hangs_up_ends_the_call_at_once_and_pays_for_what_came(door: Served, model: ScriptedModel):
    token = await door.new_session()
    async with door.client.stream(
        "POST",
        f"{door.url}/llm/anthropic/v1/messages",
        json=messages("say 2000 words every 10 ms"),
        headers={"x-api-key": token},
    ) as answer:
        seen = 0
        async for chunk in answer.aiter_raw():
            seen += len(chunk)
            if seen > 4_000:
                break
    left = time.monotonic()
    await model.wait_for(lambda records: records[0].outcome == "left", timeout_s=5)
    assert time.monotonic() - left < 2
    [call] = await door.settled(token)
    assert call.status == "settled" and call.input_tokens > 0 and 5 < call.output_tokens < 500
    assert call.cost_usd > 0
    assert door.events[0].error and "hung up" in door.events[0].error


@pytest.mark.parametrize(("path", "body"), FAMILIES)
async def test_an_answer_that_breaks_off_breaks_off_here_too(door: Served, path: str, body: Any):
    token = await door.new_session()
    with pytest.raises(httpx2.RemoteProtocolError):
        await door.ask(token, path, body("cut"))
    [call] = await door.settled(token)
    assert call.status == "settled" and call.output_tokens > 0
    assert door.events[0].error and "broke off" in door.events[0].error
    # The connection that was cut is not used again.
    assert (await door.ask(token, path, body("say hi"))).status_code == 200


@pytest.mark.parametrize(("path", "body"), FAMILIES)
async def test_errors_of_the_provider_pass(door: Served, path: str, body: Any):
    token = await door.new_session()
    answer = await door.ask(token, path, body("fail 429 retry 7"))
    assert answer.status_code == 429 and answer.headers["retry-after"] == "7"
    answer = await door.ask(token, path, body("break"))
    assert answer.status_code == 200
    calls = await door.settled(token, 2)
    assert [call.status for call in calls] == ["failed", "settled"]
    assert calls[0].http_status == 429 and calls[0].cost_usd == 0
    assert [event.error is not None for event in door.events] == [True, True]


async def test_a_provider_that_is_away_is_a_bad_gateway(serve_llm: Any, tmp_path: Path):
    settings = Settings(data_dir=tmp_path, scripted_model_url="http://127.0.0.1:1")
    async with serve_llm(settings) as door:
        token = await door.new_session()
        answer = await door.ask(token, "anthropic/v1/messages", messages("x"))
        assert answer.status_code == 502 and "can't be reached" in answer.json()["error"]["message"]
        [call] = await door.settled(token)
        assert call.status == "failed" and call.http_status is None


async def test_a_provider_that_falls_silent_ends_the_call(
    serve_llm: Any, model: ScriptedModel, tmp_path: Path
):
    settings = Settings(data_dir=tmp_path, scripted_model_url=model.url)
    async with serve_llm(settings, Limits(idle_seconds=0.3)) as door:
        token = await door.new_session()
        with pytest.raises(httpx2.RemoteProtocolError):
            await door.ask(token, "anthropic/v1/messages", messages("stall 30"))
        await door.settled(token)
        assert "ReadTimeout" in (door.events[0].error or "")


async def test_a_spent_budget_stops_the_next_call(door: Served, model: ScriptedModel):
    token = await door.new_session(budget="0.001")
    answers = [await door.ask(token, "anthropic/v1/messages", messages("say 200 words")) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 402, 402]
    assert answers[1].json()["error"]["type"] == "billing_error"
    assert "may spend $0.0010" in answers[1].json()["error"]["message"]
    assert len(model.requests) == 1


async def test_a_session_has_a_bounded_number_of_calls(serve_llm: Any, model: ScriptedModel, tmp_path: Path):
    settings = Settings(data_dir=tmp_path, scripted_model_url=model.url)
    async with serve_llm(settings, Limits(calls_of_session=2)) as door:
        token, other = await door.new_session(), await door.new_session()
        slow = [
            asyncio.create_task(
                door.ask(token, "anthropic/v1/messages", messages("say 40 words every 20 ms"))
            )
            for _ in range(2)
        ]
        await model.wait_for(lambda records: len(records) >= 2)
        answer = await door.ask(token, "anthropic/v1/messages", messages("say hi"))
        assert answer.status_code == 429 and "retry-after" in answer.headers
        assert (await door.ask(other, "anthropic/v1/messages", messages("say hi"))).status_code == 200
        assert [(await one).status_code for one in slow] == [200, 200]
        assert (await door.ask(token, "anthropic/v1/messages", messages("say hi"))).status_code == 200


async def test_a_call_is_settled_though_the_database_is_away_for_a_moment(door: Served):
    token = await door.new_session()
    really, failures = door._settle, iter(range(3))

    async def settle(call_id: str, outcome: Any) -> None:
        for _ in failures:
            raise ConnectionError("away")
        await really(call_id, outcome)

    door.door._books._settle = settle  # pyright: ignore[reportPrivateUsage]
    assert (await door.ask(token, "anthropic/v1/messages", messages("say hi"))).status_code == 200
    [call] = await door.calls(token)
    assert call.status == "settled"


async def test_a_call_that_can_not_be_written_down_is_not_made(door: Served, model: ScriptedModel):
    token = await door.new_session()

    async def reserve(_: Any) -> str:
        raise ConnectionError("away")

    door.door._books._reserve = reserve  # pyright: ignore[reportPrivateUsage]
    answer = await door.ask(token, "anthropic/v1/messages", messages("say hi"))
    assert answer.status_code == 503 and not model.requests


def _redirect(monkeypatch: pytest.MonkeyPatch, provider_id: str, url: str) -> None:
    """Let the provider be elsewhere, for this test."""
    owner = provider(provider_id)
    assert owner is not None
    monkeypatch.setitem(owner.__dict__, "base_url", url)


class Recording:
    """A provider that notes what reaches it."""

    def __init__(self, serve_app: Any) -> None:
        self._serve_app = serve_app
        self.seen: list[dict[str, Any]] = []
        self.answer: tuple[int, list[tuple[bytes, bytes]], bytes] = (200, [], b"{}")
        self.url = ""

    async def __aenter__(self) -> Recording:
        self._port = self._serve_app(self)
        self.url = await self._port.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._port.__aexit__(*error)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        self.seen.append(
            {
                "path": scope["path"],
                "query": scope["query_string"],
                "headers": {name.decode(): value.decode() for name, value in scope["headers"]},
            }
        )
        status, headers, body = self.answer
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
