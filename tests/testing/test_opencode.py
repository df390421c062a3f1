"""The real OpenCode against the scripted model, in all API families.

One agent process serves all tests, each in a directory of its own; its providers point at the one scripted model.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest

from openinspect.testing import ScriptedModel

from .conftest import git

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
KEY = "sk-scripted-0123456789"

PULL_REQUEST_SERVER = """\
from mcp.server.mcpserver import MCPServer

server = MCPServer("openinspect")


@server.tool()
def create_pull_request(title: str, body: str) -> str:
    with open("../opened.txt", "w") as opened:
        opened.write(title + "\\n" + body)
    return "Pull request #1 is open: http://127.0.0.1/pulls/1"


server.run("stdio")
"""

Found = TypeVar("Found")
TURN_TIMEOUT_S = 90
FAMILIES = {
    "anthropic": "anthropic/claude-sonnet-4-5",
    "responses": "openai/gpt-5.2",
    "chat": "scripted/glm-5",
}


@dataclass
class Agent:
    """A running `opencode serve`."""

    url: str

    def ask(self, method: str, path: str, directory: Path, body: dict[str, Any] | None = None) -> Any:
        response = httpx2.request(
            method, self.url + path, params={"directory": str(directory)}, json=body, timeout=TURN_TIMEOUT_S
        )
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text[:500]}"
        return response.json() if response.content else None

    def session(self, directory: Path, *, title: str | None = "Test") -> str:
        return self.ask("POST", "/session", directory, {"title": title} if title else {})["id"]

    def begin(self, session: str, directory: Path, family: str, prompt: str, *more: dict[str, Any]) -> None:
        """Begin a turn; returns at once."""
        self.ask("POST", f"/session/{session}/prompt_async", directory, self._prompt(family, prompt, *more))

    def turn(self, session: str, directory: Path, family: str, prompt: str, *more: dict[str, Any]) -> str:
        """A whole turn; returns the last message's text."""
        body = self._prompt(family, prompt, *more)
        message = self.ask("POST", f"/session/{session}/message", directory, body)
        return "".join(part["text"] for part in message["parts"] if part["type"] == "text")

    def _prompt(self, family: str, prompt: str, *more: dict[str, Any]) -> dict[str, Any]:
        provider, name = FAMILIES[family].split("/")
        parts = [{"type": "text", "text": prompt}, *more]
        return {"model": {"providerID": provider, "modelID": name}, "parts": parts}

    def said(self, session: str, directory: Path, kind: str = "text") -> str:
        """All that the session's assistant said."""
        messages = self.ask("GET", f"/session/{session}/message", directory)
        parts = [p for m in messages if m["info"]["role"] == "assistant" for p in m["parts"]]
        return "".join(part["text"] for part in parts if part["type"] == kind)


def settings(model: ScriptedModel) -> dict[str, Any]:
    described = {
        "reasoning": True,
        "tool_call": True,
        "attachment": True,
        "modalities": {"input": ["text", "image"], "output": ["text"]},
        "limit": {"context": 200_000, "output": 8192},
    }
    return {
        "autoupdate": False,
        "share": "disabled",
        "snapshot": False,
        "permission": {"*": "allow"},
        "enabled_providers": ["anthropic", "openai", "scripted"],
        "provider": {
            "anthropic": {"options": {"baseURL": model.anthropic_url, "apiKey": KEY}},
            "openai": {"options": {"baseURL": model.openai_url, "apiKey": KEY}},
            "scripted": {
                "npm": "@ai-sdk/openai-compatible",
                "options": {"baseURL": model.openai_url, "apiKey": KEY},
                "models": {"glm-5": described},
            },
        },
    }


@pytest.fixture(scope="module")
def agent(
    opencode: Path, running_model: ScriptedModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Agent]:
    home = tmp_path_factory.mktemp("opencode-home")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "OPENCODE_CONFIG_CONTENT": json.dumps(settings(running_model)),
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_ENABLE_QUESTION_TOOL": "1",
        # The agent installs packages in the background; here it must give up at once.
        "npm_config_fetch_retries": "0",
        "npm_config_registry": "http://127.0.0.1:9",
    }
    log = home / "serve.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(opencode), "serve", "--hostname", "127.0.0.1", "--port", "0"],
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Agent(eventually(lambda: listening(process, log), timeout_s=60))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def listening(process: subprocess.Popen[bytes], log: Path) -> str | None:
    assert process.poll() is None, f"opencode serve ended: {log.read_text()}"
    lines = [line for line in log.read_text().splitlines() if "listening on http" in line]
    return lines[0].split()[-1] if lines else None


