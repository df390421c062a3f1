"""How OpenCode is set up: its configuration, its environment, the files beside it.

Nothing it would fetch by itself is fetched; nothing asks for permission; the providers' addresses are the door's, the key is the sandbox's
token, which is worth nothing anywhere else. The configuration is a file, so that the token is in no tool's environment.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from openinspect.protocol.config import AgentConfig, AgentProvider, Paths
from openinspect.runtime.files import write_whole
from openinspect.runtime.processes import Account

PACKAGES = {
    "anthropic": "@ai-sdk/anthropic",
    "openai-responses": "@ai-sdk/openai",
    "openai-chat": "@ai-sdk/openai-compatible",
}
NULL_PREFIX = "warm-up-"
"""Of the providers that stand for the null model."""
TOOLS = "openinspect"
"""Name of the door's tool server."""
_PLUGIN = Path(__file__).with_name("shell_env.js")
_FETCHES = (
    "AUTOUPDATE",
    "MODELS_FETCH",
    "LSP_DOWNLOAD",
    "SHARE",
)


@dataclass(frozen=True)
class Layout:
    """The agent's own files."""

    folder: Path
    """Readable by the agent, written by the runtime."""

    @property
    def config(self) -> Path:
        return self.folder / "opencode.json"

    @property
    def shell_env(self) -> Path:
        return self.folder / "shell-env.json"

    @property
    def plugin(self) -> Path:
        return self.folder / _PLUGIN.name


def configuration(
    config: AgentConfig, door_url: str, token: str, null_url: str | None, plugin: Path
) -> dict[str, Any]:
    """OpenCode's own configuration. ``null_url`` is where the model that answers nothing is served, for warming up."""
    providers = {each.id: _provider(each, f"{door_url}{each.path}", token) for each in config.providers}
    if null_url is not None:
        for api, package in PACKAGES.items():
            providers[NULL_PREFIX + api] = {
                "npm": package,
                "name": "Warm-up",
                "options": {"baseURL": f"{null_url}/v1", "apiKey": "none"},
                "models": {
                    "null": {
                        "name": "null",
                        "tool_call": True,
                        "limit": {"context": 200_000, "output": 8_000},
                    }
                },
            }
    result: dict[str, Any] = {
        "$schema": "https://opencode.ai/config.json",
        "autoupdate": False,
        "share": "disabled",
        "snapshot": False,
        "permission": {"*": "allow"},
        "enabled_providers": list(providers),
        "model": config.default_model,
        "small_model": config.small_model,
        "provider": providers,
        "plugin": [plugin.as_uri()],
    }
    if config.tools_path is not None:
        result["mcp"] = {
            TOOLS: {
                "type": "remote",
                "url": f"{door_url}{config.tools_path}",
                "headers": {"Authorization": f"Bearer {token}"},
                "oauth": False,
                "enabled": True,
                "timeout": 30_000,
            }
        }
    return result


def _provider(provider: AgentProvider, base_url: str, token: str) -> dict[str, Any]:
    models: dict[str, Any] = {}
    for model_id, model in provider.models.items():
        entry = {key: value for key, value in model.items() if key != "efforts"}
        entry["variants"] = model.get("efforts", {})
        models[model_id] = entry
    return {
        "npm": PACKAGES[provider.api],
        # Silence of a model is no failure: what bounds a call is the gateway.
        "options": {"baseURL": base_url, "apiKey": token, "timeout": False},
        "whitelist": list(models),
        "models": models,
    }


def environment(paths: Paths, layout: Layout, password: str) -> dict[str, str]:
    """All of the environment that the agent's server has; what it runs gets it without our own words (``shell_env.js``)."""
    return {
        **base_environment(paths),
        "OPENCODE_CONFIG": str(layout.config),
        "OPENCODE_SERVER_PASSWORD": password,
        "OPENINSPECT_SHELL_ENV": str(layout.shell_env),
        **{f"OPENCODE_DISABLE_{what}": "1" for what in _FETCHES},
        # A repository with `.opencode` makes OpenCode install a package from npm, and wait for it: let it fail at once.
        "npm_config_fetch_retries": "0",
        "npm_config_fetch_timeout": "5000",
    }


def base_environment(paths: Paths) -> dict[str, str]:
    """What everything that runs as the agent has."""
    environment = {
        "PATH": f"{paths.toolbox}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": paths.home,
        "USER": "agent",
        "LOGNAME": "agent",
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "TMPDIR": "/tmp",
        "GIT_TERMINAL_PROMPT": "0",
    }
    if paths.git_config != "/etc/gitconfig":
        environment["GIT_CONFIG_SYSTEM"] = paths.git_config
    return environment


def write(layout: Layout, account: Account, config: Mapping[str, Any], shell_env: Mapping[str, str]) -> None:
    """Put the files in place; the agent can read and not write them."""
    layout.folder.mkdir(parents=True, exist_ok=True)
    for path, data in (
        (layout.config, orjson.dumps(config)),
        (layout.shell_env, orjson.dumps(shell_env)),
    ):
        write_whole(path, data, sync=False)
        _let_read(path, account)
    shutil.copyfile(_PLUGIN, layout.plugin)
    layout.plugin.chmod(0o644)


def write_shell_env(layout: Layout, account: Account, shell_env: Mapping[str, str]) -> None:
    write_whole(layout.shell_env, orjson.dumps(shell_env), sync=False)
    _let_read(layout.shell_env, account)


def _let_read(path: Path, account: Account) -> None:
    account.own_group(path)
    path.chmod(0o640)
