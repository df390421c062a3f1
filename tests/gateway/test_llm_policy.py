from __future__ import annotations

from typing import Any

import orjson
import pytest

from openinspect.gateway.llm_policy import (
    Endpoint,
    Refused,
    check,
    endpoint_of,
    harmless_betas,
    refusal_body,
)
from openinspect.models.catalogue import Provider, provider

ALLOWED = frozenset({"anthropic/claude-sonnet-4-6", "openai/gpt-5.4", "opencode/glm-5"})


def of(provider_id: str) -> Provider:
    found = provider(provider_id)
    assert found is not None
    return found


def asked(endpoint: Endpoint, **more: Any) -> dict[str, Any]:
    if endpoint == "messages":
        base = {
            "model": "claude-sonnet-4-6",
            "max_tokens": 100,
            "messages": [{"role": "user", "content": "x"}],
        }
    elif endpoint == "responses":
        base = {"model": "gpt-5.4", "input": [{"role": "user", "content": "x"}]}
    else:
        base = {"model": "glm-5", "messages": [{"role": "user", "content": "x"}]}
    return base | more


def sent(endpoint: Endpoint, body: dict[str, Any]) -> Any:
    owner = {"messages": "anthropic", "responses": "openai"}.get(endpoint, "opencode")
    return check(of(owner), endpoint, orjson.dumps(body), ALLOWED)


