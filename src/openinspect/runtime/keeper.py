"""Keeps the agent's process: starts it, watches it, starts it again.

States: ``starting → idle (ready) → restarting → idle …``, or ``failed`` for good after 5 restarts within 5 minutes. Between restarts it waits
0.2 s doubling to 10 s. Every restart is an event with the last lines of the log; one that the runtime itself brought about (to end what did
not stop) is told as such and does not count against the bound.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from openinspect.protocol.events import AgentRestarted

from .agents.contract import Agent, AgentUnusable, Workplace
from .outbox import Outbox
from .wording import line, tail

MOST_RESTARTS = 5
WITHIN_SECONDS = 300.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0


class Keeper:
    """``on_failed`` is called once with reason, remedy and log when the agent can't be kept running."""

    def __init__(self, agent: Agent, outbox: Outbox, on_failed: Callable[[str, str, str], None]) -> None:
        self.agent = agent
        self._outbox = outbox
        self._on_failed = on_failed
        self._ready = False
        self._changed = asyncio.Condition()
        self._generation = 0
        self._restarts: deque[float] = deque()
        self._attempt = 0
        self._workplace: Workplace | None = None
        self._expected: str | None = None
        self.failed = False
        self._cleaned = asyncio.Event()
        self._clean: Callable[[], Awaitable[None]] | None = None

    def when_gone(self, clean: Callable[[], Awaitable[None]]) -> None:
        """Called each time the agent is gone, before another one is started."""
        self._clean = clean

    async def cleaned(self) -> None:
        """Until what a dead agent left has been cleaned away; at once while there is an agent."""
        if self.agent.group is None:
            await self._cleaned.wait()

    async def run(self) -> None:
        self._outbox.tell(agent="starting")
        while True:
            reason = log = ""
            remedy = "Retry in a new sandbox; if it happens again, look at the agent's log."
            try:
                await self.agent.start()
                if self._workplace is not None:
                    await self.agent.open(self._workplace)
            except AgentUnusable as unusable:
                reason, remedy = unusable.reason, unusable.remedy or remedy
            except OSError as error:
                reason = f"The agent could not be started: {error.strerror or error}"
            else:
                self._cleaned.clear()
                async with self._changed:
                    self._ready = True
                    self._generation += 1
                    self._changed.notify_all()
                self._outbox.tell(agent="idle")
                reason = f"The agent is gone: {await self.agent.ended()}"
            self._ready = False
            if self._clean is not None:
                await self._clean()
            self._cleaned.set()
            log, expected = tail(self.agent.log_tail), self._expected
            self._expected = None
            now = time.monotonic()
            if expected is None:
                while self._restarts and now - self._restarts[0] > WITHIN_SECONDS:
                    self._restarts.popleft()
                if len(self._restarts) >= MOST_RESTARTS:
                    self.failed = True
                    self._outbox.tell(agent="failed")
                    self._on_failed(
                        line(
                            f"The agent ended {MOST_RESTARTS + 1} times within {WITHIN_SECONDS / 60:.0f} minutes. {reason}"
                        ),
                        remedy,
                        log,
                    )
                    return
                self._restarts.append(now)
            self._attempt += 1
            self._outbox.tell(agent="restarting")
            await self._outbox.emit(
                AgentRestarted(reason=line(expected or reason), attempt=self._attempt, log_tail=log)
            )
            await asyncio.sleep(
                0 if expected else min(FIRST_PAUSE * 2 ** (len(self._restarts) - 1), LONGEST_PAUSE)
            )

    async def ready(self, after: int = 0) -> int:
        """Until the agent takes prompts; gives the number of its process, which is higher than ``after``: of a process that died in one's hands
        the keeper may not know yet. (When the agent can't be kept running, the runtime ends, and whoever waits with it.)"""
        async with self._changed:
            await self._changed.wait_for(lambda: self._ready and self._generation > after)
        return self._generation

    async def open(self, workplace: Workplace) -> None:
        """Where the work is, for the agent that runs and those that come after it."""
        await self.ready()
        self._workplace = workplace
        await self.agent.open(workplace)

    async def restart(self, why: str) -> None:
        """End the agent's process; another one comes. ``why`` is told."""
        if self.agent.group is not None:
            self._expected = why
            self._ready = False
            await self.agent.kill()
