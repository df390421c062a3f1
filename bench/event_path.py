"""From a sandbox to a watcher: 3,000 token events of 200 bytes flooded by one sandbox, as deltas of a part and as whole events.

Seen: the watcher has the text. Stored: the text is committed (a whole event before it is seen; a delta's with the checkpoint of its part, read from
the API). Latencies are from just before the event is handed to the socket. The floor is the same bytes through a bare WebSocket echo.
"""

from __future__ import annotations

import asyncio
import time

import orjson
import websockets

from openinspect.protocol import events as e

from .server_process import Server, server
from .table import Row, median, percentile

TITLE = "Event path: one sandbox to one watcher"
EVENTS = 3000
TEXT = "y" * 200
ROUNDS = 5
_AT_ONCE = 50


async def measure() -> list[Row]:
    async with server() as running:
        floor = median([await _floor() for _ in range(3)])
        await _whole(running)  # warm
        whole = [await _whole(running) for _ in range(ROUNDS)]
        deltas = [await _deltas(running) for _ in range(ROUNDS)]
    whole_rate, whole_p99 = median([r for r, _ in whole]), median([p for _, p in whole])
    delta_rate, delta_p99, stored = (median([one[i] for one in deltas]) for i in range(3))
    base = f"{floor:,.0f}/s bare echo"
    return [
        Row("deltas of a part, seen", f"{delta_rate:,.0f}/s", "20,000/s", base, delta_rate >= 20_000),
        Row("deltas, p99 to be seen", f"{delta_p99 * 1e3:.0f} ms", "50 ms", "", delta_p99 < 0.05),
        Row("deltas, all of it stored", f"{stored * 1e3:,.0f} ms", "1,200 ms", "", stored < 1.2),
        Row(
            "whole events, committed and seen", f"{whole_rate:,.0f}/s", "20,000/s", base, whole_rate >= 20_000
        ),
        Row("whole events, p99 to be seen", f"{whole_p99 * 1e3:.0f} ms", "100 ms", "", whole_p99 < 0.1),
    ]


async def _floor() -> float:
    async def echo(socket: websockets.ServerConnection) -> None:
        async for message in socket:
            await socket.send(message)

    message = orjson.dumps(
        {"records": [{"body": {"kind": "boot.log", "step": "x", "text": TEXT}}] * _AT_ONCE}
    ).decode()
    async with websockets.serve(echo, "127.0.0.1", 0, compression=None) as listening:
        port = listening.sockets[0].getsockname()[1]
        async with websockets.connect(f"ws://127.0.0.1:{port}", compression=None) as socket:
            began = time.perf_counter()
            for _ in range(EVENTS // _AT_ONCE):
                await socket.send(message)
            for _ in range(EVENTS // _AT_ONCE):
                orjson.loads(await socket.recv())
            return EVENTS / (time.perf_counter() - began)


async def _whole(running: Server) -> tuple[float, float]:
    session_id, prompt_id, double = await running.turn()
    async with running.watch(session_id) as watching:
        await watching.until("turn.started")
        base = watching.seq
        sent: list[float] = []
        seen: list[float] = []

        async def flood() -> None:
            for _ in range(EVENTS // _AT_ONCE):
                sent.extend([time.perf_counter()] * _AT_ONCE)
                await double.say(*[e.BootLog(step="x", text=TEXT)] * _AT_ONCE, turn_id=prompt_id)

        task = asyncio.create_task(flood())
        while len(seen) < EVENTS:
            await watching.next()
            seen.extend([time.perf_counter()] * (watching.seq - base - len(seen)))
        await task
        await double.drop()
    return EVENTS / (seen[-1] - sent[0]), percentile([b - a for a, b in zip(sent, seen, strict=True)], 0.99)


async def _deltas(running: Server) -> tuple[float, float, float]:
    session_id, prompt_id, double = await running.turn()
    async with running.watch(session_id) as watching:
        await watching.until("turn.started")
        sent: list[float] = []
        seen: list[float] = []

        async def flood() -> None:
            for start in range(0, EVENTS, _AT_ONCE):
                sent.extend([time.perf_counter()] * _AT_ONCE)
                deltas = [
                    {
                        "turn_id": prompt_id,
                        "part_id": "p",
                        "kind": "text",
                        "offset": (start + i) * len(TEXT),
                        "text": TEXT,
                    }
                    for i in range(_AT_ONCE)
                ]
                await double.send({"type": "deltas", "deltas": deltas})

        task = asyncio.create_task(flood())
        while len(seen) < EVENTS:
            await watching.next()
            seen.extend([time.perf_counter()] * (len(watching.parts.get("p", "")) // len(TEXT) - len(seen)))
        await task
        while True:
            parts = (await running.http.get(f"/api/sessions/{session_id}")).json()["open_parts"]
            if parts and len(parts[0]["text"]) == EVENTS * len(TEXT):
                break
            await asyncio.sleep(0.01)
        stored = time.perf_counter() - sent[-1]
        await double.drop()
    return (
        EVENTS / (seen[-1] - sent[0]),
        percentile([b - a for a, b in zip(sent, seen, strict=True)], 0.99),
        stored,
    )
