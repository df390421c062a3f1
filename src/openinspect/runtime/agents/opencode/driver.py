"""OpenCode as the contract's agent."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from openinspect.protocol.config import AgentConfig, Paths
from openinspect.runtime.agents.contract import AgentDied, Report, Turn, TurnResult, Workplace
from openinspect.runtime.processes import Account

from . import config as setup
from .client import Client, Refused, ServerGone
from .process import ServerProcess, launch
from .turn import GAP, GONE, Attempt

STREAM_PAUSE, LONGEST_STREAM_PAUSE = 0.1, 2.0
ABORT_SECONDS = 2.0


class OpenCode:
    def __init__(
        self,
        config: AgentConfig,
        paths: Paths,
        account: Account,
        door_url: Callable[[], str],
        token: str,
        shell_env: dict[str, str],
    ) -> None:
        self._config = config
        self._paths = paths
        self._account = account
        self._door_url = door_url
        self._token = token
        self._layout = setup.Layout(Path(paths.shared))
        self.shell_env = shell_env
        self._server: ServerProcess | None = None
        self._client: Client | None = None
        self._stream: asyncio.Task[None] | None = None
        self._attempt: Attempt | None = None
        self._streaming = asyncio.Event()
        self._workplace: Workplace | None = None
        self._session: str | None = None
        self._checked = False
        """Whether the session was seen in this process."""
        self._strange = False
        """Whether the session may hold messages that we don't know of."""
        self._name = "opencode"

    # ── the process ───────────────────────────────────────────────────────────────────────────────
    @property
    def name(self) -> str:
        return self._name

    @property
    def group(self) -> int | None:
        return self._server.pid if self._server is not None and self._server.alive else None

    @property
    def log_tail(self) -> str:
        return self._server.log.text if self._server is not None else ""

    async def start(self) -> None:
        await self._leave()
        self._account.make_folder(Path(self._paths.home))
        made = setup.configuration(self._config, self._door_url(), self._token, None, self._layout.plugin)
        setup.write(self._layout, self._account, made, self.shell_env)
        password = secrets.token_urlsafe(24)
        env = setup.environment(self._paths, self._layout, password)
        server = await launch(self._paths, self._account, env)
        self._server = server
        try:
            self._client = Client(await server.listening(), password)
            self._name = f"opencode {await self._client.version()}"
        except BaseException:
            await server.end(0.5)
            raise
        self._streaming.clear()
        self._stream = asyncio.create_task(self._listen(self._client))

    async def ended(self) -> str:
        if self._server is None:
            return "it was not started"
        how = await self._server.wait()
        if self._attempt is not None:
            self._attempt.queue.put_nowait((GONE, {"how": how}))
        return how

    async def kill(self) -> None:
        if self._server is not None:
            self._server.kill()

    async def close(self) -> None:
        await self._leave()
        if self._server is not None:
            await self._server.end()

    async def _leave(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
            await asyncio.gather(self._stream, return_exceptions=True)
            self._stream = None
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _listen(self, client: Client) -> None:
        pause = STREAM_PAUSE
        while True:
            with contextlib.suppress(ServerGone):
                async for kind, properties in client.events():
                    if kind == "server.connected":
                        pause = STREAM_PAUSE
                        self._streaming.set()
                        if self._attempt is not None:
                            self._attempt.queue.put_nowait((GAP, {}))
                    elif self._attempt is not None:
                        self._attempt.queue.put_nowait((kind, properties))
            self._streaming.clear()
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_STREAM_PAUSE)

    # ── the work ──────────────────────────────────────────────────────────────────────────────────
    async def open(self, workplace: Workplace) -> None:
        setup.write_shell_env(self._layout, self._account, self.shell_env)
        self._workplace = workplace
        self._session = self._session or workplace.memory
        self._checked = False
        if workplace.configured and self._client is not None:
            with contextlib.suppress(ServerGone, Refused):
                await self._client.dispose(workplace.directory)

    async def turn(self, turn: Turn, report: Report) -> TurnResult:
        workplace, client = self._workplace, self._client
        if workplace is None or client is None:
            raise AgentDied("it is not running")
        try:
            session = await self._find_session(client, workplace, turn, report)
            turn, self._strange = replace(turn, maybe_sent=turn.maybe_sent or self._strange), False
            attempt = Attempt(
                client,
                workplace.directory,
                session,
                turn,
                report,
                self._config.instructions,
                self._config.question_seconds,
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LONGEST_STREAM_PAUSE):
                    await self._streaming.wait()
            self._attempt = attempt
            try:
                return await attempt.run()
            except Refused as refused:
                return await attempt.refused(refused)
            finally:
                self._attempt = None
        except ServerGone as gone:
            # Whoever watches the process will know more; a server that lives and does not answer is ended, so that it is started anew.
            await self.kill()
            raise AgentDied(f"it does not answer any more ({gone})") from gone

    async def _find_session(self, client: Client, workplace: Workplace, turn: Turn, report: Report) -> str:
        if self._session is not None and self._checked:
            return self._session
        if self._session is None or not await client.session_exists(workplace.directory, self._session):
            self._session = await client.newest_session(workplace.directory)
        self._strange = self._session is not None
        if self._session is None:
            self._session = await client.create_session(workplace.directory, turn.prompt.title or "Session")
        self._checked = True
        report.remember(self._session)
        return self._session

    async def interrupt(self) -> None:
        if self._client is not None and self._workplace is not None and self._session is not None:
            with contextlib.suppress(ServerGone, Refused):
                await self._client.abort(self._workplace.directory, self._session, ABORT_SECONDS)

    async def answer(self, question_id: str, answers: list[list[str]]) -> bool:
        return self._attempt is not None and await self._attempt.questions.answer(question_id, answers)
