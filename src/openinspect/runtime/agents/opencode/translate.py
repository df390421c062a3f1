"""OpenCode's events and parts, as our events. One ``Translator`` for one attempt of a turn.

Which messages belong to the turn: those of the session whose id is not below that of the message that was sent; of them only what the
assistant says, without the summaries it writes for itself when its context is compacted.
"""

from __future__ import annotations

from typing import Any

from openinspect.protocol.events import (
    ContextCompacted,
    ReasoningPart,
    StepFinished,
    TextPart,
    Todo,
    TodosChanged,
    ToolFinished,
    ToolStarted,
)
from openinspect.runtime.agents.contract import Report
from openinspect.runtime.wording import PART_TEXT, bounded_input, clean, line, middle_out

from .client import (
    CompactionPiece,
    MessageInfo,
    MessageWithParts,
    Piece,
    ReasoningPiece,
    StepFinishPiece,
    TextPiece,
    ToolPiece,
    piece,
)

_TODO_STATES = {"pending", "in_progress", "completed", "cancelled"}


def _exit_code(metadata: dict[str, Any] | None) -> int | None:
    code = (metadata or {}).get("exit")
    return code if isinstance(code, int) and -1024 <= code <= 1024 else None


class Translator:
    def __init__(self, session: str, first_message: str, report: Report) -> None:
        self._session = session
        self._first = first_message
        self._report = report
        self._messages: dict[str, MessageInfo] = {}
        self._open: dict[str, str] = {}
        """Parts that are being written: id → kind."""
        self._stale: set[str] = set()
        """Open parts of which something may have been missed: their deltas wait for the next whole text."""

    def has(self, message_id: str) -> bool:
        """Whether OpenCode has shown us this message."""
        return message_id in self._messages

    @property
    def count(self) -> int:
        """How many messages the turn has, as far as we know."""
        return len(self._messages)

    @property
    def newest(self) -> str | None:
        return max(self._messages, default=None)

    def answers(self, after: str) -> list[MessageInfo]:
        """What the assistant has said after a message, oldest first."""
        found = [each for each in self._messages.values() if each.role == "assistant" and not each.summary]
        return sorted((each for each in found if each.id > after), key=lambda each: each.id)

    def _belongs(self, message_id: str) -> bool:
        info = self._messages.get(message_id)
        return info is not None and info.role == "assistant" and not info.summary

    def message(self, info: MessageInfo) -> None:
        if info.sessionID == self._session and info.id >= self._first:
            self._messages[info.id] = info

    async def event(self, kind: str, properties: dict[str, Any]) -> None:
        match kind:
            case "message.part.delta":
                self._delta(properties)
            case "message.part.updated":
                part = piece(properties.get("part") or {})
                if part is not None:
                    await self.part(part)
            case "message.updated":
                self.message(MessageInfo.model_validate(properties["info"]))
            case "todo.updated":
                await self._todos(properties.get("todos") or [])
            case "session.compacted":
                await self._report.event(ContextCompacted())
            case _:
                return

    async def reconcile(self, messages: list[MessageWithParts]) -> None:
        """Catch up with what the server knows: nothing missed, nothing twice."""
        for message in messages:
            self.message(message.info)
        for message in messages:
            if self._belongs(message.info.id):
                done = message.info.time.completed is not None
                for value in message.parts:
                    part = piece(value)
                    if part is not None:
                        await self.part(part, done)

    def mark_gap(self) -> None:
        """Events may have been missed from here on."""
        self._stale.update(self._open)

    def _delta(self, properties: dict[str, Any]) -> None:
        part_id = properties.get("partID")
        if part_id in self._open and part_id not in self._stale and properties.get("field") == "text":
            kind = "reasoning" if self._open[part_id] == "reasoning" else "text"
            if delta := properties.get("delta"):
                self._report.delta(part_id, kind, str(delta))

    async def part(self, part: Piece, message_done: bool = False) -> None:
        """``message_done``: the part's message is complete, so nothing will be added to the part."""
        if part.sessionID != self._session or not self._belongs(part.messageID):
            return
        match part:
            case TextPiece() | ReasoningPiece():
                await self._written(part, message_done)
            case ToolPiece():
                await self._tool(part)
            case StepFinishPiece():
                tokens = part.tokens
                await self._report.event(
                    StepFinished(
                        reason=part.reason[:200] or "unknown",
                        input_tokens=int(tokens.input + tokens.cache.read + tokens.cache.write),
                        output_tokens=int(tokens.output + tokens.reasoning),
                    ),
                    key=part.id,
                )
            case CompactionPiece():
                return

    async def _written(self, part: TextPiece | ReasoningPiece, message_done: bool) -> None:
        if isinstance(part, TextPiece) and (part.synthetic or part.ignored):
            return
        ended = message_done or (part.time is not None and part.time.end is not None)
        if not ended:
            if part.id not in self._open:
                self._open[part.id] = part.type
            if part.text:
                self._report.catch_up(part.id, part.type, part.text)
                self._stale.discard(part.id)
            return
        self._open.pop(part.id, None)
        self._stale.discard(part.id)
        text = clean(part.text)
        if not text.strip():
            self._report.drop(part.id)
            return
        event = ReasoningPart if isinstance(part, ReasoningPiece) else TextPart
        await self._report.event(
            event(part_id=part.id, text=text[:PART_TEXT], truncated=len(text) > PART_TEXT),
            key=part.id,
            closes=part.id,
        )

    async def _tool(self, part: ToolPiece) -> None:
        state = part.state
        if state.status == "pending":
            return
        value, cut = bounded_input(state.input)
        tool = line(part.tool, 200) or "unknown"
        await self._report.event(
            ToolStarted(call_id=part.id, tool=tool, input=value, truncated=cut), key=f"{part.id}/started"
        )
        if state.status == "running":
            return
        output, output_cut = middle_out(state.output if state.status == "completed" else state.error)
        times = state.time
        duration = int(times.end - times.start) if times.end is not None and times.start is not None else None
        await self._report.event(
            ToolFinished(
                call_id=part.id,
                tool=tool,
                state="completed" if state.status == "completed" else "failed",
                title=line(state.title or ""),
                input=value,
                output=output,
                duration_ms=duration,
                exit_code=_exit_code(state.metadata),
                truncated=cut or output_cut,
            ),
            key=part.id,
        )

    async def _todos(self, todos: list[dict[str, Any]]) -> None:
        items = [
            Todo(
                text=line(str(todo.get("content", ""))),
                state=todo["status"] if todo.get("status") in _TODO_STATES else "pending",
            )
            for todo in todos[:200]
        ]
        await self._report.event(TodosChanged(items=items))
