"""The whole path with the real agent: a prompt goes in over the bridge, what it does comes out as events."""

from __future__ import annotations

import pytest

from .box import Box
from .door import Door

pytestmark = pytest.mark.anyio


async def test_a_prompt_becomes_text_tools_and_an_end(box: Box, door: Door) -> None:
    box.configure()
    ready = await door.ready()
    assert ready.agent.startswith("opencode 1.")
    turn = box.prompt("prm_1", "think 3 words\nsay 5 words\nrun: echo hi\nsay: bye")
    ended = await door.ended(turn)
    assert ended.outcome == "completed", ended
    assert [event.kind for turn_id, event in door.events if turn_id == turn] == [
        "reasoning",
        "text",
        "tool.started",
        "tool.finished",
        "step.finished",
        "text",
        "text",
        "step.finished",
        "turn.ended",
    ]
    assert door.of("text", turn)[0].text == "word1 word2 word3 word4 word5\n"
    (finished,) = door.of("tool.finished", turn)
    assert (finished.tool, finished.state, finished.output) == ("bash", "completed", "hi\n")
    assert not door.faults and not door.commands
