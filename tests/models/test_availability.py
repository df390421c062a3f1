from pathlib import Path

import pytest
from pydantic import SecretStr

from openinspect.models.availability import (
    ModelUnavailable,
    available_models,
    require_available,
    upstream,
)
from openinspect.models.catalogue import find, provider
from openinspect.settings import Settings


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch):
    for name in (
        "ANTHROPIC_API_KEY",
        "OPENAI_API_KEY",
        "OPENCODE_API_KEY",
        "OPENINSPECT_SCRIPTED_MODEL_URL",
    ):
        monkeypatch.delenv(name, raising=False)


def test_without_a_key_it_says_which_one_to_set(tmp_path: Path):
    settings = Settings(data_dir=tmp_path)
    assert not any(state.available for _, state in available_models(settings))
    with pytest.raises(ModelUnavailable, match="OPENAI_API_KEY"):
        require_available(settings, find("openai/gpt-5.4"))


def test_a_key_makes_its_provider_available_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "a-key-for-a-test")
    monkeypatch.setenv("OPENAI_API_KEY", "  ")
    settings = Settings(data_dir=tmp_path)
    assert {model.provider for model, state in available_models(settings) if state.available} == {"anthropic"}
    assert not require_available(settings, find("claude-opus-5")).scripted
    anthropic = provider("anthropic")
    assert anthropic is not None
    place = upstream(settings, anthropic)
    assert place is not None and place.base_url == "https://api.anthropic.com/v1"
    assert isinstance(place.key, SecretStr)


def test_the_scripted_server_stands_in_only_where_there_is_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-for-a-test")
    settings = Settings(data_dir=tmp_path, scripted_model_url="http://127.0.0.1:9000/")
    states = {model.id: state for model, state in available_models(settings)}
    assert states["anthropic/claude-opus-5"].scripted and states["opencode/glm-5"].scripted
    assert states["openai/gpt-5.4"].available and not states["openai/gpt-5.4"].scripted
    zen, openai = provider("opencode"), provider("openai")
    assert zen is not None and openai is not None
    assert (place := upstream(settings, zen)) is not None
    assert place.base_url == "http://127.0.0.1:9000/opencode/v1" and place.key is None
    assert (place := upstream(settings, openai)) is not None
    assert place.base_url == "https://api.openai.com/v1"
