"""What all APIs share: faults, pace, records, keys, models."""

import asyncio
import time
from typing import Any

import httpx2
import pytest

from openinspect.testing import ScriptedModel
from openinspect.testing.recorder import MAX_RECORDS, Recorder

from .conftest import PATHS, events

pytestmark = pytest.mark.anyio
FAMILIES = sorted(PATHS)


def body(family: str, prompt: str, **options: Any) -> dict[str, Any]:
    request: dict[str, Any] = {"model": "any", "stream": True, "tools": [], **options}
    request["input" if family == "responses" else "messages"] = [{"role": "user", "content": prompt}]
    return request


async def post(
    client: httpx2.AsyncClient,
    model: ScriptedModel,
    family: str,
    prompt: str,
    headers: dict[str, str] | None = None,
    **options: Any,
) -> httpx2.Response:
    return await client.post(model.url + PATHS[family], json=body(family, prompt, **options), headers=headers)


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_fault_spoils_so_many_attempts(client: httpx2.AsyncClient, model: ScriptedModel, family: str):
    prompt = "fail 429 retry 3\nfail 500 x2\nsay: at last"
    answers = [await post(client, model, family, prompt) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [429, 500, 500, 200]
    assert answers[0].headers["retry-after"] == "3"
    assert "last" in answers[3].text


async def test_attempts_are_counted_by_session(client: httpx2.AsyncClient, model: ScriptedModel):
    for session in ("one", "two"):
        answer = await post(client, model, "chat", "fail 500\nsay: hello", {"x-session-id": session})
        assert answer.status_code == 500


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_cut_stream_ends_in_the_middle(
    client: httpx2.AsyncClient, model: ScriptedModel, family: str, stream: bool
):
    received = bytearray()
    with pytest.raises(httpx2.RemoteProtocolError):
        async with client.stream(
            "POST", model.url + PATHS[family], json=body(family, "say 20 words\ncut", stream=stream)
        ) as response:
            assert response.status_code == 200
            async for piece in response.aiter_bytes():
                received += piece
    assert b"word5" in received
    assert b"Done" not in received
    assert model.requests[-1].outcome == "cut"
    again = await post(client, model, family, "say 20 words\ncut", stream=stream)
    assert "Done" in again.text


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_stall_is_silence_in_the_middle(
    client: httpx2.AsyncClient, model: ScriptedModel, family: str
):
    arrivals: list[tuple[float, bytes]] = []
    begin = time.monotonic()
    async with client.stream(
        "POST", model.url + PATHS[family], json=body(family, "stall 0.5\nsay: after")
    ) as response:
        async for piece in response.aiter_bytes():
            arrivals.append((time.monotonic() - begin, piece))
    silent = [at for at, piece in arrivals if b"after" in piece]
    assert any(b"Silence" in piece for at, piece in arrivals if at < silent[0])
    assert silent[0] >= 0.5


async def test_words_come_at_the_asked_pace(client: httpx2.AsyncClient, model: ScriptedModel):
    begin = time.monotonic()
    answer = await post(client, model, "chat", "say 50 words every 10 ms")
    assert time.monotonic() - begin >= 0.45
    words = [c["choices"][0]["delta"].get("content", "") for c in events(answer.text) if c["choices"]]
    assert sum("word" in word for word in words) == 50


async def test_without_a_pace_many_words_are_quick_and_let_others_through(
    client: httpx2.AsyncClient, model: ScriptedModel
):
    many = asyncio.create_task(post(client, model, "chat", "say 40000 words"))
    await model.wait_for(lambda records: len(records) == 1)
    await post(client, model, "chat", "say: hello")
    assert not many.done()
    assert "word40000" in (await many).text


async def test_a_client_that_leaves_ends_the_stream(client: httpx2.AsyncClient, model: ScriptedModel):
    request = body("anthropic", "say 5 words\nstall 600")
    async with client.stream("POST", model.url + PATHS["anthropic"], json=request) as response:
        await anext(response.aiter_bytes())
        assert model.requests[-1].outcome == "open"
    await model.wait_for(lambda records: records[-1].outcome == "left", timeout_s=10)


async def test_secrets_are_not_recorded(client: httpx2.AsyncClient, model: ScriptedModel):
    secret = "sk-very-secret-value-9876"
    headers = {
        "authorization": f"Bearer {secret}",
        "x-api-key": secret,
        "cookie": secret,
        "x-auth-token": "short",
    }
    await post(client, model, "chat", "say: hello", headers)
    listed = (await client.get(f"{model.url}/_scripted/requests")).text
    assert secret not in listed
    assert '"short"' not in listed
    seen = {entry.header: entry.last4 for entry in model.requests[-1].secrets}
    assert seen == {"authorization": "9876", "x-api-key": "9876", "cookie": "9876", "x-auth-token": None}


async def test_records_and_counters(client: httpx2.AsyncClient, model: ScriptedModel):
    await post(client, model, "chat", "say: hello", {"x-session-id": "ses_1"}, temperature=0.5)
    await post(client, model, "anthropic", "fail 500")
    listed = (await client.get(f"{model.url}/_scripted/requests?after=1")).json()
    assert [(entry["number"], entry["status"], entry["outcome"]) for entry in listed] == [(2, 500, "refused")]
    first = model.requests[0]
    assert (first.session, first.scenario, first.answer, first.outcome) == (
        "ses_1",
        "line by line",
        "answer 1",
        "completed",
    )
    assert first.options["temperature"] == 0.5
    counters = (await client.get(f"{model.url}/_scripted/counters")).json()
    assert counters["requests"] == 2
    assert counters["family:chat"] == counters["status:500"] == counters["outcome:refused"] == 1
    assert (await client.delete(f"{model.url}/_scripted/requests")).status_code == 204
    assert model.requests == []
    assert (await client.get(f"{model.url}/_scripted/requests?after=x")).status_code == 400


async def test_the_ring_is_bounded():
    recorder = Recorder()
    for _ in range(MAX_RECORDS + 5):
        recorder.end(recorder.begin("/x", "chat", {}), 200, "completed")
    assert [record.number for record in recorder.records()] == list(range(6, MAX_RECORDS + 6))
    assert recorder.counters()["requests"] == MAX_RECORDS + 5


async def test_a_key_is_asked_for_when_one_is_set(client: httpx2.AsyncClient):
    async with ScriptedModel("playground", key="the-right-key") as model:
        for headers in ({}, {"x-api-key": "wrong"}, {"authorization": "Bearer wrong"}):
            assert (await post(client, model, "anthropic", "say: hello", headers)).status_code == 401
        for headers in ({"x-api-key": "the-right-key"}, {"authorization": "Bearer the-right-key"}):
            assert (await post(client, model, "anthropic", "say: hello", headers)).status_code == 200


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"{}",
        b'{"messages": 5, "input": 5}',
        b'{"messages": [{"role": "robot"}]}',
        b"[" * 100_000,
    ],
)
async def test_what_is_no_request_is_refused(
    client: httpx2.AsyncClient, model: ScriptedModel, family: str, content: bytes
):
    response = await client.post(model.url + PATHS[family], content=content)
    assert response.status_code == 400
    assert "can't be read" in response.text
    assert model.requests[-1].outcome == "refused"


