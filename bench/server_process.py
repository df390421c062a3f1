"""A whole server in a process of its own, whose sandboxes are played by the measuring process.

``python -m bench.server_process FOLDER SETTINGS`` starts one (embedded Postgres, fsync on) and writes ``ready.json``; for every box that the server
creates it writes ``boxes/<id>`` with the token. It ends with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2

from openinspect.db.migrate import migrate
from openinspect.db.postgres import EmbeddedPostgres
from openinspect.sandboxes.provider import BoxSpec, BoxStatus, Finding, Handle, Spooled
from openinspect.testing.running_server import RunningServer, Watching, running_server
from openinspect.testing.sandbox_double import SandboxDouble


class _HandedOut:
    """Boxes that another process plays."""

    name = "handed out"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    async def check(self) -> list[Finding]:
        return []

    async def create(self, spec: BoxSpec) -> Handle:
        fresh = self.folder / f".{spec.box_id}"
        fresh.write_text(spec.runtime.token)
        fresh.rename(self.folder / spec.box_id)
        return {"box_id": spec.box_id}

    async def status(self, handle: Handle) -> BoxStatus:
        return BoxStatus(state="running")

    async def stop(self, handle: Handle, grace: float = 5.0) -> None:
        pass

    async def spooled(self, box_id: str, handle: Handle | None, after: int) -> Spooled:
        return Spooled(after + 1, [])

    async def release(self, box_id: str, handle: Handle | None) -> None:
        (self.folder / box_id).unlink(missing_ok=True)

    async def delete_disk(self, disk_id: str) -> None:
        pass

    async def list_boxes(self) -> list[str]:
        return []

    async def list_disks(self) -> list[str]:
        return []

    async def find(self, box_id: str) -> Handle:
        return {"box_id": box_id}


async def _serve(folder: Path, settings: dict[str, Any]) -> None:
    postgres = EmbeddedPostgres(folder / "postgres")
    url = await postgres.start()
    try:
        await migrate(url)
        provider = _HandedOut(folder / "boxes")
        async with running_server(url, folder / "data", provider=provider, **settings) as server:
            ready = {
                "url": server.url,
                "token": server.token,
                "door": str(server.door),
                "postgres": postgres.pid,
            }
            fresh = folder / "ready.new"
            fresh.write_text(json.dumps(ready))
            fresh.rename(folder / "ready.json")
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, sys.stdin.read)
    finally:
        await postgres.stop()


class Server:
    """The measuring process's side."""

    def __init__(
        self,
        folder: Path,
        process: asyncio.subprocess.Process,
        ready: dict[str, Any],
        http: httpx2.AsyncClient,
    ) -> None:
        self.folder = folder
        self.process = process
        self.url: str = ready["url"]
        self.token: str = ready["token"]
        self.door = Path(ready["door"])
        self.http = http
        self._played: set[str] = set()
        self._running = RunningServer(None, self.url, self.door, None, self.token, http, None)  # type: ignore[arg-type]

    async def session(self, prompt: str | None = None) -> dict[str, Any]:
        return await self._running.session(prompt)

    def watch(self, session_id: str, after: int = 0) -> contextlib.AbstractAsyncContextManager[Watching]:
        return self._running.watch(session_id, after)

    async def box(self) -> SandboxDouble:
        """The next box that the server has created, connected and ready."""
        async with asyncio.timeout(20):
            while True:
                waiting = [
                    path
                    for path in (self.folder / "boxes").iterdir()
                    if not path.name.startswith(".") and path.name not in self._played
                ]
                if waiting:
                    break
                await asyncio.sleep(0.005)
        path = waiting[0]
        self._played.add(path.name)
        double = SandboxDouble(self.door, path.name, path.read_text())
        await double.connect()
        await double.ready()
        return double

    async def turn(self) -> tuple[str, str, SandboxDouble]:
        """A session with a running turn: its id, the prompt's, and the sandbox."""
        session = await self.session("measure")
        double = await self.box()
        await double.command("prompt")
        return session["id"], session["prompts"][0]["id"], double


@contextlib.asynccontextmanager
async def server(**settings: Any) -> AsyncIterator[Server]:
    """``settings`` are fields of ``Settings``."""
    with tempfile.TemporaryDirectory(prefix="oi-bench-") as name:
        folder = Path(name)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bench.server_process",
            name,
            json.dumps(settings),
            stdin=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            env={key: value for key, value in os.environ.items() if not key.endswith("_API_KEY")},
        )
        try:
            async with asyncio.timeout(60):
                while not (folder / "ready.json").exists():
                    if process.returncode is not None:
                        raise RuntimeError("the server for the measurement ended while it was starting")
                    await asyncio.sleep(0.02)
            ready = json.loads((folder / "ready.json").read_text())
            headers = {"authorization": f"Bearer {ready['token']}"}
            async with httpx2.AsyncClient(base_url=ready["url"], headers=headers, timeout=60) as http:
                yield Server(folder, process, ready, http)
        finally:
            if process.stdin is not None:
                process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), 20)
            except TimeoutError:
                process.kill()
                await process.wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), json.loads(sys.argv[2])))
