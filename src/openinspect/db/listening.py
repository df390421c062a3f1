"""Waiting for notifications without looking every tenth of a second, as psycopg's own generator does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import psycopg
from psycopg import Notify, sql

CHECK_SECONDS = 10.0
"""A connection that is silent for so long is asked whether it is alive."""
_ALIVE_SECONDS = 5.0
_DRAIN_SECONDS = 0.05


async def listen(
    connection: psycopg.AsyncConnection, channels: Sequence[str]
) -> AsyncIterator[Notify | None]:
    """What is told on the channels, for ever; first None, when everything told from now on will be heard.

    The connection is in autocommit mode and nobody else's. Raises ``psycopg.Error`` or ``TimeoutError`` when it is lost.
    """
    for channel in channels:
        await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
    yield None
    while True:
        # what came with an answer is here already, and would make nothing readable
        async for notice in connection.notifies(timeout=_DRAIN_SECONDS):
            yield notice
        if not await _readable(connection.fileno()):
            async with asyncio.timeout(_ALIVE_SECONDS):
                await connection.execute("SELECT 1")


async def _readable(descriptor: int) -> bool:
    """Wait until there is something to read; False after ``CHECK_SECONDS``."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await ready.wait()
        return True
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
