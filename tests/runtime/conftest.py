"""``model`` is a scripted model that does what prompts say; ``door`` a test door in front of it, with repositories in ``repositories``;
``box`` the runtime behind it, not yet told anything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from openinspect.testing import ScriptedModel

from .box import NO_TOOLBOX, Box, FakeBox, make_repository, toolbox
from .door import Door


@pytest.fixture(scope="session")
def model() -> Iterator[ScriptedModel]:
    with ScriptedModel("playground", delay_ms=0) as running:
        yield running


@pytest.fixture
def repositories(tmp_path: Path) -> Path:
    folder = tmp_path / "repositories"
    make_repository(
        folder, "widgets", {"README.md": "# Widgets\n", "widgets.py": "def count():\n    return 1\n"}
    )
    return folder


@pytest.fixture
async def door(tmp_path: Path, repositories: Path, model: ScriptedModel) -> AsyncIterator[Door]:
    models = {"anthropic": model.anthropic_url, "openai": model.openai_url, "opencode": model.opencode_url}
    async with Door(tmp_path / "gateway.sock", repositories, models) as running:
        yield running


@pytest.fixture
async def box(tmp_path: Path, door: Door) -> AsyncIterator[Box]:
    if toolbox() is None:
        pytest.skip(NO_TOOLBOX)
    async with Box(tmp_path / "box", door) as running:
        yield running


@pytest.fixture
async def fake_box(tmp_path: Path, door: Door) -> AsyncIterator[FakeBox]:
    async with FakeBox(tmp_path / "box", door) as running:
        yield running
