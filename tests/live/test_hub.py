"""What a channel keeps of the parts that are being written is bounded."""

from __future__ import annotations

import pytest

from openinspect.live.hub import MAX_OPEN_CHARACTERS, MAX_PART_CHARACTERS, Channel
from openinspect.protocol.frames import Delta

pytestmark = pytest.mark.anyio


async def _nothing(_session: str, _after: int, _limit: int) -> list:
    return []


def _delta(part: int, offset: int, text: str) -> Delta:
    return Delta(turn_id="t", part_id=f"p{part}", kind="text", offset=offset, text=text)


async def test_all_parts_together_are_bounded() -> None:
    channel = Channel("s", 0, _nothing)
    for part in range(8):
        channel.write([_delta(part, 0, "x" * 600_000)])
        channel.write([_delta(part, 600_000, "x" * 400_000)])
        channel.write([_delta(part, MAX_PART_CHARACTERS, "beyond")])
    kept = {part_id: len(part.text) for part_id, part in channel.open_parts.items()}
    assert kept == {f"p{part}": MAX_PART_CHARACTERS for part in range(4)}
    assert sum(kept.values()) == MAX_OPEN_CHARACTERS
    channel.write([_delta(0, 0, "again from the beginning")])  # what it makes free is for others
    channel.write([_delta(9, 0, "x" * 900_000)])
    assert len(channel.open_parts["p9"].text) == 900_000
