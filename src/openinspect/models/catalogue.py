"""The models that a session can use: what ``catalogue.yaml`` says, read once and checked.

A model is named ``provider/model`` everywhere (``anthropic/claude-sonnet-4-6``); bare ``claude-…`` and ``gpt-…`` names are understood where a
person types one. An effort is how long the model may think; each model has its own list, and a default that may be none at all (then the
provider decides).

Errors: ``UnknownModel``, ``UnknownEffort`` (both a 422 at the API, both with what to say instead).
"""

from __future__ import annotations

import difflib
from datetime import date
from decimal import Decimal
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from openinspect.problems import Invalid
from openinspect.protocol.config import AgentProvider

Api = Literal["anthropic", "openai-responses", "openai-chat"]
EffortStyle = Literal["anthropic-budget", "anthropic-adaptive", "openai-reasoning"]

# Tokens that a model with a fixed thinking budget may think for. The API wants less than its output limit; the agent asks for 32,000 at most.
_THINKING_BUDGET = {"high": 16_000, "max": 31_999}


class UnknownModel(Invalid):
    """No model of that name is in the catalogue."""

    def __init__(self, model_id: str, close: list[str]) -> None:
        shown = model_id if len(model_id) <= 80 else model_id[:77] + "…"
        instead = (
            f"Did you mean {' or '.join(close)}?"
            if close
            else "`openinspect models` lists those that there are."
        )
        super().__init__("unknown_model", f"There is no model {shown!r} in the catalogue.", instead)
        self.close = close


class UnknownEffort(Invalid):
    """The model has no such effort."""

    def __init__(self, model_id: str, effort: str, efforts: tuple[str, ...]) -> None:
        shown = effort if len(effort) <= 40 else effort[:37] + "…"
        remedy = f"Choose one of {', '.join(efforts)}, or none." if efforts else "Leave the effort out."
        super().__init__("unknown_effort", f"{model_id} has no effort {shown!r}.", remedy)


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Price(_Data):
    """US dollars per million tokens. What is not given costs as much as input."""

    input: Decimal
    output: Decimal
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    source: str = ""


class Model(_Data):
    id: str
    """As ``provider/model``."""
    provider: str
    bare_id: str
    """The provider's own name for it, as it stands in a request."""
    name: str
    api: Api
    context: int
    """Tokens of input and output together."""
    max_input: int | None = None
    output: int
    """Tokens of one answer at most."""
    input: tuple[Literal["text", "image", "pdf"], ...]
    temperature: bool = True
    """Whether a request may set it."""
    reasoning_field: str | None = None
    """Where an OpenAI-compatible answer has the model's thoughts, to be sent back with the next request."""
    efforts: tuple[str, ...] = ()
    default_effort: str | None = None
    effort_style: EffortStyle | None = None
    summarize: bool = False
    """Thoughts come only when a summary of them is asked for."""
    price: Price | None = None
    """Overrides genai-prices."""
    enabled: bool
    """Offered unless an administrator says otherwise."""

    @model_validator(mode="after")
    def _efforts_agree(self) -> Model:
        if self.default_effort is not None and self.default_effort not in self.efforts:
            raise ValueError(f"{self.id}: the default effort is not one of its efforts")
        if bool(self.efforts) != (self.effort_style is not None):
            raise ValueError(f"{self.id}: efforts and effort_style belong together")
        return self

    def effort_options(self, effort: str) -> dict[str, Any]:
        """What an effort means to the provider's SDK (the AI SDK's provider options, which is also how OpenCode's variants are written)."""
        if self.effort_style == "anthropic-budget":
            return {"thinking": {"type": "enabled", "budgetTokens": _THINKING_BUDGET[effort]}}
        if self.effort_style == "anthropic-adaptive":
            thinking = {"type": "adaptive"} | ({"display": "summarized"} if self.summarize else {})
            return {"thinking": thinking, "effort": effort}
        return {
            "reasoningEffort": effort,
            "reasoningSummary": "auto",
            "include": ["reasoning.encrypted_content"],
        }