def content(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


URL = "https://elsewhere.example/x.png"


@pytest.mark.parametrize(
    ("endpoint", "more"),
    [
        ("messages", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
        ("messages", {"tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]}),
        ("messages", {"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]}),
        ("messages", {"tools": [{"type": "mcp_toolset", "mcp_server_name": "x"}]}),
        ("messages", {"tools": [{"type": "of_another_day_20990101", "name": "x"}]}),
        ("messages", {"tools": [{"type": 5}]}),
        ("messages", {"tools": ["web_search"]}),
        ("messages", {"mcp_servers": [{"type": "url", "url": URL}]}),
        ("messages", {"container": "container_1"}),
        ("messages", {"speed": "fast"}),
        ("messages", {"service_tier": "priority"}),
        ("messages", {"messages": content({"type": "image", "source": {"type": "url", "url": URL}})}),
        ("messages", {"messages": content({"type": "document", "source": {"type": "file", "file_id": "f"}})}),
        (
            "messages",
            {
                "messages": content(
                    {
                        "type": "tool_result",
                        "tool_use_id": "t",
                        "content": [{"type": "image", "source": {"type": "url", "url": URL}}],
                    }
                )
            },
        ),
        ("messages", {"messages": content({"type": "container_upload", "file_id": "f"})}),
        ("responses", {"tools": [{"type": "web_search"}]}),
        ("responses", {"tools": [{"type": "web_search_preview"}]}),
        ("responses", {"tools": [{"type": "file_search", "vector_store_ids": ["v"]}]}),
        ("responses", {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}),
        ("responses", {"tools": [{"type": "mcp", "server_url": URL}]}),
        ("responses", {"tools": [{"type": "image_generation"}]}),
        ("responses", {"tools": [{"type": "shell"}]}),
        ("responses", {"tools": [{"name": "without a type"}]}),
        ("responses", {"background": True}),
        ("responses", {"previous_response_id": "resp_1"}),
        ("responses", {"conversation": "conv_1"}),
        ("responses", {"prompt": {"id": "pmpt_1"}}),
        ("responses", {"service_tier": "priority"}),
        ("responses", {"input": [{"type": "item_reference", "id": "msg_1"}]}),
        ("responses", {"input": content({"type": "input_image", "image_url": URL})}),
        ("responses", {"input": content({"type": "input_image", "file_id": "file_1"})}),
        ("responses", {"input": content({"type": "input_file", "file_url": URL})}),
        (
            "responses",
            {
                "input": [
                    {
                        "type": "function_call_output",
                        "call_id": "c",
                        "output": [{"type": "input_image", "image_url": URL}],
                    }
                ]
            },
        ),
        ("chat/completions", {"web_search_options": {}}),
        ("chat/completions", {"n": 5}),
        ("chat/completions", {"tools": [{"type": "web_search"}]}),
        ("chat/completions", {"messages": content({"type": "image_url", "image_url": {"url": URL}})}),
        ("chat/completions", {"messages": content({"type": "file", "file": {"file_id": "file_1"}})}),
    ],
    ids=lambda value: orjson.dumps(value).decode()[:70] if isinstance(value, dict) else value,
)
def test_nothing_runs_is_fetched_or_kept_at_the_provider(endpoint: Endpoint, more: dict[str, Any]):
    with pytest.raises(Refused) as caught:
        sent(endpoint, asked(endpoint, **more))
    assert caught.value.status in (400, 403)
    assert len(str(caught.value)) > 20


@pytest.mark.parametrize(
    ("endpoint", "more"),
    [
        ("messages", {"tools": [{"name": "bash", "input_schema": {"type": "object"}}, {"type": "custom", "name": "x"}]}),
        ("messages", {"tools": [{"type": "bash_20250124", "name": "bash"}]}),
        ("messages", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}),
        ("messages", {"messages": content({"type": "tool_use", "id": "t", "name": "x", "input": {"file_id": "mine", "url": URL}})}),
        ("messages", {"messages": content({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aaaa"}})}),
        ("responses", {"tools": [{"type": "function", "name": "bash"}, {"type": "custom", "name": "apply_patch"}]}),
        ("responses", {"input": "just a text", "service_tier": "auto"}),
        ("responses", {"input": content({"type": "input_image", "image_url": "data:image/png;base64,aaaa"})}),
        ("chat/completions", {"tools": [{"type": "function", "function": {"name": "bash"}}], "n": 1}),
        ("chat/completions", {"messages": content({"type": "image_url", "image_url": {"url": "DATA:image/png;base64,aaaa"}})}),
    ],
)  # fmt: skip
def test_what_the_agent_does_itself_passes(endpoint: Endpoint, more: dict[str, Any]):
    body = asked(endpoint, **more)
    passed = orjson.loads(sent(endpoint, body).body)
    assert {name: passed[name] for name in body} == body


def test_storing_is_turned_off():
    assert orjson.loads(sent("responses", asked("responses")).body)["store"] is False
    assert orjson.loads(sent("responses", asked("responses", store=True, background=False)).body) == asked(
        "responses", store=False
    )
    assert (
        orjson.loads(sent("chat/completions", asked("chat/completions", store=True)).body)["store"] is False
    )


def test_a_stream_of_chat_is_asked_for_its_usage():
    body = asked("chat/completions", stream=True, stream_options={"include_usage": False})
    call = sent("chat/completions", body)
    assert call.stream and orjson.loads(call.body)["stream_options"] == {"include_usage": True}


def test_a_key_given_twice_can_not_be_read_in_two_ways():
    raw = b'{"model":"claude-opus-5","max_tokens":1,"messages":[],"model":"claude-sonnet-4-6"}'
    call = check(of("anthropic"), "messages", raw, ALLOWED)
    assert call.body.count(b'"model"') == 1 and b"claude-sonnet-4-6" in call.body


def test_half_an_emoji_does_not_stop_a_turn():
    raw = rb'{"model":"claude-sonnet-4-6","max_tokens":1,"messages":[{"role":"user","content":"cut \ud83d here"}]}'
    call = check(of("anthropic"), "messages", raw, ALLOWED)
    assert "cut ? here" in call.body.decode()


def test_sizes_bound_the_reservation():
    call = sent("messages", asked("messages", max_tokens=1_000_000))
    assert call.output_tokens == 128_000
    call = sent("messages", asked("messages", messages=content({"type": "text", "text": "word " * 3_000})))
    assert 4_000 < call.input_tokens < 6_000
    image = {"type": "image", "source": {"type": "base64", "data": "a" * 3_000_000}}
    call = sent("messages", asked("messages", messages=content(image)))
    assert 1_600 <= call.input_tokens < 2_000
    for nonsense in (None, -1, "many", 1.5, []):
        assert sent("messages", asked("messages", max_tokens=nonsense)).output_tokens == 128_000
    assert sent("messages", asked("messages", system="x" * 20_000_000)).input_tokens == 1_000_000


def test_harmless_betas_only():
    header = "files-api-2025-04-14,interleaved-thinking-2025-05-14, context-1m-2025-08-07,code-execution-2025-08-25"
    assert harmless_betas(header) == "interleaved-thinking-2025-05-14,context-1m-2025-08-07"
    assert harmless_betas("mcp-client-2025-04-04") == ""


def test_refusals_have_the_shape_of_the_api():
    refused = Refused(403, "permission_error", "No.", "Do this.")
    assert orjson.loads(refusal_body("anthropic", refused)) == {
        "type": "error",
        "error": {"type": "permission_error", "message": "No. Do this."},
    }
    assert orjson.loads(refusal_body("openai-chat", refused))["error"]["code"] == "permission_error"


def test_count_tokens_is_a_path_and_others_are_not():
    assert endpoint_of(of("anthropic"), "POST", "messages/count_tokens") == "messages/count_tokens"
    for path in ("", "models", "messages/", "messages/batches", "complete", "../v1/messages"):
        with pytest.raises(Refused):
            endpoint_of(of("anthropic"), "POST", path)
