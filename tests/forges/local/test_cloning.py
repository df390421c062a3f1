"""Adding repositories: by folder and by address, bounded, in one step, and only once."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from openinspect.db.engine import transaction
from openinspect.db.tables import session_targets, sessions
from openinspect.forges import errors
from openinspect.forges.contract import NewPullRequest, Person
from openinspect.forges.local.cloning import PARTIAL, CloneLimits, CloneProgress
from openinspect.forges.local.forge import LocalForge
from openinspect.protocol.ids import new_id
from openinspect.testing.repositories import SampleRepository

pytestmark = pytest.mark.anyio


@pytest.fixture
async def forge(engine: AsyncEngine, tmp_path: Path) -> LocalForge:
    forge = LocalForge(engine, tmp_path / "data")
    await forge.start()
    return forge


def leftovers(forge: LocalForge) -> list[str]:
    return [entry.name for entry in forge.repositories_dir.iterdir()]


async def test_a_clone_tells_its_progress_and_keeps_branches_and_tags(
    forge: LocalForge, tmp_path: Path
) -> None:
    source = SampleRepository.create(tmp_path / "source", {f"{n}": os.urandom(2000) for n in range(60)})
    source.git("branch", "other")
    source.git("tag", "v1")
    source.git("update-ref", "refs/openinspect/pull-requests/1/head", "HEAD")
    source.git("config", "core.sshCommand", "a-trace-of-the-source")
    told: list[CloneProgress] = []
    added = await forge.add(f"file://{source.path}", on_progress=told.append)
    assert "Receiving objects" in {one.phase for one in told} and told[-1].percent == 100
    copy = SampleRepository(Path(added.location))
    names = copy.git("for-each-ref", "--format=%(refname)").split()
    assert names == ["refs/heads/main", "refs/heads/other", "refs/tags/v1"]
    assert "a-trace" not in (copy.path / "config").read_text()
    assert copy.head("main") == source.head()
    assert (added.origin_url, added.default_branch) == (f"file://{source.path}", "main")


async def test_the_same_place_is_one_repository(forge: LocalForge, tmp_path: Path) -> None:
    source = SampleRepository.create(tmp_path / "source", {"a": "1"})
    address = f"file://{source.path}"
    clones = await asyncio.gather(*(forge.add(address) for _ in range(3)))
    assert len({one.id for one in clones}) == 1
    assert leftovers(forge) == [f"{clones[0].id}.git"]
    folders = await asyncio.gather(*(forge.add(str(source.path)) for _ in range(3)))
    assert len({one.id for one in folders}) == 1
    assert folders[0].id != clones[0].id
    again = await forge.add(str(source.path / ".git"))
    assert again.id == folders[0].id


async def test_names_are_unique_whatever_their_case(forge: LocalForge, tmp_path: Path) -> None:
    first = await forge.add(str(SampleRepository.create(tmp_path / "1" / "Widgets", {"a": "1"}).path))
    second_path = str(SampleRepository.create(tmp_path / "2" / "widgets", {"a": "1"}).path)
    assert first.name.startswith("Widgets")
    with pytest.raises(errors.RepositoryExists):
        await forge.add(second_path, name=first.name.upper())
    with pytest.raises(errors.InvalidRequest):
        await forge.add(second_path, name="../x")
    second = await forge.add(second_path)
    assert second.name.lower().startswith("widgets-")
    with pytest.raises(errors.RepositoryExists):
        await forge.add(f"file://{second_path}", name=first.name)


async def test_what_can_t_be_cloned_leaves_nothing(forge: LocalForge, tmp_path: Path) -> None:
    with pytest.raises(errors.RepositoryNotFound):
        await forge.add(f"file://{tmp_path}/missing")
    with pytest.raises(errors.CloneRefused):
        await forge.add("http://host.example/o/w")
    closed = socket.create_server(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    for address in (f"https://127.0.0.1:{port}/o/w", f"ssh://git@127.0.0.1:{port}/o/w"):
        with pytest.raises(errors.CloneFailed) as failed:
            await forge.add(address)
        assert failed.value.remedy and "git@" not in failed.value.reason.split("cloned:")[1]
    assert leftovers(forge) == []


async def test_a_clone_is_bounded_in_size_and_time_and_can_be_cancelled(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    source = SampleRepository.create(tmp_path / "source")
    source.git("config", "core.compression", "0")
    source.commit("Big", {str(n): os.urandom(1024 * 1024) for n in range(20)})
    address = f"file://{source.path}"
    for limits, error in (
        (CloneLimits(size_bytes=1000), errors.CloneRefused),
        (CloneLimits(seconds=0.05), errors.CloneFailed),
    ):
        forge = LocalForge(engine, tmp_path / "data", clone_limits=limits)
        with pytest.raises(error):
            await forge.add(address)
        assert leftovers(forge) == []
    forge = LocalForge(engine, tmp_path / "data")
    adding = asyncio.create_task(forge.add(address))
    while not leftovers(forge) and not adding.done():  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert leftovers(forge) == []


async def test_what_a_dead_server_left_half_cloned_is_swept(forge: LocalForge) -> None:
    old, young = (forge.repositories_dir / f"{name}.git{PARTIAL}" for name in ("old", "young"))
    for folder in (old, young):
        (folder / "objects").mkdir(parents=True)
    os.utime(old, (0, 0))
    await forge.start()
    assert leftovers(forge) == [young.name]


async def test_the_default_branch_is_the_person_s_and_never_a_session_s(
    forge: LocalForge, tmp_path: Path
) -> None:
    source = SampleRepository.create(tmp_path / "source", {"a": "1"})
    source.git("branch", "-m", "trunk")
    source.git("checkout", "-q", "-b", "openinspect/x")
    known = await forge.add(str(source.path))
    assert known.default_branch == "trunk"
    source.git("branch", "-m", "trunk", "renamed")
    assert await forge.default_branch(known.id) == "renamed"
    source.git("branch", "-D", "renamed")
    assert await forge.default_branch(known.id) == "openinspect/x"


async def test_a_registered_folder_that_is_gone_is_said_so(forge: LocalForge, tmp_path: Path) -> None:
    source = SampleRepository.create(tmp_path / "source", {"a": "1"})
    known = await forge.add(str(source.path))
    source.path.rename(tmp_path / "elsewhere")
    with pytest.raises(errors.RepositoryNotFound):
        await forge.list_branches(known.id)


async def test_removing_deletes_our_copy_and_leaves_the_person_s_folder(
    forge: LocalForge, engine: AsyncEngine, tmp_path: Path
) -> None:
    source = SampleRepository.create(tmp_path / "source", {"a": "1"})
    source.commit_on("openinspect/x", "Work", {"a": "2"})
    before = source.git("for-each-ref")
    sam = Person(name="Sam Sample", email="sam@example.com")
    for where in (str(source.path), f"file://{source.path}"):
        known = await forge.add(where)
        new = NewPullRequest(
            repository_id=known.id, head="openinspect/x", base="main", title="Work", author=sam
        )
        await forge.open_pull_request(new)
        await forge.remove(known.id)
        with pytest.raises(errors.RepositoryNotFound):
            await forge.remove(known.id)
    assert source.git("for-each-ref") == before
    assert leftovers(forge) == []
    known = await forge.add(str(source.path))
    async with transaction(engine) as connection:
        await connection.execute(insert(sessions).values(id=(session := new_id("ses")), model="x/y"))
        await connection.execute(
            insert(session_targets).values(
                session_id=session,
                position=0,
                repository_id=known.id,
                directory="repo",
                base_branch="main",
                work_branch="openinspect/y",
            )
        )
    with pytest.raises(errors.RepositoryInUse):
        await forge.remove(known.id)
