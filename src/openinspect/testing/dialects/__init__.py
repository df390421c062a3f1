"""How each provider's API says things: one module per family, all with the same face (`Dialect`).

A dialect reads a request body into a `Conversation`, and says an `Answer` either as a stream of frames or as one JSON
document. It knows nothing of scripts, and nothing of HTTP beyond bodies, headers and status codes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from openinspect.testing.answer import Answer, Counted
from openinspect.testing.conversation import Conversation


@dataclass(frozen=True)
class Frame:
    """Bytes of a stream, to be sent after `delay_s`. With `cut` the connection is dropped instead."""

    data: bytes = b""
    delay_s: float = 0
    cut: bool = False


class Dialect(Protocol):
    """One API family."""

    def read(self, body: dict[str, Any], headers: dict[str, str]) -> Conversation:
        """Raises BadRequest with a text for the caller."""
        ...

    def stream(self, answer: Answer, conversation: Conversation, counted: Counted) -> Iterator[Frame]:
        """The answer as server-sent events."""
        ...

    def document(self, answer: Answer, conversation: Conversation, counted: Counted) -> dict[str, Any]:
        """The answer as one JSON document."""
        ...

    def error(self, status: int, message: str) -> dict[str, Any]:
        """The body of a failed request."""
        ...


def compact(value: object) -> str:
    """JSON without spaces, as the providers send it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def block_texts(content: object) -> str:
    """The texts of a content that is a string or a list of blocks."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(
            block["text"]
            for block in content
            if isinstance(block, dict) and isinstance(block.get("text"), str)
        )
    return ""


def objects(value: object) -> list[dict[str, Any]]:
    """The objects in a list; an empty list for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
