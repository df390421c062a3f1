"""The models' and the tools' door with the real OpenCode before them: what an effort becomes on the wire, tools, refusals, a stop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from openinspect.db.engine import create_engine
from openinspect.gateway.llm_exchange import LlmGrant
from openinspect.gateway.tools import PullRequestMade, PullRequestWanted, ToolsDoor
from openinspect.models.catalogue import agent_providers, models
from openinspect.protocol.config import AgentConfig
from openinspect.runtime.agents.opencode import config as opencode_config
from openinspect.settings import Settings
from openinspect.testing import ScriptedModel

OPENCODE = Settings(data_dir=Path("data")).toolbox / "bin" / "opencode"
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not OPENCODE.exists(), reason=f"no OpenCode at {OPENCODE}: `make test` installs it"),
]

ALL_MODELS = frozenset(model.id for model in models())


class Agent:
    """OpenCode, as the runtime sets it up, with a session of ours behind its token."""

    def __init__(self, url: str, directory: Path, served: Any, token: str) -> None:
        self.served = served
        self.token = token
        self.wanted: list[PullRequestWanted] = []
        self._directory = str(directory)
        self._client = httpx2.AsyncClient(base_url=url, trust_env=False, timeout=60)

    async def new_session(self) -> str:
        answer = await self._client.post(
            "/session", params={"directory": self._directory}, json={"title": "A title"}
        )
        return answer.raise_for_status().json()["id"]

    async def prompt(self, model_id: str, text: str, effort: str | None = None) -> dict[str, Any]:
        """One turn in a session of its own; the assistant's last message."""
        session = await self.new_session()
        provider_id, _, bare_id = model_id.partition("/")
        body: dict[str, Any] = {
            "model": {"providerID": provider_id, "modelID": bare_id},
            "parts": [{"type": "text", "text": text}],
        }
        if effort is not None:
            body["variant"] = effort
        answer = await self._client.post(
            f"/session/{session}/message", params={"directory": self._directory}, json=body
        )
        return answer.raise_for_status().json()

    async def abort(self, session: str) -> None:
        answer = await self._client.post(f"/session/{session}/abort", params={"directory": self._directory})
        answer.raise_for_status()

    async def begin(self, model_id: str, text: str) -> str:
        session = await self.new_session()
        provider_id, _, bare_id = model_id.partition("/")
        answer = await self._client.post(
            f"/session/{session}/prompt_async",
            params={"directory": self._directory},
            json={
                "model": {"providerID": provider_id, "modelID": bare_id},
                "parts": [{"type": "text", "text": text}],
            },
        )
        answer.raise_for_status()
        return session


@pytest.fixture(scope="module")
def _running() -> Iterator[ScriptedModel]:
    with ScriptedModel() as running:
        yield running


@pytest.fixture
def model(_running: ScriptedModel) -> ScriptedModel:
    _running.play("playground")
    return _running


@pytest.fixture(scope="module")
async def _started(
    anyio_backend: str,
    _running: ScriptedModel,
    database_url: str,
    serve_llm_on: Any,
    serve_app: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Agent]:
    folder = tmp_path_factory.mktemp("agent")
    settings = Settings(data_dir=folder, scripted_model_url=_running.url)
    settings.anthropic_api_key = settings.openai_api_key = settings.opencode_api_key = None
    engine = create_engine(database_url, pool_size=4)
    async with serve_llm_on(engine, settings) as served:
        token = await served.new_session(models=ALL_MODELS)
        made: list[Agent] = []

        async def authorise(given: str) -> LlmGrant | None:
            return served.grants.get(given)

        async def create(_grant: LlmGrant, wanted: PullRequestWanted) -> PullRequestMade:
            made[0].wanted.append(wanted)
            return PullRequestMade(
                3,
                "http://inspect.example/pull/3",
                True,
                "widgets",
                wanted.title,
                "work",
                "main",
                wanted.draft,
            )

        tools = ToolsDoor(authorise=authorise, create_pull_request=create)
        both = Starlette(routes=[Mount("/llm", served.door), Mount("/tools", tools)])
        async with serve_app(both) as door_url, opencode(folder, door_url, token) as (url, directory):
            made.append(Agent(url, directory, served, token))
            yield made[0]
        await tools.aclose()
    await engine.dispose()


@pytest.fixture
async def agent(_started: Agent) -> Agent:
    """The agent with a new session of ours."""
    fresh = await _started.served.new_session(models=ALL_MODELS)
    _started.served.grants[_started.token] = _started.served.grants[fresh]
    return _started


