"""What every sandbox provider does, asked of each: a box's life, found again, killed, and what it leaves."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from openinspect.protocol.config import AgentConfig, Door, RuntimeConfig
from openinspect.protocol.frames import SandboxRecord
from openinspect.sandboxes.fake import UnisolatedProvider
from openinspect.sandboxes.local import LocalProvider
from openinspect.sandboxes.provider import BoxSpec, BoxStatus, Handle, Limits, SandboxProvider
from openinspect.settings import Settings

pytestmark = pytest.mark.anyio


@dataclass
class Kind:
    """A provider, how its boxes' places are called in a command, and what was started with it."""

    name: str
    settings: Settings
    workspace: str
    home: str
    state: str
    boxes: list[str] = field(default_factory=list)

    def provider(self, script: str | None = "exec sleep 600") -> SandboxProvider:
        """A new one each time, as after a restart of the server. None: with the runtime in its boxes."""
        maker = LocalProvider if self.name == "local" else UnisolatedProvider
        return maker(self.settings, command=None if script is None else ("/bin/sh", "-c", script))

    def spec(self, disk: str = "disk") -> BoxSpec:
        box = f"box-{secrets.token_hex(4)}"
        self.boxes.append(box)
        agent = AgentConfig(providers=[], default_model="some/model", small_model="some/model")
        runtime = RuntimeConfig(sandbox_id=box, token="worthless", door=Door(socket="/nowhere"), agent=agent)
        return BoxSpec(box_id=box, disk_id=disk, runtime=runtime, limits=Limits(disk_mib=64, memory_mib=256))


@pytest.fixture(params=["local", "unisolated"])
async def kind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Kind]:
    # A short name: the runtime has a socket in it, where there are no walls.
    settings = Settings(data_dir=tmp_path_factory.mktemp("k"))
    places = (
        ("/workspace", "/home/agent", "/var/lib/openinspect")
        if request.param == "local"
        else ("{workspace}", "{home}", "{state}")
    )
    made = Kind(request.param, settings, *places)
    yield made
    provider = made.provider()
    for box in made.boxes:
        await provider.release(box, None)
    for disk in await provider.list_disks():
        await provider.delete_disk(disk)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "not within the time"
        await asyncio.sleep(0.02)


async def ended(provider: SandboxProvider, handle: Handle) -> BoxStatus:
    async def is_over() -> bool:
        return (await provider.status(handle)).state != "running"

    await until(is_over)
    return await provider.status(handle)


async def printed(provider: SandboxProvider, handle: Handle, text: str) -> None:
    async def is_there() -> bool:
        return text in (await provider.status(handle)).log_tail

    await until(is_there)


def processes(mark: str) -> list[int]:
    """On the host, by a word on their command line."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if mark.encode() in words:
            found.append(int(folder.name))
    return found


def sleeper() -> tuple[str, str]:
    """A command that sleeps for longer than any test, and the word that tells it from others."""
    mark = f"600.{secrets.randbelow(10**12)}"
    return f"sleep {mark}", mark


async def test_a_box_runs_ends_and_tells_how(kind: Kind) -> None:
    provider = kind.provider("echo from inside; exit 7")
    handle = await provider.create(kind.spec())
    status = await ended(provider, handle)
    assert (status.state, status.exit_code) == ("exited", 7)
    assert "from inside" in status.log_tail


async def test_a_running_box_is_told_as_running(kind: Kind) -> None:
    provider = kind.provider("echo up; exec sleep 600")
    handle = await provider.create(kind.spec())
    await printed(provider, handle, "up")
    assert (await provider.status(handle)).state == "running"


async def test_create_may_be_repeated(kind: Kind) -> None:
    command, mark = sleeper()
    spec = kind.spec()
    first = await kind.provider(f"exec {command}").create(spec)
    assert await kind.provider(f"exec {command}").create(spec) == first

    async def one() -> bool:
        return len(processes(mark)) == 1

    await until(one)


async def test_several_creates_at_once_start_one_box(kind: Kind) -> None:
    command, mark = sleeper()
    spec = kind.spec()
    script = f"{command}; exit 1"
    handles = await asyncio.gather(*(kind.provider(script).create(spec) for _ in range(4)))
    assert all(handle == handles[0] for handle in handles)

    async def one() -> bool:
        return len(processes(mark)) == 1

    await until(one)


async def test_create_of_a_box_that_ended_starts_nothing_new(kind: Kind) -> None:
    provider = kind.provider("exit 3")
    spec = kind.spec()
    handle = await provider.create(spec)
    await ended(provider, handle)
    assert await provider.create(spec) == handle
    assert (await provider.status(handle)).exit_code == 3


async def test_a_box_outlives_the_server_and_is_found_again(kind: Kind) -> None:
    command, mark = sleeper()
    spec = kind.spec()
    server = f"""
