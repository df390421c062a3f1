"""What a turn says, each thing once, also over the death of any process.

The journal notes under which key an event went into the spool, with the event's number, right before it does: after a crash a note counts only
if its event is really in the spool. It also knows which tool calls are open, so that they can be closed when nobody else does.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import orjson

from openinspect.protocol.events import (
    ReasoningPart,
    SandboxEvent,
    TextPart,
    ToolFinished,
    ToolStarted,
)

from .files import append_whole, write_whole
from .outbox import Outbox


class Journal:
    """Of one turn: the file is begun anew with each prompt. Whatever writes to it raises ``OSError`` when the disk refuses, and may then be tried again."""

    def __init__(self, path: Path, last: int) -> None:
        self._path = path
        self.prompt_id: str | None = None
        self.attempt = 0
        self.known: set[str] = set()
        self.tools: dict[str, str] = {}
        """Calls that were started and not finished: id → tool."""
        self._fd: int | None = None
        self._size = 0
        if path.exists():
            self._read(path.read_bytes(), last)

    def _read(self, data: bytes, last: int) -> None:
        for written in data.split(b"\n"):
            # The last line may be torn.
            with contextlib.suppress(orjson.JSONDecodeError):
                entry = orjson.loads(written)
                if "prompt" in entry:
                    self.prompt_id = entry["prompt"]
                elif "attempt" in entry:
                    self.attempt = entry["attempt"]
                elif entry["n"] <= last:
                    self._apply(entry)

    def _apply(self, entry: dict[str, Any]) -> None:
        if entry.get("k") is not None:
            self.known.add(entry["k"])
        if "started" in entry:
            self.tools[entry["started"]] = entry["tool"]
        self.tools.pop(entry.get("finished", ""), None)

    def begin(self, prompt_id: str) -> bool:
        """True when this turn was begun before, in an earlier life of the runtime."""
        again = self.prompt_id == prompt_id
        if not again:
            write_whole(self._path, orjson.dumps({"prompt": prompt_id}) + b"\n", sync=False)
            self.prompt_id, self.attempt, self.known, self.tools = prompt_id, 0, set(), {}
        former, self._fd = self._fd, os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        if former is not None:
            os.close(former)
        self._size = os.fstat(self._fd).st_size
        if again:
            # The last line may be torn: what is noted now begins a new one.
            self._append(b"\n")
        return again

    def next_attempt(self) -> int:
        self.attempt += 1
        self._write({"attempt": self.attempt})
        return self.attempt

    def note(self, number: int, key: str | None, event: SandboxEvent) -> None:
        entry: dict[str, Any] = {"n": number, "k": key}
        if isinstance(event, ToolStarted):
            entry |= {"started": event.call_id, "tool": event.tool}
        elif isinstance(event, ToolFinished):
            entry["finished"] = event.call_id
        self._write(entry)
        self._apply(entry)

    def _write(self, entry: dict[str, Any]) -> None:
        self._append(orjson.dumps(entry) + b"\n")

    def _append(self, written: bytes) -> None:
        if self._fd is not None:
            append_whole(self._fd, self._size, written)
            self._size += len(written)


class TurnReport:
    """The contract's ``Report`` for one turn."""

    def __init__(
        self,
        outbox: Outbox,
        journal: Journal,
        turn_id: str,
        tool_finished: Callable[[TurnReport], None],
    ) -> None:
        self._outbox = outbox
        self._journal = journal
        self._turn_id = turn_id
        self._tool_finished = tool_finished
        self._saying: set[str] = set()

    def known(self, key: str) -> bool:
        return key in self._journal.known or key in self._saying

    async def event(self, event: SandboxEvent, key: str | None = None, closes: str | None = None) -> None:
        if key is not None:
            if self.known(key):
                if closes is not None:
                    self._outbox.drop_part(closes)
                return
            self._saying.add(key)
        try:
            await self._outbox.emit(
                event,
                self._turn_id,
                closes=closes,
                note=lambda number: self._journal.note(number, key, event),
            )
        finally:
            if key is not None:
                self._saying.discard(key)
        if isinstance(event, ToolFinished):
            self._tool_finished(self)

    def delta(self, part_id: str, kind: Literal["text", "reasoning"], text: str) -> None:
        if not self.known(part_id):
            self._outbox.delta(self._turn_id, part_id, kind, text)

    def catch_up(self, part_id: str, kind: Literal["text", "reasoning"], text: str) -> None:
        if self.known(part_id):
            return
        _, so_far = self._outbox.open_parts().get(part_id, (kind, ""))
        if text.startswith(so_far):
            self._outbox.delta(self._turn_id, part_id, kind, text[len(so_far) :])

    def drop(self, part_id: str) -> None:
        self._outbox.drop_part(part_id)

    async def close_open(self, why: str) -> None:
        """Tool calls without an end have failed, texts without an end break off."""
        for call_id, tool in list(self._journal.tools.items()):
            await self.event(
                ToolFinished(call_id=call_id, tool=tool, state="failed", output=why), key=call_id
            )
        await self.break_off()

    async def break_off(self) -> None:
        """Texts without an end become whole parts, marked as cut short."""
        for part_id, (kind, text) in self._outbox.open_parts().items():
            if text.strip():
                event = ReasoningPart if kind == "reasoning" else TextPart
                part = event(part_id=part_id, text=text, truncated=True)
                await self.event(part, key=part_id, closes=part_id)
            else:
                self.drop(part_id)
