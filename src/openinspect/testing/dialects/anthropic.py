"""Anthropic Messages: `POST …/messages`."""

from __future__ import annotations

from base64 import b64encode
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
from openinspect.testing.conversation import BadRequest, Conversation, ConversationReader, Image, image_of
from openinspect.testing.dialects import Frame, block_texts, compact, objects

_STOP = {"end": "end_turn", "tool": "tool_use", "length": "max_tokens"}
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_SIGNATURE = b64encode(b"thought by the scripted model").decode()


class Anthropic:
    """The Messages API."""

    def read(self, body: dict[str, Any], headers: dict[str, str]) -> Conversation:
        thinking = body.get("thinking") or {}
        config = body.get("output_config") or {}
        conversation = Conversation(
            family="anthropic",
            model=str(body.get("model", "")),
            stream=bool(body.get("stream")),
            system=block_texts(body.get("system", "")),
            tools=[str(tool["name"]) for tool in objects(body.get("tools")) if tool.get("name")],
            effort=config.get("effort")
            or (f"{thinking['budget_tokens']} tokens" if thinking.get("budget_tokens") else None),
            wants_reasoning=thinking.get("type") in ("enabled", "adaptive"),
            uses_cache='"cache_control"' in compact(body),
            headers=headers,
        )
        reader = ConversationReader(conversation)
        for message in objects(body.get("messages")):
            content = message.get("content")
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else objects(content)
            if message.get("role") == "user":
                reader.user_message()
            for block in blocks:
                _block(reader, str(message.get("role")), block)
        return reader.finish()

    def stream(self, answer: Answer, conversation: Conversation, counted: Counted) -> Iterator[Frame]:
        message = {**_head(conversation), "content": [], "usage": {**_usage(counted), "output_tokens": 1}}
        yield _event("message_start", {"message": message})
        yield _event("ping", {})
        index = 0
        for part in answer.parts:
            if isinstance(part, Pause):
                yield Frame(delay_s=part.seconds)
                continue
            if isinstance(part, Cut):
                yield Frame(cut=True)
                return
            if isinstance(part, Breakdown):
                yield _event("error", {"error": {"type": "overloaded_error", "message": part.message}})
                return
            if isinstance(part, Reasoning) and not conversation.wants_reasoning:
                continue
            yield from _streamed(part, index)
            index += 1
        delta = {"stop_reason": _STOP[answer.stop], "stop_sequence": None}
        yield _event("message_delta", {"delta": delta, "usage": _usage(counted)})
        yield _event("message_stop", {})

    def document(self, answer: Answer, conversation: Conversation, counted: Counted) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        for part in answer.parts:
            if isinstance(part, Reasoning) and conversation.wants_reasoning:
                content.append({"type": "thinking", "thinking": part.text, "signature": _SIGNATURE})
            elif isinstance(part, Text):
                content.append({"type": "text", "text": part.text})
            elif isinstance(part, Use):
                use = {
                    "type": "tool_use",
                    "id": f"toolu_{part.id}",
                    "name": part.name,
                    "input": part.arguments,
                }
                content.append(use)
        return {
            **_head(conversation),
            "content": content,
            "stop_reason": _STOP[answer.stop],
            "usage": _usage(counted),
        }

    def error(self, status: int, message: str) -> dict[str, Any]:
        kind = _ERRORS.get(status, "api_error")
        return {
            "type": "error",
            "error": {"type": kind, "message": message},
            "request_id": f"req_{token_hex(8)}",
        }


def _block(reader: ConversationReader, role: str, block: dict[str, Any]) -> None:
    kind = block.get("type")
    if kind == "tool_result":
        content = block.get("content", "")
        images = [_image(item) for item in objects(content) if item.get("type") == "image"]
        failed = bool(block.get("is_error"))
        reader.result(str(block.get("tool_use_id")), block_texts(content), failed=failed, images=images)
    elif kind == "tool_use" and role == "assistant":
        reader.call(str(block.get("id")), str(block.get("name")), block.get("input", {}))
    elif kind == "text" and role == "user":
        reader.user_text(str(block.get("text", "")))
    elif kind == "image" and role == "user":
        image = block.get("source") or {}
        reader.user_image(str(image.get("media_type", "")), str(image.get("data") or image.get("url") or ""))
    elif role not in ("user", "assistant", "system"):
        raise BadRequest(f"messages: there is no role {role!r}")


def _image(block: dict[str, Any]) -> Image:
    source = block.get("source") or {}
    return image_of(str(source.get("media_type", "")), str(source.get("data") or source.get("url") or ""))


def _streamed(part: Reasoning | Text | Use, index: int) -> Iterator[Frame]:
    match part:
        case Reasoning():
            start: dict[str, Any] = {"type": "thinking", "thinking": "", "signature": ""}
            deltas = ({"type": "thinking_delta", "thinking": chunk} for chunk in chunks(part.text))
        case Text():
            start = {"type": "text", "text": ""}
            deltas = ({"type": "text_delta", "text": chunk} for chunk in chunks(part.text))
        case Use():
            start = {"type": "tool_use", "id": f"toolu_{part.id}", "name": part.name, "input": {}}
            arguments = compact(part.arguments)
            deltas = ({"type": "input_json_delta", "partial_json": piece} for piece in slices(arguments))
    yield _event("content_block_start", {"index": index, "content_block": start})
    for delta in deltas:
        yield _event("content_block_delta", {"index": index, "delta": delta}, part.delay_s)
    if isinstance(part, Reasoning):
        delta = {"type": "signature_delta", "signature": _SIGNATURE}
        yield _event("content_block_delta", {"index": index, "delta": delta})
    yield _event("content_block_stop", {"index": index})


def _event(name: str, data: dict[str, Any], delay_s: float = 0) -> Frame:
    return Frame(f"event: {name}\ndata: {compact({'type': name, **data})}\n\n".encode(), delay_s)


def _head(conversation: Conversation) -> dict[str, Any]:
    return {
        "id": f"msg_{token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "model": conversation.model,
        "stop_reason": None,
        "stop_sequence": None,
    }


def _usage(counted: Counted) -> dict[str, Any]:
    return {
        "input_tokens": counted.input,
        "cache_creation_input_tokens": counted.cache_write,
        "cache_read_input_tokens": counted.cache_read,
        "output_tokens": counted.output,
        "service_tier": "standard",
    }