async def test_half_a_character_does_no_harm(client: httpx2.AsyncClient, model: ScriptedModel):
    content = b'{"model": "any", "stream": true, "messages": [{"role": "user", "content": "say: a\\ud800b"}]}'
    assert "a?b" in (await client.post(model.url + PATHS["chat"], content=content)).text
    assert (await client.get(f"{model.url}/_scripted/requests")).status_code == 200


async def test_too_large_a_request_is_refused(client: httpx2.AsyncClient, model: ScriptedModel):
    response = await client.post(model.url + PATHS["chat"], content=b"x" * (33 * 1024 * 1024))
    assert response.status_code == 413


async def test_all_three_families_are_at_opencode(client: httpx2.AsyncClient, model: ScriptedModel):
    for family, path in (("anthropic", "messages"), ("chat", "chat/completions"), ("responses", "responses")):
        response = await client.post(f"{model.opencode_url}/{path}", json=body(family, "say: hello"))
        assert "hello" in response.text
    assert [record.family for record in model.requests] == ["anthropic", "chat", "responses"]


async def test_models_are_listed(client: httpx2.AsyncClient, model: ScriptedModel):
    for base in (model.anthropic_url, model.openai_url, model.opencode_url):
        response = await client.get(f"{base}/models")
        assert response.headers["x-scripted-model"] == "1"
        assert all(entry["id"] for entry in response.json()["data"])


async def test_fifty_parallel_turns_do_not_mix(client: httpx2.AsyncClient, model: ScriptedModel):
    async def turn(number: int) -> bool:
        answer = await post(
            client, model, "chat", f"say 20 words every 2 ms\nsay: mine is {number}", stream=False
        )
        return f"mine is {number}\n" in answer.json()["choices"][0]["message"]["content"]

    assert all(await asyncio.gather(*(turn(number) for number in range(50))))
