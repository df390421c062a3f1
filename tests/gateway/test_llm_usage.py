from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openinspect.gateway.llm_policy import Endpoint
from openinspect.gateway.llm_usage import Reading, UsageReader
from openinspect.models.prices import Usage

ENDPOINTS: list[Endpoint] = ["messages", "responses", "chat/completions"]


def stream(*events: dict[str, Any]) -> bytes:
    return b"".join(
        b"event: %s\r\ndata: %s\r\n\r\n" % (str(event.get("type", "x")).encode(), orjson.dumps(event))
        for event in events
    )


def read(endpoint: Endpoint, data: bytes, *, streamed: bool = True, cut_at: int | None = None) -> Reading:
    reader = UsageReader(endpoint, stream=streamed, estimated_input=777)
    pieces = [data] if cut_at is None else [data[:cut_at], data[cut_at:]]
    for piece in pieces:
        reader.feed(piece)
    return reader.reading()


MESSAGES = stream(
    {
        "type": "message_start",
        "message": {
            "usage": {
                "input_tokens": 10,
                "cache_creation_input_tokens": 200,
                "cache_read_input_tokens": 3000,
                "cache_creation": {"ephemeral_1h_input_tokens": 50, "ephemeral_5m_input_tokens": 150},
                "output_tokens": 1,
            }
        },
    },
    {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "hm" * 20}},
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "words" * 20}},
    {"type": "message_delta", "usage": {"output_tokens": 99, "input_tokens": None}},
    {"type": "message_stop"},
)
RESPONSES = stream(
    {"type": "response.created", "response": {"usage": None}},
    {"type": "response.output_text.delta", "delta": "words" * 20},
    {"type": "response.function_call_arguments.delta", "delta": "{}" * 10},
    {
        "type": "response.completed",
        "response": {
            "usage": {
                "input_tokens": 3210,
                "input_tokens_details": {"cached_tokens": 3000},
                "output_tokens": 99,
                "output_tokens_details": {"reasoning_tokens": 40},
            }
        },
    },
)
CHAT = (
    stream(
        {"choices": [{"delta": {"content": "words" * 20}}], "usage": None},
        {"choices": [{"delta": {"tool_calls": [{"function": {"arguments": "{}" * 10}}]}}]},
        {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}},
        {
            "choices": [],
            "usage": {
                "prompt_tokens": 3210,
                "completion_tokens": 99,
                "prompt_tokens_details": {"cached_tokens": 3000},
            },
        },
    )
    + b"data: [DONE]\n\n"
)
STREAMS: dict[Endpoint, bytes] = {"messages": MESSAGES, "responses": RESPONSES, "chat/completions": CHAT}
EXPECTED: dict[Endpoint, Usage] = {
    "messages": Usage(3210, 99, 3000, 200, 50),
    "responses": Usage(3210, 99, 3000),
    "chat/completions": Usage(3210, 99, 3000),
}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_wherever_it_is_cut_the_numbers_are_the_same(endpoint: Endpoint):
    data = STREAMS[endpoint]
    for at in range(0, len(data), 7):
        assert read(endpoint, data, cut_at=at) == Reading(EXPECTED[endpoint], True, None)
    reader = UsageReader(endpoint, stream=True, estimated_input=777)
    for byte in data:
        reader.feed(bytes([byte]))
    assert reader.reading().usage == EXPECTED[endpoint]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_of_an_answer_that_was_cut_what_came_is_estimated(endpoint: Endpoint):
    data = STREAMS[endpoint]
    assert not read(endpoint, data[: data.index(b"words") + 101]).complete
    events = 2 if endpoint == "chat/completions" else 3
    reading = read(endpoint, b"\n".join(data.split(b"\n")[: 3 * events]))
    assert not reading.complete and 20 <= reading.usage.output_tokens <= 60
    assert reading.usage.input_tokens == (3210 if endpoint == "messages" else 777)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_an_answer_that_is_not_streamed(endpoint: Endpoint):
    numbers = {"input_tokens": 10, "output_tokens": 5, "prompt_tokens": 10, "completion_tokens": 5}
    reading = read(endpoint, orjson.dumps({"usage": numbers}), streamed=False, cut_at=7)
    assert reading == Reading(Usage(10, 5), True, None)
    cut = read(endpoint, orjson.dumps({"text": "x" * 400, "usage": numbers})[:200], streamed=False)
    assert not cut.complete and cut.usage == Usage(777, 50)


def test_an_error_inside_of_a_stream_is_told_and_not_paid_for():
    events: list[tuple[Endpoint, dict[str, Any]]] = [
        ("messages", {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}),
        ("responses", {"type": "error", "code": "overloaded_error", "message": "x"}),
        ("responses", {"type": "response.failed", "response": {"error": {"code": "overloaded_error"}}}),
        ("chat/completions", {"error": {"type": "overloaded_error"}}),
    ]
    for endpoint, event in events:
        assert read(endpoint, stream(event)) == Reading(Usage(), False, "overloaded_error")


@given(st.sampled_from(ENDPOINTS), st.booleans(), st.lists(st.binary(max_size=60), max_size=6))
def test_nothing_that_a_provider_sends_breaks_it(endpoint: Endpoint, streamed: bool, pieces: list[bytes]):
    reader = UsageReader(endpoint, stream=streamed, estimated_input=1)
    for piece in pieces:
        reader.feed(b"data:" + piece + b"\n")
    reader.reading()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["usage", "type", "message", "delta", "choices", "response", "error", "input_tokens"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.sampled_from(ENDPOINTS), st.lists(_JSON, max_size=4))
def test_no_shape_of_json_breaks_it(endpoint: Endpoint, events: list[Any]):
    for streamed in (True, False):
        reader = UsageReader(endpoint, stream=streamed, estimated_input=1)
        for event in events:
            try:
                reader.feed(b"data: %s\n\n" % orjson.dumps(event) if streamed else orjson.dumps(event))
            except TypeError:  # a number that orjson does not write
                continue
        usage = reader.reading().usage
        assert usage.input_tokens >= 0 and usage.output_tokens >= 0


def test_a_line_without_end_is_passed_by(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("openinspect.gateway.llm_usage._MAX_BYTES", 1000)
    data = b'data: {"x":"' + b"y" * 5000 + b'"}\n' + MESSAGES
    assert read("messages", data, cut_at=900).usage == EXPECTED["messages"]
