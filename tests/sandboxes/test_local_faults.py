"""What may go wrong around a box: interrupted starts, a full or odd host, deleted folders. Each ends in a clear state."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from openinspect.sandboxes.local import cgroups, disk, holder, host, processes
from openinspect.sandboxes.provider import ProviderError, ProviderUnavailable
from openinspect.settings import Settings

from .conftest import Boxes

pytestmark = pytest.mark.anyio


@pytest.fixture
def closed_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


async def test_a_strict_umask_of_the_server_is_not_the_boxs(boxes: Boxes, closed_umask: None) -> None:
    agent = (await boxes.ask("agent_may"))["agent"]
    assert agent["workspace"] == agent["home"] == "done"


@pytest.mark.parametrize("after", [0.0, 0.02, 0.1, 0.3])
async def test_an_interrupted_create_is_finished_by_the_next(boxes: Boxes, after: float) -> None:
    provider, spec = boxes.provider(), boxes.spec()
    task = asyncio.create_task(provider.create(spec))
    await asyncio.sleep(after)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    handle = await boxes.provider().create(spec)
    assert (await provider.status(handle)).state == "running"
    assert await provider.list_boxes() == [spec.box_id]


_SERVER = """
import asyncio, sys
from pathlib import Path
from openinspect.sandboxes.local import LocalProvider
from openinspect.sandboxes.provider import BoxSpec
from openinspect.settings import Settings
provider = LocalProvider(Settings(data_dir=Path(sys.argv[1])), command=("/bin/sleep", "600"))
spec = BoxSpec.model_validate_json(sys.argv[2])
print("now", flush=True)

async def serve():
    await provider.create(spec)
    await asyncio.sleep(60)

