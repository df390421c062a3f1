"""OpenAI Chat Completions: `POST …/chat/completions`, also what most compatible providers speak."""

from __future__ import annotations

import time
from collections.abc import Iterator
from secrets import token_hex
from typing import Any

from openinspect.testing.answer import (
    Answer,
    Breakdown,
    Counted,
    Cut,
    Pause,
    Reasoning,
    Text,
    Use,
    chunks,
    slices,
)
from openinspect.testing.conversation import BadRequest, Conversation, ConversationReader
from openinspect.testing.dialects import Frame, block_texts, compact, objects

_STOP = {"end": "stop", "tool": "tool_calls", "length": "length"}
_ERRORS = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
    529: ("server_error", "overloaded"),
}


class OpenAIChat:
    """The Chat Completions API, with `reasoning_content` as the compatible providers send it."""

    def read(self, body: dict[str, Any], headers: dict[str, str]) -> Conversation:
        messages = objects(body.get("messages"))
        systems = [m for m in messages if m.get("role") in ("system", "developer")]
        names = [(tool.get("function") or {}).get("name") for tool in objects(body.get("tools"))]
        conversation = Conversation(
            family="chat",
            model=str(body.get("model", "")),
            stream=bool(body.get("stream")),
            system="\n".join(block_texts(message.get("content")) for message in systems),
            tools=[str(name) for name in names if name],
            effort=body.get("reasoning_effort"),
            wants_usage=bool((body.get("stream_options") or {}).get("include_usage")),
            headers=headers,
        )
        reader = ConversationReader(conversation)
        for message in messages:
            _message(reader, message)
        return reader.finish()

    def stream(self, answer: Answer, conversation: Conversation, counted: Counted) -> Iterator[Frame]:
        head = {**_head(conversation), "object": "chat.completion.chunk"}
        used = 0
        yield _chunk(head, {"role": "assistant", "content": ""})
        for part in answer.parts:
            match part:
                case Pause():
                    yield Frame(delay_s=part.seconds)
                case Cut():
                    yield Frame(cut=True)
                    return
                case Breakdown():
                    yield Frame(f"data: {compact(self.error(500, part.message))}\n\n".encode())
                    return
                case Reasoning():
                    for chunk in chunks(part.text):
                        yield _chunk(head, {"reasoning_content": chunk}, part.delay_s)
                case Text():
                    for chunk in chunks(part.text):
                        yield _chunk(head, {"content": chunk}, part.delay_s)
                case Use():
                    start = {
                        "index": used,
                        "id": f"call_{part.id}",
                        "type": "function",
                        "function": {"name": part.name, "arguments": ""},
                    }
                    yield _chunk(head, {"tool_calls": [start]}, part.delay_s)
                    for piece in slices(compact(part.arguments)):
                        delta = {"index": used, "function": {"arguments": piece}}
                        yield _chunk(head, {"tool_calls": [delta]}, part.delay_s)
                    used += 1
        yield _chunk(head, {}, finish=_STOP[answer.stop])
        if conversation.wants_usage:
            yield Frame(f"data: {compact({**head, 'choices': [], 'usage': _usage(counted)})}\n\n".encode())
        yield Frame(b"data: [DONE]\n\n")

    def document(self, answer: Answer, conversation: Conversation, counted: Counted) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer.said(Text) or None}
        if answer.said(Reasoning):
            message["reasoning_content"] = answer.said(Reasoning)
        calls = [
            {
                "id": f"call_{part.id}",
                "type": "function",
                "function": {"name": part.name, "arguments": compact(part.arguments)},
            }
            for part in answer.parts
            if isinstance(part, Use)
        ]
        if calls:
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "finish_reason": _STOP[answer.stop], "logprobs": None}
        head = {**_head(conversation), "object": "chat.completion"}
        return {**head, "choices": [choice], "usage": _usage(counted)}

    def error(self, status: int, message: str) -> dict[str, Any]:
        kind, code = _ERRORS.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
        return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _message(reader: ConversationReader, message: dict[str, Any]) -> None:
    role, content = message.get("role"), message.get("content")
    if role == "user":
        reader.user_message()
        blocks: list[dict[str, Any]] = (
            [{"type": "text", "text": content}] if isinstance(content, str) else objects(content)
        )
        for block in blocks:
            if block.get("type") == "text":
                reader.user_text(str(block.get("text", "")))
            elif block.get("type") == "image_url":
                reader.user_image("", str((block.get("image_url") or {}).get("url", "")))
    elif role == "assistant":
        for call in objects(message.get("tool_calls")):
            function = call.get("function") or {}
            reader.call(str(call.get("id")), str(function.get("name")), function.get("arguments", "{}"))
    elif role == "tool":
        reader.result(str(message.get("tool_call_id")), block_texts(content))
    elif role not in ("system", "developer"):
        raise BadRequest(f"messages: there is no role {role!r}")


def _chunk(
    head: dict[str, Any], delta: dict[str, Any], delay_s: float = 0, finish: str | None = None
) -> Frame:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return Frame(f"data: {compact({**head, 'choices': [choice]})}\n\n".encode(), delay_s)


def _head(conversation: Conversation) -> dict[str, Any]:
    return {"id": f"chatcmpl-{token_hex(12)}", "created": int(time.time()), "model": conversation.model}


def _usage(counted: Counted) -> dict[str, Any]:
    prompt = counted.input + counted.cache_read + counted.cache_write
    return {
        "prompt_tokens": prompt,
        "completion_tokens": counted.output,
        "total_tokens": prompt + counted.output,
        "prompt_tokens_details": {"cached_tokens": counted.cache_read},
        "completion_tokens_details": {"reasoning_tokens": counted.reasoning},
    }
