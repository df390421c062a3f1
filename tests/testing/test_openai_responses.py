"""OpenAI Responses, as its SDKs read it."""

import json
from typing import Any

import httpx2
import pytest

from openinspect.testing import ScriptedModel

from .conftest import PATHS, events

pytestmark = pytest.mark.anyio
TOOLS = [{"type": "function", "name": name, "parameters": {}} for name in ("bash", "read")]


def body(prompt: Any, *more: dict[str, Any], **options: Any) -> dict[str, Any]:
    content = [{"type": "input_text", "text": prompt}] if isinstance(prompt, str) else prompt
    items = [{"role": "developer", "content": "You help."}, {"role": "user", "content": content}, *more]
    return {"model": "gpt-5.2", "input": items, "tools": TOOLS, "store": False, **options}


async def post(client: httpx2.AsyncClient, model: ScriptedModel, request: dict[str, Any]) -> httpx2.Response:
    return await client.post(model.url + PATHS["responses"], json=request)


async def test_a_stream_has_the_right_events(client: httpx2.AsyncClient, model: ScriptedModel):
    response = await post(client, model, body("think: hmm so\nsay: hello world\nrun: ls -l", stream=True))
    said = events(response.text)
    assert [event["sequence_number"] for event in said] == list(range(len(said)))
    assert said[0]["type"] == "response.created"
    assert said[-1]["type"] == "response.completed"
    added = [event["item"]["type"] for event in said if event["type"] == "response.output_item.added"]
    done = [event["item"]["type"] for event in said if event["type"] == "response.output_item.done"]
    assert added == done == ["reasoning", "message", "function_call"]

    def joined(kind: str) -> str:
        return "".join(event["delta"] for event in said if event["type"] == kind)

    assert joined("response.reasoning_summary_text.delta") == "hmm so"
    assert joined("response.output_text.delta") == "hello world\n"
    assert json.loads(joined("response.function_call_arguments.delta"))["command"] == "ls -l"
    final = said[-1]["response"]
    assert final["status"] == "completed"
    assert [item["type"] for item in final["output"]] == added
    assert final["output"][0]["encrypted_content"]
    usage = final["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["output_tokens_details"]["reasoning_tokens"] == 1


async def test_a_document_is_the_input_of_the_next_request(client: httpx2.AsyncClient, model: ScriptedModel):
    first = (await post(client, model, body("think: hmm\nrun: ls\necho"))).json()
    call = first["output"][-1]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "a.txt"}
    second = (await post(client, model, body("think: hmm\nrun: ls\necho", *first["output"], result))).json()
    assert second["output"][0]["content"][0]["text"] == "a.txt\n"
    assert second["usage"]["input_tokens_details"]["cached_tokens"] > 0


async def test_no_effort_means_no_reasoning(client: httpx2.AsyncClient, model: ScriptedModel):
    answer = (await post(client, model, body("think: hmm\nsay: hello", reasoning={"effort": "none"}))).json()
    assert {item["type"] for item in answer["output"]} == {"message"}


async def test_images_and_effort_reach_the_record(client: httpx2.AsyncClient, model: ScriptedModel):
    image = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}
    prompt = [{"type": "input_text", "text": "what do you see"}, image]
    await post(client, model, body(prompt, reasoning={"effort": "xhigh", "summary": "auto"}))
    record = model.requests[-1]
    assert (record.effort, record.images[0].size) == ("xhigh", 8)
    assert record.options["reasoning"] == {"effort": "xhigh", "summary": "auto"}


async def test_an_image_in_a_tool_result(client: httpx2.AsyncClient, model: ScriptedModel):
    call = {"type": "function_call", "call_id": "call_1", "name": "read", "arguments": "{}"}
    output = [
        {"type": "input_text", "text": "Image read"},
        {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="},
    ]
    result = {"type": "function_call_output", "call_id": "call_1", "output": output}
    answer = (await post(client, model, body("read a.png\necho", call, result))).json()
    assert answer["output"][0]["content"][0]["text"] == "Image read\n"
    assert len(model.requests[-1].tool_images) == 1


async def test_what_only_a_storing_server_could_answer_is_refused(
    client: httpx2.AsyncClient, model: ScriptedModel
):
    for request in (
        body("say: hello", {"type": "item_reference", "id": "fc_1"}),
        body("say: hello", previous_response_id="resp_1"),
    ):
        response = await post(client, model, request)
        assert response.status_code == 400
        assert "store: false" in response.json()["error"]["message"]


async def test_failures(client: httpx2.AsyncClient, model: ScriptedModel):
    said = events((await post(client, model, body("say: so far\nbreak", stream=True))).text)
    assert said[-1]["type"] == "response.failed"
    said = events((await post(client, model, body("stop at the limit", stream=True))).text)
    assert said[-1]["type"] == "response.incomplete"
    assert said[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert (await post(client, model, body("fail 503 always"))).status_code == 503
