"""One attempt of one turn with OpenCode.

    find or send the prompt → hear events, look for oneself every few seconds → over

The event stream is fast but is not trusted: after it was interrupted, when it is silent, and before the turn is called over, the messages are
read from the server and reconciled. The turn is over when the session is idle and the last answer is complete or failed.

A server that does not answer a question of ours in time is asked again: it counts as gone only when it has said and answered nothing for
``unanswered_seconds``.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from typing import Any

from openinspect.protocol.events import Warned
from openinspect.runtime.agents.contract import AgentDied, Report, Turn, TurnCutOff, TurnResult
from openinspect.runtime.wording import line

from .client import (
    FIRST_CALL_SECONDS,
    Client,
    ErrorInfo,
    MessageInfo,
    MessageWithParts,
    QuestionRequest,
    Refused,
    StatusInfo,
    Unanswered,
)
from .failures import LONGEST_WAIT_SECONDS, MAX_RETRIES, failed, given_up, plain
from .ids import message_id, suffix
from .questions import Questions
from .translate import Translator

LOOK_SECONDS = 3.0
QUIET_LOOK_SECONDS = 15.0
"""A silent stream is compared with the messages this often."""
IDLE_SECONDS = 6.0
"""An agent that is idle so long without having finished its answer will not finish it."""
RESEND_SECONDS = 30.0
"""A prompt that was accepted and did not appear is sent again after this time."""
CONTINUE = (
    "The process that you run in was restarted in the middle of your work; a tool that was running was ended. "
    "Look at what is already done, and go on with the task. Do not do again what is done."
)
_LOOKED_AT = 100
_SEARCHED = 2_000
GAP = "gap"
GONE = "gone"


def _failed(error: ErrorInfo) -> TurnResult:
    if "fibers interrupted" in str(error.data.get("message")):
        # Its own doing (the instance was disposed of, say), and nobody's wish: the turn goes on.
        raise TurnCutOff("the agent interrupted itself")
    return failed(error)


class Attempt:
    """``queue`` is fed by the driver with the events of the server, ``GAP`` when the stream was interrupted, ``GONE`` when the process ended."""

    def __init__(
        self,
        client: Client,
        directory: str,
        session: str,
        turn: Turn,
        report: Report,
        instructions: str,
        question_seconds: float,
        unanswered_seconds: float,
        newest: str | None,
    ) -> None:
        """``newest``: the newest message of the session, if it is known."""
        self._client = client
        self._directory = directory
        self._session = session
        self._turn = turn
        self._report = report
        self._instructions = instructions
        self.questions = Questions(client, directory, report, question_seconds)
        self.queue: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self._translator = Translator(session, "", report)
        self._newest = newest
        self._unanswered_seconds = unanswered_seconds
        self._unanswered_since: float | None = None
        self._message = ""
        """Id of the message that this attempt sent."""
        self._error: ErrorInfo | None = None
        self._body: dict[str, Any] = {}
        self._sent_at = self._heard_at = 0.0
        self._look_soon = False
        self._missed = False
        """The stream was interrupted since the last comparison."""
        self._idle_since: float | None = None

    async def run(self) -> TurnResult:
        try:
            result = await self._begin()
            while result is None:
                result = await self._hear()
            return result
        finally:
            await self.questions.drop_all()

    @property
    def newest(self) -> str | None:
        """The newest message that we know of."""
        return max(filter(None, (self._translator.newest, self._message, self._newest)), default=None)

    # ── sending ───────────────────────────────────────────────────────────────────────────────────
    async def _begin(self) -> TurnResult | None:
        prompt_id, attempt = self._turn.prompt.prompt_id, self._turn.attempt
        unsure = self._turn.maybe_sent or attempt > 0
        newest: list[MessageWithParts] = []
        if unsure or self._newest is None:
            newest = await self._client.messages(
                self._directory, self._session, _SEARCHED if unsure else 1, FIRST_CALL_SECONDS
            )
            self._newest = newest[-1].info.id if newest else None
        found = {
            each: info.id
            for each in range(attempt + 1)
            for info in (message.info for message in newest)
            if info.id.endswith(suffix(prompt_id, each))
        }
        if found:
            self._message = found[max(found)]
            self._translator = Translator(self._session, min(found.values()), self._report)
            await self._translator.reconcile(newest)
            if attempt in found:
                return await self._attach()
            with contextlib.suppress(TurnCutOff):
                result = self._conclusion()
                if result is not None and result.outcome == "completed":
                    return result
            await self._report.close_open("The agent's process ended while this was under way.")
        self._message = message_id(prompt_id, attempt, self._newest)
        if not found:
            self._translator = Translator(self._session, self._message, self._report)
        self._body = self._request(first=not found)
        await self._send()
        return None

    async def _attach(self) -> TurnResult | None:
        status = await self._client.status(self._directory, self._session, FIRST_CALL_SECONDS)
        if status.type == "idle" and self._conclusion() is None:
            raise TurnCutOff("the agent is not working at it any more")
        self._sent_at = self._heard_at = time.monotonic()
        self._look_soon = self._missed = True
        return None

    def _request(self, *, first: bool) -> dict[str, Any]:
        prompt = self._turn.prompt
        parts: list[dict[str, Any]] = [{"type": "text", "text": prompt.text if first else CONTINUE}]
        for file in self._turn.files if first else []:
            data = base64.b64encode(file.data).decode()
            parts.append(
                {
                    "type": "file",
                    "mime": file.media_type,
                    "filename": file.name,
                    "url": f"data:{file.media_type};base64,{data}",
                }
            )
        body: dict[str, Any] = {
            "messageID": self._message,
            "model": {"providerID": prompt.model.provider, "modelID": prompt.model.model},
            "parts": parts,
        }
        if prompt.model.effort is not None:
            body["variant"] = prompt.model.effort
        if self._instructions:
            body["system"] = self._instructions
        return body

    async def _send(self) -> None:
        self._sent_at = self._heard_at = time.monotonic()
        await self._client.prompt(self._directory, self._session, self._body)

    # ── hearing ───────────────────────────────────────────────────────────────────────────────────
    async def _hear(self) -> TurnResult | None:
        asked_at = time.monotonic()
        try:
            try:
                async with asyncio.timeout(0 if self._look_soon else LOOK_SECONDS):
                    kind, properties = await self.queue.get()
            except TimeoutError:
                result = await self._look()
            else:
                self._heard_at = time.monotonic()
                result = await self._heard(kind, properties)
        except Unanswered:
            since = max(self._unanswered_since or asked_at, self._heard_at)
            if time.monotonic() - since > self._unanswered_seconds:
                raise
            self._unanswered_since = since
            self._look_soon = self._missed = True
            return None
        self._unanswered_since = None
        return result

    async def _heard(self, kind: str, properties: dict[str, Any]) -> TurnResult | None:
        match kind:
            case "gap":
                self._translator.mark_gap()
                self._look_soon = self._missed = True
            case "gone":
                raise AgentDied(str(properties.get("how", "the process is gone")))
            case "permission.asked":
                await self.questions.allow(str(properties["id"]))
            case "question.asked":
                await self.questions.asked(QuestionRequest.model_validate(properties))
            case "question.replied":
                await self.questions.closed(str(properties.get("requestID")), "answered")
            case "question.rejected":
                await self.questions.closed(str(properties.get("requestID")), "dropped")
            case _ if properties.get("sessionID") == self._session:
                return await self._own(kind, properties)
            case _:
                pass
        return None

    async def _own(self, kind: str, properties: dict[str, Any]) -> TurnResult | None:
        match kind:
            case "session.status":
                return await self._status(
                    StatusInfo.model_validate(properties.get("status") or {"type": "busy"})
                )
            case "session.idle":
                return await self._compare("idle")
            case "session.error":
                self._error = ErrorInfo.model_validate(properties.get("error") or {})
            case _:
                await self._translator.event(kind, properties)
        return None

    async def _status(self, status: StatusInfo) -> TurnResult | None:
        if status.type != "retry":
            return None
        wait = max(0.0, status.next / 1000 - time.time())
        if status.attempt > MAX_RETRIES or wait > LONGEST_WAIT_SECONDS:
            await self._client.abort(self._directory, self._session, 5.0)
            return given_up(status.message, status.attempt)
        # the next try writes parts of its own
        await self._report.break_off()
        await self._report.event(
            Warned(
                scope="model",
                message=line(f"The model's provider did not answer: {plain(status.message)}"),
                remedy=f"It is asked again in {wait:.0f} s (attempt {status.attempt} of {MAX_RETRIES}).",
            ),
            key=f"retry/{status.attempt}/{int(status.next)}",
        )
        return None

    async def _look(self) -> TurnResult | None:
        """Compare with what the server says."""
        soon, self._look_soon = self._look_soon, False
        for permission in await self._client.permissions(self._directory):
            await self.questions.allow(permission)
        for request in await self._client.questions(self._directory):
            await self.questions.asked(request)
        status = await self._client.status(self._directory, self._session)
        quiet = time.monotonic() - self._heard_at > QUIET_LOOK_SECONDS
        if status.type == "retry":
            return await self._status(status)
        if status.type == "busy" and not soon and not quiet:
            return None
        return await self._compare(status.type)

    async def _compare(self, status: str) -> TurnResult | None:
        """Catch up with the messages, and see whether the turn is over."""
        # What comes while we ask stays in the queue and is known by its keys.
        limit = _LOOKED_AT if self._missed else min(_LOOKED_AT, self._translator.count + 4)
        messages = await self._client.messages(self._directory, self._session, limit)
        await self._translator.reconcile(messages)
        now = self._heard_at = time.monotonic()
        self._missed = False
        if status == "busy":
            self._idle_since = None
            return None
        if (result := self._conclusion()) is not None:
            return result
        if self._idle_since is None:
            self._idle_since = now
        if self._translator.answers(self._message):
            if now - self._idle_since > IDLE_SECONDS:
                return _failed(self._error or ErrorInfo(data={"message": "it became idle without finishing"}))
        elif self._error is not None:
            return _failed(self._error)
        elif now - self._sent_at > RESEND_SECONDS and not self._translator.has(self._message):
            await self._send()
        return None

    def _conclusion(self) -> TurnResult | None:
        """How the turn ended, if it did."""
        answers = self._translator.answers(self._message)
        if not answers:
            return None
        last: MessageInfo = answers[-1]
        if last.error is not None:
            return _failed(last.error)
        if last.time.completed is None:
            return None
        if last.finish in (None, "tool-calls"):
            return _failed(self._error) if self._error is not None else None
        if last.finish == "length":
            return failed(ErrorInfo(name="MessageOutputLengthError"))
        if last.finish == "content-filter":
            return failed(ErrorInfo(name="ContentFilterError"))
        return TurnResult("completed")

    async def refused(self, error: Refused) -> TurnResult:
        """OpenCode did not take the prompt."""
        return TurnResult(
            "failed",
            line(f"The agent did not take the prompt: {error.text}", 600),
            "Choose another model, or retry.",
        )
