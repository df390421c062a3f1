"""What a sandbox's runtime is told when it starts, by a file that only it can read (mode 0600, ``RUNTIME_CONFIG_PATH``).

It says nothing about a session: that comes over the bridge (``commands.Configure``), so that a sandbox can be started before anybody asks.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from .base import Id, Message

RUNTIME_CONFIG_PATH = "/run/openinspect/runtime.json"


class Door(Message):
    """How the gateway is reached: by exactly one of the two."""

    socket: str | None = None
    """Path of the unix socket inside the sandbox."""
    url: str | None = None


class AgentProvider(Message):
    """A model provider as the agent sees it: the door's address stands in for the provider's."""

    id: str
    """Such as ``anthropic``."""
    api: Literal["anthropic", "openai-responses", "openai-chat"]
    path: str
    """At the door, such as ``/llm/anthropic/v1``."""
    models: dict[str, dict[str, Any]]
    """By model id: name, limits, modalities, efforts (``{"efforts": {"high": {…options of the provider's SDK}}}``)."""


class AgentConfig(Message):
    kind: Literal["opencode"] = "opencode"
    providers: list[AgentProvider]
    default_model: str
    """As ``provider/model``."""
    small_model: str
    instructions: str = ""
    """Added to the agent's system prompt."""
    question_seconds: int = 1800
    """How long the agent waits for a person's answer before it goes on without one."""
    unanswered_seconds: int = 90
    """An agent that says nothing and answers nothing for so long hangs, and is ended; until then it may be busy."""
    tools_path: str | None = "/tools/mcp"
    """MCP server at the door."""


class Paths(Message):
    """Where things are inside. Other values serve to run the runtime outside a sandbox, in a test."""

    workspace: str = "/workspace"
    home: str = "/home/agent"
    state: str = "/var/lib/openinspect"
    """The runtime's own reserved space (spool, turn state), outside the agent's quota and not readable by it."""
    shared: str = "/run/openinspect-agent"
    """The agent's configuration: written by the runtime, read-only for the agent. Made by the runtime."""
    toolbox: str = "/opt/openinspect/toolbox"
    git_config: str = "/etc/gitconfig"
    """System-wide git configuration, written by the runtime, read-only for the agent."""


class RuntimeConfig(Message):
    sandbox_id: Id
    token: str
    """The runtime's bearer secret for the bridge, by which it speaks for the sandbox. Nothing else in the sandbox may see it."""
    door: Door
    agent: AgentConfig
    paths: Paths = Paths()
    agent_uid: int | None = 1000
    """User id that the agent and all it runs have. None: the runtime's own."""
    agent_gid: int | None = 1000
    spool_bytes: int = 64 * 1024 * 1024

    @property
    def agent_token(self) -> str:
        return agent_token(self.token)


def agent_token(token: str) -> str:
    """The secret of the agent and all that it runs, for git, models and tools. It follows from the runtime's, and not the other way round: what
    runs in a sandbox can't speak as its runtime. Both are worth nothing elsewhere, and nothing when the sandbox has ended."""
    return f"oi_agent_{hashlib.sha256(f'open-inspect agent {token}'.encode()).hexdigest()}"
