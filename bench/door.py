"""What the gateway adds to a model call: to its first byte and to its last, against the same call straight to the same scripted model.

The call is one of a session in the middle of its work: 100 kB of conversation. Calls alternate, so that both see the same machine.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import httpx2
import orjson

from openinspect.testing.scripted_model import ScriptedModel

from .server_process import server
from .table import Row, median

TITLE = "A model call through the gateway"
CALLS = 100
CONVERSATION_BYTES = 100_000

_REQUEST = orjson.dumps(
    {
        "model": "claude-sonnet-4-6",
        "max_tokens": 1000,
        "stream": True,
        "system": "x" * CONVERSATION_BYTES,
        "messages": [{"role": "user", "content": "say 20 words"}],
    }
)


async def measure() -> list[Row]:
    with ScriptedModel("playground") as model:
        async with server(scripted_model_url=model.url) as running:
            _, _, double = await running.turn()
            transport = httpx2.AsyncHTTPTransport(uds=str(running.door))
            async with (
                httpx2.AsyncClient(transport=transport, base_url="http://door/llm/anthropic/v1") as door,
                httpx2.AsyncClient(base_url=model.anthropic_url) as straight,
            ):
                calls = {
                    "door": (door, {"authorization": f"Bearer {double.agent_token}"}),
                    "straight": (straight, {"x-api-key": "none"}),
                }
                for client, headers in calls.values():
                    await _call(client, headers)
                taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
                for _ in range(CALLS):
                    for name, (client, headers) in calls.items():
                        taken[name].append(await _call(client, headers))
            await double.drop()
    return [
        _row("to the first byte", [t[0] for t in taken["door"]], [t[0] for t in taken["straight"]]),
        _row(
            "to the last byte, cost recorded",
            [t[1] for t in taken["door"]],
            [t[1] for t in taken["straight"]],
        ),
    ]


def _row(what: str, door: Sequence[float], straight: Sequence[float]) -> Row:
    return Row(
        what,
        f"{median(door) * 1e3:.1f} ms",
        baseline=f"{median(straight) * 1e3:.1f} ms straight to the model",
    )


async def _call(client: httpx2.AsyncClient, headers: dict[str, str]) -> tuple[float, float]:
    """Seconds to the first and to the last byte of the answer."""
    began = time.perf_counter()
    first = 0.0
    async with client.stream(
        "POST", "/messages", content=_REQUEST, headers={"content-type": "application/json", **headers}
    ) as answer:
        answer.raise_for_status()
        async for _ in answer.aiter_bytes():
            first = first or time.perf_counter() - began
    return first, time.perf_counter() - began
