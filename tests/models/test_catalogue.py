import pytest

from openinspect.models.catalogue import (
    UnknownEffort,
    UnknownModel,
    agent_providers,
    catalogue,
    check_effort,
    find,
    models,
    provider,
    providers,
    small_model,
)


def test_every_provider_and_model_is_there():
    assert [(owner.id, owner.enabled, len(owner.models)) for owner in providers()] == [
        ("anthropic", True, 10),
        ("openai", True, 7),
        ("opencode", False, 8),
    ]
    assert find(catalogue().default).id == "anthropic/claude-sonnet-4-6"
    assert not find("opencode/glm-5.2").enabled


@pytest.mark.parametrize(
    ("model", "efforts", "default"),
    [
        ("anthropic/claude-haiku-4-5", ("high", "max"), "max"),
        ("anthropic/claude-sonnet-4-6", ("low", "medium", "high", "max"), "high"),
        ("anthropic/claude-opus-5", ("low", "medium", "high", "xhigh", "max"), "high"),
        ("openai/gpt-5.4", ("none", "low", "medium", "high", "xhigh"), None),
        ("openai/gpt-5.6-luna", ("none", "low", "medium", "high", "xhigh", "max"), None),
        ("openai/gpt-5.3-codex", ("low", "medium", "high", "xhigh"), "high"),
        ("opencode/kimi-k3", (), None),
    ],
)
def test_efforts(model: str, efforts: tuple[str, ...], default: str | None):
    assert find(model).efforts == efforts
    assert check_effort(model, None) == default
    for effort in efforts:
        assert check_effort(model, effort) == effort
        assert find(model).effort_options(effort)


def test_bare_names_of_the_two_big_providers():
    assert find("claude-opus-5").id == "anthropic/claude-opus-5"
    assert find(" gpt-5.5 ").id == "openai/gpt-5.5"


@pytest.mark.parametrize(
    ("asked", "close"),
    [
        ("claude-sonet-4-6", "anthropic/claude-sonnet-4-6"),
        ("gpt5.4", "openai/gpt-5.4"),
        ("kimi-k3", "opencode/kimi-k3"),
        ("opencode/claude-opus-5", "anthropic/claude-opus-5"),
    ],
)
def test_an_unknown_model_names_those_that_are_close(asked: str, close: str):
    with pytest.raises(UnknownModel) as caught:
        find(asked)
    assert close in caught.value.close
    assert close in caught.value.remedy


@pytest.mark.parametrize("asked", ["", "/", "anthropic/", "x" * 100_000, "no/such/model", "\x00\n"])
def test_nonsense_is_an_unknown_model(asked: str):
    with pytest.raises(UnknownModel) as caught:
        find(asked)
    assert len(str(caught.value)) < 500


def test_an_unknown_effort_names_those_that_there_are():
    with pytest.raises(UnknownEffort, match="high, max"):
        check_effort("anthropic/claude-opus-4-5", "low")
    with pytest.raises(UnknownEffort, match="Leave the effort out"):
        check_effort("opencode/glm-5", "high")


def test_small_models_are_of_the_same_provider():
    assert small_model("openai/gpt-5.5").id == "openai/gpt-5.6-luna"
    assert all(small_model(model).provider == model.provider for model in models())


def test_what_an_agent_is_told_holds_no_secret_and_only_addresses_at_the_door():
    told = {each.id: each for each in agent_providers()}
    assert {each.path for each in told.values()} == {
        "/llm/anthropic/v1",
        "/llm/openai/v1",
        "/llm/opencode/v1",
    }
    assert {each.id: each.api for each in told.values()} == {
        "anthropic": "anthropic",
        "openai": "openai-responses",
        "opencode": "openai-chat",
    }
    for owner in providers():
        assert owner.base_url not in told[owner.id].model_dump_json()
        assert set(told[owner.id].models) == set(owner.models)
    sonnet = told["anthropic"].models["claude-sonnet-4-6"]
    assert sonnet["efforts"]["high"] == {"thinking": {"type": "adaptive"}, "effort": "high"}
    assert sonnet["limit"] == {"context": 1_000_000, "output": 128_000}


def test_every_model_has_a_price_of_its_own_or_one_in_the_library():
    for model in models():
        owner = provider(model.provider)
        assert owner is not None
        assert owner.prices is not None or model.price is not None, model.id
        assert model.price is None or model.price.source, model.id
