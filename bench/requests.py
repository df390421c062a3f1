"""What a person waits for: a session, and a prompt on its way into a sandbox; and what the server needs when nothing happens."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from openinspect.protocol import events as e

from .server_process import Server, server
from .table import Row, median

TITLE = "Requests, and the server at rest"
SESSIONS = 300
PROMPTS = 200
IDLE_SESSIONS = 1000
WARM_SESSIONS = 50
"""Idle as well, with a sandbox that is connected."""
REST_SECONDS = 20.0


async def measure() -> list[Row]:
    async with server(max_concurrent_sandboxes=WARM_SESSIONS + 10) as running:
        await _create(running, 50)
        empty = await _empty(running)
        create = await _create(running, SESSIONS)
        prompt = await _prompt(running)
        before = _memory(running.process.pid)
        await _create(running, IDLE_SESSIONS)
        after = _memory(running.process.pid)
        share = await _rest(running.process.pid)
        before_warm = _memory(running.process.pid)
        for _ in range(WARM_SESSIONS):
            _, prompt_id, double = await running.turn()
            await double.say(e.TurnEnded(outcome="completed"), turn_id=prompt_id)
            await double.until_counted()
        warm = _memory(running.process.pid)
    each = max(0.0, after - before) / IDLE_SESSIONS * 1024
    each_warm = max(0.0, warm - before_warm) / WARM_SESSIONS * 1024
    floor = f"{median(empty) * 1e3:.1f} ms empty request"
    return [
        Row("create a session, p50", f"{median(create) * 1e3:.1f} ms", "5 ms", floor, median(create) < 0.005),
        Row(
            "prompt accepted → command in the sandbox, p50",
            f"{median(prompt) * 1e3:.1f} ms",
            "10 ms",
            floor,
            median(prompt) < 0.010,
        ),
        Row("memory of the server, without Postgres", f"{after:.0f} MB", "200 MB", "", after < 200),
        Row("memory of each idle session", f"{each:.1f} kB", "50 kB", "", each < 50),
        Row(
            "memory of each idle session with a connected sandbox",
            f"{each_warm:.1f} kB",
            "50 kB",
            "",
            each_warm < 50,
        ),
        Row("processor at rest", f"{share * 100:.2f} % of a core", "1 %", "", share < 0.01),
    ]


async def _empty(running: Server) -> list[float]:
    return [await _timed(running.http.get("/healthz")) for _ in range(200)]


async def _create(running: Server, count: int) -> list[float]:
    return [await _timed(running.http.post("/api/sessions", json={})) for _ in range(count)]


async def _timed(request) -> float:
    began = time.perf_counter()
    answer = await request
    took = time.perf_counter() - began
    answer.raise_for_status()
    return took


async def _prompt(running: Server) -> list[float]:
    session_id, prompt_id, double = await running.turn()
    times: list[float] = []
    for _ in range(PROMPTS):
        await double.say(e.TurnEnded(outcome="completed"), turn_id=prompt_id)
        await double.until_counted()
        began = time.perf_counter()
        posting = asyncio.create_task(
            running.http.post(f"/api/sessions/{session_id}/prompts", json={"text": "again"})
        )
        prompt_id = (await double.command("prompt"))["prompt_id"]
        times.append(time.perf_counter() - began)
        (await posting).raise_for_status()
    await double.drop()
    return times


def _memory(pid: int) -> float:
    """Resident memory in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


async def _rest(pid: int) -> float:
    def ticks() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    await asyncio.sleep(3)
    before = ticks()
    await asyncio.sleep(REST_SECONDS)
    return (ticks() - before) / os.sysconf("SC_CLK_TCK") / REST_SECONDS
