"""Who is here, and who is typing: told to everybody who watches the same session, in every process, and never stored.

Each process knows its own connections and tells the others about them by a notification when something changes and every ``REPEAT_SECONDS``;
what another process has not repeated for ``FORGET_SECONDS`` is forgotten (it may have died). A person with several connections is shown
once: typing if any of them is, active if any of them is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import orjson

from openinspect.protocol.stream import Here, Presence, PresenceMessage
from openinspect.sessions.log import PROCESS_ID

REPEAT_SECONDS = 15.0
FORGET_SECONDS = 40.0
MAX_TOLD = 50
"""People of one session told of in one notification: it holds at most 8,000 bytes."""


class _Connection(NamedTuple):
    user_id: str
    name: str
    here: Here


class PresenceBoard:
    """``tell(payload)`` sends a notification to the other processes; ``show(session, message)`` sends a message to the watchers here."""

    def __init__(self, tell: Callable[[str], None], show: Callable[[str, bytes], None]) -> None:
        self._tell = tell
        self._show = show
        self._mine: dict[str, dict[object, _Connection]] = {}
        self._others: dict[str, dict[str, tuple[float, list[Presence]]]] = {}

    def set(self, session_id: str, connection: object, user_id: str, name: str, here: Here) -> None:
        self._mine.setdefault(session_id, {})[connection] = _Connection(user_id, name[:80], here)
        self._changed(session_id)

    def remove(self, session_id: str, connection: object) -> None:
        connections = self._mine.get(session_id)
        if connections and connections.pop(connection, None) is not None:
            if not connections:
                del self._mine[session_id]
            self._changed(session_id)

    def people(self, session_id: str) -> list[Presence]:
        merged: dict[str, Presence] = {}
        known = self._own(session_id)
        now = time.monotonic()
        for at, others in self._others.get(session_id, {}).values():
            if now - at < FORGET_SECONDS:
                known = [*known, *others]
        for one in known:
            before = merged.get(one.user_id)
            if before is not None:
                one = Presence(
                    user_id=one.user_id,
                    name=one.name,
                    state="active" if "active" in (one.state, before.state) else "idle",
                    typing=one.typing or before.typing,
                )
            merged[one.user_id] = one
        return sorted(merged.values(), key=lambda one: one.name)

    def message(self, session_id: str) -> bytes:
        return PresenceMessage(people=self.people(session_id)).model_dump_json().encode()

    def _own(self, session_id: str) -> list[Presence]:
        connections = self._mine.get(session_id, {}).values()
        return [
            Presence(user_id=c.user_id, name=c.name, state=c.here.state, typing=c.here.typing)
            for c in connections
        ][:MAX_TOLD]

    def _changed(self, session_id: str) -> None:
        self._show(session_id, self.message(session_id))
        self._tell_others(session_id)

    def _tell_others(self, session_id: str) -> None:
        people = [person.model_dump() for person in self._own(session_id)]
        self._tell(orjson.dumps({"from": PROCESS_ID, "session": session_id, "people": people}).decode())

    def heard(self, payload: str) -> None:
        """A notification of another process, or our own."""
        told = orjson.loads(payload)
        if told["from"] == PROCESS_ID:
            return
        session_id = told["session"]
        processes = self._others.setdefault(session_id, {})
        fresh = told["from"] not in processes
        if told["people"]:
            processes[told["from"]] = (
                time.monotonic(),
                [Presence.model_validate(person) for person in told["people"]],
            )
        else:
            processes.pop(told["from"], None)
            if not processes:
                del self._others[session_id]
        if session_id in self._mine:
            self._show(session_id, self.message(session_id))
            if fresh and told["people"]:
                self._tell_others(session_id)

    def repeat(self) -> None:
        """Every ``REPEAT_SECONDS``: say again who is here, and forget what was not repeated."""
        now = time.monotonic()
        for session_id, processes in list(self._others.items()):
            for process, (at, _) in list(processes.items()):
                if now - at >= FORGET_SECONDS:
                    del processes[process]
            if not processes:
                del self._others[session_id]
        for session_id in list(self._mine):
            self._tell_others(session_id)
