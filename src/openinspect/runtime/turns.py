"""Turns: one prompt after the other, each to exactly one ``turn.ended``.

    waiting → (agent ready) → running → ended completed | failed | stopped
                 ▲               │ the agent's process died: ``turn.resumed``, the next attempt, at most 2 times
                 └───────────────┘

Stop: the agent is asked; after 2 s what the turn started is killed, after 3.4 s the agent itself; the turn has ended within 5 s, whatever
happens. A stopped turn leaves nothing running that it started. A waiting prompt that is stopped ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from openinspect.protocol.commands import Identity, RunPrompt
from openinspect.protocol.events import TurnEnded, TurnResumed, Warned

from .agents.contract import AgentDied, Turn, TurnCutOff, TurnResult
from .door import DoorClient, DoorError
from .keeper import Keeper
from .outbox import DISK_RETRY_SECONDS, Outbox
from .processes import Census, kill_since
from .report import Journal, TurnReport
from .room import Room
from .wording import line

MOST_ATTEMPTS = 2
"""How often a turn goes on after the agent died."""
ASK_SECONDS = 2.0
KILL_SECONDS = 0.7
AGENT_SECONDS = 3.4
END_SECONDS = 3.9
SETTLE_SECONDS = 10.0
"""For what is looked at after a turn: commits and differences."""


class Turns:
    def __init__(
        self,
        outbox: Outbox,
        keeper: Keeper,
        door: DoorClient,
        state: Path,
        room: Room,
        *,
        own_processes: Callable[[], list[int]],
        sign_as: Callable[[Identity], None],
        settle: Callable[[TurnReport], Awaitable[None]],
        tool_finished: Callable[[TurnReport], None],
    ) -> None:
        """``sign_as``: whose commits they are from now on. ``settle``: look at commits and differences, before the turn is called over;
        ``tool_finished``: something may have changed."""
        self._outbox = outbox
        self._keeper = keeper
        self._door = door
        self._own_processes = own_processes
        self._sign_as = sign_as
        self._room = room
        self._settle = settle
        self._tool_finished = tool_finished
        self._opened = asyncio.Event()
        self._in_agent = False
        self._journal = Journal(state / "turn.log", outbox.last)
        self._queue: asyncio.Queue[tuple[RunPrompt, Callable[[], None]]] = asyncio.Queue()
        self._stopping: set[str] = set()
        self._ended: set[str] = set()
        self._running: tuple[str, asyncio.Task[TurnResult]] | None = None
        self.report: TurnReport | None = None
        """Of the turn that runs."""
        self._before: frozenset[tuple[int, int]] = frozenset()
        self._over = asyncio.Event()
        self._cut_off: TurnResult | None = None
        """How a turn ends that the end of the sandbox cuts off."""
        self._stops: set[asyncio.Task[None]] = set()
        keeper.when_gone(self._agent_gone)

    def open(self) -> None:
        """The workspace is ready: prompts may run."""
        self._room.keep()
        self._opened.set()

    def submit(self, prompt: RunPrompt, done: Callable[[], None]) -> None:
        self._queue.put_nowait((prompt, done))

    def stop(self, prompt_id: str, done: Callable[[], None]) -> None:
        if prompt_id in self._ended:
            done()
            return
        self._stopping.add(prompt_id)
        task = asyncio.create_task(self._end(prompt_id, done))
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)

    async def wind_up(self) -> None:
        """The sandbox ends: so does the turn that runs, as failed, within 2 s; those that wait are left to the control plane."""
        if self._running is None:
            return
        _, task = self._running
        self._cut_off = TurnResult(
            "failed", "The sandbox was shut down in the middle of the turn.", "Retry; the files are kept."
        )
        asking = asyncio.create_task(self._keeper.agent.interrupt())
        await asyncio.wait({task}, timeout=0.5)
        asking.cancel()
        task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.5):
                await self._over.wait()

    async def run(self) -> None:
        while True:
            prompt, done = await self._queue.get()
            await self._run_one(prompt)
            done()

    async def _run_one(self, prompt: RunPrompt) -> None:
        turn_id = prompt.prompt_id
        if turn_id in self._ended:
            return
        again = await self._begin(turn_id)
        report = TurnReport(self._outbox, self._journal, turn_id, self._tool_finished)
        if report.known("ended"):
            self._ended.add(turn_id)
            return
        self._over.clear()
        self.report = report
        self._outbox.tell(agent="busy", running=turn_id)
        if self._room.give():
            await report.event(
                Warned(
                    scope="disk",
                    message="The sandbox's disk is full. A few MiB that were kept back are free now, to clear up with.",
                    remedy="Have the agent remove what is not needed, or give sandboxes a larger disk (OPENINSPECT_SANDBOX_DISK_MIB).",
                )
            )
        result = TurnResult("stopped")
        if turn_id not in self._stopping:
            self._before = Census(self._own_processes()).names()
            task = asyncio.create_task(self._attempts(prompt, report, again))
            self._running = (turn_id, task)
            try:
                result = await task
            except asyncio.CancelledError:
                if turn_id not in self._stopping and self._cut_off is None:
                    raise
            except Exception as error:
                # A defect of ours, or of the agent's API: the turn ends, the runtime goes on.
                result = TurnResult(
                    "failed",
                    line(f"The runtime failed: {type(error).__name__}: {error}", 600),
                    "Retry; if it happens again, report it.",
                )
            finally:
                self._running = None
                task.cancel()
        if turn_id in self._stopping:
            result = TurnResult("stopped")
            await self._kill_rest()
        elif self._cut_off is not None:
            result = self._cut_off
        elif result.outcome == "stopped":
            result = TurnResult(
                "failed", "The agent's work was cut off.", "Retry; what is already done is kept."
            )
        if result.outcome == "failed" and self._room.give():
            result = TurnResult(
                "failed",
                "The sandbox's disk is full, so that the agent could not go on.",
                "Ask it to remove what is not needed, then retry; or give sandboxes a larger disk (OPENINSPECT_SANDBOX_DISK_MIB).",
            )
        self._room.keep()
        await report.close_open("The turn ended before this was finished.")
        await self._look_after(report, quick=result.outcome == "stopped" or self._cut_off is not None)
        await report.event(
            # of an agent's fault its first line: the rest is a trace that helps no one here
            TurnEnded(
                outcome=result.outcome,
                reason=line(result.reason.split("\n    at ")[0]),
                remedy=line(result.remedy),
            ),
            key="ended",
        )
        self.report = None
        self._ended.add(turn_id)
        self._over.set()
        self._stopping.discard(turn_id)
        self._outbox.tell(agent=None if self._keeper.agent.group is None else "idle", running=None)

    async def _begin(self, turn_id: str) -> bool:
        while True:
            try:
                return self._journal.begin(turn_id)
            except OSError as error:
                # Before anything is done the turn can wait: the disk of the reserved space is the host's, and somebody will clear it up.
                print(f"openinspect: a turn can't be begun yet: {error}", file=sys.stderr, flush=True)
                await asyncio.sleep(DISK_RETRY_SECONDS)

    async def _look_after(self, report: TurnReport, *, quick: bool) -> None:
        try:
            # A stopped turn has 5 s in all: what takes longer is looked at with the next turn.
            async with asyncio.timeout(0.4 if quick else SETTLE_SECONDS):
                await self._settle(report)
        except TimeoutError:
            return
        except Exception as error:
            await report.event(
                Warned(
                    scope="diff", message=line(f"What changed can't be told: {type(error).__name__}: {error}")
                )
            )

    async def _attempts(self, prompt: RunPrompt, report: TurnReport, again: bool) -> TurnResult:
        self._sign_as(prompt.author)
        try:
            files = await self._door.attachments(prompt)
        except DoorError as error:
            return TurnResult("failed", f"An attachment could not be fetched: {error}.", "Retry.")
        maybe_sent = again
        await self._opened.wait()
        dead = 0
        while True:
            attempt = self._journal.attempt
            process = await self._keeper.ready(dead)
            self._outbox.tell(agent="busy")
            self._in_agent = True
            try:
                return await self._keeper.agent.turn(Turn(prompt, attempt, maybe_sent, files), report)
            except (AgentDied, TurnCutOff) as error:
                if isinstance(error, AgentDied):
                    dead = process
                if prompt.prompt_id in self._stopping:
                    return TurnResult("stopped")
                if attempt >= MOST_ATTEMPTS:
                    return TurnResult(
                        "failed",
                        line(f"The agent ended {attempt + 1} times during this turn: {error}."),
                        "Retry; what is already done is kept. If the work needs much memory, ask for it in smaller pieces.",
                    )
                if isinstance(error, TurnCutOff) and attempt > 0:
                    # What it has come to hold against this turn, it holds against the next attempt as well.
                    await self._keeper.restart("It cut its own work off again and again, and was ended.")
                self._journal.next_attempt()
                maybe_sent = True
                await report.event(
                    TurnResumed(
                        reason=line(
                            f"The agent ended in the middle of the turn ({error}); it goes on from where it was."
                        )
                    )
                )
            finally:
                self._in_agent = False

    # ── stopping ──────────────────────────────────────────────────────────────────────────────────
    async def _end(self, prompt_id: str, done: Callable[[], None]) -> None:
        try:
            if self._running is not None and self._running[0] == prompt_id:
                task = self._running[1]
                try:
                    if self._in_agent:
                        await self._end_in_agent(task)
                finally:
                    task.cancel()
        finally:
            done()

    async def _end_in_agent(self, task: asyncio.Task[TurnResult]) -> None:
        began = time.monotonic()

        async def until(seconds: float) -> None:
            await asyncio.wait({task}, timeout=max(0.0, began + seconds - time.monotonic()))

        asking = asyncio.create_task(self._keeper.agent.interrupt())
        await until(ASK_SECONDS)
        asking.cancel()
        if not task.done():
            await self._kill_rest()
            await until(AGENT_SECONDS)
        if not task.done():
            await self._keeper.restart("It did not stop when it was asked to, and was ended.")
            await until(END_SECONDS)

    async def _kill_rest(self) -> None:
        """What the turn started, but for the agent's own server and what it needs. Of an agent that is gone ``_agent_gone`` does it, so that
        the next one is not taken for a leftover."""
        if self._keeper.agent.group is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KILL_SECONDS):
                    await self._keeper.cleaned()
        else:
            await self._kill(self._keeper.agent.group)

    async def _agent_gone(self) -> None:
        if self._running is not None or self._stopping:
            await self._kill(None)

    async def _kill(self, agent_group: int | None) -> None:
        if not await kill_since(self._before, agent_group, self._own_processes(), KILL_SECONDS):
            await self._outbox.emit(
                Warned(scope="processes", message="Something that the turn started could not be ended.")
            )
