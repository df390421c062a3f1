"""OpenAI Responses: `POST …/responses`.

Nothing is stored: a request must carry its whole history (`store: false`), as coding agents do.
"""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Iterator
from itertools import count as counting
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
from openinspect.testing.conversation import BadRequest, Conversation, ConversationReader, image_of
from openinspect.testing.dialects import Frame, block_texts, compact, objects
from openinspect.testing.dialects.openai_chat import OpenAIChat

_ENCRYPTED = b64encode(b"thought by the scripted model").decode()


class OpenAIResponses:
    """The Responses API."""

    def read(self, body: dict[str, Any], headers: dict[str, str]) -> Conversation:
        if body.get("previous_response_id") or body.get("conversation"):
            raise BadRequest("this server keeps no responses: send the whole input with store: false")
        reasoning = body.get("reasoning") or {}
        given = body.get("input")
        items = [{"role": "user", "content": given}] if isinstance(given, str) else objects(given)
        systems = [item for item in items if item.get("role") in ("system", "developer")]
        conversation = Conversation(
            family="responses",
            model=str(body.get("model", "")),
            stream=bool(body.get("stream")),
            system="\n".join(
                [str(body.get("instructions") or ""), *(block_texts(i.get("content")) for i in systems)]
            ),
            tools=[str(tool["name"]) for tool in objects(body.get("tools")) if tool.get("name")],
            effort=reasoning.get("effort"),
            wants_reasoning=reasoning.get("effort") != "none",
            headers=headers,
        )
        reader = ConversationReader(conversation)
        for item in items:
            _item(reader, item)
        return reader.finish()

    def stream(self, answer: Answer, conversation: Conversation, counted: Counted) -> Iterator[Frame]:
        said = _Said()
        head = _head(conversation)
        yield said.event("response.created", {"response": {**head, "status": "in_progress", "output": []}})
        yield said.event(
            "response.in_progress", {"response": {**head, "status": "in_progress", "output": []}}
        )
        output: list[dict[str, Any]] = []
        for part in answer.parts:
            match part:
                case Pause():
                    yield Frame(delay_s=part.seconds)
                case Cut():
                    yield Frame(cut=True)
                    return
                case Breakdown():
                    error = {"code": "server_error", "message": part.message}
                    failed = {**head, "status": "failed", "error": error, "output": output}
                    yield said.event("response.failed", {"response": failed})
                    return
                case Reasoning():
                    if conversation.wants_reasoning:
                        output.append(_reasoning(part))
                        yield from _said_reasoning(said, part, output[-1], len(output) - 1)
                case Text():
                    output.append(_message(part))
                    yield from _said_text(said, part, output[-1], len(output) - 1)
                case Use():
                    output.append(_function_call(part))
                    yield from _said_call(said, part, output[-1], len(output) - 1)
        kind = "response.incomplete" if answer.length else "response.completed"
        yield said.event(kind, {"response": _finished(head, answer, output, counted)})

    def document(self, answer: Answer, conversation: Conversation, counted: Counted) -> dict[str, Any]:
        output: list[dict[str, Any]] = []
        for part in answer.parts:
            match part:
                case Reasoning() if conversation.wants_reasoning:
                    output.append(_reasoning(part))
                case Text():
                    output.append(_message(part))
                case Use():
                    output.append(_function_call(part))
                case _:
                    pass
        return _finished(_head(conversation), answer, output, counted)

    def error(self, status: int, message: str) -> dict[str, Any]:
        return OpenAIChat().error(status, message)


def _item(reader: ConversationReader, item: dict[str, Any]) -> None:
    kind = item.get("type", "message")
    if kind == "item_reference":
        raise BadRequest("this server keeps no items: send the whole input with store: false")
    if kind == "function_call":
        reader.call(str(item.get("call_id")), str(item.get("name")), item.get("arguments", "{}"))
    elif kind == "function_call_output":
        output = item.get("output", "")
        blocks = [block for block in objects(output) if block.get("type") == "input_image"]
        images = [image_of("", str(block.get("image_url", ""))) for block in blocks]
        reader.result(str(item.get("call_id")), block_texts(output), images=images)
    elif kind == "message" and item.get("role") == "user":
        content = item.get("content")
        reader.user_message()
        for block in (
            [{"type": "input_text", "text": content}] if isinstance(content, str) else objects(content)
        ):
            if block.get("type") == "input_text":
                reader.user_text(str(block.get("text", "")))
            elif block.get("type") == "input_image":
                reader.user_image("", str(block.get("image_url", "")))


