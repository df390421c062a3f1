"""Turns with the real agent and the scripted model: one sandbox, one prompt after the other."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from openinspect.protocol.commands import AnswerQuestion, Identity, ModelChoice
from openinspect.protocol.events import AttachmentInfo
from openinspect.testing import ScriptedModel

from .box import AUTHOR, NO_TOOLBOX, Box, git, make_repository, open_toolbox, toolbox
from .door import AGENT_TOKEN, Door

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(toolbox() is None, reason=NO_TOOLBOX),
]
_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def open_root() -> Iterator[Path]:
    # Not in pytest's own folder: the agent has an account of its own here, which can't enter that.
    with tempfile.TemporaryDirectory(prefix="openinspect-turns-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
async def box(open_root: Path, model: ScriptedModel) -> AsyncIterator[Box]:
    repositories = open_root / "repositories"
    make_repository(
        repositories, "widgets", {"README.md": "# Widgets\n", "widgets.py": "def count():\n    return 1\n"}
    )
    models = {"anthropic": model.anthropic_url, "openai": model.openai_url, "opencode": model.opencode_url}
    async with (
        Door(open_root / "gateway.sock", repositories, models) as door,
        Box(
            open_root / "box",
            door,
            uid=23_456,
            tools=open_toolbox(open_root),
            tools_path="/tools/mcp",
            question_seconds=3,
        ) as running,
    ):
        running.configure()
        await door.ready(100)
        yield running


async def ran(box: Box, text: str, **more: Any) -> list[Any]:
    """Events of a turn that runs to its end."""
    turn = box.prompt(f"prm_{next(_numbers)}", text, **more)
    await box.door.ended(turn)
    assert not box.door.faults
    return [event for turn_id, event in box.door.events if turn_id == turn]


def only(events: list[Any], kind: str) -> Any:
    found = [event for event in events if event.kind == kind]
    assert len(found) == 1, [event.kind for event in events]
    return found[0]


async def test_a_prompt_becomes_text_tools_and_an_end(box: Box) -> None:
    events = await ran(box, "think 3 words\nsay 5 words\nrun: echo hi\nsay: bye")
    assert [event.kind for event in events] == [
        *("reasoning", "text", "tool.started", "tool.finished", "step.finished"),
        *("text", "text", "step.finished", "turn.ended"),
    ]
    assert events[1].text == "word1 word2 word3 word4 word5\n"
    finished = only(events, "tool.finished")
    assert (finished.tool, finished.state, finished.output) == ("bash", "completed", "hi\n")
    assert events[-1].outcome == "completed"
    await box.door.until(lambda: not box.door.commands)
    assert not box.door.parts


async def test_a_long_text_streams_before_it_is_whole(box: Box) -> None:
    frames = box.door.delta_frames
    events = await ran(box, "say 120 words every 5 ms")
    assert only(events[:1], "text").text.split()[-1] == "word120"
    assert box.door.delta_frames - frames > 3


@pytest.mark.parametrize(
    "choice",
    [
        ModelChoice(provider="anthropic", model="claude-opus-4-5", effort="high"),
        ModelChoice(provider="anthropic", model="claude-sonnet-4-6", effort="low"),
        ModelChoice(provider="openai", model="gpt-5.4", effort="xhigh"),
        ModelChoice(provider="opencode", model="kimi-k2.5"),
    ],
    ids=lambda choice: f"{choice.model}/{choice.effort}",
)
async def test_each_provider_is_reached_with_model_and_effort(
    box: Box, model: ScriptedModel, choice: ModelChoice
) -> None:
    events = await ran(box, "what do you see", model=choice)
    seen = only(events[:1], "text").text
    assert f"Model {choice.model}," in seen
    if choice.model == "claude-opus-4-5":
        assert model.turns[-1].options["thinking"]["budget_tokens"] > 0
    elif choice.effort is not None:
        assert f"effort {choice.effort}" in seen
    assert b"You are watched by a test." in box.door.model_requests[-1]


async def test_images_reach_the_model(box: Box) -> None:
    box.door.attachments["att_1"] = ("image/png", _PIXEL)
    info = AttachmentInfo(id="att_1", name="pixel.png", media_type="image/png", size=len(_PIXEL))
    events = await ran(box, "what do you see", attachments=[info])
    assert "images: image/png" in only(events[:1], "text").text


async def test_an_attachment_that_is_gone_is_a_clear_failure(box: Box) -> None:
    info = AttachmentInfo(id="att_none", name="gone.png", media_type="image/png", size=1)
    (ended,) = await ran(box, "say: never", attachments=[info])
    assert ended.outcome == "failed" and "attachment" in ended.reason and ended.remedy


async def test_commits_are_by_who_prompted_and_differences_are_told(box: Box) -> None:
    repo = box.workspace / "repo"
    events = await ran(
        box,
        "write new.txt: hello\nrun: git add new.txt && git commit -q -m 'Add new.txt' && echo done\nwrite loose.txt: untracked",
    )
    commit = only(events, "commit")
    assert (commit.subject, commit.author) == ("Add new.txt", f"{AUTHOR.name} <{AUTHOR.email}>")
    assert git(repo, "log", "-1", "--format=%an|%ae|%cn|%ce") == (
        "Ada Example|ada@example.invalid|Open-Inspect|open-inspect@example.invalid"
    )
    assert events.index(commit) < len(events) - 1
    diff = box.door.diffs["widgets"]
    assert {file["path"]: file["status"] for file in diff["files"]} == {
        "loose.txt": "added",
        "new.txt": "added",
    }
    assert [event for event in events if event.kind == "diff"][-1].files == 2
    other = Identity(name="Bo Example", email="bo@example.invalid")
    events = await ran(box, "run: git commit -q --allow-empty -m Again", author=other)
    assert only(events, "commit").author == "Bo Example <bo@example.invalid>"
    assert git(repo, "status", "--porcelain") == "?? loose.txt"


async def test_how_a_command_ended_is_told(box: Box) -> None:
    for command, code in (("exit 3", 3), ("true", 0)):
        finished = only(await ran(box, f"run: {command}"), "tool.finished")
        assert (finished.state, finished.exit_code) == ("completed", code)


async def test_tools_of_the_door_are_offered(box: Box) -> None:
    events = await ran(box, 'call *greet {"name": "Ada"}')
    finished = only(events, "tool.finished")
    assert finished.output == "Hello Ada" and finished.tool.endswith("greet")


async def test_commands_see_the_session_and_not_our_secrets(box: Box) -> None:
    events = await ran(box, "run: env")
    output = only(events, "tool.finished").output
    names = {entry.split("=", 1)[0] for entry in output.splitlines()}
    assert "OPENINSPECT_BOOT_MODE=fresh" in output and "OPENINSPECT_SESSION_ID=ses_1" in output
    assert AGENT_TOKEN not in output
    shown = only(await ran(box, f"run: cat {box.config.paths.shared}/opencode.json"), "tool.finished").output
    assert "apiKey" in shown and AGENT_TOKEN not in shown
    assert not {
        name for name in names if name.startswith("OPENCODE_SERVER") or name.startswith("npm_config")
    }, names


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give the agent an account of its own")
async def test_the_agent_has_an_account_of_its_own(box: Box) -> None:
    events = await ran(
        box,
        f"run: id -u; cat {box.state}/spool/owner {box.config_path} 2>&1; echo x >>{box.config.paths.git_config}; "
        f"echo x >>{box.config.paths.shared}/opencode.json; cat {box.config.paths.shared}/opencode.json | head -c 20; kill -0 {box.process and box.process.pid}",
    )
    output = only(events, "tool.finished").output
    assert output.startswith("23456\n") and output.count("Permission denied") == 4, output
    assert "kill: " in output and "not permitted" in output, output
    assert (box.workspace / "repo").stat().st_uid == 23_456


async def test_todos_are_told(box: Box) -> None:
    events = await ran(box, "todo: first | second")
    assert [item.text for item in only(events, "todos").items] == ["first", "second"]


async def test_a_tool_that_fails_is_told_as_such(box: Box) -> None:
    events = await ran(box, "read /nonexistent/file")
    assert only(events, "tool.finished").state == "failed" and events[-1].outcome == "completed"


async def test_long_output_is_cut_and_says_so(box: Box) -> None:
    events = await ran(box, "run: seq 1 3000 | tr '\\n' ' '; seq 1 60000")
    finished = only(events, "tool.finished")
    assert len(finished.output) <= 65_536


async def test_a_question_waits_for_a_person(box: Box) -> None:
    turn = box.prompt(f"prm_{next(_numbers)}", "ask: Which? | red | blue\necho")
    (asked,) = await box.door.until(lambda: box.door.of("question.asked", turn))
    assert [option.label for option in asked.questions[0].options] == ["red", "blue"]
    box.door.command(AnswerQuestion(question_id=asked.question_id, answers=[["blue"]]))
    assert (await box.door.ended(turn)).outcome == "completed"
    assert only(box.door.of("question.closed", turn), "question.closed").outcome == "answered"
    assert "blue" in box.door.of("text", turn)[0].text


async def test_a_question_that_nobody_answers_does_not_hang(box: Box) -> None:
    events = await ran(box, "ask: Which? | red | blue\necho")
    assert only(events, "question.closed").outcome == "timed_out"
    assert "Nobody answered" in next(event.text for event in events if event.kind == "text")


async def test_a_model_that_is_busy_is_asked_again(box: Box) -> None:
    events = await ran(box, "fail 429 retry 1\nsay: at last")
    assert "asked again" in only(events, "warning").remedy
    assert events[-1].outcome == "completed"


@pytest.mark.parametrize(
    ("prompt", "reason", "remedy"),
    [
        ("fail 401 always", "refused the key", "administrator"),
        ("fail 400 always", "HTTP 400", "change the prompt"),
        ("fail 429 retry 900 always", "did not answer", "Wait"),
        ("stop at the limit", "longer than it may be", "smaller pieces"),
    ],
)
async def test_what_the_model_refuses_is_a_clear_failure(
    box: Box, prompt: str, reason: str, remedy: str
) -> None:
    ended = (await ran(box, prompt))[-1]
    assert ended.outcome == "failed"
    assert reason in ended.reason and remedy in ended.remedy, ended


async def test_a_cut_answer_is_asked_for_again(box: Box) -> None:
    events = await ran(box, "cut\nsay: whole again")
    assert events[-1].outcome == "completed", events
    assert any("whole again" in event.text for event in events if event.kind == "text")


async def test_an_unknown_model_is_a_clear_failure(box: Box) -> None:
    ended = (await ran(box, "say: never", model=ModelChoice(provider="anthropic", model="claude-none")))[-1]
    assert ended.outcome == "failed" and "claude-none" in ended.reason, ended


async def test_a_stop_is_quick_and_leaves_nothing(box: Box) -> None:
    turn = box.prompt(f"prm_{next(_numbers)}", "say: First\nrun: sleep 4321 & setsid sleep 4322 & sleep 4323")
    await box.door.until(
        lambda: box.pids("sleep", "4321") and box.pids("sleep", "4322") and box.pids("sleep", "4323")
    )
    began = time.monotonic()
    box.stop(turn)
    assert (await box.door.ended(turn)).outcome == "stopped"
    assert time.monotonic() - began < 5
    await asyncio.sleep(0)
    assert not [pid for number in ("4321", "4322", "4323") for pid in box.pids("sleep", number)]
    finished = box.door.of("tool.finished", turn)
    assert len(finished) == len(box.door.of("tool.started", turn)) == 1
    assert not box.door.of("agent.restarted")
    assert (await ran(box, "say: still here"))[-1].outcome == "completed"


async def test_a_stop_in_the_middle_of_a_text_keeps_what_was_said(box: Box) -> None:
    turn = box.prompt(f"prm_{next(_numbers)}", "say 2000 words every 20 ms")
    await box.door.until(lambda: any("word5" in text for text in box.door.parts.values()))
    box.stop(turn)
    assert (await box.door.ended(turn)).outcome == "stopped"
    assert "word5" in only(box.door.of("text", turn), "text").text
    assert not box.door.parts


async def test_a_prompt_that_waits_is_stopped_at_once(box: Box) -> None:
    first = box.prompt(f"prm_{next(_numbers)}", "sleep 1")
    second = box.prompt(f"prm_{next(_numbers)}", "say: never")
    box.stop(second)
    assert (await box.door.ended(first)).outcome == "completed"
    assert (await box.door.ended(second)).outcome == "stopped"
    assert not box.door.of("text", second)


async def test_the_conversation_is_remembered(box: Box, model: ScriptedModel) -> None:
    await ran(box, "say: the word is heliotrope")
    await ran(box, "say: and now")
    assert model.turns[-1].turn > 2
    assert {request.kind for request in model.requests} == {"turn"}, (
        "a small model was asked, for a title or the like"
    )
