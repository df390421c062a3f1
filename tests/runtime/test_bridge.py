"""The real bridge process between an outbox and a door that holds it to the protocol: nothing lost, nothing twice, in order."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from openinspect.protocol.commands import Command, StopTurn
from openinspect.protocol.config import AgentConfig, Paths, RuntimeConfig
from openinspect.protocol.config import Door as DoorConfig
from openinspect.protocol.events import TextPart, Warned
from openinspect.runtime.outbox import Outbox

from .door import TOKEN, Door

pytestmark = pytest.mark.anyio


class Side:
    """The sandbox's side: an outbox, and a bridge process that is started again when it ends, as the supervisor does."""

    def __init__(self, root: Path, door: Door, spool_bytes: int = 1 << 22) -> None:
        self.state = root / "state"
        self.state.mkdir(mode=0o700)
        config = RuntimeConfig(
            sandbox_id="box_1",
            token=TOKEN,
            door=DoorConfig(socket=str(door.socket)),
            agent=AgentConfig(providers=[], default_model="a/b", small_model="a/b"),
            paths=Paths(state=str(self.state)),
        )
        self.path = root / "runtime.json"
        self.path.write_text(config.model_dump_json())
        self.commands: list[tuple[int, Command | str]] = []
        self.refusals: list[tuple[int, str]] = []
        self.outbox = Outbox(
            self.state,
            "box_1",
            spool_bytes,
            lambda n, command: self.commands.append((n, command)),
            lambda code, reason: self.refusals.append((code, reason)),
        )
        self.bridge: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Side:
        await self.outbox.start()
        self._keeping = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._keeping is not None
        self._keeping.cancel()
        if self.bridge is not None and self.bridge.returncode is None:
            self.bridge.kill()
            await self.bridge.wait()
        await self.outbox.close()

    async def _keep(self) -> None:
        while True:
            self.bridge = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "openinspect.runtime.bridge", str(self.path)),
                env={"PATH": os.environ["PATH"]},
                stderr=asyncio.subprocess.DEVNULL,
            )
            await self.bridge.wait()
            await asyncio.sleep(0.02)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with Door(tmp_path / "gateway.sock") as running:
        yield running


@pytest.fixture
async def side(tmp_path: Path, door: Door) -> AsyncIterator[Side]:
    async with Side(tmp_path, door) as running:
        yield running


def note(text: str) -> Warned:
    return Warned(scope="test", message=text)


async def write_parts(side: Side, parts: int, pieces: int, pause: float = 0.0) -> list[str]:
    """Stream parts as an agent would: deltas, then the whole."""
    wholes = []
    for number in range(parts):
        whole = ""
        for piece in range(pieces):
            text = f"{number}.{piece} è "
            whole += text
            side.outbox.delta("prm_1", f"part_{number}", "text", text)
            await asyncio.sleep(pause)
        await side.outbox.emit(
            TextPart(part_id=f"part_{number}", text=whole), "prm_1", closes=f"part_{number}"
        )
        wholes.append(whole)
    return wholes


async def test_deltas_are_coalesced_and_replaced_by_the_whole(side: Side, door: Door) -> None:
    await door.until(lambda: door.hellos)
    began = time.monotonic()
    wholes = await write_parts(side, 3, 300, 0.001)
    await door.until(lambda: len(door.events) == 3)
    took = time.monotonic() - began
    assert [event.text for _, event in door.events] == wholes
    assert all(turn == "prm_1" for turn, _ in door.events)
    assert 3 <= door.delta_frames <= took * 31 + 10
    assert not door.faults and not door.parts


async def test_a_part_that_is_open_is_sent_from_its_beginning_to_a_new_bridge(side: Side, door: Door) -> None:
    side.outbox.delta("prm_1", "part_1", "text", "Once upon ")
    await door.until(lambda: door.parts.get("part_1") == "Once upon ")
    assert side.bridge is not None
    side.bridge.kill()
    await door.until(lambda: len(door.hellos) == 2)
    side.outbox.delta("prm_1", "part_1", "text", "a time")
    await door.until(lambda: door.parts.get("part_1") == "Once upon a time")
    assert not door.faults


async def test_dropped_connections_leave_no_gap_and_no_duplicate(side: Side, door: Door) -> None:
    dropped, wholes = asyncio.Event(), []

    async def write() -> None:
        while not dropped.is_set():
            part, whole = f"part_{len(wholes)}", ""
            for piece in range(20):
                whole += f"{len(wholes)}.{piece} è "
                side.outbox.delta("prm_1", part, "text", f"{len(wholes)}.{piece} è ")
                await asyncio.sleep(0.001)
            await side.outbox.emit(TextPart(part_id=part, text=whole), "prm_1", closes=part)
            wholes.append(whole)

    writing = asyncio.create_task(write())
    for number in range(10):
        await door.until(lambda number=number: len(door.hellos) > number)
        await asyncio.sleep(0.03)
        await door.drop()
    dropped.set()
    await writing
    await door.until(lambda: len(door.events) == len(wholes))
    assert [event.text for _, event in door.events] == wholes
    assert len(door.hellos) == 11 and not door.faults


