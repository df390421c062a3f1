"""The scripted model for tests: `async with ScriptedModel("playground", delay_ms=0) as model: …`.

It runs in a thread of its own on a port of the loopback, so a test may block its own loop without stopping the model.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from starlette.types import Receive, Scope, Send

from openinspect.testing.application import ModelServer, listen, uvicorn_for
from openinspect.testing.recorder import Record
from openinspect.testing.script import Script, load

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0


class ScriptedModel:
    """A running scripted model; also usable with a plain `with`.

    `script` is a path, the name of a shipped script, or a `Script`. `delay_ms` is the pause before each word, instead
    of the script's own. With `key`, requests with another key get 401. Raises ScriptError, and OSError for a taken port.
    """

    def __init__(
        self,
        script: str | Path | Script = "playground",
        *,
        delay_ms: float | None = 0,
        key: str | None = None,
        port: int = 0,
    ) -> None:
        self.server = ModelServer(load(script), delay_ms=delay_ms, key=key)
        self._port = port
        self._uvicorn = uvicorn_for(self._serve)
        self._thread: threading.Thread | None = None
        self.url = ""

    @property
    def anthropic_url(self) -> str:
        """Base URL for Anthropic's SDKs."""
        return f"{self.url}/anthropic/v1"

    @property
    def openai_url(self) -> str:
        """Base URL for OpenAI's SDKs and compatible ones."""
        return f"{self.url}/openai/v1"

    @property
    def opencode_url(self) -> str:
        """Base URL for OpenCode Zen."""
        return f"{self.url}/opencode/v1"

    @property
    def requests(self) -> list[Record]:
        """What reached the model, oldest first."""
        return self.server.recorder.records()

    @property
    def turns(self) -> list[Record]:
        """Like `requests`, without those for titles and summaries."""
        return [record for record in self.requests if record.kind == "turn"]

    @property
    def counters(self) -> dict[str, int]:
        """Counts by family, status and outcome."""
        return self.server.recorder.counters()

    def play(
        self,
        script: str | Path | Script = "playground",
        *,
        delay_ms: float | None = 0,
        key: str | None = None,
    ) -> None:
        """Go on with another script at the same address; records, counts and attempts begin anew.

        For tests that share one running model. Streams that have begun end as they would have.
        """
        self.server = ModelServer(load(script), delay_ms=delay_ms, key=key)

    async def wait_for(self, found: Callable[[list[Record]], bool], timeout_s: float = 20) -> list[Record]:
        """Wait until the requests satisfy `found`; raises TimeoutError, which says what came instead."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if found(self.requests):
                return self.requests
            await asyncio.sleep(0.01)
        came = [(record.kind, record.prompt[:60], record.answer, record.outcome) for record in self.requests]
        raise TimeoutError(
            f"the expected requests did not reach the model in {timeout_s:g} s; there came: {came}"
        )

    def start(self) -> None:
        """Listen; returns when the server accepts requests."""
        bound = listen(self._port)
        self.url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        self._thread = threading.Thread(
            target=self._uvicorn.run, kwargs={"sockets": [bound]}, name="scripted-model", daemon=True
        )
        self._thread.start()
        end = time.monotonic() + START_TIMEOUT_S
        while not self._uvicorn.started:
            if not self._thread.is_alive() or time.monotonic() > end:
                raise RuntimeError("the scripted model did not start; its thread ended or hangs")
            time.sleep(0.002)

    def stop(self) -> None:
        """Stop listening and drop what still streams."""
        self._uvicorn.should_exit = True
        self._uvicorn.force_exit = True
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.server.app(scope, receive, send)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)
