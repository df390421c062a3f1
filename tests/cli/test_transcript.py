"""How a stream of events reads: in order, untorn, with what runs and what it came to."""

from __future__ import annotations

import io
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console

from openinspect.cli.transcript import Transcript

BY = {"id": "usr_1", "name": "Robin"}


class _Reader:
    """A transcript and what it has printed."""

    def __init__(self, *, terminal: bool = False) -> None:
        self.kept = io.StringIO()
        console = Console(file=self.kept, force_terminal=terminal, width=100, color_system=None)
        self.transcript = Transcript(console, "ses_1")
        self.seq = 0

    def say(self, *bodies: dict[str, Any], ago: float = 0) -> None:
        at = (datetime.now(UTC) - timedelta(seconds=ago)).isoformat()
        events = [
            {"seq": self.seq + n, "at": at, "turn_id": None, "body": body} for n, body in enumerate(bodies, 1)
        ]
        self.seq += len(bodies)
        self.transcript.events(events)

    def write(self, part: str, offset: int, text: str) -> None:
        self.transcript.deltas([{"part_id": part, "kind": "text", "offset": offset, "text": text}])

    @property
    def text(self) -> str:
        return self.kept.getvalue()

    def until(self, words: str) -> None:
        deadline = time.monotonic() + 20
        while words not in self.text:
            assert time.monotonic() < deadline, self.text
            time.sleep(0.02)


def _queued(prompt: str, text: str) -> dict[str, Any]:
    return {"kind": "prompt.queued", "prompt_id": prompt, "author": BY, "text": text}


def _finished(prompt: str, status: str = "completed") -> dict[str, Any]:
    return {
        **{
            "kind": "turn.finished",
            "prompt_id": prompt,
            "status": status,
            "reason": "",
            "remedy": "",
            "done": [],
        },
        **{"duration_ms": 1000, "input_tokens": 10, "output_tokens": 5, "cost_usd": 0.5},
    }


def _tool(call: str, command: str, **finished: Any) -> dict[str, Any]:
    body = {"kind": "tool.started", "call_id": call, "tool": "bash", "input": {"command": command}}
    return (
        {**body, "kind": "tool.finished", "state": "completed", "output": "", **finished}
        if finished
        else body
    )


_COMMIT = {"kind": "commit", "sha": "a" * 40, "subject": "Add [/a] note", "author": "Robin"}


def test_a_commit_does_not_tear_a_sentence() -> None:
    reader = _Reader()
    reader.write("p1", 0, "I have ")
    reader.say(_COMMIT)
    reader.write("p1", 7, "finished.")
    reader.say({"kind": "text", "part_id": "p1", "text": "I have finished."})
    assert "I have finished.\n" in reader.text
    assert reader.text.index("finished.") < reader.text.index("● commit aaaaaaaaaa Add [/a] note")
    assert reader.text.count("● commit") == 1


def test_a_prompt_stands_where_its_turn_begins() -> None:
    reader = _Reader()
    reader.say(_queued("a", "First"), {"kind": "turn.started", "prompt_id": "a"}, _queued("b", "Second"))
    reader.say({"kind": "text", "part_id": "p1", "text": "One."}, _finished("a"))
    reader.say({"kind": "turn.started", "prompt_id": "b"}, {"kind": "text", "part_id": "p2", "text": "Two."})
    places = [
        reader.text.index(words)
        for words in ("\nRobin: First", "queued: Robin: Second", "One.", "\nRobin: Second", "Two.")
    ]
    assert places == sorted(places)
    assert reader.text.count("Robin: First") == 1


def test_prompts_from_before_the_stream_are_shown_when_their_turn_comes() -> None:
    reader = _Reader()
    reader.transcript.know([{"id": "a", "status": "queued", "author": BY, "text": "Waiting"}])
    reader.say(_queued("b", "Behind"), {"kind": "turn.started", "prompt_id": "a"})
    assert "queued: Robin: Behind" in reader.text
    assert "\nRobin: Waiting" in reader.text


def test_a_tool_that_takes_long_is_told_of_in_a_pipe() -> None:
    reader = _Reader()
    reader.say(_tool("c1", "make test"), ago=60)
    reader.until("… bash  make test (it runs)\n")
    reader.say(_tool("c1", "make test", output="fine"))
    assert "✓ bash  make test" in reader.text
    reader.transcript.close()


def test_a_tool_that_is_quick_is_told_of_once() -> None:
    reader = _Reader()
    reader.say(_tool("c1", "true"), _tool("c1", "true", output="fine"))
    reader.transcript.close()
    assert "it runs" not in reader.text


def test_a_terminal_shows_what_runs_and_for_how_long() -> None:
    reader = _Reader(terminal=True)
    reader.say(_tool("c1", "make [/x] test"), ago=65)
    reader.until("… bash  make [/x] test · 65 s")
    reader.until("66 s")
    reader.say(_tool("c1", "make [/x] test", output="fine"))
    assert "✓ bash  make [/x] test" in reader.text.rpartition("66 s")[2]
    reader.transcript.close()


def test_an_exit_code_is_no_success() -> None:
    reader = _Reader()
    reader.say(_tool("c1", "exit 3", output="", exit_code=3))
    assert "✗ bash  exit 3  (exit code 3)" in reader.text
    reader.say(_tool("c2", "exit 0", exit_code=0))
    assert "✓ bash  exit 0\n" in reader.text


def test_a_scripted_model_costs_nobody_anything() -> None:
    called = {"kind": "model.called", "scripted": True}
    reader = _Reader()
    reader.say({"kind": "turn.started", "prompt_id": "a"}, called, _finished("a"))
    assert "$0.5000 (scripted" in reader.text
    reader.say({"kind": "turn.started", "prompt_id": "b"}, {**called, "scripted": False}, _finished("b"))
    assert "$0.5000\n" in reader.text


def test_what_failed_says_how_to_run_it_again() -> None:
    reader = _Reader()
    reader.say(_finished("prm_7", "failed"))
    assert "sessions retry ses_1 prm_7" in reader.text


def test_a_question_says_how_it_is_answered_here() -> None:
    reader = _Reader()
    reader.say(
        {"kind": "question.asked", "question_id": "que_1", "questions": [{"text": "Which?", "options": []}]}
    )
    assert "sessions answer ses_1 que_1 TEXT" in reader.text


def test_colours_of_a_tool_are_left_out_whole() -> None:
    reader = _Reader()
    reader.say(_tool("c1", "ls", output="\x1b[31mred\x1b[0m [/x]"))
    assert "    red [/x]\n" in reader.text
