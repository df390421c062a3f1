"""The tools that run at this moment. At a terminal they stand in a line that is rewritten, with how long they have been at it; elsewhere a line
says once that one runs, when it takes longer than ``ANNOUNCE_SECONDS``.

The owner holds ``lock`` while it prints, and calls ``hide`` before and ``show`` after.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.live import Live
from rich.text import Text

ANNOUNCE_SECONDS = 2.0
_MOST = 3


class Call(NamedTuple):
    tool: str
    given: str
    since: datetime

    @property
    def seconds(self) -> float:
        return max(0.0, (datetime.now(UTC) - self.since).total_seconds())

    @property
    def words(self) -> str:
        return f"{self.tool}  {self.given}".rstrip()


class RunningTools:
    def __init__(self, console: Console, lock: threading.RLock, announce: Callable[[str], None]) -> None:
        self.calls: dict[str, Call] = {}
        self._console = console
        self._lock = lock
        self._announce = announce
        self._timers: dict[str, threading.Timer] = {}
        self._live: Live | None = None

    def started(self, call_id: str, call: Call) -> None:
        self.calls[call_id] = call

    def finished(self, call_id: str) -> None:
        self.calls.pop(call_id, None)
        timer = self._timers.pop(call_id, None)
        if timer is not None:
            timer.cancel()

    def clear(self) -> None:
        for call_id in list(self.calls):
            self.finished(call_id)

    def hide(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self) -> None:
        if not self.calls:
            return
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                get_renderable=self._line, console=self._console, transient=True, refresh_per_second=4
            )
            self._live.start(refresh=True)
            return
        for call_id, call in self.calls.items():
            if call_id not in self._timers:
                timer = threading.Timer(max(0.0, ANNOUNCE_SECONDS - call.seconds), self._say, (call_id,))
                timer.daemon = True
                self._timers[call_id] = timer
                timer.start()

    def _say(self, call_id: str) -> None:
        with self._lock:
            call = self.calls.get(call_id)
            if call is not None:
                self._announce(f"… {call.words} (it runs)")

    def _line(self) -> Text:
        """Cut to one row: the terminal could not take back what it has broken into two."""
        room = max(20, self._console.width - 1)
        lines: list[str] = []
        for call in list(self.calls.values())[:_MOST]:
            words, took = f"… {call.words}", f" · {call.seconds:.0f} s"
            if cell_len(words) + cell_len(took) > room:
                words = set_cell_size(words, room - cell_len(took) - 1) + "…"
            lines.append(words + took)
        return Text("\n".join(lines), style="dim")
