"""Where no model can be used, the list of models says so, and what to do."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from openinspect.testing.running_server import RunningServer, running_server

pytestmark = pytest.mark.anyio


async def _models(server: RunningServer, folder: Path, *flags: str) -> str:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OPENINSPECT_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "openinspect", "models", *flags),
        env={
            **kept,
            "OPENINSPECT_DATA_DIR": str(folder),
            "OPENINSPECT_URL": server.url,
            "OPENINSPECT_TOKEN": server.token,
        },
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), 30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    return out.decode()


async def test_that_no_model_can_be_used_is_said_plainly(database_url: str, tmp_path: Path) -> None:
    async with running_server(database_url, tmp_path, scripted_model_url=None) as server:
        said = await _models(server, tmp_path / "here")
        assert said.startswith("No model can be used now")
        assert "ANTHROPIC_API_KEY" in said
        assert "OPENINSPECT_SCRIPTED_MODEL=playground" in said
        assert "efforts" not in said  # no header without rows
        everything = await _models(server, tmp_path / "here", "--all")
        assert everything.startswith("No model can be used now")
        assert "anthropic/claude-sonnet-4-6" in everything
        assert "what it lacks" in everything