import asyncio, json, sys
from openinspect.settings import Settings
from openinspect.sandboxes.provider import BoxSpec
from openinspect.sandboxes.{"local" if kind.name == "local" else "fake"} import {"LocalProvider" if kind.name == "local" else "UnisolatedProvider"} as Provider
from pathlib import Path
provider = Provider(Settings(data_dir=Path(sys.argv[1])), command=("/bin/sh", "-c", sys.argv[3]))
print(json.dumps(asyncio.run(provider.create(BoxSpec.model_validate_json(sys.argv[2])))))
"""
    arguments = [str(kind.settings.data_dir), spec.model_dump_json(), f"exec {command}"]
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", server, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    provider = kind.provider()
    assert (await provider.status(json.loads(done.stdout))).state == "running"
    assert await provider.list_boxes() == [spec.box_id]

    async def there() -> bool:
        return len(processes(mark)) == 1

    await until(there)
    found = await provider.find(spec.box_id)  # as without the database
    assert (await provider.status(found)).state == "running"
    await provider.stop(found)
    assert not processes(mark)
    assert (await provider.status(found)).state == "exited"
    await provider.stop(json.loads(done.stdout))


async def test_stop_lets_the_runtime_end_by_itself(kind: Kind) -> None:
    provider = kind.provider("trap 'echo leaving; exit 5' TERM; echo up; while :; do sleep 0.05; done")
    handle = await provider.create(kind.spec())
    await printed(provider, handle, "up")
    await provider.stop(handle, grace=10)
    status = await provider.status(handle)
    assert (status.state, status.exit_code, status.reason) == ("exited", 5, "stopped")
    assert "leaving" in status.log_tail


async def test_stop_ends_everything_within_the_grace_and_a_second(kind: Kind) -> None:
    command, mark = sleeper()
    provider = kind.provider(
        f"trap '' TERM; setsid {command} & (setsid setsid {command} &); {command} & echo up; while :; do sleep 0.05; done"
    )
    handle = await provider.create(kind.spec())
    await printed(provider, handle, "up")

    async def all_there() -> bool:
        return len(processes(mark)) >= 3

    await until(all_there)
    began = time.monotonic()
    await provider.stop(handle, grace=0.5)
    assert time.monotonic() - began < 1.5 + 1
    assert not processes(mark)
    status = await provider.status(handle)
    assert status.state == "exited"
    assert "stopped" in status.reason


async def test_what_the_runtime_leaves_behind_goes_with_it(kind: Kind) -> None:
    command, mark = sleeper()
    provider = kind.provider(f"setsid {command} & exit 0")
    handle = await provider.create(kind.spec())
    status = await ended(provider, handle)
    assert status.exit_code == 0
    assert not processes(mark)


async def test_ending_what_is_not_there_is_no_error(kind: Kind) -> None:
    provider = kind.provider("exit 0")
    spec = kind.spec()
    handle = await provider.create(spec)
    await ended(provider, handle)
    await provider.stop(handle)
    await provider.stop(handle, grace=0)
    await provider.release(spec.box_id, handle)
    await provider.release(spec.box_id, handle)
    await provider.release(spec.box_id, None)
    await provider.stop(handle)
    assert (await provider.status(handle)).state == "gone"
    await provider.release("never-was", None)
    await provider.delete_disk("never-was")


async def test_release_without_a_handle_ends_a_running_box(kind: Kind) -> None:
    command, mark = sleeper()
    provider = kind.provider(f"{command} & {command}")
    spec = kind.spec()
    handle = await provider.create(spec)

    async def there() -> bool:
        return len(processes(mark)) == 2

    await until(there)
    await kind.provider().release(spec.box_id, None)
    assert not processes(mark)
    assert (await provider.status(handle)).state == "gone"
    assert await provider.list_boxes() == []


async def test_a_killed_holder_takes_the_box_along(kind: Kind) -> None:
    command, mark = sleeper()
    provider = kind.provider(f"setsid {command} & {command}")
    spec = kind.spec()
    handle = await provider.create(spec)

    async def there() -> bool:
        return len(processes(mark)) == 2

    await until(there)
    os.kill(handle["pid"], signal.SIGKILL)
    status = await ended(provider, handle)
    assert (status.state, status.exit_code) == ("exited", None)
    assert "holder" in status.reason
    if kind.name == "unisolated":
        await provider.release(spec.box_id, handle)

    async def gone() -> bool:
        return not processes(mark)

    await until(gone, 3)


async def test_what_a_killed_box_had_still_to_say_is_there_until_its_release(kind: Kind) -> None:
    """The real runtime, with nobody at the door to hear it."""
    provider, spec = kind.provider(None), kind.spec()
    handle = await provider.create(spec)

    async def something() -> bool:
        return len((await provider.spooled(spec.box_id, handle, 0)).records) > 0

    await until(something)
    os.kill(handle["pid"], signal.SIGKILL)
    await ended(provider, handle)
    await provider.stop(handle, grace=0)
    first, records = await kind.provider().spooled(spec.box_id, None, 0)
    assert first == 1
    said = [SandboxRecord.model_validate_json(record) for record in records]
    assert said[0].body | {"step": "agent", "state": "started"} == said[0].body
    assert await provider.spooled(spec.box_id, handle, len(records)) == (len(records) + 1, [])
    assert (await provider.spooled(spec.box_id, handle, 1)).records == records[1:]
    await provider.release(spec.box_id, handle)
    assert (await provider.spooled(spec.box_id, handle, 0)).records == []


async def test_a_box_without_a_spool_has_nothing_to_say(kind: Kind) -> None:
    provider = kind.provider(f"ln -s /etc {kind.state}/spool; exit 0")
    spec = kind.spec()
    assert (await provider.spooled("never-was", None, 5)) == (6, [])
    handle = await provider.create(spec)
    await ended(provider, handle)
    assert (await provider.spooled(spec.box_id, handle, 0)).records == []


async def test_the_disk_is_kept_from_box_to_box_and_nothing_else(kind: Kind) -> None:
    write = (
        f"echo work > {kind.workspace}/file && echo home > {kind.home}/file && echo mine > {kind.state}/file"
    )
    first, spec = kind.provider(write), kind.spec()
    handle = await first.create(spec)
    assert (await ended(first, handle)).exit_code == 0
    await first.release(spec.box_id, handle)
    assert await first.list_disks() == ["disk"]

    second = kind.provider(
        f"cat {kind.workspace}/file {kind.home}/file; test -e {kind.state}/file && echo kept"
    )
    status = await ended(second, await second.create(kind.spec()))
    assert status.log_tail.split() == ["work", "home"]


async def test_a_disk_can_follow_a_box_that_was_just_killed(kind: Kind) -> None:
    provider, spec = (
        kind.provider(f"echo kept > {kind.workspace}/file; sync; echo up; exec sleep 600"),
        kind.spec(),
    )
    handle = await provider.create(spec)
    await printed(provider, handle, "up")
    os.kill(handle["pid"], signal.SIGKILL)
    second = kind.provider(f"cat {kind.workspace}/file")
    status = await ended(second, await second.create(kind.spec()))
    assert status.log_tail.split() == ["kept"]


async def test_a_deleted_disk_is_gone(kind: Kind) -> None:
    provider, spec = (
        kind.provider(f"mkdir {kind.home}/new; echo old > {kind.workspace}/leftover"),
        kind.spec(),
    )
    handle = await provider.create(spec)
    await ended(provider, handle)
    await provider.release(spec.box_id, handle)
    await provider.delete_disk("disk")
    await provider.delete_disk("disk")
    assert await provider.list_disks() == []
    again = kind.provider(f"ls -A {kind.workspace} {kind.home}/new")
    status = await ended(again, await again.create(kind.spec()))
    assert "leftover" not in status.log_tail
    assert status.exit_code != 0


async def test_boxes_and_disks_are_listed(kind: Kind) -> None:
    provider = kind.provider()
    assert (await provider.list_boxes(), await provider.list_disks()) == ([], [])
    specs = [kind.spec("one"), kind.spec("two")]
    for spec in specs:
        await provider.create(spec)
    assert await provider.list_boxes() == sorted(spec.box_id for spec in specs)
    assert await provider.list_disks() == ["one", "two"]


async def test_a_log_without_end_stays_small(kind: Kind) -> None:
    provider = kind.provider("yes 0123456789 | head -c 5000000; echo; echo the end")
    handle = await provider.create(kind.spec())
    status = await ended(provider, handle)
    assert status.log_tail.endswith("the end\n")
    assert len(status.log_tail.encode()) <= 16 * 1024
    kept = sum(path.stat().st_size for path in kind.settings.data_dir.glob("*/boxes/*/*.log*"))
    assert kept < 2 * 1024 * 1024


async def test_a_process_that_has_the_holders_number_is_left_alone(kind: Kind) -> None:
    provider, spec = kind.provider(), kind.spec()
    handle = await provider.create(spec)
    os.kill(handle["pid"], signal.SIGKILL)
    await ended(provider, handle)
    bystander = await asyncio.create_subprocess_exec("sleep", "600")
    try:
        note = next(kind.settings.data_dir.glob("*/boxes/*/holder.json"))
        told = json.loads(note.read_text())
        told["holder"][0] = bystander.pid
        note.write_text(json.dumps(told))
        other = {**handle, "pid": bystander.pid}
        assert (await provider.status(other)).state == "exited"
        await provider.stop(other, grace=0.2)
        await provider.release(spec.box_id, other)
        assert bystander.returncode is None
        bystander.send_signal(0)
    finally:
        bystander.kill()
        await bystander.wait()


async def test_nothing_of_the_servers_environment_gets_in(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "the-real-key")
    monkeypatch.setenv("OPENINSPECT_DATABASE_URL", "postgresql://secret")
    provider = kind.provider("env")
    status = await ended(provider, await provider.create(kind.spec()))
    assert "HOME=" in status.log_tail
    assert "the-real-key" not in status.log_tail
    assert "OPENINSPECT_DATABASE_URL" not in status.log_tail


async def test_check_says_something_of_each_thing(kind: Kind) -> None:
    findings = await kind.provider().check()
    assert findings
    assert all(finding.detail for finding in findings)
    assert all(finding.remedy for finding in findings if finding.state == "failed")
