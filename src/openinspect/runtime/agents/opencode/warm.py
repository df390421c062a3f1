"""Warming the agent up: a throwaway prompt against a model that answers nothing, served by the runtime itself on the loopback.

What a fresh process takes a second or two for (loading itself, an instance for the directory, the provider's library) is done before anyone
asks. No call leaves the sandbox for it, and the session is deleted again. It may fail at any point: then the first prompt is slower.
"""

from __future__ import annotations

import asyncio
import contextlib
import re

import orjson

from openinspect.protocol.config import AgentConfig

from .client import Client, Refused, ServerGone
from .config import NULL_PREFIX

WARM_SECONDS = 60.0
_LOOK_SECONDS = 0.25
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_MAX_REQUEST = 4 * 1024 * 1024


def _stream(*events: dict[str, object], named: bool, done: bool = False) -> bytes:
    lines = [
        (b"event: %s\n" % str(event["type"]).encode() if named else b"")
        + b"data: "
        + orjson.dumps(event)
        + b"\n\n"
        for event in events
    ]
    return b"".join(lines) + (b"data: [DONE]\n\n" if done else b"")


_USAGE = {"input_tokens": 1, "output_tokens": 1}
_MESSAGE = {
    "id": "msg_null",
    "type": "message",
    "role": "assistant",
    "model": "null",
    "content": [],
    "usage": _USAGE,
}
_ITEM = {"id": "msg_null", "type": "message", "role": "assistant", "content": []}
_RESPONSE = {"id": "resp_null", "object": "response", "created_at": 0, "model": "null", "output": []}
_CHUNK = {"id": "null", "object": "chat.completion.chunk", "created": 0, "model": "null"}
ANSWERS = {
    b"/messages": _stream(
        {"type": "message_start", "message": _MESSAGE},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "."}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": _USAGE},
        {"type": "message_stop"},
        named=True,
    ),
    b"/responses": _stream(
        {"type": "response.created", "response": _RESPONSE},
        {"type": "response.output_item.added", "output_index": 0, "item": _ITEM},
        {
            "type": "response.output_text.delta",
            "item_id": "msg_null",
            "output_index": 0,
            "content_index": 0,
            "delta": ".",
        },
        {"type": "response.output_item.done", "output_index": 0, "item": _ITEM},
        {"type": "response.completed", "response": {**_RESPONSE, "usage": _USAGE}},
        named=True,
    ),
    b"/chat/completions": _stream(
        {**_CHUNK, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "."}}]},
        {**_CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        named=False,
        done=True,
    ),
}


class NullModel:
    """Answers each provider's own API with one full stop."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self.url = ""

    async def start(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0, limit=_MAX_REQUEST)
            self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    @staticmethod
    async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(10):
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                if length is not None and int(length[1]) <= _MAX_REQUEST:
                    await reader.readexactly(int(length[1]))
                path = head.split(b" ", 2)[1]
                body = next((answer for end, answer in ANSWERS.items() if path.endswith(end)), None)
                kind = b"200 OK\r\ncontent-type: text/event-stream" if body is not None else b"404 Not Found"
                writer.write(b"HTTP/1.1 %s\r\nconnection: close\r\n\r\n%s" % (kind, body or b""))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, IndexError):
            return
        finally:
            writer.close()


def null_model_of(config: AgentConfig) -> tuple[str, str]:
    """Provider and model that warm what the session's default model will need."""
    provider = config.default_model.partition("/")[0]
    api = next((each.api for each in config.providers if each.id == provider), "anthropic")
    return NULL_PREFIX + api, "null"


async def warm(client: Client, directory: str, provider: str, model: str, enough: asyncio.Event) -> bool:
    """Run the throwaway prompt in a directory until it went through (True), or until it is ``enough``.

    Not to be cancelled while the agent lives: a request that is given up while it makes the folder's instance leaves that one broken for good.
    """
    session = None
    try:
        async with asyncio.timeout(WARM_SECONDS):
            session = await client.create_session(directory, "Warm-up")
            body = {
                "model": {"providerID": provider, "modelID": model},
                "parts": [{"type": "text", "text": "."}],
            }
            await client.prompt(directory, session, body)
            while not enough.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(enough.wait(), _LOOK_SECONDS)
                answers = [
                    each.info
                    for each in await client.messages(directory, session, 5)
                    if each.info.role == "assistant"
                ]
                if answers and (answers[-1].time.completed is not None or answers[-1].error is not None):
                    return answers[-1].error is None
            return False
    except (ServerGone, Refused, TimeoutError):
        return False
    finally:
        if session is not None:
            with contextlib.suppress(ServerGone, Refused):
                await client.delete_session(directory, session)
