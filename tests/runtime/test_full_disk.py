"""The reserved space is full: what can't be written is not called seen, and is done when there is room again."""

from __future__ import annotations

import asyncio
import contextlib
import io
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from openinspect.protocol.commands import Command, RunPrompt, StopTurn
from openinspect.protocol.events import AgentRestarted
from openinspect.runtime.commands import CommandLog
from openinspect.runtime.files import append_whole, write_whole
from openinspect.runtime.report import Journal
from openinspect.sandboxes.local import kernel

from .box import AUTHOR, SONNET, FakeBox
from .door import Door

pytestmark = pytest.mark.anyio
LONG = "p" * 6_000
"""More than a page: a part of it still fits on the full disk."""


class Tight:
    """A folder on a disk that can be filled: a small file system of its own, or a bound on the size of files."""

    def __init__(self, folder: Path, *, own: bool) -> None:
        self.folder = folder
        self._own = own
        self._limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self, path: Path) -> None:
        """Nothing more than a few bytes fits behind what ``path`` has."""
        if not self._own:
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, self._limits[1]))
            return
        with (self.folder / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))

    def clear(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)
        (self.folder / "filler").unlink(missing_ok=True)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Tight]:
    folder = tmp_path / "tmpfs"
    folder.mkdir()
    try:
        kernel.mount("tmpfs", str(folder), "tmpfs", options="size=1m,mode=700")
    except OSError as error:
        pytest.skip(f"a file system can't be mounted here: {error.strerror}")
    yield Tight(folder, own=True)
    subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=10)


@pytest.fixture(params=["tmpfs", "limit"])
def tight(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tight]:
    if request.param == "tmpfs":
        yield request.getfixturevalue("tmpfs")
        return
    made = Tight(tmp_path, own=False)
    # What is printed meanwhile must not come up against the bound as well.
    with contextlib.redirect_stderr(io.StringIO()):
        yield made
        made.clear()


class Life:
    def __init__(self, path: Path) -> None:
        self.acted: list[tuple[int, Command]] = []
        self.seen: list[int] = []
        self.log = CommandLog(path, "box_1", lambda n, c: self.acted.append((n, c)), self.seen.append)

    async def until_seen(self, n: int) -> None:
        async with asyncio.timeout(10):
            while n not in self.seen:  # noqa: ASYNC110 - a list tells nobody
                await asyncio.sleep(0.005)


async def test_a_command_that_can_t_be_written_is_not_seen_and_done_later(tight: Tight) -> None:
    path = tight.folder / "log"
    first, second = StopTurn(prompt_id=LONG[:100]), StopTurn(prompt_id="p2")
    first = RunPrompt(prompt_id="p1", text=LONG, model=SONNET, author=AUTHOR)
    second = StopTurn(prompt_id="p1")
    life = Life(path)
    life.log.start()
    before = path.read_bytes()
    tight.fill(path)
    life.log.take(1, first)
    life.log.take(2, second)
    life.log.take(1, first)
    assert path.read_bytes() == before, "nothing half is left"
    assert (life.acted, life.seen, life.log.last) == ([], [0], 0)
    tight.clear()
    await life.until_seen(2)
    assert life.acted == [(1, first), (2, second)]
    await life.log.close()
    again = Life(path)
    again.log.start()
    assert again.acted == [(1, first), (2, second)]
    await again.log.close()


async def test_what_was_done_on_a_full_disk_is_not_done_again(tight: Tight) -> None:
    path = tight.folder / "log"
    life = Life(path)
    life.log.start()
    for n in range(1, 4):
        life.log.take(n, StopTurn(prompt_id=f"p{n}"))
    tight.fill(path)
    for n in range(1, 1_000):
        # What fits is acted upon, the rest waits.
        life.log.take(n + 3, StopTurn(prompt_id=f"p{n + 3}"))
    known = len(life.acted)
    assert 3 <= known < 1_002
    for n in range(1, known + 1):
        life.log.done(n)
    tight.clear()
    await life.until_seen(1_002)
    for n in range(known + 1, 1_003):
        life.log.done(n)
    assert [n for n, _ in life.acted] == list(range(1, 1_003))
    await life.log.close()
    again = Life(path)
    assert (again.log.last, again.acted) == (1_002, [])
    again.log.start()
    await again.log.close()
    assert again.acted == []


async def test_a_file_is_replaced_whole_or_stays(tight: Tight) -> None:
    path = tight.folder / "memory"
    write_whole(path, b"what was known")
    tight.fill(path)
    with pytest.raises(OSError):
        write_whole(path, LONG.encode() * 200)
    assert path.read_bytes() == b"what was known" and not path.with_name("memory.new").exists()
    tight.clear()
    write_whole(path, LONG.encode())
    assert path.read_bytes() == LONG.encode()


async def test_what_does_not_fit_is_cut_off_again(tight: Tight) -> None:
    path = tight.folder / "lines"
    path.write_bytes(b"one\n")
    with path.open("ab", buffering=0) as file:
        tight.fill(path)
        with pytest.raises(OSError):
            append_whole(file.fileno(), 4, LONG.encode())
        assert path.read_bytes() == b"one\n"
        tight.clear()
        append_whole(file.fileno(), 4, b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"


async def test_a_turn_s_journal_takes_what_is_noted_again(tight: Tight) -> None:
    path = tight.folder / "turn.log"
    journal, event = Journal(path, 0), AgentRestarted(reason="r", attempt=1)
    journal.begin("prm_1")
    tight.fill(path)
    with pytest.raises(OSError):
        journal.note(1, LONG, event)
    assert not journal.known
    tight.clear()
    journal.note(1, LONG, event)
    journal.note(2, "k2", event)
    assert Journal(path, 2).known == {LONG, "k2"}
    with path.open("ab") as file:
        file.write(b'{"n":3,')
    torn = Journal(path, 3)
    assert torn.begin("prm_1")
    torn.note(3, "k3", event)
    assert Journal(path, 3).known == {LONG, "k2", "k3"}


async def test_a_prompt_that_comes_on_a_full_disk_runs_when_there_is_room(
    tmp_path: Path, tmpfs: Tight, door: Door
) -> None:
    box = FakeBox(tmp_path / "box", door)
    box.state.symlink_to(tmpfs.folder)
    async with box:
        box.configure()
        await door.ready()
        await door.until(lambda: not door.commands)
        tmpfs.fill(box.state)
        turn = box.prompt("prm_1", f"say {LONG}")
        await door.until(lambda: "commands can't be written down yet" in box.log)
        await door.drop()
        await door.until(lambda: len(door.hellos) > 1)
        assert [each.n for each in door.commands] == [2], "it was called seen"
        tmpfs.clear()
        assert (await door.ended(turn)).outcome == "completed"
        await door.until(lambda: not door.commands)
        assert len(door.of("turn.ended", turn)) == 1
