"""What is particular about OpenCode: trees that configure it, silence, disks that are full, and being warm before anyone asks."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from openinspect.testing import ScriptedModel

from .box import NO_TOOLBOX, Box, make_repository, toolbox
from .door import Door

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(toolbox() is None, reason=NO_TOOLBOX),
]

_PLUGIN = """
export const Probe = async () => ({ "tool.execute.before": async (input) => { globalThis.probed = input.tool } })
"""
_TOOL = """
export default { description: "Tells a number.", args: {}, async execute() { return "forty-two" } }
"""


async def test_a_tree_that_configures_the_agent_is_read_and_does_not_block(
    tmp_path: Path, door: Door, repositories: Path
) -> None:
    """Warmed before the tree was there, and with a package to install that no registry gives."""
    make_repository(
        repositories,
        "configured",
        {
            ".opencode/plugin/probe.js": _PLUGIN,
            ".opencode/tool/number.js": _TOOL,
            "opencode.json": '{"permission": {"bash": "ask", "edit": "ask"}, "instructions": ["RULES.md"]}',
            "RULES.md": "Remember the heliotrope.\n",
        },
    )
    async with Box(tmp_path / "box", door) as box:
        await door.until(
            lambda: any(step.step == "agent" and step.state == "completed" for step in door.of("boot.step"))
        )
        await door.until(lambda: (box.workspace / "repo" / ".git").exists())
        box.configure(["configured"])
        await door.ready()
        turn = box.prompt("prm_1", "call number\nrun: echo allowed\nwrite x.txt: x")
        ended = await door.ended(turn, 90)
        assert ended.outcome == "completed", (ended, box.log)
        finished = {event.tool: event for event in door.of("tool.finished", turn)}
        assert finished["number"].output == "forty-two"
        # What the tree wants to be asked about is allowed at once.
        assert finished["bash"].output == "allowed\n" and finished["write"].state == "completed"
        assert b"heliotrope" in door.model_requests[-1]
        assert [file["path"] for file in door.diffs["configured"]["files"]] == ["x.txt"]


async def test_silence_is_not_death(tmp_path: Path, door: Door) -> None:
    """With the clocks a hundred times as fast, and the bridge's connection lost in between."""
    box = Box(tmp_path / "box", door)
    box.program = [str(Path(__file__).with_name("patient.py"))]
    async with box:
        box.configure()
        await door.ready()
        turn = box.prompt("prm_1", "sleep 6\nsay: awake")
        await door.until(lambda: door.of("tool.started", turn))
        await door.drop()
        await door.until(lambda: len(door.hellos) > 1)
        assert door.hellos[-1].running == turn
        beats = len(door.beats)
        assert (await door.ended(turn)).outcome == "completed"
        assert door.of("tool.finished", turn)[0].state == "completed"
        assert any("awake" in event.text for event in door.of("text", turn))
        assert all(
            beat.processes > 0 for beat in door.beats[beats:] if beat.running == turn and beat.processes
        )


async def test_warming_asks_no_model_and_leaves_no_trace(
    tmp_path: Path, door: Door, model: ScriptedModel
) -> None:
    asked = len(model.requests)
    async with Box(tmp_path / "box", door) as box:
        repo = box.workspace / "repo"
        await door.until(lambda: (repo / ".git").exists())
        box.configure()
        await door.ready()
        assert len(model.requests) == asked
        assert (repo / "widgets.py").exists()
        turn = box.prompt("prm_1", "say: hello")
        assert (await door.ended(turn)).outcome == "completed"
        assert [request.prompt for request in model.requests[asked:]] == ["say: hello"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A box's folder, with workspace and home together on a disk of 80 MiB."""
    folder = tmp_path / "box"
    disk = folder / "workspace"
    disk.mkdir(parents=True)
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(disk)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"this kernel or container does not let us mount: {mounted.stderr.strip()}")
    try:
        subprocess.run(["cp", "-a", f"{toolbox()}/opencode-home", str(disk / ".home")], check=True)
        (folder / "home").symlink_to(disk / ".home")
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


async def test_a_full_disk_fails_the_turn_and_not_the_sandbox(small_disk: Path, door: Door) -> None:
    async with Box(small_disk, door) as box:
        box.configure()
        await door.ready()
        filled = box.prompt("prm_1", "run: head -c 200m /dev/zero > full; echo $?")
        assert (await door.ended(filled, 90)).outcome in ("completed", "failed")
        ended = await door.ended(box.prompt("prm_2", "write more.txt: more"), 90)
        assert ended.outcome == "completed" or (ended.reason and ended.remedy)
        (box.workspace / "repo" / "full").unlink()
        last = box.prompt("prm_3", "say: room again")
        assert (await door.ended(last, 90)).outcome == "completed", door.bodies[-5:]
        assert not door.faults
