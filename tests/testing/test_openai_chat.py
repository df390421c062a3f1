"""OpenAI Chat Completions, as its SDKs and the compatible ones read it."""

import json
from typing import Any

import httpx2
import pytest

from openinspect.testing import ScriptedModel

from .conftest import PATHS, events

pytestmark = pytest.mark.anyio
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("bash", "read")]


def body(prompt: Any, *more: dict[str, Any], **options: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": "You help."}, {"role": "user", "content": prompt}, *more]
    return {"model": "glm-5", "messages": messages, "tools": TOOLS, **options}


async def post(client: httpx2.AsyncClient, model: ScriptedModel, request: dict[str, Any]) -> httpx2.Response:
    headers = {"authorization": "Bearer sk-" + "x" * 20}
    return await client.post(model.url + PATHS["chat"], json=request, headers=headers)


async def test_a_stream_has_the_right_chunks(client: httpx2.AsyncClient, model: ScriptedModel):
    request = body(
        "think: hmm so\nsay: hello world\nrun: ls -l", stream=True, stream_options={"include_usage": True}
    )
    response = await post(client, model, request)
    assert response.text.endswith("data: [DONE]\n\n")
    chunks = events(response.text)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "hmm so"
    assert "".join(delta.get("content", "") for delta in deltas) == "hello world\n"
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert calls[0]["id"].startswith("call_")
    assert calls[0]["function"]["name"] == "bash"
    arguments = json.loads("".join(call["function"]["arguments"] for call in calls))
    assert arguments["command"] == "ls -l"
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"
    usage = chunks[-1]["usage"]
    assert chunks[-1]["choices"] == []
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 1


async def test_usage_streams_only_when_it_was_asked_for(client: httpx2.AsyncClient, model: ScriptedModel):
    chunks = events((await post(client, model, body("say: hello", stream=True))).text)
    assert not any("usage" in chunk for chunk in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_a_document_says_the_same(client: httpx2.AsyncClient, model: ScriptedModel):
    answer = (await post(client, model, body("think: hmm\nsay: hello\nrun: ls"))).json()
    message = answer["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("hello\n", "hmm")
    assert json.loads(message["tool_calls"][0]["function"]["arguments"])["command"] == "ls"
    assert answer["usage"]["prompt_tokens"] > 0


async def test_the_turn_goes_on_after_a_tool_result(client: httpx2.AsyncClient, model: ScriptedModel):
    first = (await post(client, model, body("run: ls\necho"))).json()["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": first["tool_calls"][0]["id"], "content": "a.txt"}
    second = (await post(client, model, body("run: ls\necho", first, result))).json()
    assert second["choices"][0]["message"]["content"].startswith("a.txt")
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


async def test_images_and_effort_reach_the_record(client: httpx2.AsyncClient, model: ScriptedModel):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    prompt = [{"type": "text", "text": "what do you see"}, image]
    await post(client, model, body(prompt, reasoning_effort="high"))
    record = model.requests[-1]
    assert (record.effort, record.images[0].mime, record.images[0].size) == ("high", "image/png", 8)


async def test_media_of_a_tool_is_no_prompt(client: httpx2.AsyncClient, model: ScriptedModel):
    """Agents hand a tool's image over in a user message of its own where the API knows no other way."""
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "read", "arguments": '{"filePath": "a.png"}'},
    }
    media = [
        {"type": "text", "text": "Attached media from tool result:"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]
    more = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Image read"},
        {"role": "user", "content": media},
    ]
    answer = (await post(client, model, body("read a.png\nsay: seen", *more))).json()
    assert answer["choices"][0]["message"]["content"].startswith("seen")
    record = model.requests[-1]
    assert (record.turn, record.step, len(record.images), len(record.tool_images)) == (1, 2, 0, 1)


async def test_an_attached_file_is_no_prompt(client: httpx2.AsyncClient, model: ScriptedModel):
    prompt = [
        {"type": "text", "text": "say: hello"},
        {"type": "text", "text": 'Called the Read tool with the following input: {"filePath": "a"}'},
        {"type": "text", "text": "fail 500"},
    ]
    assert (await post(client, model, body(prompt))).status_code == 200


async def test_errors_have_its_shape(client: httpx2.AsyncClient, model: ScriptedModel):
    response = await post(client, model, body("fail 429 retry 7 always", stream=True))
    assert response.status_code == 429
    assert response.headers["retry-after"] == "7"
    assert response.json()["error"]["code"] == "rate_limit_exceeded"
    said = events((await post(client, model, body("break", stream=True))).text)
    assert "error" in said[-1]


async def test_a_model_that_does_not_exist(client: httpx2.AsyncClient, model: ScriptedModel):
    response = await post(client, model, {**body("say: hello"), "model": "no-such-model"})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
