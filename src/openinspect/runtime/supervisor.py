"""The supervisor: starts the parts, watches them, does what the control plane asks, and ends everything in order.

    started → door and bridge up, agent starting → ``configure`` → booting → ready → … → ending

The bridge process is started again whenever it ends. What can't be gone on without (a boot that failed, an agent that can't be kept running,
a refused token) ends the runtime: with ``sandbox.failed`` delivered first, for which it waits at most 10 s. SIGTERM, which
the sandbox's provider sends, ends it in order: the turn is stopped, all processes are killed, what the spool still holds is delivered within
3 s.

Exit codes: 0 ended in order, 1 failed, 2 the configuration can't be used.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from openinspect.protocol.commands import AnswerQuestion, Command, Configure, RunPrompt, StopTurn
from openinspect.protocol.config import RuntimeConfig
from openinspect.protocol.events import BootStep, SandboxFailed, SandboxReady, Warned
from openinspect.protocol.frames import CLOSE_UNAUTHORISED

from . import RUNTIME_VERSION
from .agents.contract import Agent, Workplace
from .agents.opencode import OpenCode
from .agents.opencode.config import base_environment
from .boot import Boot, BootFailed, Workspace
from .changes import Changes
from .commands import CommandLog
from .door import DoorClient, Forwarder
from .git import Git, write_system_config
from .keeper import Keeper
from .outbox import Outbox
from .processes import Account, Census, Reaper, become_subreaper, end, kill_since
from .repositories import keep_place
from .room import Room
from .turns import Turns
from .wording import line, tail

FAILURE_SECONDS = 10.0
FAREWELL_SECONDS = 3.0
SWEEP_SECONDS = 2.0
PUSH_SECONDS = 2.0
"""How long a push waits for what it pushes to be told."""
BRIDGE_PAUSE, LONGEST_BRIDGE_PAUSE = 0.05, 2.0

MakeAgent = Callable[[RuntimeConfig, Account, Forwarder, dict[str, str]], Agent]


def _opencode(
    config: RuntimeConfig, account: Account, forwarder: Forwarder, shell_env: dict[str, str]
) -> Agent:
    return OpenCode(config.agent, config.paths, account, lambda: forwarder.url, config.agent_token, shell_env)


class Supervisor:
    def __init__(self, config: RuntimeConfig, config_path: Path, make_agent: MakeAgent = _opencode) -> None:
        self._config = config
        self._config_path = config_path
        self._state = Path(config.paths.state)
        self._state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._account = Account(config.agent_uid, config.agent_gid)
        self._forwarder = Forwarder(config.door, self._before_push)
        self._door = DoorClient(config.door, config.token)
        self._outbox = Outbox(
            self._state,
            config.sandbox_id,
            config.spool_bytes,
            self._command_came,
            self._refused,
            config.agent_token,
        )
        self._commands = CommandLog(
            self._state / "commands.log", config.sandbox_id, self._act, self._outbox.seen
        )
        self._shell_env: dict[str, str] = {}
        self._git = Git(self._account, base_environment(config.paths))
        self._agent = make_agent(config, self._account, self._forwarder, self._shell_env)
        self._keeper = Keeper(self._agent, self._outbox, self._fail)
        self._changes = Changes(self._git, self._door, self._state, self._agent)
        self._turns = Turns(
            self._outbox,
            self._keeper,
            self._door,
            self._state,
            Room(Path(config.paths.home)),
            own_processes=self._own_processes,
            sign_as=lambda author: self._sign(author),
            settle=self._changes.settle,
            tool_finished=self._changes.notice,
        )
        self._configure: Configure | None = None
        self._bridge: asyncio.subprocess.Process | None = None
        self._workspace_lock = asyncio.Lock()
        self._warmed: set[str] = set()
        self._agent_told = asyncio.Event()
        self._baseline: frozenset[tuple[int, int]] = frozenset()
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self) -> int:
        """Until the end; gives the exit code."""
        become_subreaper()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave, 0)
        try:
            await self._forwarder.start()
            self._sign(None)
            await self._outbox.start()
            self._spawn(self._keep_bridge())
            self._spawn(self._keep_agent())
            self._spawn(self._sweep())
            self._commands.start()
            return await self._exit
        finally:
            await self._end()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_ended)

    def _spawned_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            print(f"openinspect: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            self._fail(
                line(f"The runtime failed: {type(error).__name__}: {error}", 600),
                "Retry; if it happens again, report it.",
                "",
            )

    # ── commands ──────────────────────────────────────────────────────────────────────────────────
    def _command_came(self, n: int, command: Command | str) -> None:
        if isinstance(command, str):
            self._commands.take(n, None)
            self._spawn(
                self._outbox.emit(
                    Warned(
                        scope="bridge",
                        message=line(f"The sandbox does not know what “{command}” means; it was left out."),
                        remedy="A new sandbox has a newer runtime.",
                    )
                )
            )
        else:
            self._commands.take(n, command)

    def _act(self, n: int, command: Command) -> None:
        def done() -> None:
            self._commands.done(n)

        match command:
            case Configure():
                if self._configure is None:
                    self._configure = command
                    self._spawn(self._boot(command, done))
                else:
                    done()
            case RunPrompt():
                self._turns.submit(command, done)
            case StopTurn():
                self._turns.stop(command.prompt_id, done)
            case AnswerQuestion():
                self._spawn(self._answer(command, done))

    async def _answer(self, command: AnswerQuestion, done: Callable[[], None]) -> None:
        """It may fail without harm to the rest."""
        why = "The agent does not wait for this answer any more."
        try:
            taken = await self._agent.answer(command.question_id, command.answers)
        except Exception as error:
            taken = False
            why = line(f"The answer could not be given: {type(error).__name__}: {error}", 600)
        if not taken:
            remedy = "Send what you wanted to say as a prompt."
            await self._outbox.emit(Warned(scope="question", message=why, remedy=remedy))
        done()

    async def _boot(self, configure: Configure, done: Callable[[], None]) -> None:
        self._sign(None)
        boot = Boot(self._config, self._outbox, self._git, self._forwarder.url)
        opening: list[asyncio.Task[None]] = []
        try:
            async with self._workspace_lock:
                # Whoever keeps a place warm has left; from here on nobody begins to.
                pass
            await boot.run(configure, lambda workspace: opening.append(self._open(configure, workspace)))
        except BootFailed as failed:
            self._fail(line(failed.reason), line(failed.remedy), tail(failed.log_tail))
            return
        finally:
            await asyncio.gather(*opening)
        self._baseline = Census(self._own_processes()).names()
        self._turns.open()
        await self._agent_told.wait()
        await self._outbox.emit(SandboxReady(runtime_version=RUNTIME_VERSION, agent=self._agent.name))
        # Configure is never done: after a crash of the runtime the sandbox has to be booted again, and what is there is kept.

    def _open(self, configure: Configure, workspace: Workspace) -> asyncio.Task[None]:
        """The files are there: let the agent know, while the hooks run."""
        self._shell_env |= {
            "OPENINSPECT_BOOT_MODE": workspace.mode,
            "OPENINSPECT_SESSION_ID": configure.session_id,
        }
        self._changes.watch(workspace.checkouts)
        directory = str(workspace.directory)

        async def open_and_warm() -> None:
            await self._keeper.open(Workplace(directory, workspace.configured))
            if workspace.configured or directory not in self._warmed:
                self._agent.warm(directory)

        return asyncio.create_task(open_and_warm())

    async def _warm_ahead(self) -> None:
        """Nobody has asked yet: warm the agent in both folders that it may come to work in, a repository keeping the place of the one."""
        root = Path(self._config.paths.workspace)
        for folder in (root / "repo", root):
            async with self._workspace_lock:
                if self._configure is not None:
                    return
                if folder != root and not folder.exists():
                    await keep_place(self._git, folder)
            self._warmed.add(str(folder))
            self._agent.warm(str(folder))

    def _sign(self, author: Any) -> None:
        committer = self._configure.committer if self._configure is not None else None
        write_system_config(
            Path(self._config.paths.git_config),
            self._account,
            self._forwarder.url,
            self._config.agent_token,
            committer,
            author,
        )

    # ── the parts ─────────────────────────────────────────────────────────────────────────────────
    async def _keep_agent(self) -> None:
        began = time.monotonic()
        await self._outbox.emit(BootStep(step="agent", state="started"))
        keeping = asyncio.create_task(self._keeper.run())
        ready = asyncio.create_task(self._keeper.ready())
        turning = asyncio.create_task(self._turns.run())
        try:
            await asyncio.wait({keeping, ready}, return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                took = int((time.monotonic() - began) * 1000)
                await self._outbox.emit(
                    BootStep(step="agent", state="completed", detail=self._agent.name, duration_ms=took)
                )
                self._agent_told.set()
                await self._warm_ahead()
            done, _ = await asyncio.wait({keeping, turning}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (keeping, ready, turning):
                task.cancel()
            await asyncio.gather(keeping, ready, turning, return_exceptions=True)

    async def _keep_bridge(self) -> None:
        pause = BRIDGE_PAUSE
        while True:
            began = time.monotonic()
            self._bridge = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "openinspect.runtime.bridge", str(self._config_path)),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )
            code = await self._bridge.wait()
            print(
                f"openinspect: the bridge ended with {code}; it is started again", file=sys.stderr, flush=True
            )
            pause = BRIDGE_PAUSE if time.monotonic() - began > 5 else min(pause * 2, LONGEST_BRIDGE_PAUSE)
            await asyncio.sleep(pause)

    async def _before_push(self) -> None:
        """The log tells of a commit before it tells of its push, which the gateway writes into it."""
        report = self._turns.report
        if report is None:
            return
        try:
            async with asyncio.timeout(PUSH_SECONDS):
                await self._changes.tell_commits(report)
                await self._outbox.delivered(self._outbox.last, PUSH_SECONDS)
        except (OSError, TimeoutError) as error:
            # they are told by the look that follows the tool, after the push then
            print(f"openinspect: commits could not be told yet: {error!r}", file=sys.stderr, flush=True)

    def _own_processes(self) -> list[int]:
        bridge = self._bridge
        return [bridge.pid] if bridge is not None and bridge.returncode is None else []

    async def _sweep(self) -> None:
        reaper = Reaper()
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            known = self._own_processes()
            census = Census(known)
            group = self._agent.group
            reaper.sweep(census, [*known, *([group] if group is not None else [])])
            self._outbox.tell(processes=len(census.since(self._baseline, group)))

    # ── the end ───────────────────────────────────────────────────────────────────────────────────
    def _leave(self, code: int) -> None:
        if not self._exit.done():
            self._exit.set_result(code)

    def _refused(self, code: int, reason: str) -> None:
        what = (
            "refuses this sandbox" if code == CLOSE_UNAUTHORISED else "does not speak this runtime's version"
        )
        print(f"openinspect: the control plane {what} ({code} {reason}); ending", file=sys.stderr, flush=True)
        self._leave(1)

    def _fail(self, reason: str, remedy: str, log: str) -> None:
        if not self._exit.done():
            task = asyncio.create_task(self._say_failed(reason, remedy, log))
            self._tasks.add(task)

    async def _say_failed(self, reason: str, remedy: str, log: str) -> None:
        print(f"openinspect: {reason} {remedy}", file=sys.stderr, flush=True)
        try:
            async with asyncio.timeout(FAILURE_SECONDS):
                number = await self._outbox.emit(SandboxFailed(reason=reason, remedy=remedy, log_tail=log))
                await self._outbox.delivered(number, FAILURE_SECONDS)
        except TimeoutError:
            print("openinspect: the control plane could not be told", file=sys.stderr, flush=True)
        self._leave(1)

    async def _end(self) -> None:
        await self._turns.wind_up()
        for task in list(self._tasks):
            if task is not asyncio.current_task():
                task.cancel()
        bridge, self._bridge = self._bridge, None
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._changes.close()
        await self._agent.close()
        await kill_since(frozenset(), None, [bridge.pid] if bridge is not None else [], 2.0)
        if bridge is not None and bridge.returncode is None:
            await self._outbox.delivered(self._outbox.last, FAREWELL_SECONDS)
            await end(bridge, 1.0)
        await self._commands.close()
        await self._outbox.close()
        await self._door.close()
        await self._forwarder.close()


def load(path: Path) -> RuntimeConfig:
    """Raises ``ValueError`` or ``OSError`` when it can't be used."""
    try:
        config = RuntimeConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        # Without the values: one of them is the token.
        faults = error.errors(include_input=False, include_url=False)
        raise ValueError(
            "; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in faults[:5])
        ) from None
    if (config.door.socket is None) == (config.door.url is None):
        raise ValueError("door: exactly one of socket and url")
    return config


async def supervise(config: RuntimeConfig, path: Path, make_agent: MakeAgent = _opencode) -> int:
    """Run a sandbox to its end; ``path`` is where the bridge process finds the configuration. Gives the exit code."""
    return await Supervisor(config, path, make_agent).run()


def main() -> None:
    path = Path(
        sys.argv[1]
        if len(sys.argv) > 1
        else os.environ.get("RUNTIME_CONFIG_PATH") or "/run/openinspect/runtime.json"
    )
    try:
        config = load(path)
    except (ValueError, OSError) as error:
        print(f"openinspect runtime: {path} can't be used: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from error
    raise SystemExit(asyncio.run(supervise(config, path)))
