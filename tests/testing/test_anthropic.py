"""Anthropic Messages, as its SDKs read it."""

import json
from base64 import b64encode
from typing import Any

import httpx2
import pytest

from openinspect.testing import ScriptedModel

from .conftest import PATHS, events

pytestmark = pytest.mark.anyio
PIXEL = b64encode(b"\x89PNG\r\n\x1a\n").decode()
TOOLS = [{"name": "bash", "input_schema": {}}, {"name": "read", "input_schema": {}}]


def body(prompt: str, *more: dict[str, Any], **options: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}, *more]
    return {"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": messages, "tools": TOOLS, **options}


async def post(client: httpx2.AsyncClient, model: ScriptedModel, request: dict[str, Any]) -> httpx2.Response:
    return await client.post(
        model.url + PATHS["anthropic"], json=request, headers={"x-api-key": "sk-ant-" + "x" * 20}
    )


async def test_a_stream_has_the_right_events(client: httpx2.AsyncClient, model: ScriptedModel):
    request = body("think: hmm so\nsay: hello world\nrun: ls -l", stream=True, thinking={"type": "adaptive"})
    response = await post(client, model, request)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-scripted-model"] == "1"
    said = events(response.text)
    kinds = [event["type"] for event in said]
    assert kinds[:3] == ["message_start", "ping", "content_block_start"]
    assert kinds[-2:] == ["message_delta", "message_stop"]
    starts = [event["content_block"]["type"] for event in said if event["type"] == "content_block_start"]
    assert starts == ["thinking", "text", "tool_use"]
    deltas = [event["delta"] for event in said if event["type"] == "content_block_delta"]
    assert "".join(delta.get("thinking", "") for delta in deltas) == "hmm so"
    assert sum("signature" in delta for delta in deltas) == 1
    assert [delta["text"] for delta in deltas if "text" in delta] == ["hello ", "world\n"]
    arguments = json.loads("".join(delta.get("partial_json", "") for delta in deltas))
    assert arguments == {"command": "ls -l", "description": "Runs a command"}
    assert said[-2]["delta"]["stop_reason"] == "tool_use"
    usage = said[-2]["usage"]
    assert usage["input_tokens"] > 0
    assert usage["output_tokens"] > 0


async def test_a_document_says_the_same(client: httpx2.AsyncClient, model: ScriptedModel):
    answer = (await post(client, model, body("say: hello\nrun: ls"))).json()
    assert [block["type"] for block in answer["content"]] == ["text", "tool_use"]
    assert answer["stop_reason"] == "tool_use"
    assert answer["role"] == "assistant"


async def test_thinking_is_only_sent_when_it_was_asked_for(client: httpx2.AsyncClient, model: ScriptedModel):
    answer = (await post(client, model, body("think: hmm\nsay: hello"))).json()
    assert [block["type"] for block in answer["content"]] == ["text", "text"]
    thinking = {"type": "enabled", "budget_tokens": 2000}
    answer = (await post(client, model, body("think: hmm\nsay: hello", thinking=thinking))).json()
    assert answer["content"][0]["type"] == "thinking"
    assert answer["content"][0]["signature"]


async def test_the_turn_goes_on_after_a_tool_result(client: httpx2.AsyncClient, model: ScriptedModel):
    first = (await post(client, model, body("run: ls\necho"))).json()
    use = first["content"][-1]
    more = [
        {"role": "assistant", "content": first["content"]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use["id"], "content": "a.txt"}]},
    ]
    second = (await post(client, model, body("run: ls\necho", *more))).json()
    assert second["content"][0]["text"] == "a.txt\n"
    assert second["stop_reason"] == "end_turn"


async def test_a_new_prompt_after_a_broken_off_turn_counts_alone(
    client: httpx2.AsyncClient, model: ScriptedModel
):
    """SDKs merge messages of the same role, so both prompts and the result come in one message."""
    use = {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {"command": "sleep 9"}}
    blocks = [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "aborted", "is_error": True},
        {"type": "text", "text": "fail 500 always"},
        {"type": "text", "text": "<system-reminder>Be quick.</system-reminder>"},
        {"type": "text", "text": "say: again"},
    ]
    more = [{"role": "assistant", "content": [use]}, {"role": "user", "content": blocks}]
    answer = (await post(client, model, body("run: sleep 9", *more))).json()
    assert answer["content"][0]["text"] == "again\n"
    assert model.requests[-1].turn == 3


async def test_images_and_effort_reach_the_record(client: httpx2.AsyncClient, model: ScriptedModel):
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    content = [{"type": "text", "text": "what do you see"}, image]
    request = body("x", output_config={"effort": "high"}, thinking={"type": "adaptive"})
    request["messages"] = [{"role": "user", "content": content}]
    answer = (await post(client, model, request)).json()
    assert "effort high" in answer["content"][0]["text"]
    assert "image/png of 8 bytes" in answer["content"][0]["text"]
    record = model.requests[-1]
    assert (record.effort, record.images[0].mime, record.images[0].size) == ("high", "image/png", 8)


async def test_the_cache_is_written_first_and_read_later(client: httpx2.AsyncClient, model: ScriptedModel):
    system = [{"type": "text", "text": "rule " * 400, "cache_control": {"type": "ephemeral"}}]
    first = (await post(client, model, body("run: ls", system=system))).json()
    assert first["usage"]["cache_creation_input_tokens"] > 400
    assert first["usage"]["cache_read_input_tokens"] == 0
    use = first["content"][-1]
    more = [
        {"role": "assistant", "content": first["content"]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use["id"], "content": "a.txt"}]},
    ]
    second = (await post(client, model, body("run: ls", *more, system=system))).json()
    assert second["usage"]["cache_read_input_tokens"] > 400


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, "authentication_error"), (429, "rate_limit_error"), (500, "api_error"), (529, "overloaded_error")],
)
async def test_errors_have_its_shape(
    client: httpx2.AsyncClient, model: ScriptedModel, status: int, kind: str
):
    response = await post(client, model, body(f"fail {status} always", stream=True))
    assert response.status_code == status
    assert response.json()["type"] == "error"
    assert response.json()["error"]["type"] == kind
    assert response.headers["x-scripted-model"] == "1"


async def test_an_error_in_the_stream(client: httpx2.AsyncClient, model: ScriptedModel):
    said = events((await post(client, model, body("say: so far\nbreak", stream=True))).text)
    assert said[-1]["type"] == "error"
    assert said[-1]["error"]["type"] == "overloaded_error"
    assert any(event["type"] == "content_block_delta" for event in said)


async def test_the_output_limit(client: httpx2.AsyncClient, model: ScriptedModel):
    assert (await post(client, model, body("stop at the limit"))).json()["stop_reason"] == "max_tokens"


async def test_a_title_is_short(client: httpx2.AsyncClient, model: ScriptedModel):
    request = body("Generate a title for this conversation:\n")
    request["system"] = [
        {"type": "text", "text": "You are a title generator. You output ONLY a thread title."}
    ]
    request["messages"][0]["content"] = [
        {"type": "text", "text": "Generate a title for this conversation:\n"},
        {"type": "text", "text": '"fix the failing test in the fees module of the library, please"'},
    ]
    answer = (await post(client, model, request)).json()
    assert answer["content"][0]["text"] == "Fix the failing test in the fees"
    assert model.requests[-1].kind == "title"
    assert model.turns == []
