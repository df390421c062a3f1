"""The real OpenCode against the scripted model, in all API families."""

import json
import os
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

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

FAMILIES = {
    "anthropic": "anthropic/claude-sonnet-4-5",
    "responses": "openai/gpt-5.2",
    "chat": "scripted/glm-5",
}


def providers(model: ScriptedModel, family: str) -> dict[str, Any]:
    if family == "anthropic":
        return {"anthropic": {"options": {"baseURL": model.anthropic_url, "apiKey": KEY}}}
    if family == "responses":
        return {"openai": {"options": {"baseURL": model.openai_url, "apiKey": KEY}}}
    described = {
        "reasoning": True,
        "tool_call": True,
        "attachment": True,
        "modalities": {"input": ["text", "image"], "output": ["text"]},
        "limit": {"context": 200_000, "output": 8192},
    }
    options = {"baseURL": model.openai_url, "apiKey": KEY}
    compatible = {"npm": "@ai-sdk/openai-compatible", "options": options, "models": {"glm-5": described}}
    return {"scripted": compatible}


def program_home(directory: Path) -> Path:
    """One home for all runs: the agent prepares a new one for a while."""
    home = directory.parents[1] / "opencode-home"
    home.mkdir(exist_ok=True)
    return home


def run(
    program: Path,
    model: ScriptedModel,
    family: str,
    directory: Path,
    prompt: str,
    *arguments: str,
    title: bool = True,
    **config: Any,
) -> subprocess.CompletedProcess[str]:
    given = providers(model, family)
    settings = {
        "autoupdate": False,
        "share": "disabled",
        "snapshot": False,
        "permission": {"*": "allow"},
        "enabled_providers": list(given),
        "provider": given,
        **config,
    }
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(program_home(directory)),
        "OPENCODE_CONFIG_CONTENT": json.dumps(settings),
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        # The agent installs packages in the background; here it must give up at once.
        "npm_config_fetch_retries": "0",
        "npm_config_registry": "http://127.0.0.1:9",
    }
    titled = ["--title", "Test"] if title else []
    command = [str(program), "run", "--model", FAMILIES[family], *titled, *arguments, prompt]
    return subprocess.run(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_demo_repairs_the_sample(opencode: Path, model: ScriptedModel, sample: Path, family: str):
    model.play("demo")
    done = run(opencode, model, family, sample, "Fix the failing test")
    assert "Done." in done.stdout, done.stdout + done.stderr
    subprocess.run(["python3", "-m", "unittest"], cwd=sample, check=True, capture_output=True, timeout=30)
    assert git(sample, "status", "--porcelain") == ""
    assert git(sample.parent / "origin.git", "rev-parse", "main") == git(sample, "rev-parse", "HEAD")
    repair = "apply_patch" if family == "responses" else "edit"
    calls = [call for record in model.turns for call in record.calls]
    assert calls == ["bash", "bash", "read", repair, "bash", "bash", "bash"]
    assert all(record.outcome == "completed" for record in model.requests)
    assert KEY not in json.dumps([record.model_dump() for record in model.requests])


def test_the_demo_opens_a_pull_request_through_mcp(opencode: Path, model: ScriptedModel, sample: Path):
    model.play("demo")
    server = sample.parent / "server.py"
    server.write_text(PULL_REQUEST_SERVER)
    mcp = {"openinspect": {"type": "local", "command": [sys.executable, str(server)], "enabled": True}}
    done = run(opencode, model, "anthropic", sample, "Fix the failing test", mcp=mcp)
    assert "http://127.0.0.1/pulls/1" in done.stdout, done.stdout + done.stderr
    assert "weeks_begun" in (sample.parent / "opened.txt").read_text()


def test_a_moved_bug_is_not_repaired(opencode: Path, model: ScriptedModel, sample: Path):
    model.play("demo")
    fees, shelves = sample / "lending/fees.py", sample / "lending/shelves.py"
    fees.write_text(fees.read_text().replace("days // DAYS_PER_WEEK + 1", "-(-days // DAYS_PER_WEEK)"))
    shelves.write_text(shelves.read_text().replace("boards, room = 0, 0", "boards, room = 1, 0"))
    before = git(sample, "diff")
    done = run(opencode, model, "anthropic", sample, "Fix the failing test")
    assert "can't find the cause" in done.stdout, done.stdout + done.stderr
    assert git(sample, "diff") == before


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_playground_does_what_the_prompt_says(
    opencode: Path, model: ScriptedModel, sample: Path, family: str
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
    (sample / "a.png").write_bytes(b64decode(PIXEL))
    done = run(opencode, model, family, sample, prompt, "--file", "a.png", "--", title=False)
    assert done.stdout.rstrip().endswith("Done."), done.stdout + done.stderr
    assert "I don't know these lines: nonsense" in done.stdout
    assert (sample / "notes/a.txt").read_text().split() == ["goodbye", "world"]
    assert [record.outcome for record in model.turns][:2] == ["refused", "cut"]
    assert "image/png of 70 bytes" in done.stdout
    assert [record.kind for record in model.requests].count("title") == 1
    assert model.turns[-1].exchanges[0].result.strip() == "from the shell"
    assert "1: hello" in model.turns[-1].exchanges[2].result


def test_the_bench_turn(opencode: Path, model: ScriptedModel, sample: Path):
    model.play("bench")
    done = run(opencode, model, "chat", sample, "turn")
    assert "Written and committed." in done.stdout, done.stdout + done.stderr
    assert git(sample, "show", "HEAD:bench.txt") == "turn 1\n"
