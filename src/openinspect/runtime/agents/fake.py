"""An agent without a mind, for tests of everything around it: it does what the prompt's lines say, in a process that can be killed.

    say TEXT           a text part, streamed word by word
    run: COMMAND       a tool call; its commands run below the agent's process
    sleep SECONDS      nothing, for a while
    hang               like sleep, for ever, and deaf to an interrupt
    fail REASON        the turn fails
    ask: TEXT          a question with the default "yes"

What it did is kept in a file of its home, so that an attempt after a death goes on at the line that was not finished.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

from openinspect.protocol.config import Paths
from openinspect.protocol.events import (
    Question,
    QuestionAsked,
    QuestionClosed,
    TextPart,
    ToolFinished,
    ToolStarted,
)
from openinspect.runtime.agents.contract import AgentDied, AgentUnusable, Report, Turn, TurnResult, Workplace
from openinspect.runtime.agents.opencode.config import base_environment
from openinspect.runtime.git import Git
from openinspect.runtime.processes import Account, end, kill_group

_QUESTION_SECONDS = 30.0


class FakeAgent:
    """``refuse_starts``: how many starts fail, to begin with."""

    def __init__(self, paths: Paths, account: Account, refuse_starts: int = 0) -> None:
        self._paths = paths
        self._home = Path(paths.home)
        self._account = account
        self._refuse = refuse_starts
        self._process: asyncio.subprocess.Process | None = None
        self._died = asyncio.Event()
        self._interrupted = asyncio.Event()
        self._answers: dict[str, asyncio.Future[list[list[str]]]] = {}
        self._directory = ""

    @property
    def name(self) -> str:
        return "fake 1"

    @property
    def group(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    @property
    def log_tail(self) -> str:
        return "the fake agent's log"

    async def start(self) -> None:
        if self._refuse:
            self._refuse -= 1
            raise AgentUnusable("the fake agent does not want to", "Be patient.")
        self._account.make_folder(self._home)
        self._died.clear()
        self._process = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", "while :; do sleep 1000; done"), cwd="/", **self._account.options()
        )

    async def ended(self) -> str:
        assert self._process is not None
        code = await self._process.wait()
        self._died.set()
        return f"it ended with {code}"

    def warm(self, directory: str) -> None:
        return

    async def open(self, workplace: Workplace) -> None:
        self._directory = workplace.directory

    async def tidy(self, git: Git, folder: Path) -> None:
        return

    async def turn(self, turn: Turn, report: Report) -> TurnResult:
        self._interrupted.clear()
        done = self._home / f"{turn.prompt.prompt_id}.done"
        begin = int(done.read_text()) if done.exists() else 0
        for number, line in enumerate(turn.prompt.text.splitlines()):
            if number < begin:
                continue
            doing = asyncio.create_task(self._line(f"{turn.prompt.prompt_id}.{number}", line, report))
            dying, stopping = (asyncio.create_task(each.wait()) for each in (self._died, self._interrupted))
            try:
                await asyncio.wait({doing, dying, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if dying.done():
                    raise AgentDied("it was killed")
                if not doing.done() and line != "hang":
                    return TurnResult("stopped")
                await asyncio.wait({doing, dying}, return_when=asyncio.FIRST_COMPLETED)
                if not doing.done():
                    raise AgentDied("it was killed")
                if (result := doing.result()) is not None:
                    return result
            finally:
                for task in (doing, dying, stopping):
                    task.cancel()
            done.write_text(str(number + 1))
        return TurnResult("completed")

    async def _line(self, key: str, line: str, report: Report) -> TurnResult | None:
        verb, _, rest = line.partition(" ")
        match verb:
            case "say":
                for word in rest.split():
                    report.delta(key, "text", word + " ")
                    await asyncio.sleep(0.01)
                await report.event(TextPart(part_id=key, text=rest), key=key, closes=key)
            case "run:":
                await self._run(key, rest, report)
            case "sleep":
                await asyncio.sleep(float(rest))
            case "hang":
                await asyncio.sleep(3600)
            case "fail":
                return TurnResult("failed", rest, "Try another line.")
            case "ask:":
                await self._ask(key, rest, report)
            case _:
                return TurnResult("failed", f"the fake agent does not know “{verb}”")
        return None

    async def _run(self, key: str, command: str, report: Report) -> None:
        await report.event(
            ToolStarted(call_id=key, tool="bash", input={"command": command}), key=f"{key}/started"
        )
        process = await asyncio.create_subprocess_exec(
            *("/bin/bash", "-c", command),
            cwd=self._directory,
            env=base_environment(self._paths),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            **self._account.options(),
        )
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                kill_group(process.pid)
        await report.event(
            ToolFinished(
                call_id=key,
                tool="bash",
                state="completed" if process.returncode == 0 else "failed",
                input={"command": command},
                output=output.decode(errors="replace")[:60_000],
            ),
            key=key,
        )

    async def _ask(self, key: str, text: str, report: Report) -> None:
        answer = self._answers[key] = asyncio.get_running_loop().create_future()
        deadline = datetime.now(UTC) + timedelta(seconds=_QUESTION_SECONDS)
        await report.event(
            QuestionAsked(question_id=key, questions=[Question(text=text)], deadline=deadline, default="yes"),
            key=key,
        )
        try:
            async with asyncio.timeout(_QUESTION_SECONDS):
                said = (await answer)[0]
            outcome = "answered"
        except TimeoutError:
            said, outcome = ["yes"], "timed_out"
        await report.event(QuestionClosed(question_id=key, outcome=outcome), key=f"{key}/closed")
        await report.event(TextPart(part_id=f"{key}.said", text=", ".join(said)), key=f"{key}.said")

    async def interrupt(self) -> None:
        self._interrupted.set()

    async def answer(self, question_id: str, answers: list[list[str]]) -> bool:
        found = self._answers.pop(question_id, None)
        if found is None or found.done():
            return False
        found.set_result(answers)
        return True

    async def kill(self) -> None:
        if self._process is not None:
            kill_group(self._process.pid)

    async def close(self) -> None:
        if self._process is not None:
            await end(self._process, 0.5)