def eventually(look: Callable[[], Found | None], timeout_s: float = 30) -> Found:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise TimeoutError(f"nothing came in {timeout_s:g} s")


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_demo_repairs_the_sample(agent: Agent, model: ScriptedModel, sample: Path, family: str):
    model.play("demo")
    session = agent.session(sample)
    said = agent.turn(session, sample, family, "Fix the failing test")
    assert said.startswith("Done."), said
    subprocess.run(["python3", "-m", "unittest"], cwd=sample, check=True, capture_output=True, timeout=30)
    assert git(sample, "status", "--porcelain") == ""
    assert git(sample.parent / "origin.git", "rev-parse", "main") == git(sample, "rev-parse", "HEAD")
    repair = "apply_patch" if family == "responses" else "edit"
    calls = [call for record in model.turns for call in record.calls]
    assert calls == ["bash", "bash", "read", repair, "bash", "bash", "bash"]
    assert all(record.outcome == "completed" for record in model.requests)
    assert {record.session for record in model.requests} == {session}
    assert KEY not in json.dumps([record.model_dump() for record in model.requests])


def test_the_demo_opens_a_pull_request_through_mcp(agent: Agent, model: ScriptedModel, sample: Path):
    model.play("demo")
    server = sample.parent / "server.py"
    server.write_text(PULL_REQUEST_SERVER)
    mcp = {"openinspect": {"type": "local", "command": [sys.executable, str(server)], "enabled": True}}
    (sample / "opencode.json").write_text(json.dumps({"mcp": mcp}))
    (sample / ".git/info").mkdir()
    (sample / ".git/info/exclude").write_text("opencode.json\n")
    said = agent.turn(agent.session(sample), sample, "anthropic", "Fix the failing test")
    assert "http://127.0.0.1/pulls/1" in said
    assert "weeks_begun" in (sample.parent / "opened.txt").read_text()
    agent.ask("POST", "/instance/dispose", sample)


def test_a_moved_bug_is_not_repaired(agent: Agent, model: ScriptedModel, sample: Path):
    model.play("demo")
    fees, shelves = sample / "lending/fees.py", sample / "lending/shelves.py"
    fees.write_text(
        fees.read_text().replace("days // DAYS_PER_WEEK + 1", "(days + DAYS_PER_WEEK - 1) // DAYS_PER_WEEK")
    )
    shelves.write_text(shelves.read_text().replace("boards, room = 0, 0", "boards, room = 1, 0"))
    before = git(sample, "diff")
    said = agent.turn(agent.session(sample), sample, "anthropic", "Fix the failing test")
    assert "can't find the cause" in said
    assert git(sample, "diff") == before


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_playground_does_what_the_prompt_says(
    agent: Agent, model: ScriptedModel, sample: Path, family: str
):
    prompt = "\n".join(
        [
            "fail 429 retry 0.1",
            "think: let me see",
            "say 5 words every 5 ms",
            "cut",
            "run: echo from the shell",
            r"write notes/a.txt: hello\nworld",
            "read notes/a.txt",
            "edit notes/a.txt: hello => goodbye",
            "todo: first | second",
            "what do you see",
            "nonsense",
        ]
    )
    image = {
        "type": "file",
        "mime": "image/png",
        "filename": "a.png",
        "url": f"data:image/png;base64,{PIXEL}",
    }
    session = agent.session(sample, title=None)
    said = agent.turn(session, sample, family, prompt, image)
    assert said.endswith("Done."), said
    assert "I don't know these lines: nonsense" in said
    assert "image/png of 70 bytes" in said
    assert (sample / "notes/a.txt").read_text().split() == ["goodbye", "world"]
    assert [record.outcome for record in model.turns][:2] == ["refused", "cut"]
    assert model.turns[-1].exchanges[0].result.strip() == "from the shell"
    assert "1: hello" in model.turns[-1].exchanges[2].result
    assert [record.kind for record in model.requests].count("title") == 1
    thought = agent.said(session, sample, "reasoning")
    assert ("let me see" in thought) == (family != "anthropic" or "thinking" in model.turns[-1].options)


def test_a_stopped_turn_hangs_up_and_the_next_one_works(agent: Agent, model: ScriptedModel, sample: Path):
    session = agent.session(sample)
    agent.begin(session, sample, "anthropic", "run: echo once\nsay: waiting\nstall 600")
    eventually(lambda: "waiting" in agent.said(session, sample))
    agent.ask("POST", f"/session/{session}/abort", sample)
    eventually(lambda: model.turns[-1].outcome == "left")
    assert agent.turn(session, sample, "anthropic", "say: still here").startswith("still here")
    assert (model.turns[-1].turn, model.turns[-1].step) == (2, 1)


def test_a_question_is_asked_and_its_answer_seen(agent: Agent, model: ScriptedModel, sample: Path):
    session = agent.session(sample)
    agent.begin(session, sample, "chat", "ask: Which one? | red | blue\necho")
    asked = eventually(lambda: agent.ask("GET", "/question", sample))
    options = [option["label"] for option in asked[0]["questions"][0]["options"]]
    assert options == ["red", "blue"]
    agent.ask("POST", f"/question/{asked[0]['id']}/reply", sample, {"answers": [["blue"]]})
    eventually(lambda: "blue" in agent.said(session, sample))


def test_the_bench_turn(agent: Agent, model: ScriptedModel, sample: Path):
    model.play("bench")
    session = agent.session(sample)
    assert agent.turn(session, sample, "chat", "turn") == "Written and committed."
    assert agent.turn(session, sample, "chat", "turn") == "Written and committed."
    assert git(sample, "show", "HEAD:bench.txt") == "turn 2\n"
