"""What OpenCode asks while a turn runs: permissions are granted at once, questions become events with a deadline.

A question ends as ``answered`` (by a person, through ``answer``), ``timed_out`` (it is then answered by ``DEFAULT``, so that the agent goes
on) or ``dropped`` (the turn ended, or the agent took it back).
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from typing import Literal

from openinspect.protocol.events import Question, QuestionAsked, QuestionClosed, QuestionOption
from openinspect.runtime.agents.contract import Report
from openinspect.runtime.wording import line

from .client import Client, QuestionRequest, Refused, ServerGone

DEFAULT = "Nobody answered in time. Choose what seems most sensible to you, go on, and say what you assumed."
_AGAIN_SECONDS = 5.0


class Questions:
    def __init__(self, client: Client, directory: str, report: Report, seconds: float) -> None:
        self._client = client
        self._directory = directory
        self._report = report
        self._seconds = seconds
        self._open: dict[str, tuple[QuestionRequest, asyncio.Task[None]]] = {}
        self._allowed: set[str] = set()

    @property
    def waiting(self) -> bool:
        return bool(self._open)

    async def allow(self, permission: str) -> None:
        """Grant it, once."""
        if permission not in self._allowed:
            await self._client.allow(self._directory, permission)
            self._allowed.add(permission)

    async def asked(self, request: QuestionRequest) -> None:
        if request.id in self._open or self._report.known(f"{request.id}/closed"):
            return
        self._open[request.id] = request, asyncio.create_task(self._time_out(request))
        await self._report.event(
            QuestionAsked(
                question_id=request.id,
                questions=[
                    Question(
                        text=line(each.question or each.header),
                        options=[
                            QuestionOption(label=line(option.label), description=line(option.description))
                            for option in each.options[:20]
                        ],
                        multiple=each.multiple,
                    )
                    for each in request.questions[:10]
                ],
                deadline=datetime.now(UTC) + timedelta(seconds=self._seconds),
                default=DEFAULT,
            ),
            key=request.id,
        )

    async def _time_out(self, request: QuestionRequest) -> None:
        await asyncio.sleep(self._seconds)
        while request.id in self._open:
            with contextlib.suppress(ServerGone):  # asked again, or it comes to an end with its turn
                await self._reply(request, [[DEFAULT] for _ in request.questions], "timed_out")
                return
            await asyncio.sleep(_AGAIN_SECONDS)

    async def answer(self, question_id: str, answers: list[list[str]]) -> bool:
        """A person's answer; False when no such question is open."""
        found = self._open.get(question_id)
        if found is None:
            return False
        request, timer = found
        timer.cancel()
        padded = [*answers, *([[]] * len(request.questions))][: len(request.questions)]
        await self._reply(request, padded, "answered")
        return True

    async def _reply(
        self, request: QuestionRequest, answers: list[list[str]], outcome: Literal["answered", "timed_out"]
    ) -> None:
        try:
            await self._client.answer_question(self._directory, request.id, answers)
        except Refused:
            await self.closed(request.id, "dropped")
            return
        await self.closed(request.id, outcome)

    async def closed(self, question_id: str, outcome: Literal["answered", "timed_out", "dropped"]) -> None:
        found = self._open.pop(question_id, None)
        if found is not None:
            if found[1] is not asyncio.current_task():
                found[1].cancel()
            await self._report.event(
                QuestionClosed(question_id=question_id, outcome=outcome), key=f"{question_id}/closed"
            )

    async def drop_all(self) -> None:
        for question_id in list(self._open):
            await self.closed(question_id, "dropped")
