"""OpenCode as the contract's agent."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from openinspect.protocol.config import AgentConfig, Paths
from openinspect.runtime.agents.contract import AgentDied, AgentUnusable, Report, Turn, TurnResult, Workplace
from openinspect.runtime.git import Git
from openinspect.runtime.processes import Account

from . import config as setup
from .client import CALL_SECONDS, Client, Refused, ServerGone
from .memory import recall, remember
from .process import ServerProcess, end_former, launch
from .tidy import tidy
from .turn import GAP, GONE, Attempt
from .warm import NullModel, null_model_of, warm

STREAM_PAUSE, LONGEST_STREAM_PAUSE = 0.1, 2.0
ABORT_SECONDS = 2.0
DISPOSE_SECONDS = 3.0


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
        self._disposed = asyncio.Event()
        self._workplace: Workplace | None = None
        self._session: str | None = None
        self._checked = False
        """Whether the session was seen in this process."""
        self._strange = False
        """Whether the session may hold messages that we don't know of."""
        self._newest: str | None = None
        """The newest message of the session, where we know it."""
        self._null = NullModel()
        self._connecting: asyncio.Task[None] | None = None
        self._to_warm: list[str] = []
        self._warm_enough = asyncio.Event()
        self._warming: asyncio.Task[None] | None = None
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
        end_former(Path(self._paths.state))
        self._account.make_folder(Path(self._paths.home))
        await self._null.start()
        made = setup.configuration(
            self._config, self._door_url(), self._token, self._null.url, self._layout.plugin
        )
        setup.write(self._layout, self._account, made, self.shell_env)
        password = secrets.token_urlsafe(24)
        env = setup.environment(self._paths, self._layout, password)
        server = await launch(self._paths, self._account, env)
        self._server = server
        try:
            patience = min(CALL_SECONDS, self._config.unanswered_seconds / 3)
            self._client = Client(await server.listening(), password, patience)
            self._name = f"opencode {await self._client.version()}"
        except (ServerGone, Refused) as error:
            await server.end(0.5)
            raise AgentUnusable(
                f"OpenCode started, but does not answer: {error}", "Look at its log below."
            ) from error
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
        self._null.close()

    async def _leave(self) -> None:
        background = [task for task in (self._warming, self._connecting) if task is not None]
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
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
                    elif kind == "server.instance.disposed":
                        self._disposed.set()
                    elif self._attempt is not None:
                        self._attempt.queue.put_nowait((kind, properties))
            self._streaming.clear()
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_STREAM_PAUSE)

    # ── the work ──────────────────────────────────────────────────────────────────────────────────
    def warm(self, directory: str) -> None:
        self._to_warm.append(directory)
        self._warm_enough.clear()
        if self._warming is None or self._warming.done():
            self._warming = asyncio.create_task(self._warm())

    async def _warm(self) -> None:
        # One after the other: the first folder is the likelier one.
        while self._to_warm and self._client is not None:
            await warm(self._client, self._to_warm.pop(0), *null_model_of(self._config), self._warm_enough)

    def _stop_warming(self) -> None:
        """What is warmed is what a prompt needs now: it does not have to be done twice."""
        self._to_warm.clear()
        self._warm_enough.set()

    async def open(self, workplace: Workplace) -> None:
        setup.write_shell_env(self._layout, self._account, self.shell_env)
        self._workplace = workplace
        self._checked = False
        if workplace.configured and self._client is not None:
            # What the instance has read was another tree's, or none.
            self._stop_warming()
            if self._warming is not None:
                await asyncio.wait({self._warming}, timeout=DISPOSE_SECONDS)
            self._disposed.clear()
            with contextlib.suppress(ServerGone, Refused, TimeoutError):
                async with asyncio.timeout(DISPOSE_SECONDS):
                    await self._client.dispose(workplace.directory)
                    # It answers before it is done; a prompt that comes in between would be cut off.
                    await self._disposed.wait()
        if self._config.tools_path is not None and self._client is not None:
            # Before the sandbox was anybody's the door may have had no tools to offer.
            self._connecting = asyncio.create_task(self._connect_tools(self._client, workplace.directory))

    @staticmethod
    async def _connect_tools(client: Client, directory: str) -> None:
        with contextlib.suppress(ServerGone, Refused):
            await client.connect_tools(directory, setup.TOOLS)

    async def tidy(self, git: Git, folder: Path) -> None:
        if self._workplace is not None and self._workplace.configured:
            await tidy(git, folder)

    async def turn(self, turn: Turn, report: Report) -> TurnResult:
        workplace, client, server = self._workplace, self._client, self._server
        if workplace is None or client is None or server is None:
            raise AgentDied("it is not running")
        self._stop_warming()
        try:
            session = await self._find_session(client, workplace, turn)
            turn, self._strange = replace(turn, maybe_sent=turn.maybe_sent or self._strange), False
            attempt = Attempt(
                client,
                workplace.directory,
                session,
                turn,
                report,
                self._config.instructions,
                self._config.question_seconds,
                self._config.unanswered_seconds,
                self._newest,
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
                self._attempt, self._newest = None, attempt.newest
        except ServerGone as gone:
            # A server that lives and does not answer is ended, so that it is started anew; never the one that has come after it.
            server.kill()
            raise AgentDied(f"it does not answer any more ({gone})") from gone

    async def _find_session(self, client: Client, workplace: Workplace, turn: Turn) -> str:
        if self._session is not None and self._checked:
            return self._session
        home, env = Path(self._paths.home), setup.base_environment(self._paths)
        known = self._session or await recall(home, self._account, env)
        if known is not None and not await client.session_exists(workplace.directory, known):
            known = None
        self._strange = known is not None
        if known is None:
            known = await client.create_session(workplace.directory, turn.prompt.title or "Session")
            await remember(home, self._account, env, known)
        self._session, self._checked, self._newest = known, True, None
        return known

    async def interrupt(self) -> None:
        if self._client is not None and self._workplace is not None and self._session is not None:
            with contextlib.suppress(ServerGone, Refused):
                await self._client.abort(self._workplace.directory, self._session, ABORT_SECONDS)

    async def answer(self, question_id: str, answers: list[list[str]]) -> bool:
        return self._attempt is not None and await self._attempt.questions.answer(question_id, answers)