asyncio.run(serve())
"""


@pytest.mark.parametrize("after", [0.01, 0.05, 0.1, 0.2, 0.4])
async def test_a_server_killed_while_it_creates_is_made_good_by_the_next(boxes: Boxes, after: float) -> None:
    spec = boxes.spec()
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _SERVER, str(boxes.settings.data_dir), spec.model_dump_json()),
        stdout=asyncio.subprocess.PIPE,
    )
    assert server.stdout is not None
    assert await server.stdout.readline() == b"now\n"
    await asyncio.sleep(after)
    server.kill()
    await server.wait()
    provider = boxes.provider()
    handle = await provider.create(spec)
    assert (await provider.status(handle)).state == "running"
    # launchers end by themselves; one holder stays
    deadline = time.monotonic() + 10
    while len(_named(spec.box_id)) != 1:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert _named(spec.box_id) == [handle["pid"]]


def _named(word: str) -> list[int]:
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


async def test_two_boxes_cannot_have_one_disk(boxes: Boxes) -> None:
    await boxes.start(disk="same")
    with pytest.raises(ProviderError) as caught:
        await boxes.start(disk="same")
    assert "in use" in caught.value.reason
    assert caught.value.remedy
    with pytest.raises(ProviderError, match="in use"):
        await boxes.provider().delete_disk("same")


async def test_a_create_that_failed_may_be_repeated(boxes: Boxes) -> None:
    provider, handle = await boxes.start(disk="same")
    spec = boxes.spec(disk="same")
    with pytest.raises(ProviderError):
        await provider.create(spec)
    await provider.release(handle["box"], handle)
    again = await provider.create(spec)
    assert (await provider.status(again)).state == "running"


async def test_without_bubblewrap_the_provider_is_unavailable(
    boxes: Boxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "SYSTEM_PATH", "/nowhere")
    with pytest.raises(ProviderUnavailable) as caught:
        await boxes.start()
    assert "bubblewrap" in caught.value.reason
    assert "apt install" in caught.value.remedy
    findings = {finding.name: finding for finding in await boxes.provider().check()}
    assert findings["bubblewrap"].state == "failed"
    assert "sandbox" not in findings


async def test_a_program_that_is_missing_is_told_at_once(boxes: Boxes) -> None:
    with pytest.raises(ProviderError) as caught:
        await boxes.start("/no/such/program")
    assert "/no/such/program" in caught.value.reason


async def test_ids_that_are_no_folders_names_are_refused(boxes: Boxes) -> None:
    for word in ("../other", "", ".hidden", "a/b", "x" * 200):
        with pytest.raises(ValueError):
            await boxes.provider().release(word, None)
        with pytest.raises(ValueError):
            await boxes.provider().delete_disk(word)


async def test_a_box_whose_folder_was_deleted_ends_by_itself(boxes: Boxes) -> None:
    """Whoever deletes the data folder under a running server must not be left with processes that nobody can find."""
    provider, handle = await boxes.start()
    place = cgroups.locate()
    groups = place.folders(handle["box"]) if isinstance(place, cgroups.Place) else []
    await asyncio.to_thread((boxes.folder / handle["box"]).rename, boxes.folder.parent / "elsewhere")
    me = processes.Process(handle["pid"], handle["start"], handle["boot"])
    assert await asyncio.to_thread(processes.wait_gone, me, holder.LOOK_SECONDS + 10)
    assert not any(group.exists() for group in groups)
    assert (await provider.status(handle)).state == "gone"


async def test_a_disk_of_other_ids_is_refused_with_a_reason(boxes: Boxes) -> None:
    provider, handle = await boxes.start()
    await provider.release(handle["box"], handle)
    note = boxes.settings.data_dir / "sandboxes" / "disks" / "disk" / disk.OWNER
    await asyncio.to_thread(note.write_text, "123456")
    with pytest.raises(ProviderError) as caught:
        await boxes.start()
    assert "123456" in caught.value.reason
    assert "OPENINSPECT_SANDBOX_UID_BASE" in caught.value.remedy


async def test_a_new_home_is_a_copy_of_the_toolboxes_and_the_agents(boxes: Boxes) -> None:
    template = boxes.settings.toolbox / "opencode-home"
    (template / ".config" / "deep").mkdir(parents=True)
    (template / ".config" / "deep" / "file").write_text("prepared")
    (template / ".config" / "link").symlink_to("deep/file")
    (template / ".config" / "run").write_text("#!/bin/sh\n")
    (template / ".config" / "run").chmod(0o755)
    script = "cd /home/agent; cat .config/link; stat -c ' %u:%g' .config/deep/file; test -x .config/run; echo mine > .config/deep/file"
    provider, handle = await boxes.start("/bin/sh", "-ec", script)
    status = await boxes.ended(provider, handle)
    assert status.log_tail == "prepared 1000:1000\n"
    await provider.release(handle["box"], handle)
    # only a new one: the next box finds what the first has made of it
    provider, handle = await boxes.start("cat", "/home/agent/.config/deep/file")
    assert (await boxes.ended(provider, handle)).log_tail == "mine\n"
    assert (template / ".config" / "deep" / "file").read_text() == "prepared"
    # nor does the next session find it
    provider, handle = await boxes.start("cat", "/home/agent/.config/deep/file", disk="another")
    assert (await boxes.ended(provider, handle)).log_tail == "prepared"


async def test_a_new_toolbox_gives_new_sessions_its_home(boxes: Boxes) -> None:
    template = boxes.settings.toolbox / "opencode-home"
    template.mkdir(parents=True)
    for version in ("one", "two", "three", "four", "five"):
        (template / "file").write_text(version)
        (boxes.settings.toolbox / "versions.json").write_text(version)
        provider, handle = await boxes.start("cat", "/home/agent/file", disk=version)
        assert (await boxes.ended(provider, handle)).log_tail == version
        await provider.release(handle["box"], handle)
    kept = list((boxes.settings.data_dir / "sandboxes").glob("templates/*"))
    assert len(kept) <= 3


async def test_temporary_files_are_those_of_one_box(boxes: Boxes) -> None:
    provider, handle = await boxes.start("/bin/sh", "-c", "touch /tmp/a /var/tmp/b /workspace/c")
    await boxes.ended(provider, handle)
    await provider.release(handle["box"], handle)
    provider, handle = await boxes.start("/bin/sh", "-c", "ls -A /tmp /var/tmp /workspace")
    listed = (await boxes.ended(provider, handle)).log_tail.split()
    assert "a" not in listed
    assert {"b", "c"} <= set(listed)


async def test_many_boxes_at_once(boxes: Boxes) -> None:
    began = time.monotonic()
    made = await asyncio.gather(*(boxes.start(disk=f"disk{number}") for number in range(6)))
    assert len({handle["box"] for _, handle in made}) == 6
    await asyncio.gather(*(provider.stop(handle, grace=0) for provider, handle in made))
    assert time.monotonic() - began < 40
    for provider, handle in made:
        assert (await provider.status(handle)).state == "exited"


async def test_the_data_folder_may_have_any_name(tmp_path: Path) -> None:
    odd = Boxes(Settings(data_dir=tmp_path / "with space, comma:colon ü", toolbox_dir=tmp_path / "none"))
    try:
        provider, handle = await odd.start("echo", "fine")
        assert (await odd.ended(provider, handle)).log_tail == "fine\n"
    finally:
        await odd.clear()