@asynccontextmanager
async def opencode(folder: Path, door_url: str, token: str) -> AsyncIterator[tuple[str, Path]]:
    work, home = folder / "work", folder / "home"
    for each in (work, home, home / ".config" / "opencode"):
        each.mkdir(parents=True)
    (home / ".config" / "opencode" / "node_modules").mkdir()
    made = await asyncio.create_subprocess_exec("git", "init", "--quiet", str(work))
    assert await made.wait() == 0
    config = AgentConfig(
        providers=agent_providers(),
        default_model="anthropic/claude-sonnet-4-6",
        small_model="anthropic/claude-haiku-4-5",
    )
    plugin = folder / "plugin.js"
    plugin.write_text("export const nothing = async () => ({})\n")
    written = folder / "opencode.json"
    written.write_bytes(orjson.dumps(opencode_config.configuration(config, door_url, token, None, plugin)))
    environment = {
        "PATH": f"{OPENCODE.parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "OPENCODE_CONFIG": str(written),
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
        "npm_config_fetch_retries": "0",
        "npm_config_registry": "http://127.0.0.1:1",
    }
    process = await asyncio.create_subprocess_exec(
        str(OPENCODE),
        *("serve", "--hostname", "127.0.0.1", "--port", "0"),
        cwd=work,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            while b"listening on " not in (line := await process.stdout.readline()):
                assert line, "OpenCode has ended"
        yield line.split()[-1].decode(), work
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def test_an_effort_reaches_the_wire_in_each_family(agent: Agent, model: ScriptedModel):
    asked = [
        ("anthropic/claude-haiku-4-5", "high", {"thinking": {"type": "enabled", "budget_tokens": 16_000}}),
        ("anthropic/claude-opus-4-5", "max", {"thinking": {"type": "enabled", "budget_tokens": 31_999}}),
        (
            "anthropic/claude-sonnet-4-6",
            "low",
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
        ),
        (
            "anthropic/claude-opus-5",
            "xhigh",
            {
                "thinking": {"type": "adaptive", "display": "summarized"},
                "output_config": {"effort": "xhigh"},
            },
        ),
        ("openai/gpt-5.4", "xhigh", {"reasoning": {"effort": "xhigh", "summary": "auto"}, "store": False}),
        ("openai/gpt-5.6-luna", "max", {"reasoning": {"effort": "max", "summary": "auto"}}),
        ("openai/gpt-5.4", "none", {"reasoning": {"effort": "none", "summary": "auto"}}),
        ("opencode/glm-5", None, {"stream_options": {"include_usage": True}}),
        ("opencode/kimi-k3", None, {}),
        ("anthropic/claude-sonnet-4-6", None, {}),
    ]
    for model_id, effort, options in asked:
        before = len(model.turns)
        message = await agent.prompt(model_id, "say 3 words", effort)
        assert message["info"].get("error") is None, (model_id, message["info"].get("error"))
        [record] = model.turns[before:]
        assert record.model == model_id.partition("/")[2]
        assert record.path.startswith(f"/{model_id.partition('/')[0]}/v1/")
        for name, value in options.items():
            assert record.options.get(name) == value, (model_id, effort, record.options)
    calls = await agent.served.calls(agent.token)
    assert len(calls) == len(asked) and all(call.status == "settled" and call.cost_usd for call in calls)


async def test_the_agent_opens_a_pull_request_by_its_tool(agent: Agent, model: ScriptedModel):
    message = await agent.prompt(
        "anthropic/claude-sonnet-4-6",
        'call *create_pull_request {"title": "Fix it", "body": "Why"}\necho',
    )
    assert [wanted.title for wanted in agent.wanted] == ["Fix it"]
    assert "openinspect_create_pull_request" in model.turns[0].tools
    said = "".join(part.get("text", "") for part in message["parts"])
    assert "Opened pull request #3 of widgets: Fix it" in said


async def test_a_refusal_ends_the_turn_with_its_reason(agent: Agent, model: ScriptedModel):
    grant = agent.served.grants[agent.token]
    cases = [
        (replace(grant, prompt_id=None), "No prompt is running"),
        (replace(grant, models=frozenset({"openai/gpt-5.4"})), "not one of this session's"),
        (replace(grant, budget_usd=Decimal(0)), "may spend"),
    ]
    for refused, says in cases:
        agent.served.grants[agent.token] = refused
        async with asyncio.timeout(20):
            message = await agent.prompt("anthropic/claude-sonnet-4-6", "say hi")
        assert says in str(message["info"]["error"]), message["info"]
    assert not model.turns


@pytest.mark.parametrize("fault", ["cut", "fail 529", "break"])
async def test_the_agent_gets_over_what_a_provider_does_for_a_moment(
    agent: Agent, model: ScriptedModel, fault: str
):
    message = await agent.prompt("anthropic/claude-sonnet-4-6", f"{fault}\nsay hello there")
    assert message["info"].get("error") is None
    assert "hello there" in "".join(part.get("text", "") for part in message["parts"])
    assert len(await agent.served.settled(agent.token, 2)) == len(model.turns) == 2


async def test_a_stop_closes_the_providers_connection(agent: Agent, model: ScriptedModel):
    session = await agent.begin("anthropic/claude-sonnet-4-6", "say 3000 words every 10 ms")
    await model.wait_for(lambda records: any(record.outcome == "open" for record in records))
    await agent.abort(session)
    await model.wait_for(lambda records: all(record.outcome == "left" for record in records), timeout_s=5)
    [call] = await agent.served.settled(agent.token)
    assert call.status == "settled"
