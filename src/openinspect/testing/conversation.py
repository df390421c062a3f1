"""What a model request says, whichever provider's API it came through.

A dialect feeds the messages of one request into a `ConversationReader`, in order; `finish()` returns the
`Conversation`: the last thing the person asked, and the tool calls answered since. Nothing is remembered between
requests: everything the scripted model needs to know where it stands is in the request itself, so a retry, a restart
or fifty parallel sessions make no difference.

What counts as the prompt: the last text block of the person. Text that the agent adds on its own (reminders, the
contents of attached files, media handed back by a tool) is no prompt.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64decode
from binascii import Error as Base64Error
from dataclasses import dataclass, field
from typing import Any, Literal

Family = Literal["anthropic", "chat", "responses"]
Kind = Literal["turn", "title", "summary"]

_REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>", re.DOTALL)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_TOOL_MEDIA = "Attached media from tool result:"
_FILE_NOTE = "Called the Read tool with the following input:"
_TITLE_SYSTEM = "You are a title generator"
_SUMMARY = re.compile(r"anchored summary|(?i:summary of (?:the|our) conversation)")


class BadRequest(Exception):
    """The request can't be read; its text is meant for the caller."""


@dataclass(frozen=True)
class Image:
    """An image block that reached the model, without its bytes."""

    mime: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Call:
    """One tool call of the model."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass
class Exchange:
    """The calls of one model answer, and what the tools said."""

    calls: list[Call] = field(default_factory=list)
    results: dict[str, str] = field(default_factory=dict)
    failed: bool = False
    images: list[Image] = field(default_factory=list)

    @property
    def result(self) -> str:
        """All results of this exchange, in the order of the calls, joined by newlines, without terminal colours."""
        said = "\n".join(self.results[call.id] for call in self.calls if call.id in self.results)
        return _COLOUR.sub("", said)


@dataclass
class Conversation:
    """One request, normalised. `turn` counts the person's prompts from 1."""

    family: Family
    model: str
    stream: bool
    system: str = ""
    prompt: str = ""
    turn: int = 0
    exchanges: list[Exchange] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    tools: list[str] = field(default_factory=list)
    effort: str | None = None
    wants_reasoning: bool = True
    wants_usage: bool = True
    uses_cache: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    history: str = ""
    size: int = 0
    tail: int = 0

    @property
    def kind(self) -> Kind:
        """What the agent wants: a turn's next step, a title for the conversation, or a summary of it."""
        if _TITLE_SYSTEM in self.system:
            return "title"
        if not self.tools and _SUMMARY.search(self.prompt):
            return "summary"
        return "turn"

    @property
    def session(self) -> str:
        """The agent's own session id where it sends one, else an empty string."""
        for name in ("x-session-id", "x-opencode-session", "x-session-affinity"):
            if self.headers.get(name):
                return self.headers[name]
        return ""

    @property
    def fingerprint(self) -> str:
        """The same for a repeated request, different for every other one."""
        return hashlib.sha256(f"{self.session}\0{self.kind}\0{self.history}".encode()).hexdigest()


class ConversationReader:
    """Collects the messages of one request, in order, into a `Conversation`."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._digest = hashlib.sha256()
        self._last = ""
        self._tool_media = False
        self._file_note = False

    def user_message(self) -> None:
        """A user message begins: what the one before was about is over."""
        self._tool_media = False
        self._file_note = False

    def user_text(self, text: str) -> None:
        """A text block of a user message: a prompt, unless the agent added it."""
        conversation = self._conversation
        if text.startswith(_TOOL_MEDIA):
            self._tool_media = True
            return
        if self._file_note:
            self._file_note = False
            return
        if text.startswith(_FILE_NOTE):
            self._file_note = True
            return
        text = _REMINDER.sub("", text).strip()
        if not text or self._tool_media:
            return
        if self._last != "user":
            conversation.images = []
        # The agent's command line wraps a prompt with spaces in quotes.
        if len(text) > 1 and text[0] == text[-1] == '"':
            text = text[1:-1]
        conversation.prompt = text
        conversation.turn += 1
        conversation.exchanges = []
        conversation.tail = len(text)
        self._note("user", text)

    def user_image(self, mime: str, data: str) -> None:
        """An image block of a user message, its bytes in base64 or a URL."""
        image = image_of(mime, data)
        if self._tool_media and self._conversation.exchanges:
            self._conversation.exchanges[-1].images.append(image)
            return
        if self._last != "user":
            self._conversation.images = []
        self._conversation.images.append(image)
        self._note("user", image.sha256)

    def call(self, call_id: str, name: str, arguments: object) -> None:
        """A tool call that the model made; arguments as an object or as JSON text."""
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except ValueError as error:
                raise BadRequest(f"the arguments of tool call {call_id!r} are not JSON: {error}") from error
        if not isinstance(arguments, dict):
            raise BadRequest(f"the arguments of tool call {call_id!r} are not an object")
        exchanges = self._conversation.exchanges
        if self._last != "call" or not exchanges:
            exchanges.append(Exchange())
            self._conversation.tail = 0
        exchanges[-1].calls.append(Call(call_id, name, dict(arguments)))
        self._note("call", f"{name}{json.dumps(arguments, sort_keys=True)}")

    def result(
        self, call_id: str, text: str, *, failed: bool = False, images: list[Image] | None = None
    ) -> None:
        """What a tool answered."""
        exchanges = self._conversation.exchanges
        if not exchanges:
            raise BadRequest(f"there is a result for {call_id!r} without a tool call before it")
        exchange = next((e for e in exchanges if any(c.id == call_id for c in e.calls)), exchanges[-1])
        exchange.results[call_id] = text
        exchange.failed = exchange.failed or failed
        exchange.images.extend(images or [])
        self._conversation.tail += len(text)
        self._note("result", text)

    def finish(self) -> Conversation:
        """The conversation read so far. Raises BadRequest when there is no user message in it."""
        if not self._last:
            raise BadRequest("the request has no user message")
        self._conversation.history = self._digest.hexdigest()
        return self._conversation

    def _note(self, what: str, text: str) -> None:
        self._last = what
        self._digest.update(f"{what}\0{text}\0".encode("utf-8", "surrogatepass"))


def image_of(mime: str, data: str) -> Image:
    """Describe an image block given as base64, a data URL or a plain URL."""
    if data.startswith("data:"):
        head, _, data = data.partition(",")
        mime = head[5:].split(";")[0] or mime
    elif data.startswith(("http://", "https://")):
        return Image(mime or "url", 0, hashlib.sha256(data.encode()).hexdigest())
    try:
        raw = b64decode(data, validate=True)
    except (Base64Error, ValueError) as error:
        raise BadRequest(f"an image block is not valid base64: {error}") from error
    return Image(mime, len(raw), hashlib.sha256(raw).hexdigest())
