"""Things that die in the middle of a streaming turn: nothing is lost, nothing is said twice, and the turn goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from openinspect.testing import ScriptedModel

from .box import NO_TOOLBOX, Box, FakeBox, make_repository, toolbox
from .door import Door

pytestmark = pytest.mark.anyio

PROMPT = "say 150 words every 10 ms\nrun: echo one\nsay 150 words every 10 ms\nrun: echo two\nsay: the end"


def whole(door: Door, turn: str) -> None:
    """The turn of PROMPT, complete and everything once."""
    assert not door.faults
    events = [event for turn_id, event in door.events if turn_id == turn]
    texts = [event.text.strip() for event in events if event.kind == "text"]
    words = " ".join(f"word{n}" for n in range(1, 151))
    assert texts[:2] == [words, words] and "the end" in texts[2:]
    assert [event.output for event in events if event.kind == "tool.finished"] == ["one\n", "two\n"]
    parts = Counter(event.part_id for event in events if event.kind in ("text", "reasoning"))
    calls = Counter(event.call_id for event in events if event.kind == "tool.finished")
    assert set(parts.values()) == set(calls.values()) == {1}
    assert events[-1].kind == "turn.ended" and events[-1].outcome == "completed"
    assert not door.parts


async def streaming(door: Door, word: str = "word20 ") -> None:
    await door.until(lambda: any(word in text for text in door.parts.values()))


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory, model: ScriptedModel) -> AsyncIterator[Box]:
    """One sandbox for all that it survives."""
    if toolbox() is None:
        pytest.skip(NO_TOOLBOX)
    root = tmp_path_factory.mktemp("faults")
    make_repository(root / "repositories", "widgets", {"README.md": "# Widgets\n"})
    models = {"anthropic": model.anthropic_url}
    async with (
        Door(root / "gateway.sock", root / "repositories", models) as door,
        Box(root / "box", door) as running,
    ):
        running.configure()
        await door.ready()
        yield running


async def test_kill_9_of_the_bridge(shared: Box) -> None:
    door = shared.door
    turn = shared.prompt("prm_bridge", PROMPT)
    await streaming(door)
    hellos = len(door.hellos)
    (bridge,) = shared.pids("openinspect.runtime.bridge")
    os.kill(bridge, signal.SIGKILL)
    await door.ended(turn)
    whole(door, turn)
    (hello,) = door.hellos[hellos:]
    assert hello.running == turn and hello.agent == "busy"
    (again,) = shared.pids("openinspect.runtime.bridge")
    assert again != bridge


async def test_the_stream_s_socket_dropped_ten_times(shared: Box) -> None:
    door = shared.door
    turn = shared.prompt("prm_socket", PROMPT)
    await streaming(door)
    for _ in range(10):
        seen = len(door.hellos)
        await door.drop()
        await door.until(lambda seen=seen: len(door.hellos) > seen)
    await door.ended(turn)
    whole(door, turn)


async def test_kill_9_of_opencode(shared: Box, model: ScriptedModel) -> None:
    door = shared.door
    before = shared.prompt("prm_before", "say: before")
    await door.ended(before)
    turns = model.turns[-1].turn
    turn = shared.prompt("prm_opencode", "run: echo kept\nsay 300 words every 10 ms\nsay: never")
    await streaming(door)
    (server,) = shared.pids("serve", "--hostname")
    os.kill(server, signal.SIGKILL)
    ended = await door.ended(turn)
    assert not door.faults
    assert ended.outcome == "completed", ended
    (restarted,) = door.of("agent.restarted")
    assert "SIGKILL" in restarted.reason
    (resumed,) = door.of("turn.resumed", turn)
    assert "SIGKILL" in resumed.reason
    texts = door.of("text", turn)
    assert "word20" in texts[0].text, "what was said before it died is kept"
    assert len({event.part_id for event in texts}) == len(texts)
    (finished,) = door.of("tool.finished", turn)
    assert finished.output == "kept\n"
    # The new process has the memory of what was said before.
    assert "restarted in the middle of your work" in model.turns[-1].prompt
    assert model.turns[-1].turn == turns + 2
    assert not door.parts


async def test_kill_9_of_opencode_before_it_has_begun(box: Box, door: Door) -> None:
    """Whatever is just being asked of it: the turn waits for the next process, and uses one attempt."""
    box.configure()
    await door.ready()
    await door.ended(box.prompt("prm_warm", "say: warm"))
    for number, delay in enumerate((0.0, 0.05)):
        turn = box.prompt(f"prm_{number}", "run: sleep 0.1\nsay: done")
        await asyncio.sleep(delay)
        (server,) = box.pids("serve", "--hostname")
        os.kill(server, signal.SIGKILL)
        ended = await door.ended(turn)
        assert ended.outcome == "completed", (delay, ended)
        assert len(door.of("turn.resumed", turn)) <= 1
        assert len(door.of("agent.restarted")) == number + 1
    assert not door.faults


async def test_an_agent_that_hangs_is_ended_and_the_turn_goes_on(tmp_path: Path, door: Door) -> None:
    if toolbox() is None:
        pytest.skip(NO_TOOLBOX)
    async with Box(tmp_path / "box", door, unanswered_seconds=6) as box:
        box.configure()
        await door.ready()
        turn = box.prompt("prm_1", "say 200 words every 10 ms\nsay: done")
        await streaming(door)
        (server,) = box.pids("serve", "--hostname")
        os.kill(server, signal.SIGSTOP)
        ended = await door.ended(turn)
        assert ended.outcome == "completed", ended
        assert len(door.of("turn.resumed", turn)) == len(door.of("agent.restarted")) == 1
        assert not door.faults


async def test_an_agent_that_is_slow_to_answer_is_waited_for(tmp_path: Path, door: Door) -> None:
    if toolbox() is None:
        pytest.skip(NO_TOOLBOX)
    async with Box(tmp_path / "box", door, unanswered_seconds=15) as box:
        box.configure()
        await door.ready()
        turn = box.prompt("prm_1", "say 200 words every 10 ms\nsay: done")
        await streaming(door)
        (server,) = box.pids("serve", "--hostname")
        os.kill(server, signal.SIGSTOP)
        await asyncio.sleep(9)
        os.kill(server, signal.SIGCONT)
        ended = await door.ended(turn)
        assert ended.outcome == "completed", ended
        assert not door.of("agent.restarted") and not door.of("turn.resumed", turn)
        assert not door.faults


async def test_kill_9_of_opencode_while_a_tool_runs(shared: Box) -> None:
    door = shared.door
    turn = shared.prompt("prm_tool", "run: sleep 4330")
    await door.until(lambda: shared.pids("sleep", "4330"))
    (server,) = shared.pids("serve", "--hostname")
    os.kill(server, signal.SIGKILL)
    assert (await door.ended(turn)).outcome == "completed"
    (finished,) = door.of("tool.finished", turn)
    assert finished.state == "failed" and finished.tool == "bash"
    assert len(door.of("turn.resumed", turn)) == 1
    assert not shared.pids("sleep", "4330")


async def test_kill_9_of_the_whole_runtime(box: Box, door: Door, model: ScriptedModel) -> None:
    """The same sandbox comes up again on what it left behind: the turn goes on where it was."""
    box.configure()
    await door.ready()
    turn = box.prompt("prm_1", "run: echo once\nsay 200 words every 10 ms")
    await streaming(door)
    assert box.process is not None
    below = box.processes_of(box.process.pid)
    for pid in [box.process.pid, *below]:
        os.kill(pid, signal.SIGKILL)
    await box.process.wait()
    await box.start()
    ended = await door.ended(turn)
    assert ended.outcome == "completed", ended
    assert not door.faults
    assert len(door.of("turn.resumed", turn)) == 1 and len(door.of("turn.ended", turn)) == 1
    (finished,) = door.of("tool.finished", turn)
    assert finished.output == "once\n"
    assert len(door.of("sandbox.ready")) == 2
    # In another sandbox that got the same home, the agent still knows what was said.
    turns = model.turns[-1].turn
    assert await box.end() == 0
    shutil.rmtree(box.state)
    other = Door(door.socket, door.repositories, door.models)
    await door.down()
    async with other, Box(box.root, other, sandbox_id="box_2") as second:
        second.configure()
        await other.ready()
        assert other.of("checked_out")[0].restored
        await other.ended(second.prompt("prm_2", "say: still me"))
        assert model.turns[-1].turn == turns + 1


async def test_what_does_not_stop_is_killed(fake_box: FakeBox, door: Door) -> None:
    fake_box.configure()
    await door.ready()
    turn = fake_box.prompt("prm_1", "run: echo begun\nhang")
    await door.until(lambda: door.of("tool.finished", turn))
    began = time.monotonic()
    fake_box.stop(turn)
    assert (await door.ended(turn)).outcome == "stopped"
    assert time.monotonic() - began < 5
    (restarted,) = await door.until(lambda: door.of("agent.restarted"))
    assert "did not stop" in restarted.reason
    after = fake_box.prompt("prm_2", "say still here")
    assert (await door.ended(after)).outcome == "completed"


async def test_an_agent_that_dies_again_and_again_fails_the_turn(fake_box: FakeBox, door: Door) -> None:
    fake_box.configure()
    await door.ready()
    turn = fake_box.prompt("prm_1", "sleep 60")
    for death in range(3):
        await door.until(
            lambda death=death: (
                len(door.of("turn.resumed", turn)) == death
                and door.beats
                and (door.beats[-1].agent, door.beats[-1].running) == ("busy", turn)
            )
        )
        agents = await door.until(lambda: fake_box.pids("while :; do sleep 1000"))
        # While it begins a child, that has its name for a moment.
        os.kill(min(agents), signal.SIGKILL)
        await door.until(lambda death=death: len(door.of("agent.restarted")) > death)
    ended = await door.ended(turn)
    assert ended.outcome == "failed" and "3 times" in ended.reason and ended.remedy


async def test_sigterm_in_a_turn_ends_everything_in_order(fake_box: FakeBox, door: Door) -> None:
    fake_box.configure()
    await door.ready()
    turn = fake_box.prompt("prm_1", "run: sleep 4340")
    await door.until(lambda: door.of("tool.started", turn))
    assert await fake_box.end() == 0
    assert door.of("tool.finished", turn)[0].state == "failed"
    assert "shut down" in door.of("turn.ended", turn)[0].reason


async def test_a_revoked_token_ends_the_runtime(fake_box: FakeBox, door: Door) -> None:
    fake_box.configure()
    await door.ready()
    door.token = None
    await door.drop()
    assert fake_box.process is not None
    async with asyncio.timeout(15):
        assert await fake_box.process.wait() == 1


async def test_orphans_are_reaped(fake_box: FakeBox, door: Door) -> None:
    fake_box.configure()
    await door.ready()
    turn = fake_box.prompt("prm_1", "run: for i in 1 2 3 4 5; do (setsid sh -c 'sleep 0.1; exit 3' &) ; done")
    await door.ended(turn)

    def zombies() -> int:
        assert fake_box.process is not None
        found = 0
        for pid in fake_box.processes_of(fake_box.process.pid):
            with contextlib.suppress(OSError):
                found += Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        return found

    await asyncio.sleep(0.5)
    await door.until(lambda: zombies() == 0, 20)
