"""A server in a process of its own, on a database that is there: reads where from its standard input, says in ``ready.json`` where it is, and ends with
its standard input. It runs no jobs."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from openinspect.testing.running_server import running_server


async def _serve() -> None:
    told = json.loads(sys.stdin.readline())
    folder = Path(told["folder"])
    async with running_server(told["database_url"], folder / "data", jobs=False) as server:
        fresh = folder / "ready.new"
        fresh.write_text(json.dumps({"url": server.url, "door": str(server.door)}))
        fresh.rename(folder / "ready.json")
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(_serve())
