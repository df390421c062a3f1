"""The seam between the runtime and an agent.

Life of an agent's process (``keeper`` owns it)
    ``start`` → running → ``ended`` returns, whoever ended it → ``start`` again, with the same home

    - ``start`` returns when the agent takes prompts (at most 60 s), and raises ``AgentUnusable`` when it can't be. It needs no files.
    - ``warm`` prepares for work in a folder, in the background of its own accord; it delays nothing, and nothing depends on it.
    - ``open`` tells where the work is; it may be called again. Before it, and while the agent is not running, no turn is begun.
    - ``close`` ends the process and all that it started.

Life of a turn (one at a time)
    ``turn`` → events and deltas through the ``Report`` → ``TurnResult``

    - A turn is never ended because nothing comes: only when the agent has finished, when it is asked to (``interrupt``), or when its process
      is gone (``AgentDied``). After that the same turn is begun again with ``attempt`` one higher: the agent has its memory, and goes on.
    - Begun again with the same attempt (the runtime itself was started anew) it finds what it sent before and attaches to it. If that was cut
      off it raises ``TurnCutOff``: the caller goes on with the next attempt.
    - Every part is reported whole exactly once, under its key; the report knows what was said in an earlier life.
    - Whatever the agent asks is answered, or becomes a question with a deadline.
    - ``interrupt`` only asks; it returns at once or after the time its request takes (at most 2 s). Who called it kills what does not stop.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from openinspect.protocol.commands import RunPrompt
from openinspect.protocol.events import SandboxEvent
from openinspect.runtime.git import Git

START_SECONDS = 60.0


class AgentUnusable(Exception):
    """The agent can't be started. ``reason`` and ``remedy`` are for people."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


class AgentDied(Exception):
    """The agent's process is gone in the middle of a turn; the text says how."""


class TurnCutOff(Exception):
    """The agent knows the turn, but is not working at it any more, and has not finished it."""


@dataclass(frozen=True)
class TurnResult:
    outcome: Literal["completed", "failed", "stopped"]
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class File:
    name: str
    media_type: str
    data: bytes


@dataclass(frozen=True)
class Workplace:
    directory: str
    """Where the agent works."""
    configured: bool
    """The tree brings configuration for the agent, which it must read anew."""


@dataclass(frozen=True)
class Turn:
    prompt: RunPrompt
    attempt: int = 0
    """How often the agent died in this turn."""
    maybe_sent: bool = False
    """An earlier life of the runtime may have sent it."""
    files: list[File] = field(default_factory=list)


class Report(Protocol):
    """What a turn says, already bound to its turn."""

    def known(self, key: str) -> bool:
        """Whether an event was reported under this key, now or in an earlier life."""
        ...

    async def event(self, event: SandboxEvent, key: str | None = None, closes: str | None = None) -> None:
        """Nothing happens when the key is known. ``closes``: the open part that the event is the whole of."""
        ...

    def delta(self, part_id: str, kind: Literal["text", "reasoning"], text: str) -> None: ...

    def catch_up(self, part_id: str, kind: Literal["text", "reasoning"], text: str) -> None:
        """The text of an open part so far, after something may have been missed."""
        ...

    def drop(self, part_id: str) -> None:
        """A part that was begun came to nothing."""
        ...

    async def close_open(self, why: str) -> None:
        """What was begun and will not end by itself: calls have failed, texts break off."""
        ...

    async def break_off(self) -> None:
        """The texts that are being written end where they are; what comes after them is written anew."""
        ...


class Agent(Protocol):
    @property
    def name(self) -> str:
        """Name and version, once it runs."""
        ...

    @property
    def group(self) -> int | None:
        """Process group of the agent's server, while it runs."""
        ...

    @property
    def log_tail(self) -> str: ...

    async def start(self) -> None: ...

    async def ended(self) -> str:
        """Waits until the process is gone, and says how."""
        ...

    def warm(self, directory: str) -> None: ...

    async def open(self, workplace: Workplace) -> None: ...

    async def tidy(self, git: Git, folder: Path) -> None:
        """Undo what the agent's start did to a repository, and nobody wanted. Called before its changes are looked at."""
        ...

    async def turn(self, turn: Turn, report: Report) -> TurnResult: ...

    async def interrupt(self) -> None: ...

    async def answer(self, question_id: str, answers: list[list[str]]) -> bool:
        """False when no such question is open."""
        ...

    async def kill(self) -> None:
        """End the process with all in its group at once."""
        ...

    async def close(self) -> None: ...
