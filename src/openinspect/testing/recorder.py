"""What reached the scripted model, kept in a bounded ring without secrets.

Headers that may carry a secret are kept as a digest and, when long enough, their last four characters. Texts are cut,
images are kept as type, size and digest.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import Counter, deque
from typing import Any, Literal

from pydantic import BaseModel, Field

from openinspect.testing.answer import Answer, Use
from openinspect.testing.conversation import Conversation, Image

MAX_RECORDS = 512
MAX_TEXT = 4000

Outcome = Literal["open", "completed", "refused", "cut", "left"]

_SECRET_HEADER = re.compile(r"auth|key|token|secret|cookie|credential|password", re.IGNORECASE)


class Secret(BaseModel):
    """A header whose value is not kept."""

    header: str
    sha256: str
    last4: str | None = None


class SeenImage(BaseModel):
    """An image that reached the model."""

    mime: str
    size: int
    sha256: str


class SeenExchange(BaseModel):
    """Tool calls of this turn and their results, cut."""

    calls: list[dict[str, Any]]
    result: str
    failed: bool


class Record(BaseModel):
    """One request. `outcome` is `open` while it streams; `left` means that the client went away."""

    number: int
    at: float
    path: str
    family: str
    headers: dict[str, str]
    secrets: list[Secret]
    model: str = ""
    stream: bool = False
    kind: str = ""
    session: str = ""
    effort: str | None = None
    turn: int = 0
    step: int = 0
    prompt: str = ""
    system: str = ""
    tools: list[str] = Field(default_factory=list)
    images: list[SeenImage] = Field(default_factory=list)
    tool_images: list[SeenImage] = Field(default_factory=list)
    exchanges: list[SeenExchange] = Field(default_factory=list)
    options: dict[str, Any] = Field(default_factory=dict)
    scenario: str = ""
    answer: str = ""
    calls: list[str] = Field(default_factory=list)
    status: int = 0
    outcome: Outcome = "open"
    seconds: float = 0


_OPTIONS = (
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "temperature",
    "top_p",
    "thinking",
    "output_config",
    "reasoning",
    "reasoning_effort",
    "store",
    "stream_options",
    "tool_choice",
    "service_tier",
)


class Recorder:
    """Keeps the last requests and counts all of them; safe to read from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: deque[Record] = deque(maxlen=MAX_RECORDS)
        self._counts: Counter[str] = Counter()
        self._begun: dict[int, float] = {}

    def begin(self, path: str, family: str, headers: dict[str, str]) -> Record:
        """A request came in."""
        with self._lock:
            self._counts["requests"] += 1
            self._counts[f"family:{family}"] += 1
            record = Record(
                number=self._counts["requests"],
                at=time.time(),
                path=path,
                family=family,
                headers={name: value[:500] for name, value in headers.items() if not _is_secret(name)},
                secrets=[_secret(name, value) for name, value in headers.items() if _is_secret(name)],
            )
            self._records.append(record)
            self._begun[record.number] = time.monotonic()
            return record

    def understood(self, record: Record, conversation: Conversation, body: dict[str, Any]) -> None:
        """What the request says."""
        record.model = conversation.model
        record.stream = conversation.stream
        record.kind = conversation.kind
        record.session = conversation.session
        record.effort = conversation.effort
        record.turn = conversation.turn
        record.step = len(conversation.exchanges) + 1
        record.prompt = conversation.prompt[:MAX_TEXT]
        record.system = conversation.system[:MAX_TEXT]
        record.tools = list(conversation.tools)
        record.images = [_seen(image) for image in conversation.images]
        record.tool_images = [_seen(image) for e in conversation.exchanges for image in e.images]
        record.options = {name: body[name] for name in _OPTIONS if name in body}
        record.exchanges = [
            SeenExchange(
                calls=[
                    {"name": call.name, "arguments": str(call.arguments)[:MAX_TEXT]}
                    for call in exchange.calls
                ],
                result=exchange.result[:MAX_TEXT],
                failed=exchange.failed,
            )
            for exchange in conversation.exchanges[-20:]
        ]

    def answered(self, record: Record, answer: Answer) -> None:
        """What the script decided."""
        record.scenario = answer.scenario
        record.answer = answer.step
        record.calls = [part.name for part in answer.parts if isinstance(part, Use)]

    def end(self, record: Record, status: int, outcome: Outcome) -> None:
        """The request is over."""
        with self._lock:
            record.status = status
            record.outcome = outcome
            record.seconds = round(time.monotonic() - self._begun.pop(record.number, time.monotonic()), 4)
            self._counts[f"status:{status}"] += 1
            self._counts[f"outcome:{outcome}"] += 1

    def records(self, after: int = 0) -> list[Record]:
        """Requests with a number above `after`, oldest first."""
        with self._lock:
            return [record for record in self._records if record.number > after]

    def counters(self) -> dict[str, int]:
        """All counts since the start or the last `clear`, by what they count."""
        with self._lock:
            return dict(self._counts)

    def clear(self) -> None:
        """Forget the finished requests, keep the numbering."""
        with self._lock:
            kept = [record for record in self._records if record.outcome == "open"]
            self._records.clear()
            self._records.extend(kept)


def _is_secret(name: str) -> bool:
    return bool(_SECRET_HEADER.search(name))


def _secret(name: str, value: str) -> Secret:
    digest = hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()
    return Secret(header=name, sha256=digest, last4=value[-4:] if len(value) >= 16 else None)


def _seen(image: Image) -> SeenImage:
    return SeenImage(mime=image.mime, size=image.size, sha256=image.sha256)
