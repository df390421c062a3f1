"""The bridge's messages as the server reads them, and the close codes that it answers with.

``receive`` gives the next frame within its bounds; whatever is not one raises ``Closed`` with what the other side is to be told.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Iterator
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from openinspect.protocol.frames import CLOSE_MALFORMED, MAX_MESSAGE_BYTES, from_sandbox

LARGE = 256 * 1024
"""Characters from which on a message is read by another way (``_read_large``)."""


class Closed(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@contextlib.contextmanager
def gone_if_closed() -> Iterator[None]:
    """Around a call of the socket's own: that it is closed already is told by a ``RuntimeError``, which anything else that raises one is not to pass for."""
    try:
        yield
    except RuntimeError as error:
        raise WebSocketDisconnect(1006) from error


async def close(socket: WebSocket, code: int, reason: str = "") -> None:
    """Close it, unless either side has."""
    if WebSocketState.DISCONNECTED not in (socket.application_state, socket.client_state):
        with contextlib.suppress(WebSocketDisconnect), gone_if_closed():
            await socket.close(code, reason)


async def receive(socket: WebSocket, seconds: float, most: int = MAX_MESSAGE_BYTES) -> tuple[Any, int]:
    """The next frame, and its size. Raises ``Closed`` for one that is not understood, ``TimeoutError``, ``WebSocketDisconnect``."""
    with gone_if_closed():
        async with asyncio.timeout(seconds):
            message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
    said = message.get("text")
    if said is None or len(said) > most:
        raise Closed(CLOSE_MALFORMED, f"a text message of at most {most // 1024} KiB was expected")
    try:
        return from_sandbox.validate_json(said) if len(said) < LARGE else _read_large(said), len(said)
    except ValidationError as error:
        raise Closed(
            CLOSE_MALFORMED, f"a message was not understood ({error.error_count()} faults)"
        ) from None
    except orjson.JSONDecodeError:
        raise Closed(CLOSE_MALFORMED, "a message was not JSON") from None


def _read_large(said: str) -> Any:
    """What consists of a million empty lists costs 0.1 s in this way and 1 s in the other, most of it in looking for garbage among them again and again.
    A thread would not help: neither parser lets go of the interpreter."""
    gc.disable()
    try:
        return from_sandbox.validate_python(orjson.loads(said))
    finally:
        gc.enable()
