"""One session, 200 watchers: how many events are delivered in all; and how fast a watcher that missed 100 of 100,000 events is back.

The watchers live in two processes of their own, which count what arrives without reading it.
"""

from __future__ import annotations

import asyncio
import sys
import time

import orjson
import uvloop
import websockets

from openinspect.protocol import events as e

from .server_process import Server, server
from .table import Row, median

TITLE = "Fan-out and reconnection"
WATCHERS = 200
EVENTS = 3000
LONG_LOG = 100_000
MISSED = 100
_PROCESSES = 2


async def measure() -> list[Row]:
    async with server(max_streams_per_person=2 * WATCHERS) as running:
        rates = [await _fan_out(running) for _ in range(3)]
        again = await _reconnect(running)
    rate, back = median(rates), median(again)
    return [
        Row(f"events delivered to {WATCHERS} watchers", f"{rate:,.0f}/s", "200,000/s", "", rate >= 200_000),
        Row(
            f"back after missing {MISSED} of {LONG_LOG:,} events",
            f"{back * 1e3:.1f} ms",
            "20 ms",
            "",
            back < 0.02,
        ),
    ]


async def _fan_out(running: Server) -> float:
    session_id, prompt_id, double = await running.turn()
    tickets = [
        (await running.http.post(f"/api/sessions/{session_id}/stream-ticket")).json()["ticket"]
        for _ in range(WATCHERS)
    ]
    share = WATCHERS // _PROCESSES
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bench.fan_out",
            running.url,
            str(EVENTS),
            *tickets[i * share : (i + 1) * share],
            stdout=asyncio.subprocess.PIPE,
        )
        for i in range(_PROCESSES)
    ]
    await asyncio.gather(*(_said(process, b"joined") for process in processes))
    began = time.perf_counter()
    await double.say(*[e.BootLog(step="x", text="y" * 200)] * EVENTS, turn_id=prompt_id)
    await asyncio.gather(*(_said(process, b"delivered") for process in processes))
    took = time.perf_counter() - began
    await asyncio.gather(*(asyncio.wait_for(process.wait(), 60) for process in processes))
    await double.drop()
    return WATCHERS * EVENTS / took


async def _said(process: asyncio.subprocess.Process, word: bytes) -> None:
    assert process.stdout is not None
    said = await asyncio.wait_for(process.stdout.readline(), 60)
    if said.strip() != word:
        raise RuntimeError(f"the watchers said {said!r}")


async def _reconnect(running: Server) -> list[float]:
    session_id, prompt_id, double = await running.turn()
    await double.say(*[e.BootLog(step="x", text="y" * 200)] * LONG_LOG, turn_id=prompt_id)
    await double.until_counted(seconds=120)
    head = (await running.http.get(f"/api/sessions/{session_id}")).json()["head"]
    times: list[float] = []
    for _ in range(20):
        began = time.perf_counter()
        async with running.watch(session_id, after=head - MISSED) as watching:
            await watching.until_synced()
            times.append(time.perf_counter() - began)
            assert watching.seq == head
    await double.drop()
    return times


async def _watch_many(url: str, events: int, tickets: list[str]) -> None:
    """Join with every ticket, say so, and say so when each has been sent all the events."""
    joined, delivered = asyncio.Barrier(len(tickets) + 1), asyncio.Barrier(len(tickets) + 1)

    async def watch(ticket: str) -> None:
        address = url.replace("http", "ws", 1) + "/api/stream"
        async with websockets.connect(address, max_size=None, max_queue=None, compression=None) as socket:
            await socket.send(orjson.dumps({"type": "open", "ticket": ticket}).decode())
            while b'"synced"' not in await socket.recv(decode=False):
                pass
            await joined.wait()
            got = 0
            while got < events:
                got += (await socket.recv(decode=False)).count(b'"boot.log"')
            await delivered.wait()

    async with asyncio.TaskGroup() as group:
        for ticket in tickets:
            group.create_task(watch(ticket))
        await joined.wait()
        print("joined", flush=True)
        await delivered.wait()
        print("delivered", flush=True)


if __name__ == "__main__":
    uvloop.run(_watch_many(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
