"""OpenCode's server process: started under the agent's account on a loopback port, watched, ended.

Its output is kept as the last lines of a log. ``end`` gives it 2 s and then kills its group: after turns it may take minutes to go by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
from collections.abc import Mapping
from pathlib import Path

from openinspect.protocol.config import Paths
from openinspect.runtime.agents.contract import START_SECONDS, AgentUnusable
from openinspect.runtime.files import write_whole
from openinspect.runtime.processes import (
    DRAIN_SECONDS,
    Account,
    LogTail,
    OutputPipe,
    end,
    kill_group,
    start_time,
)

BINARY_VARIABLE = "OPENINSPECT_OPENCODE"
_NOTE = "agent.pid"
_LISTENING = re.compile(r"listening on (http://\S+)")


def binary(paths: Paths) -> str:
    """The program; in tests the environment may name another."""
    return os.environ.get(BINARY_VARIABLE) or str(Path(paths.toolbox) / "bin" / "opencode")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class ServerProcess:
    def __init__(self, process: asyncio.subprocess.Process, output: OutputPipe, log: LogTail) -> None:
        self._process = process
        self._output = output
        self.log = log
        self.url = ""
        self._listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def _read(self) -> None:
        pending = ""
        while block := await self._output.reader.read(65_536):
            text = block.decode(errors="replace")
            self.log.add(text)
            if not self._listening.done():
                pending = (pending + text)[-4_096:]
                if found := _LISTENING.search(pending):
                    self._listening.set_result(found[1])

    async def wait(self) -> str:
        """Until it is gone; says how."""
        code = await self._process.wait()
        # What it said last is on its way; a child of it may hold the pipe open for ever.
        await asyncio.wait({self._reading}, timeout=DRAIN_SECONDS)
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"it was killed by {signal.Signals(-code).name}"
        return f"it ended with exit code {code}"

    async def listening(self) -> str:
        """The server's address, once it takes requests. Raises ``AgentUnusable``."""
        ended = asyncio.create_task(self._process.wait())
        try:
            async with asyncio.timeout(START_SECONDS):
                await asyncio.wait({ended, self._listening}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise AgentUnusable(
                f"OpenCode did not start within {START_SECONDS:.0f} s", "Look at its log below; try again."
            ) from None
        finally:
            ended.cancel()
        if not self._listening.done():
            how = await self.wait()
            raise AgentUnusable(f"OpenCode did not start: {how}", "Look at its log below.")
        self.url = self._listening.result()
        return self.url

    def kill(self) -> None:
        if self.alive:
            kill_group(self.pid)

    async def end(self, grace: float = 2.0) -> None:
        await end(self._process, grace)
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self._output.close()


def end_former(state: Path) -> None:
    """End the server that a runtime which was killed has left, so that two never work on the same memory."""
    noted = state / _NOTE
    if noted.exists():
        pid, _, started = noted.read_text().partition(" ")
        if pid.isdigit() and str(start_time(int(pid))) == started:
            kill_group(int(pid))
        noted.unlink()


async def launch(paths: Paths, account: Account, env: Mapping[str, str]) -> ServerProcess:
    """Start the server. Raises ``AgentUnusable`` when the program is not there."""
    program = binary(paths)
    arguments = [
        "serve",
        "--hostname",
        "127.0.0.1",
        "--port",
        str(_free_port()),
        "--print-logs",
        "--log-level",
        "WARN",
    ]
    output = await OutputPipe.open()
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            cwd=paths.home,
            env=dict(env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output.writer,
            stderr=asyncio.subprocess.STDOUT,
            **account.options(),
        )
    except OSError as error:
        output.close()
        raise AgentUnusable(
            f"OpenCode can't be run ({program}: {error.strerror})",
            "Build the toolbox again, or check its folder's rights.",
        ) from error
    finally:
        output.started()
    write_whole(Path(paths.state) / _NOTE, f"{process.pid} {start_time(process.pid)}".encode(), sync=False)
    return ServerProcess(process, output, LogTail())
