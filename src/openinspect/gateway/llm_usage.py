"""How much a model's answer used, read from the answer while it passes by, streamed or not, in the three families of APIs.

Contract: ``feed`` takes the answer's bytes as they come, cut anywhere; ``reading`` may be asked at any time, also after a cut, and never raises
for what a provider sent. ``complete`` says that the provider itself gave the numbers of the whole answer; otherwise the output is estimated
from the text that arrived (four characters a token), and the input from the request where the answer had not said it yet. Thoughts that are
not shown can't be counted in a cut answer.

Bounds: one event of a stream, or one whole answer, is looked at up to 32 MiB; what is longer is passed by unread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from openinspect.models.prices import Usage

from .llm_policy import Endpoint

_MAX_BYTES = 32 * 1024 * 1024
_CHARACTERS_PER_TOKEN = 4
_MAX_COUNT = 2**53


@dataclass(frozen=True, slots=True)
class Reading:
    usage: Usage
    complete: bool
    error: str | None
    """Kind of the error that the provider reported inside of its stream."""


class UsageReader:
    """Reads one answer. ``estimated_input`` is what to assume when the answer doesn't say how long the request was."""

    def __init__(self, endpoint: Endpoint, *, stream: bool, estimated_input: int) -> None:
        self._endpoint = endpoint
        self._stream = stream
        self._estimated_input = estimated_input
        self._pieces: list[bytes] = []
        self._size = 0
        self._skipping = False
        self._numbers: dict[str, Any] = {}
        self._complete = False
        self._characters = 0
        self._error: str | None = None

    def feed(self, chunk: bytes) -> None:
        if not self._stream:
            self._keep(chunk)
            return
        first, *others = chunk.split(b"\n")
        self._keep(first)
        for line in others:
            self._line(self._taken())
            self._keep(line)

    def reading(self) -> Reading:
        if self._stream:
            self._line(self._taken())
        elif self._pieces:
            self._whole(self._taken())
        numbers = self._numbers
        if self._endpoint == "messages":
            usage = _messages_usage(numbers)
        elif self._endpoint == "responses":
            usage = _openai_usage(numbers, "input_tokens", "output_tokens")
        else:
            usage = _openai_usage(numbers, "prompt_tokens", "completion_tokens")
        if not self._complete:
            usage = Usage(
                # An answer that failed before it said anything is not paid for.
                input_tokens=usage.input_tokens or (0 if self._error else self._estimated_input),
                output_tokens=max(usage.output_tokens, -(-self._characters // _CHARACTERS_PER_TOKEN)),
                cache_read_tokens=usage.cache_read_tokens,
                cache_write_tokens=usage.cache_write_tokens,
                cache_write_1h_tokens=usage.cache_write_1h_tokens,
            )
        return Reading(usage.sane(), self._complete, self._error)

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > _MAX_BYTES:
            self._skipping = True
            self._pieces.clear()
        elif piece:
            self._pieces.append(piece)

    def _taken(self) -> bytes:
        taken = b"" if self._skipping else b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        self._skipping = False
        return taken

    def _line(self, line: bytes) -> None:
        if not line.startswith(b"data:"):
            return
        try:
            event = orjson.loads(line[5:])
        except orjson.JSONDecodeError:  # `[DONE]`, or an event cut in the middle
            return
        if not isinstance(event, dict):
            return
        if self._endpoint == "messages":
            self._messages_event(event)
        elif self._endpoint == "responses":
            self._responses_event(event)
        else:
            self._chat_event(event)
        if event.get("type") == "error" or isinstance(event.get("error"), dict):
            self._error = _error_kind(event)

    def _messages_event(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind == "message_start":
            self._add(_dict(event.get("message")).get("usage"))
        elif kind == "message_delta":
            self._add(event.get("usage"))
            self._complete = self._complete or isinstance(event.get("usage"), dict)
        elif kind == "content_block_delta":
            delta = _dict(event.get("delta"))
            self._count(delta.get("text"), delta.get("thinking"), delta.get("partial_json"))

    def _responses_event(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind in ("response.completed", "response.incomplete", "response.failed"):
            response = _dict(event.get("response"))
            self._add(response.get("usage"))
            self._complete = isinstance(response.get("usage"), dict)
            if kind == "response.failed":
                self._error = _error_kind(response)
        elif isinstance(kind, str) and kind.endswith(".delta"):
            self._count(event.get("delta"))

    def _chat_event(self, event: dict[str, Any]) -> None:
        if isinstance(event.get("usage"), dict):
            # Some providers repeat it with every chunk: the last one counts.
            self._numbers = {}
            self._add(event["usage"])
            self._complete = True
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            delta = _dict(_dict(choice).get("delta"))
            self._count(delta.get("content"), delta.get("reasoning_content"), delta.get("reasoning"))
            calls = delta.get("tool_calls")
            for call in calls if isinstance(calls, list) else []:
                self._count(_dict(_dict(call).get("function")).get("arguments"))

    def _whole(self, body: bytes) -> None:
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            self._characters = len(body)
            return
        answer = _dict(answer)
        if isinstance(answer.get("error"), dict):
            self._error = _error_kind(answer)
        if isinstance(answer.get("usage"), dict):
            self._add(answer["usage"])
            self._complete = True
        else:
            self._characters = len(body)

    def _add(self, usage: Any) -> None:
        self._numbers |= {name: value for name, value in _dict(usage).items() if value is not None}

    def _count(self, *texts: Any) -> None:
        self._characters += sum(len(text) for text in texts if isinstance(text, str))


def _messages_usage(numbers: dict[str, Any]) -> Usage:
    read = _number(numbers, "cache_read_input_tokens")
    written = _number(numbers, "cache_creation_input_tokens")
    return Usage(
        input_tokens=_number(numbers, "input_tokens") + read + written,
        output_tokens=_number(numbers, "output_tokens"),
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=_number(_dict(numbers.get("cache_creation")), "ephemeral_1h_input_tokens"),
    )


def _openai_usage(numbers: dict[str, Any], input_name: str, output_name: str) -> Usage:
    details = _dict(numbers.get(f"{input_name}_details"))
    return Usage(
        input_tokens=_number(numbers, input_name),
        output_tokens=_number(numbers, output_name),
        cache_read_tokens=_number(details, "cached_tokens") or _number(numbers, "cached_tokens"),
        cache_write_tokens=_number(details, "cache_write_tokens"),
    )


def _error_kind(event: dict[str, Any]) -> str:
    error = _dict(event.get("error"))
    kind = error.get("type") or error.get("code") or event.get("code") or "error"
    return str(kind)[:100]


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(numbers: dict[str, Any], name: str) -> int:
    value = numbers.get(name)
    return value if isinstance(value, int) and 0 <= value <= _MAX_COUNT else 0