class Provider(_Data):
    id: str
    name: str
    api: Api
    base_url: str
    """Where the real provider is; the gateway sends nothing anywhere else."""
    key_setting: str
    """Field of ``Settings`` with its key."""
    key_variable: str
    """Environment variable that the key is given in."""
    prices: str | None
    """Its id in genai-prices."""
    enabled: bool
    small_model: str
    """Bare id of the model for titles and the like."""
    price_source: str = ""
    models: dict[str, Model] = Field(min_length=1)
    """By bare id."""

    @model_validator(mode="before")
    @classmethod
    def _spread(cls, data: Any, info: ValidationInfo) -> Any:
        # What is said once for the provider holds for each of its models.
        models = {}
        for bare_id, model in data["models"].items():
            model = {"enabled": data["enabled"]} | model
            if model.get("price") and data.get("price_source"):
                model["price"] = {"source": data["price_source"]} | model["price"]
            models[bare_id] = model | {
                "id": f"{data['id']}/{bare_id}",
                "provider": data["id"],
                "bare_id": bare_id,
                "api": data["api"],
            }
        return data | {"models": models}

    @model_validator(mode="after")
    def _small_is_listed(self) -> Provider:
        if self.small_model not in self.models:
            raise ValueError(f"{self.id}: its small model is not listed")
        return self

    @property
    def small(self) -> Model:
        return self.models[self.small_model]


class Catalogue(_Data):
    source: str
    date: date
    default: str
    providers: dict[str, Provider]

    @model_validator(mode="before")
    @classmethod
    def _name(cls, data: Any) -> Any:
        return data | {"providers": {key: value | {"id": key} for key, value in data["providers"].items()}}


@lru_cache(maxsize=1)
def catalogue() -> Catalogue:
    """The catalogue as it is shipped."""
    text = resources.files("openinspect.models").joinpath("catalogue.yaml").read_text(encoding="utf-8")
    return Catalogue.model_validate(yaml.safe_load(text))


def providers() -> list[Provider]:
    return list(catalogue().providers.values())


def provider(provider_id: str) -> Provider | None:
    return catalogue().providers.get(provider_id)


def models() -> list[Model]:
    """All of them, in the order in which they are shown."""
    return [model for provider in providers() for model in provider.models.values()]


def find(model_id: str) -> Model:
    """The model of that name, ``provider/model`` or a bare ``claude-…``, ``gpt-…``. Raises ``UnknownModel``."""
    provider_id, slash, bare_id = model_id.strip().partition("/")
    if not slash:
        bare_id = provider_id
        provider_id = (
            "anthropic" if bare_id.startswith("claude-") else "openai" if bare_id.startswith("gpt-") else ""
        )
    owner = provider(provider_id)
    model = owner.models.get(bare_id) if owner else None
    if model is None:
        raise UnknownModel(model_id, _close_to(model_id))
    return model


def check_effort(model: Model | str, effort: str | None) -> str | None:
    """The effort to run the model with: the one given, or the model's default. Raises ``UnknownModel``, ``UnknownEffort``."""
    model = find(model) if isinstance(model, str) else model
    if effort is None:
        return model.default_effort
    if effort not in model.efforts:
        raise UnknownEffort(model.id, effort, model.efforts)
    return effort


def small_model(model: Model | str) -> Model:
    """The helper model of the same provider: what the agent may use besides the model that a person chose."""
    model = find(model) if isinstance(model, str) else model
    return catalogue().providers[model.provider].small


def agent_providers() -> list[AgentProvider]:
    """The providers as an agent in a sandbox is to know them, whichever of them can be used now.

    A model's entry: ``name``, ``limit`` {context, output, input?}, ``modalities`` {input, output}, ``reasoning``, ``temperature``,
    ``tool_call``, ``attachment``, ``interleaved`` {field} where there is one (these are OpenCode's own words and can be handed to its
    configuration as they are), and ``efforts``: by name, the options of the provider's SDK (OpenCode's ``variants``).
    """
    return [
        AgentProvider(
            id=each.id,
            api=each.api,
            path=f"/llm/{each.id}/v1",
            models={model.bare_id: _for_agent(model) for model in each.models.values()},
        )
        for each in providers()
    ]


def _for_agent(model: Model) -> dict[str, Any]:
    limit = {"context": model.context, "output": model.output}
    if model.max_input is not None:
        limit["input"] = model.max_input
    entry: dict[str, Any] = {
        "name": model.name,
        "limit": limit,
        "modalities": {"input": list(model.input), "output": ["text"]},
        "attachment": "image" in model.input,
        "reasoning": True,
        "temperature": model.temperature,
        "tool_call": True,
        "efforts": {effort: model.effort_options(effort) for effort in model.efforts},
    }
    if model.reasoning_field is not None:
        entry["interleaved"] = {"field": model.reasoning_field}
    return entry


def _close_to(model_id: str) -> list[str]:
    wanted = model_id[:100].lower()
    names = {model.id: model.id for model in models()} | {model.bare_id: model.id for model in models()}
    matches = difflib.get_close_matches(wanted, names, n=6, cutoff=0.6)
    return list(dict.fromkeys(names[match] for match in matches))[:3]
