"""A whole scripted turn (write a file, commit it with bash, say so) on a warm sandbox, against the same turn through a warm agent by hand.

Both use the same scripted model and the same OpenCode; by hand it runs on this machine with no sandbox, gateway, log or diff around it. Turns alternate,
so that both see the same machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2

from openinspect.settings import Settings
from openinspect.testing.live_server import LiveServer
from openinspect.testing.sample_repository import create_sample_repository
from openinspect.testing.scripted_model import ScriptedModel

from .table import Row, median

TITLE = "A whole turn on a warm sandbox"
TURNS = 12
ALLOWED_MS = 150.0


async def measure() -> list[Row]:
    return await asyncio.to_thread(_measure)


def _measure() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="oi-bench-") as name:
        folder = Path(name)
        create_sample_repository(folder / "ours")
        create_sample_repository(folder / "by-hand")
        with LiveServer(folder / "data", script="bench") as live, _agent(folder, live.model) as hand:
            repository = live.api.post("/repositories", {"path": str(folder / "ours")})["id"]
            began = time.perf_counter()
            session_id, prompt_id = live.session("turn first", targets=[{"repository": repository}])
            live.wait(session_id, "turn.finished", 180, prompt_id=prompt_id)
            cold = time.perf_counter() - began
            for _ in range(2):
                _ours(live, session_id)
                hand.turn()
            ours, by_hand = [], []
            for _ in range(TURNS):
                ours.append(_ours(live, session_id))
                by_hand.append(hand.turn())
    mine, theirs = median(ours) * 1e3, median(by_hand) * 1e3
    return [
        Row(
            "prompt accepted → turn finished",
            f"{mine:.0f} ms",
            f"by hand + {ALLOWED_MS:.0f} ms",
            f"{theirs:.0f} ms by hand",
            mine <= theirs + ALLOWED_MS,
        ),
        Row("first prompt of a new session, sandbox and clone included", f"{cold * 1e3:,.0f} ms"),
    ]


def _ours(live: LiveServer, session_id: str) -> float:
    api = live.api
    head = api.get(f"/sessions/{session_id}")["head"]
    with api.stream(session_id, head) as messages:
        next(messages)
        began = time.perf_counter()
        prompt_id = live.prompt(session_id, "turn again")
        for message in messages:
            for event in message.get("events", ()):
                body = event["body"]
                if body["kind"] == "turn.finished" and body["prompt_id"] == prompt_id:
                    if body["status"] != "completed":
                        raise RuntimeError(f"the turn {body['status']}: {body['reason']}")
                    return time.perf_counter() - began
    raise RuntimeError("the stream ended before the turn")


class _Hand:
    def __init__(self, url: str, password: str, directory: Path) -> None:
        self.http = httpx2.Client(base_url=url, auth=("opencode", password), timeout=60)
        self.params = {"directory": str(directory)}
        self.session: str = self.http.post("/session", params=self.params, json={"title": "bench"}).json()[
            "id"
        ]

    def turn(self) -> float:
        body = {
            "model": {"providerID": "anthropic", "modelID": "claude-sonnet-4-6"},
            "parts": [{"type": "text", "text": "turn again"}],
        }
        began = time.perf_counter()
        answer = self.http.post(f"/session/{self.session}/message", params=self.params, json=body)
        answer.raise_for_status()
        took = time.perf_counter() - began
        if "committed" not in json.dumps(answer.json()):
            raise RuntimeError("the agent by hand did not finish its turn")
        return took


@contextlib.contextmanager
def _agent(folder: Path, model: ScriptedModel) -> Iterator[_Hand]:
    toolbox = Settings.model_validate({}).toolbox
    home = folder / "home"
    subprocess.run(["cp", "-a", str(toolbox / "opencode-home"), str(home)], check=True, timeout=60)
    config = {
        "autoupdate": False,
        "share": "disabled",
        "snapshot": False,
        "permission": {"*": "allow"},
        "enabled_providers": ["anthropic"],
        "provider": {"anthropic": {"options": {"baseURL": model.anthropic_url, "apiKey": "none"}}},
    }
    (folder / "opencode.json").write_text(json.dumps(config))
    environment = {
        "PATH": f"{toolbox / 'bin'}:{os.environ['PATH']}",
        "HOME": str(home),
        "OPENCODE_CONFIG": str(folder / "opencode.json"),
        "OPENCODE_SERVER_PASSWORD": "bench",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
        "npm_config_fetch_retries": "0",
        "GIT_AUTHOR_NAME": "Bench",
        "GIT_AUTHOR_EMAIL": "bench@example.com",
        "GIT_COMMITTER_NAME": "Bench",
        "GIT_COMMITTER_EMAIL": "bench@example.com",
    }
    process = subprocess.Popen(
        [str(toolbox / "bin" / "opencode"), "serve", "--hostname", "127.0.0.1", "--port", "0"],
        cwd=folder / "by-hand",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        url = next(line.split()[-1] for line in process.stdout if "listening on" in line)
        yield _Hand(url, "bench", folder / "by-hand")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
