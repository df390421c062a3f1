"""Commands: acted upon once, seen when they are safe, done again when a crash left them undone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from openinspect.protocol.commands import Command, StopTurn
from openinspect.runtime.commands import CommandLog

pytestmark = pytest.mark.anyio


class Life:
    """One life of the runtime."""

    def __init__(self, path: Path, sandbox_id: str = "box_1") -> None:
        self.acted: list[tuple[int, Command]] = []
        self.seen: list[int] = []
        self.log = CommandLog(
            path, sandbox_id, lambda n, command: self.acted.append((n, command)), self.seen.append
        )

    async def __aenter__(self) -> Life:
        self.log.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.log.close()

    async def until_seen(self, n: int) -> None:
        async with asyncio.timeout(10):
            while n not in self.seen:  # noqa: ASYNC110 - a list tells nobody
                await asyncio.sleep(0.005)


async def test_a_command_is_acted_upon_once_and_seen(tmp_path: Path) -> None:
    async with Life(tmp_path / "log") as life:
        life.log.take(1, StopTurn(prompt_id="p"))
        assert life.acted == [(1, StopTurn(prompt_id="p"))] and life.seen == [0]
        await life.until_seen(1)
        life.log.take(1, StopTurn(prompt_id="p"))
        life.log.take(2, None)
        await life.until_seen(2)
        assert len(life.acted) == 1


async def test_what_was_not_done_is_done_in_the_next_life(tmp_path: Path) -> None:
    path = tmp_path / "log"
    async with Life(path) as first:
        for n in (1, 2, 3):
            first.log.take(n, StopTurn(prompt_id=f"p{n}"))
        first.log.done(2)
        await first.until_seen(3)
    with path.open("ab") as file:
        file.write(b'{"n":4,"comm')
    async with Life(path) as second:
        assert [n for n, _ in second.acted] == [1, 3] and second.seen == [3]
        second.log.done(1)
        second.log.done(3)
        second.log.take(4, StopTurn(prompt_id="p4"))
        await second.until_seen(4)
        second.log.done(4)
    async with Life(path) as third:
        assert third.acted == [] and third.log.last == 4


async def test_another_sandbox_begins_anew(tmp_path: Path) -> None:
    async with Life(tmp_path / "log") as first:
        first.log.take(1, StopTurn(prompt_id="p"))
    async with Life(tmp_path / "log", "box_2") as other:
        assert other.acted == [] and other.log.last == 0


async def test_the_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "log"
    async with Life(path) as life:
        for n in range(1, 3_000):
            life.log.take(n, StopTurn(prompt_id="p" * 100))
            life.log.done(n)
        assert path.stat().st_size < 300_000
    async with Life(path) as again:
        assert again.log.last == 2_999 and not again.acted
