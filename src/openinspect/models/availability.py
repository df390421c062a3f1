"""Which models can be used now, and for the others why not and what to do.

A provider can be used when its key is set; without a key the scripted model server answers for it, where one is set up, and that is said
(``scripted``). Otherwise ``reason`` and ``remedy`` say what is missing. Nothing here asks the provider: a key that it refuses shows at the
first call.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr

from openinspect.problems import Unavailable
from openinspect.settings import Settings

from .catalogue import Model, Provider, find, models, provider, providers


class ModelUnavailable(Unavailable):
    """The model exists, and cannot be used as the server is set up."""


@dataclass(frozen=True, slots=True)
class Availability:
    available: bool
    scripted: bool = False
    """The scripted model server answers, not the real model."""
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where a provider's calls really go."""

    base_url: str
    """Without a slash at the end."""
    key: SecretStr | None
    """None: the scripted server, which wants none."""
    scripted: bool


def provider_key(settings: Settings, owner: Provider) -> SecretStr | None:
    key: SecretStr | None = getattr(settings, owner.key_setting)
    return key if key is not None and key.get_secret_value().strip() else None


def provider_availability(settings: Settings, owner: Provider) -> Availability:
    if provider_key(settings, owner) is not None:
        return Availability(available=True)
    if settings.scripted_model_url:
        return Availability(available=True, scripted=True)
    return Availability(
        available=False,
        reason=f"The server has no key for {owner.name}.",
        remedy=f"Set {owner.key_variable} in the server's environment (or OPENINSPECT_SCRIPTED_MODEL=playground, to try it without a key) "
        "and start it again.",
    )


def model_availability(settings: Settings, model: Model) -> Availability:
    owner = provider(model.provider)
    assert owner is not None
    return provider_availability(settings, owner)


def available_models(settings: Settings) -> list[tuple[Model, Availability]]:
    """Every model with whether it can be used, in the order in which they are shown."""
    by_provider = {owner.id: provider_availability(settings, owner) for owner in providers()}
    return [(model, by_provider[model.provider]) for model in models()]


def require_available(settings: Settings, model: Model) -> Availability:
    """Raises ``ModelUnavailable`` with the reason and the remedy when the model cannot be used now."""
    state = model_availability(settings, model)
    if not state.available:
        raise ModelUnavailable(
            "model_unavailable", f"{model.id} cannot be used. {state.reason}", state.remedy
        )
    return state


def usable_default(settings: Settings) -> str:
    """The model for sessions that name none: the one that is set, or where only another provider's key is there, the first of that."""
    if model_availability(settings, find(settings.default_model)).available:
        return settings.default_model
    usable = [
        model.id for model, state in available_models(settings) if state.available and not state.scripted
    ]
    return usable[0] if usable else settings.default_model


def upstream(settings: Settings, owner: Provider) -> Upstream | None:
    """Where to send the provider's calls; None when it cannot be used. A real key comes before the scripted server."""
    key = provider_key(settings, owner)
    if key is not None:
        return Upstream(owner.base_url, key, scripted=False)
    if settings.scripted_model_url:
        return Upstream(f"{settings.scripted_model_url.rstrip('/')}/{owner.id}/v1", None, scripted=True)
    return None
