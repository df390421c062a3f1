"""A place for boxes, and a way to ask a question inside one (see ``inside``)."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from openinspect.protocol.config import AgentConfig, Door, RuntimeConfig
from openinspect.sandboxes.local import LocalProvider, host
from openinspect.sandboxes.provider import BoxSpec, BoxStatus, Handle, Limits
from openinspect.settings import Settings

INSIDE = Path(__file__).with_name("inside.py")


class Boxes:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._made: list[str] = []

    @property
    def folder(self) -> Path:
        return self.settings.data_dir / "sandboxes" / "boxes"

    def provider(self, *command: str) -> LocalProvider:
        return LocalProvider(self.settings, command=command or ("/bin/sleep", "600"))

    def spec(self, *, disk: str = "disk", limits: Limits | None = None) -> BoxSpec:
        box = f"box-{secrets.token_hex(4)}"
        self._made.append(box)
        agent = AgentConfig(providers=[], default_model="some/model", small_model="some/model")
        runtime = RuntimeConfig(
            sandbox_id=box,
            token="the-token",
            door=Door(socket="/opt/openinspect/door/gateway.sock"),
            agent=agent,
        )
        return BoxSpec(box_id=box, disk_id=disk, runtime=runtime, limits=limits or Limits(disk_mib=64))

    async def start(
        self, *command: str, disk: str = "disk", limits: Limits | None = None
    ) -> tuple[LocalProvider, Handle]:
        provider = self.provider(*command)
        return provider, await provider.create(self.spec(disk=disk, limits=limits))

    async def ask(
        self, question: str, *arguments: object, disk: str = "disk", limits: Limits | None = None
    ) -> dict[str, Any]:
        """The answers of uid 0 (``root``) and uid 1000 (``agent``)."""
        command = [host.interpreter().inside, "-c", await asyncio.to_thread(INSIDE.read_text), question]
        provider, handle = await self.start(*command, *map(str, arguments), disk=disk, limits=limits)
        status = await self.ended(provider, handle)
        answers = self.folder / handle["box"] / "state" / "answers.json"
        assert status.exit_code == 0, status
        told = json.loads(await asyncio.to_thread(answers.read_text))
        await provider.release(handle["box"], handle)
        for who in told.values():
            assert "failed" not in who, who.get("failed")
        return told

    async def ended(self, provider: LocalProvider, handle: Handle, seconds: float = 40) -> BoxStatus:
        deadline = time.monotonic() + seconds
        status = await provider.status(handle)
        while status.state == "running":
            assert time.monotonic() < deadline, status
            await asyncio.sleep(0.02)
            status = await provider.status(handle)
        return status

    async def printed(self, provider: LocalProvider, handle: Handle, text: str) -> None:
        deadline = time.monotonic() + 20
        status = await provider.status(handle)
        while text not in status.log_tail:
            assert status.state == "running", status
            assert time.monotonic() < deadline, status
            await asyncio.sleep(0.02)
            status = await provider.status(handle)

    async def clear(self) -> None:
        provider = self.provider()
        for box in self._made:
            await provider.release(box, None)
        for disk in await provider.list_disks():
            await provider.delete_disk(disk)


@pytest.fixture
async def boxes(tmp_path: Path) -> AsyncIterator[Boxes]:
    made = Boxes(Settings(data_dir=tmp_path / "data", toolbox_dir=tmp_path / "toolbox"))
    yield made
    await made.clear()