class _Said:
    """Numbers the events of one stream."""

    def __init__(self) -> None:
        self._numbers = counting()

    def event(self, name: str, data: dict[str, Any], delay_s: float = 0) -> Frame:
        body = {"type": name, "sequence_number": next(self._numbers), **data}
        return Frame(f"event: {name}\ndata: {compact(body)}\n\n".encode(), delay_s)


def _said_reasoning(said: _Said, part: Reasoning, item: dict[str, Any], index: int) -> Iterator[Frame]:
    place = {"item_id": item["id"], "output_index": index, "summary_index": 0}
    yield said.event("response.output_item.added", {"output_index": index, "item": {**item, "summary": []}})
    begun = {**place, "part": {"type": "summary_text", "text": ""}}
    yield said.event("response.reasoning_summary_part.added", begun)
    for chunk in chunks(part.text):
        yield said.event("response.reasoning_summary_text.delta", {**place, "delta": chunk}, part.delay_s)
    yield said.event("response.reasoning_summary_text.done", {**place, "text": part.text})
    done = {**place, "part": {"type": "summary_text", "text": part.text}}
    yield said.event("response.reasoning_summary_part.done", done)
    yield said.event("response.output_item.done", {"output_index": index, "item": item})


def _said_text(said: _Said, part: Text, item: dict[str, Any], index: int) -> Iterator[Frame]:
    place = {"item_id": item["id"], "output_index": index, "content_index": 0}
    empty = {"type": "output_text", "text": "", "annotations": []}
    begun = {**item, "status": "in_progress", "content": []}
    yield said.event("response.output_item.added", {"output_index": index, "item": begun})
    yield said.event("response.content_part.added", {**place, "part": empty})
    for chunk in chunks(part.text):
        yield said.event("response.output_text.delta", {**place, "delta": chunk}, part.delay_s)
    yield said.event("response.output_text.done", {**place, "text": part.text})
    yield said.event("response.content_part.done", {**place, "part": {**empty, "text": part.text}})
    yield said.event("response.output_item.done", {"output_index": index, "item": item})


def _said_call(said: _Said, part: Use, item: dict[str, Any], index: int) -> Iterator[Frame]:
    place = {"item_id": item["id"], "output_index": index}
    begun = {**item, "status": "in_progress", "arguments": ""}
    yield said.event("response.output_item.added", {"output_index": index, "item": begun})
    for piece in slices(item["arguments"]):
        delta = {**place, "delta": piece}
        yield said.event("response.function_call_arguments.delta", delta, part.delay_s)
    whole = {**place, "arguments": item["arguments"]}
    yield said.event("response.function_call_arguments.done", whole)
    yield said.event("response.output_item.done", {"output_index": index, "item": item})


def _reasoning(part: Reasoning) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": part.text}]
    return {
        "type": "reasoning",
        "id": f"rs_{token_hex(12)}",
        "summary": summary,
        "encrypted_content": _ENCRYPTED,
    }


def _message(part: Text) -> dict[str, Any]:
    content = [{"type": "output_text", "text": part.text, "annotations": []}]
    head = {"type": "message", "id": f"msg_{token_hex(12)}", "status": "completed", "role": "assistant"}
    return {**head, "content": content}


def _function_call(part: Use) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": f"fc_{part.id}",
        "call_id": f"call_{part.id}",
        "name": part.name,
        "arguments": compact(part.arguments),
        "status": "completed",
    }


def _head(conversation: Conversation) -> dict[str, Any]:
    return {
        "id": f"resp_{token_hex(12)}",
        "object": "response",
        "created_at": int(time.time()),
        "model": conversation.model,
        "error": None,
        "incomplete_details": None,
    }


def _finished(
    head: dict[str, Any], answer: Answer, output: list[dict[str, Any]], counted: Counted
) -> dict[str, Any]:
    prompt = counted.input + counted.cache_read + counted.cache_write
    return {
        **head,
        "status": "incomplete" if answer.length else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if answer.length else None,
        "output": output,
        "usage": {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": counted.cache_read},
            "output_tokens": counted.output,
            "output_tokens_details": {"reasoning_tokens": counted.reasoning},
            "total_tokens": prompt + counted.output,
        },
    }
