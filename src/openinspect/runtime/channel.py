"""The unix socket between supervisor and bridge: messages of JSON, each after its length (four bytes, little-endian).

Both ends are ours and live in the same sandbox; the socket lies in the reserved state folder that the agent can't enter.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import orjson

_LENGTH = struct.Struct("<I")
MAX_MESSAGE_BYTES = 64 * 1024 * 1024


class Channel:
    """One end. ``receive`` returns None when the other end has gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def post(self, message: dict[str, Any]) -> None:
        """Hand over without waiting; for small messages. Does nothing once the other end has gone."""
        if not self._writer.is_closing():
            data = orjson.dumps(message)
            self._writer.write(_LENGTH.pack(len(data)) + data)

    async def send(self, message: dict[str, Any]) -> None:
        """Hand over and wait until the other end keeps up. Raises ``ConnectionError`` when it has gone."""
        self.post(message)
        await self._writer.drain()
        if self._writer.is_closing():
            raise ConnectionResetError("the other end has gone")

    async def receive(self) -> dict[str, Any] | None:
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if length > MAX_MESSAGE_BYTES:
                return None
            return orjson.loads(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def close(self) -> None:
        self._writer.close()
