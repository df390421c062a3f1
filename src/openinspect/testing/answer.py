"""What the scripted model says to one request, before a dialect puts it into a provider's words.

An `Answer` is an ordered list of parts. Said ones stream in small chunks with a delay before each; `Pause` and `Cut`
are things that happen on the way. An answer with a `refusal` says nothing: the request fails with that status.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Literal

from openinspect.testing.conversation import Conversation
from openinspect.testing.script import Usage

MAX_TEXT = 4_000_000
_CHUNK = re.compile(r"\s*\S+\s*")


@dataclass(frozen=True)
class Reasoning:
    """Thinking aloud, before the answer."""

    text: str
    delay_s: float = 0


@dataclass(frozen=True)
class Text:
    """Words for the person."""

    text: str
    delay_s: float = 0


@dataclass(frozen=True)
class Use:
    """A tool call."""

    name: str
    arguments: dict[str, Any]
    delay_s: float = 0
    id: str = field(default_factory=lambda: token_hex(10))


@dataclass(frozen=True)
class Pause:
    """Silence on the line, in seconds."""

    seconds: float


@dataclass(frozen=True)
class Cut:
    """The connection is dropped here."""


@dataclass(frozen=True)
class Breakdown:
    """An error event in the middle of the stream; the stream ends there."""

    message: str


Part = Reasoning | Text | Use | Pause | Cut | Breakdown


@dataclass(frozen=True)
class Refusal:
    """The request fails. `retry_after` in seconds goes into the header of that name."""

    status: int
    message: str
    retry_after: float | None = None


@dataclass(frozen=True)
class Answer:
    """What to say. `scenario` and `step` tell where in the script it comes from."""

    parts: list[Part]
    scenario: str = ""
    step: str = ""
    refusal: Refusal | None = None
    usage: Usage | None = None
    length: bool = False

    @property
    def stop(self) -> Literal["end", "tool", "length"]:
        """Why the model stops."""
        if self.length:
            return "length"
        return "tool" if any(isinstance(part, Use) for part in self.parts) else "end"

    def said(self, kind: type[Reasoning] | type[Text]) -> str:
        """All text of one kind."""
        return "".join(part.text for part in self.parts if isinstance(part, kind))


@dataclass(frozen=True)
class Counted:
    """Token counts. `input` excludes what was read from or written to a cache; `output` includes `reasoning`."""

    input: int
    output: int
    reasoning: int
    cache_read: int
    cache_write: int


def count(answer: Answer, conversation: Conversation) -> Counted:
    """Estimate usage from lengths (four characters are a token) unless the script says otherwise.

    A first request writes everything but its prompt to the cache, later ones read what stands before their news.
    """
    total = max(1, conversation.size // 4)
    news = min(total, max(1, conversation.tail // 4))
    first = conversation.turn <= 1 and not conversation.exchanges
    read = 0 if first or not conversation.uses_cache else total - news
    write = 0
    if conversation.uses_cache and conversation.family == "anthropic":
        write = total - news if first else news - 1
    reasoning = len(answer.said(Reasoning)) // 4 if conversation.wants_reasoning else 0
    calls = sum(len(part.name) + len(str(part.arguments)) for part in answer.parts if isinstance(part, Use))
    output = max(1, (len(answer.said(Text)) + calls) // 4) + reasoning
    given = answer.usage or Usage()

    def either(value: int | None, estimate: int) -> int:
        return estimate if value is None else value

    return Counted(
        input=either(given.input, total - read - write),
        output=either(given.output, output),
        reasoning=either(given.reasoning, reasoning),
        cache_read=either(given.cache_read, read),
        cache_write=either(given.cache_write, write),
    )


def chunks(text: str) -> Iterator[str]:
    """The text word by word; joined, the chunks are the text again."""
    end = 0
    for word in _CHUNK.finditer(text):
        yield word.group()
        end = word.end()
    if end < len(text):
        yield text[end:]


def slices(text: str, size: int = 40) -> Iterator[str]:
    """The text in pieces of a fixed size, as tool arguments stream."""
    for start in range(0, len(text), size):
        yield text[start : start + size]
