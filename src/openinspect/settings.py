"""The one settings object. Every field can be set by an environment variable ``OPENINSPECT_<NAME>``; docs/reference/settings.md is generated from it."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

CHECKOUT = Path(__file__).parents[2]
"""The folder of the source tree, when this runs from one."""


def _default_data_dir() -> Path:
    if (CHECKOUT / "pyproject.toml").is_file():
        return CHECKOUT / ".openinspect"
    return Path.home() / ".local" / "share" / "openinspect"


def is_text(word: str) -> bool:
    """Whether it came from valid UTF-8: without a lone surrogate."""
    return not any("\ud800" <= letter <= "\udfff" for letter in word)


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="OPENINSPECT_", extra="ignore", hide_input_in_errors=True)

    data_dir: Annotated[
        Path,
        Field(
            default_factory=_default_data_dir,
            description="Everything the server keeps: database, repositories, sandboxes, blobs, keys. Nothing is written outside of it. "
            "Default: `.openinspect` in a checkout, else `~/.local/share/openinspect`.",
        ),
    ]
    host: Annotated[str, Field(description="Address that the web server listens on.")] = "127.0.0.1"
    port: Annotated[
        int, Field(ge=0, le=65535, description="Port that the web server listens on; 0 chooses a free one.")
    ] = 8910
    public_url: Annotated[
        str | None,
        Field(
            description="The address that people reach the server by, such as `https://inspect.example.com`. Default: host and port."
        ),
    ] = None
    trusted_proxies: Annotated[
        list[str],
        NoDecode,
        Field(
            description="Addresses or networks of reverse proxies whose `X-Forwarded-*` headers are believed, with commas between them, such as "
            "`127.0.0.1,10.0.0.0/8`."
        ),
    ] = []

    database_url: Annotated[
        SecretStr | None,
        Field(
            description="`postgresql://…` of your own server. Default: an embedded Postgres in the data folder."
        ),
    ] = None
    database_pool_size: Annotated[
        int, Field(ge=2, le=200, description="Connections to the database that one process holds at most.")
    ] = 12

    anthropic_api_key: Annotated[
        SecretStr | None,
        Field(validation_alias="ANTHROPIC_API_KEY", description="Key for Anthropic's models."),
    ] = None
    openai_api_key: Annotated[
        SecretStr | None, Field(validation_alias="OPENAI_API_KEY", description="Key for OpenAI's models.")
    ] = None
    opencode_api_key: Annotated[
        SecretStr | None,
        Field(validation_alias="OPENCODE_API_KEY", description="Key for OpenCode Zen's models."),
    ] = None
    scripted_model: Annotated[
        str | None,
        Field(
            description="A script (`demo`, `playground`, or a file): the server starts a scripted model server with it, which answers for every "
            "provider that has no key. For demos and tests; the page says so."
        ),
    ] = None
    scripted_model_url: Annotated[
        str | None,
        Field(description="The same, with the address of a scripted model server that runs already."),
    ] = None
    default_model: Annotated[str, Field(description="Model of a session that names none.")] = (
        "anthropic/claude-sonnet-4-6"
    )

    toolbox_dir: Annotated[
        Path | None,
        Field(
            description="Folder with the tools that every sandbox has (Node, OpenCode). Default: `.tools/toolbox` of the checkout, else in the data folder."
        ),
    ] = None
    sandbox_memory_mib: Annotated[int, Field(ge=256, description="Memory of one sandbox, in MiB.")] = 4096
    sandbox_cpu_cores: Annotated[float, Field(gt=0, description="Processor cores of one sandbox.")] = 2.0
    sandbox_processes: Annotated[
        int, Field(ge=64, description="Processes and threads that one sandbox may have.")
    ] = 2048
    sandbox_disk_mib: Annotated[
        int,
        Field(
            ge=64,
            description="Disk of one session's workspace and home, in MiB; its pushes may bring as much again to the repositories.",
        ),
    ] = 8192
    sandbox_uid_base: Annotated[
        int,
        Field(
            ge=65536,
            le=4_000_000_000,
            description="First of the 65,536 unprivileged host user ids that sandboxes live in, when run by root.",
        ),
    ] = 1_900_000_000
    sandbox_boot_seconds: Annotated[
        int, Field(ge=10, description="A sandbox that is not ready by then has failed.")
    ] = 900
    sandbox_idle_seconds: Annotated[
        int,
        Field(
            ge=5, description="A sandbox in which nothing has run for so long is stopped; its files are kept."
        ),
    ] = 1800
    turn_seconds: Annotated[
        int,
        Field(
            ge=10,
            description="Longest time that one turn may take. Silence never ends a turn, only this does.",
        ),
    ] = 7200
    question_seconds: Annotated[
        int, Field(ge=5, description="How long the agent waits for an answer before it goes on without one.")
    ] = 1800

    max_unfinished_prompts: Annotated[
        int, Field(ge=1, le=1000, description="Prompts of one session that may be queued or running.")
    ] = 10
    max_concurrent_sandboxes: Annotated[
        int, Field(ge=1, description="Sandboxes that may run at a time on this server; further ones wait.")
    ] = 20
    max_streams_per_person: Annotated[
        int, Field(ge=1, description="Live streams that one person may have open at a time in one process.")
    ] = 64
    budget_usd: Annotated[
        float | None,
        Field(description="What one session may spend on models at most, in US dollars. Default: no bound."),
    ] = None
    log_level: Annotated[str, Field(description="debug, info, warning or error.")] = "info"

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("data_dir")
    @classmethod
    def _named_in_text(cls, value: Path) -> Path:
        if not is_text(str(value)):
            raise ValueError("the folder's path is not valid UTF-8")
        return value

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value.strip().startswith("["):
            try:
                return json.loads(value)
            except ValueError:
                raise ValueError("it is no list; write addresses with commas between them") from None
        return [one.strip() for one in value.split(",") if one.strip()]

    @field_validator("trusted_proxies")
    @classmethod
    def _addresses(cls, value: list[str]) -> list[str]:
        return [one if one == "*" else _address(one) for one in value]

    @field_validator("anthropic_api_key", "openai_api_key", "opencode_api_key")
    @classmethod
    def _a_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        key = value.get_secret_value().strip()
        if not all("!" <= letter <= "~" for letter in key):
            raise ValueError(
                "it is no key: it has characters that none has (a space, a line's end, an accent)"
            )
        return SecretStr(key)

    @property
    def base_url(self) -> str:
        """The address for links, without a slash at the end."""
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")

    @property
    def door_dir(self) -> Path:
        """Folder with the gateway's socket: mounted into every local sandbox, read-only."""
        return self.data_dir / "door"

    @property
    def toolbox(self) -> Path:
        if self.toolbox_dir is not None:
            return self.toolbox_dir
        of_checkout = CHECKOUT / ".tools" / "toolbox"
        return of_checkout if of_checkout.is_dir() else self.data_dir / "toolbox"


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False) if "/" in text else ipaddress.ip_address(text))
    except ValueError:
        raise ValueError(f"“{text}” is neither an IP address nor a network such as 10.0.0.0/8") from None


def variable(field: str) -> str:
    """The environment variable that sets a field; an alias, as validation errors call a field that has one, is one already."""
    return field if field in _aliases() else f"OPENINSPECT_{field.upper()}"


def is_own_variable(name: str) -> bool:
    """Whether an environment variable is one of ours."""
    return name.startswith("OPENINSPECT_") or name in _aliases()


def _aliases() -> set[str]:
    return {str(field.validation_alias) for field in Settings.model_fields.values() if field.validation_alias}
