"""Finding the place in a script from the request alone."""

import httpx2
import pytest

from openinspect.testing import ScriptedModel
from openinspect.testing.answer import Answer, Text, Use
from openinspect.testing.conversation import Call, Conversation, Exchange
from openinspect.testing.director import Attempts, direct
from openinspect.testing.script import Script

from .conftest import PATHS

SCRIPT = Script.model_validate(
    {
        "name": "small",
        "scenarios": [
            {
                "name": "by header",
                "when": {"headers": {"X-Test": "^yes$"}},
                "steps": [{"name": "only", "text": "A header."}],
            },
            {
                "name": "second prompt",
                "when": {"turn": 2, "model": "^small"},
                "steps": [{"name": "only", "text": "The second prompt."}],
            },
            {
                "name": "search",
                "when": {"prompt": r"find (?P<what>\w+)"},
                "steps": [
                    {
                        "name": "grep",
                        "call": [{"tool": "grep", "args": {"pattern": "{{what}}"}}, {"tool": "bash"}],
                    },
                    {"name": "missing", "when": {"result": "nothing"}, "text": "{{what}} is not there."},
                    {"name": "failed", "when": {"failed": True}, "text": "It failed."},
                    {
                        "name": "both",
                        "when": {"after": "grep", "result": r"(?P<file>\S+):{{what}}"},
                        "calls": [{"tool": "read", "args": {"path": "{{file}}"}}, {"tool": "r*"}],
                    },
                    {
                        "name": "end",
                        "when": {"after": "both"},
                        "capture": ["size (?P<size>\\d+)"],
                        "text": "{{file}} {{size}}",
                    },
                ],
            },
        ],
    }
)


def conversation(
    prompt: str = "find it", *results: str, failed: bool = False, **more: object
) -> Conversation:
    exchanges = [
        Exchange([Call(str(n), "grep", {})], {str(n): text}, failed=failed) for n, text in enumerate(results)
    ]
    given = {"turn": 1, "tools": ["bash", "grep", "read"], **more}
    return Conversation("chat", "any", True, prompt=prompt, exchanges=exchanges, **given)  # pyright: ignore[reportArgumentType]


def answer(asked: Conversation) -> Answer:
    return direct(SCRIPT, asked, Attempts())


def text(asked: Conversation) -> str:
    return answer(asked).said(Text)


def test_the_first_step_uses_the_prompt():
    use = answer(conversation()).parts[0]
    assert isinstance(use, Use)
    assert (use.name, use.arguments) == ("grep", {"pattern": "it"})


def test_the_first_alternative_that_is_offered_is_called():
    use = answer(conversation(tools=["bash", "read"])).parts[0]
    assert isinstance(use, Use)
    assert use.name == "bash"


def test_results_decide_the_next_step():
    assert text(conversation("find it", "nothing")) == "it is not there."
    assert text(conversation("find it", "x", failed=True)) == "It failed."
    uses = answer(conversation("find it", "a.py:it")).parts
    assert [use.arguments for use in uses if isinstance(use, Use)] == [{"path": "a.py"}, {}]


def test_terminal_colours_are_no_part_of_a_result():
    assert text(conversation("find it", "\x1b[1;31mnothing\x1b[0m")) == "it is not there."


def test_captures_live_until_the_end_of_the_turn():
    assert text(conversation("find it", "a.py:it", "size 12")) == "a.py 12"


def test_what_was_not_seen_is_not_invented():
    said = text(conversation("find it", "a.py:it", "no number"))
    assert "'size'" in said
    assert "search" in said


def test_it_says_where_it_is_lost():
    said = text(conversation("find it", "something else"))
    assert "After step “grep” no step fits" in said
    assert "something else" in said
    assert "not a language model" in text(conversation("sing"))
    assert "never made" in text(conversation("find it", "nothing", "more"))
    assert "wants the tool “bash”" not in text(conversation("find it", tools=["read", "bash"]))
    assert "offered are: none" in text(conversation("find it", tools=[]))


def test_headers_models_and_turns_choose_a_scenario():
    assert text(conversation("x", headers={"x-test": "yes"})) == "A header."
    assert "not a language model" in text(conversation("x", turn=2))
    small = conversation("x", turn=2)
    small.model = "small-1"
    assert text(small) == "The second prompt."


def test_old_attempts_are_forgotten():
    attempts = Attempts()
    assert [attempts.seen("first"), attempts.seen("first")] == [0, 1]
    for number in range(5000):
        attempts.seen(str(number))
    assert attempts.seen("first") == 0


@pytest.mark.anyio
async def test_the_bench_turn_writes_commits_and_ends(client: httpx2.AsyncClient):
    tools = [{"name": name} for name in ("bash", "write")]
    messages: list[object] = [{"role": "user", "content": "turn 7"}]
    calls: list[str] = []
    async with ScriptedModel("bench") as model:
        for result in ("Wrote file", "1234567 Turn 1", ""):
            request = {"model": "m", "messages": messages, "tools": tools}
            said = (await client.post(model.url + PATHS["anthropic"], json=request)).json()["content"]
            if said[-1]["type"] == "text":
                assert said[-1]["text"] == "Written and committed."
                break
            calls.append(said[-1]["name"])
            messages.append({"role": "assistant", "content": said})
            block = {"type": "tool_result", "tool_use_id": said[-1]["id"], "content": result}
            messages.append({"role": "user", "content": [block]})
    assert calls == ["write", "bash"]