async def test_killed_bridges_and_lost_answers_leave_no_gap_and_no_duplicate(side: Side, door: Door) -> None:
    total = 3_000

    async def flood() -> None:
        for number in range(total):
            await side.outbox.emit(note(str(number)))
            if number % 50 == 0:
                await asyncio.sleep(0.002)

    flooding = asyncio.create_task(flood())
    door.drop_every = 5
    for _ in range(4):
        seen = len(door.hellos)
        await door.until(lambda seen=seen: len(door.hellos) > seen)
        assert side.bridge is not None
        side.bridge.kill()
    door.drop_every = None
    await flooding
    await door.until(lambda: len(door.events) == total)
    assert [event.message for _, event in door.events] == [str(number) for number in range(total)]
    assert not door.faults
    assert await side.outbox.delivered(total, 10)


async def test_the_window_and_the_spool_hold_the_writer_back(tmp_path: Path, door: Door) -> None:
    async with Side(tmp_path / "small", door, spool_bytes=600_000) as side:
        door.counting = False
        written = 0

        async def flood() -> None:
            nonlocal written
            for number in range(9_000):
                await side.outbox.emit(note(f"{number} {'x' * 60}"))
                written += 1

        flooding = asyncio.create_task(flood())
        await door.until(lambda: door.hellos)
        await asyncio.sleep(0.3)
        assert 1_000 < written < 6_000
        assert sum(path.stat().st_size for path in (side.state / "spool").glob("*.seg")) < 700_000
        door.counting = True
        await door.drop()
        await flooding
        await door.until(lambda: len(door.events) == 9_000)
        assert not door.faults


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()


async def test_commands_come_once_more_until_they_are_seen(side: Side, door: Door) -> None:
    await door.until(lambda: door.hellos)
    door.command(StopTurn(prompt_id="prm_1"))
    await door.until(lambda: side.commands)
    await door.drop()
    await door.until(lambda: len(side.commands) == 2)
    assert side.commands[0] == side.commands[1] == (1, StopTurn(prompt_id="prm_1"))
    side.outbox.seen(1)
    await door.until(lambda: not door.commands)
    await door.drop()
    await door.until(lambda: len(door.hellos) == 3)
    assert door.hellos[-1].commands_seen == 1


async def test_a_door_that_is_away_is_dialled_until_it_is_back(side: Side, door: Door) -> None:
    await door.until(lambda: door.hellos)
    await door.down()
    await side.outbox.emit(note("meanwhile"))
    await asyncio.sleep(0.3)
    await door.up()
    await door.until(lambda: len(door.events) == 1)
    assert not side.refusals


async def test_a_refused_token_is_told(side: Side, door: Door) -> None:
    await door.until(lambda: door.hellos)
    door.token = None
    await door.drop()
    await door.until(lambda: side.refusals)
    assert side.refusals[0][0] == 4401


async def test_state_is_told_at_once_when_it_changes(side: Side, door: Door) -> None:
    await door.until(lambda: door.hellos)
    side.outbox.tell(agent="busy", running="prm_1", processes=3)
    beat: Any = (await door.until(lambda: door.beats))[-1]
    assert (beat.agent, beat.running, beat.processes) == ("busy", "prm_1", 3)


async def test_text_that_json_or_postgres_refuse_is_made_fit(side: Side, door: Door) -> None:
    await side.outbox.emit(
        Warned.model_construct(kind="warning", scope="test", message="a\x00b\ud800c", remedy="")
    )
    await side.outbox.emit(
        TextPart.model_construct(kind="text", part_id="p", text="\x01" * 1_000_000, truncated=False)
    )
    await door.until(lambda: len(door.events) == 2)
    assert door.events[0][1].message == "a\ufffdb\ufffdc"
    assert door.events[1][1].truncated and not door.faults


@pytest.mark.parametrize(
    "junk",
    [
        "not json",
        "[]",
        '{"type": "counted"}',
        '{"type": "counted", "n": -1}',
        '{"type": "command", "n": 1, "command": {"kind": "from the future"}}',
        '{"type": "command", "n": "x"}',
        '{"type": "hello"}',
        b"\xff\xfe",
    ],
)
async def test_what_can_not_be_understood_does_no_harm(side: Side, door: Door, junk: str | bytes) -> None:
    await door.until(lambda: door.hellos)
    websocket = door._websocket
    assert websocket is not None
    if isinstance(junk, bytes):
        await websocket.send_bytes(junk)
    else:
        await websocket.send_text(junk)
    await side.outbox.emit(note("still here"))
    await door.until(lambda: door.events)
    assert side.bridge is not None and side.bridge.returncode is None
    assert [command for _, command in side.commands if command != "from the future"] == []
