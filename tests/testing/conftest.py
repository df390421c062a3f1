"""What these tests share: a running scripted model, a small agent that really runs tools, and the real OpenCode."""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from openinspect.testing import ScriptedModel, create_sample_repository

CHECKOUT = Path(__file__).parents[2]
TOOLBOX = CHECKOUT / ".tools/toolbox/bin/opencode"

# Reading the machine's certificates for every client would be most of these tests' time.
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

PATHS = {
    "anthropic": "/anthropic/v1/messages",
    "chat": "/openai/v1/chat/completions",
    "responses": "/openai/v1/responses",
}


@pytest.fixture(scope="session")
def opencode() -> Path:
    """The real agent's program."""
    given = os.environ.get("OPENINSPECT_OPENCODE")
    program = Path(given) if given else TOOLBOX
    if not program.is_file():
        pytest.skip(
            f"OpenCode is not at {program}: install the toolbox, or set OPENINSPECT_OPENCODE to its program"
        )
    return program


@pytest.fixture(scope="session")
def running_model() -> Iterator[ScriptedModel]:
    with ScriptedModel() as running:
        yield running


@pytest.fixture
def model(running_model: ScriptedModel) -> ScriptedModel:
    """The playground, as fast as it goes, with nothing recorded yet."""
    running_model.play("playground")
    return running_model


@pytest.fixture
async def client(anyio_backend: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(timeout=20, verify=TLS) as session:
        yield session


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """The sample repository with a bare repository as its origin."""
    path = tmp_path / "sample"
    create_sample_repository(path)
    git(tmp_path, "init", "--quiet", "--bare", "origin.git")
    git(path, "remote", "add", "origin", str(tmp_path / "origin.git"))
    return path


def git(path: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=path, check=True, capture_output=True, text=True, timeout=30
    )
    return done.stdout


def events(body: str) -> list[dict[str, Any]]:
    """The JSON of all server-sent events."""
    lines = [line[6:] for line in body.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@dataclass
class SmallAgent:
    """Drives a scripted model through its Anthropic API and runs bash, read and edit for real."""

    model: ScriptedModel
    directory: Path
    extra_tools: dict[str, Callable[[dict[str, Any]], str]] = field(default_factory=dict)
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def run(self, prompt: str, limit: int = 30) -> str:
        """One turn; returns the last answer's text."""
        messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
        tools = [{"name": name} for name in ("bash", "read", "edit", *self.extra_tools)]
        for _ in range(limit):
            body = {"model": "claude-sonnet-4-5", "max_tokens": 1000, "messages": messages, "tools": tools}
            answer = (
                httpx2.post(self.model.url + PATHS["anthropic"], json=body, timeout=20, verify=TLS)
                .raise_for_status()
                .json()
            )
            messages.append({"role": "assistant", "content": answer["content"]})
            uses = [block for block in answer["content"] if block["type"] == "tool_use"]
            if not uses:
                return "".join(block["text"] for block in answer["content"] if block["type"] == "text")
            results = [
                {
                    "type": "tool_result",
                    "tool_use_id": use["id"],
                    "content": self._use(use["name"], use["input"]),
                }
                for use in uses
            ]
            messages.append({"role": "user", "content": results})
        raise AssertionError(f"the turn did not end within {limit} answers; calls: {self.calls}")

    def _use(self, name: str, arguments: dict[str, Any]) -> str:
        self.calls.append((name, arguments))
        if name == "bash":
            done = subprocess.run(
                ["bash", "-c", arguments["command"]],
                cwd=self.directory,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=60,
            )
            return done.stdout
        if name == "read":
            lines = (self.directory / arguments["filePath"]).read_text().splitlines()
            numbered = "\n".join(f"{number}: {line}" for number, line in enumerate(lines, 1))
            return f"<path>{arguments['filePath']}</path>\n<content>\n{numbered}\n</content>"
        if name == "edit":
            path = self.directory / arguments["filePath"]
            text = path.read_text()
            if text.count(arguments["oldString"]) != 1:
                return "Error: oldString was not found exactly once"
            path.write_text(text.replace(arguments["oldString"], arguments["newString"]))
            return "Edit applied successfully."
        return self.extra_tools[name](arguments)

    @property
    def commands(self) -> list[str]:
        return [re.sub(r"\s.*", "", str(a.get("command", n)), flags=re.DOTALL) for n, a in self.calls]
