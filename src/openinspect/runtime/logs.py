"""Output of a boot step as events, while it comes: in pieces, not more often than twice a second, bounded as a whole.

What is over the bound is left out in the middle: the last lines are sent when the step ends.
"""

from __future__ import annotations

import asyncio
import codecs
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from openinspect.protocol.events import BootLog

from .outbox import Outbox
from .processes import DRAIN_SECONDS, Account, Finished, LogTail, OutputPipe, kill_group
from .wording import LOG_TEXT, clean

PIECE_SECONDS = 0.5
BOUND = 256 * 1024


class StepLog:
    def __init__(self, outbox: Outbox, step: str) -> None:
        self._outbox = outbox
        self._step = step
        self._pending = ""
        self._sent = 0
        self._left_out = 0
        self._last = 0.0
        self.tail = LogTail()

    async def add(self, text: str) -> None:
        self.tail.add(text)
        self._pending += text
        if time.monotonic() - self._last >= PIECE_SECONDS or len(self._pending) >= LOG_TEXT:
            await self._send()

    async def _send(self) -> None:
        self._last = time.monotonic()
        room = BOUND - self._sent
        if len(self._pending) > room:
            self._left_out += len(self._pending) - room
        text, self._pending = self._pending[:room], ""
        self._sent += len(text)
        for start in range(0, len(text), LOG_TEXT):
            await self._outbox.emit(BootLog(step=self._step, text=clean(text[start : start + LOG_TEXT])))

    async def end(self) -> None:
        await self._send()
        if self._left_out:
            end = self.tail.text[-4_000:]
            await self._outbox.emit(
                BootLog(
                    step=self._step,
                    text=f"\n[… {self._left_out} characters left out; the last lines:]\n{end}",
                )
            )


def _as_lines(text: str) -> str:
    """A progress line that overwrites itself becomes its last state."""
    return "\n".join(
        part.rsplit("\r", 1)[-1] if "\r" in part else part for part in text.replace("\r\n", "\n").split("\n")
    )


async def run_logged(
    argv: Sequence[str],
    account: Account,
    log: StepLog,
    *,
    cwd: Path,
    env: Mapping[str, str],
    seconds: float,
    kill_rest: bool = True,
) -> Finished:
    """Run a program in a group of its own, its output into the log. Without ``kill_rest`` what it leaves in the background lives on; in time
    or not, a program that is still there at its end is killed with its group. Raises ``OSError`` when it can't be started."""
    pipe = await OutputPipe.open()
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=cwd,
            env=dict(env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=pipe.writer,
            stderr=asyncio.subprocess.STDOUT,
            **account.options(),
        )
    except BaseException:
        pipe.close()
        raise
    finally:
        pipe.started()
    stream, decoder = pipe.reader, codecs.getincrementaldecoder("utf-8")(errors="replace")

    async def read() -> None:
        while block := await stream.read(16_384):
            await log.add(_as_lines(decoder.decode(block)))

    reading = asyncio.create_task(read())
    timed_out = False
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        timed_out = True
    finally:
        if timed_out or kill_rest or process.returncode is None:
            kill_group(process.pid)
        await process.wait()
        # A service that was left running may hold the pipe open for ever.
        await asyncio.wait({reading}, timeout=DRAIN_SECONDS)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        pipe.close()
    return Finished(process.returncode or 0, log.tail.text.encode(), b"", timed_out, False)
