"""Merging into a branch that the person has checked out: their files follow, and nothing of theirs is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from openinspect.forges import errors
from openinspect.forges.contract import MergeMethod, NewPullRequest, Person, PullRequest
from openinspect.forges.local.forge import LocalForge
from openinspect.testing.repositories import SampleRepository

pytestmark = pytest.mark.anyio
SAM = Person(name="Sam Sample", email="sam@example.com")


class World:
    def __init__(self, forge: LocalForge, source: SampleRepository, opened: PullRequest) -> None:
        self.forge = forge
        self.source = source
        self.opened = opened

    async def merge(self, method: MergeMethod = "merge") -> PullRequest:
        number, repository = self.opened.number, self.opened.repository_id
        return await self.forge.merge(repository, number, method=method, by=SAM)

    async def refused(self, word: str) -> None:
        """Merging is refused with ``word``, also by the button, and nothing at all has changed."""
        before = (self.source.head("main"), self.source.git("status", "--porcelain"))
        with pytest.raises(errors.NotMergeable) as refused:
            await self.merge()
        assert word in refused.value.reason and refused.value.remedy
        assert (self.source.head("main"), self.source.git("status", "--porcelain")) == before
        found = await self.forge.pull_request(self.opened.repository_id, self.opened.number)
        assert found.state == "open"


@pytest.fixture
async def world(engine: AsyncEngine, tmp_path: Path) -> World:
    source = SampleRepository.create(
        tmp_path / "source", {"a.txt": "1\n", "gone.txt": "x\n", "run": "#!/bin/sh\n"}
    )
    work = tmp_path / "work"
    source.git("worktree", "add", "-q", "-b", "openinspect/x", str(work))
    (work / "gone.txt").unlink()
    (work / "run").chmod(0o755)
    (work / "link").symlink_to("a.txt")
    SampleRepository(work).commit("Work", {"a.txt": "2\n", "new/b.txt": "n\n"})
    source.git("worktree", "remove", str(work))
    forge = LocalForge(engine, tmp_path / "data")
    known = await forge.add(str(source.path))
    new = NewPullRequest(repository_id=known.id, head="openinspect/x", base="main", title="Work", author=SAM)
    return World(forge, source, await forge.open_pull_request(new))


@pytest.mark.parametrize("method", ["ff", "merge", "squash"])
async def test_a_clean_work_tree_follows(world: World, method: MergeMethod) -> None:
    (world.source.path / "notes.txt").write_text("untracked, and mine")
    await world.merge(method)
    here = world.source.path
    assert (here / "a.txt").read_text() == "2\n" and (here / "new" / "b.txt").read_text() == "n\n"
    assert not (here / "gone.txt").exists() and (here / "link").readlink() == Path("a.txt")
    assert (here / "run").stat().st_mode & 0o100
    assert world.source.git("status", "--porcelain") == "?? notes.txt"
    assert world.source.git("rev-parse", "--abbrev-ref", "HEAD") == "main"
    assert (here / "notes.txt").read_text() == "untracked, and mine"


async def test_changes_that_are_not_committed_are_not_touched(world: World) -> None:
    (world.source.path / "run").write_text("mine\n")
    await world.refused("not committed")
    can = await world.forge.mergeability(world.opened.repository_id, world.opened.number)
    assert not can.mergeable and "not committed" in can.reason
    world.source.git("add", "run")
    await world.refused("not committed")
    assert (world.source.path / "run").read_text() == "mine\n"


async def test_an_untracked_file_in_the_way_is_not_overwritten(world: World) -> None:
    (world.source.path / "new").mkdir()
    (world.source.path / "new" / "b.txt").write_text("mine\n")
    await world.refused("can't follow")
    assert (world.source.path / "new" / "b.txt").read_text() == "mine\n"
    assert (world.source.path / "a.txt").read_text() == "1\n"


async def test_a_rebase_or_merge_that_is_going_on_is_respected(world: World) -> None:
    (world.source.path / ".git" / "MERGE_HEAD").write_text(world.opened.head_sha + "\n")
    await world.refused("going on")


async def test_files_that_a_filter_handles_are_left_to_the_person(world: World) -> None:
    (world.source.path / ".git" / "info").mkdir(exist_ok=True)
    (world.source.path / ".git" / "info" / "attributes").write_text("*.txt filter=lfs\n")
    await world.refused("filter")


async def test_a_linked_work_tree_follows_and_the_main_one_stays(world: World, tmp_path: Path) -> None:
    world.source.git("checkout", "-q", "-b", "elsewhere")
    world.source.git("worktree", "add", "-q", str(tmp_path / "linked"), "main")
    await world.merge()
    assert (tmp_path / "linked" / "a.txt").read_text() == "2\n"
    assert (world.source.path / "a.txt").read_text() == "1\n"
    for tree in (world.source, SampleRepository(tmp_path / "linked")):
        assert tree.git("status", "--porcelain") == ""


async def test_two_work_trees_on_the_base_follow_together_or_not_at_all(world: World, tmp_path: Path) -> None:
    world.source.git("worktree", "add", "-q", "--force", str(tmp_path / "linked"), "main")
    (tmp_path / "linked" / "new").write_text("in the way of new/b.txt")
    await world.refused("can't follow")
    assert (world.source.path / "a.txt").read_text() == "1\n"
    (tmp_path / "linked" / "new").unlink()
    await world.merge()
    assert (tmp_path / "linked" / "a.txt").read_text() == (world.source.path / "a.txt").read_text() == "2\n"


async def test_a_work_tree_on_another_branch_is_not_looked_at(world: World) -> None:
    world.source.git("checkout", "-q", "-b", "elsewhere")
    (world.source.path / "a.txt").write_text("dirty\n")
    await world.merge()
    assert (world.source.path / "a.txt").read_text() == "dirty\n"


async def test_a_merge_whose_row_was_not_written_is_found_again(world: World) -> None:
    """As after a crash between git and the database."""
    tree = world.source.git("rev-parse", "openinspect/x^{tree}")
    squashed = world.source.git("commit-tree", tree, "-p", "main", "-m", "Squashed")
    world.source.git("checkout", "-q", "--detach")
    world.source.git("update-ref", "refs/heads/main", squashed)
    world.source.git("update-ref", f"refs/openinspect/pull-requests/{world.opened.number}/merge", squashed)
    found = await world.merge()
    assert (found.state, found.merge_sha, found.merge_method) == ("merged", squashed, "squash")
    assert world.source.git("rev-list", "--count", "main") == "2"


async def test_a_locked_branch_is_said_so_and_the_files_go_back(world: World) -> None:
    lock = world.source.path / ".git" / "refs" / "heads" / "main.lock"
    lock.touch()
    with pytest.raises(errors.ForgeError) as failed:
        await world.merge()
    assert failed.value.remedy
    lock.unlink()
    assert world.source.git("status", "--porcelain") == ""
    assert (world.source.path / "a.txt").read_text() == "1\n"
    assert (await world.merge()).state == "merged"


async def test_a_git_command_of_the_person_in_the_same_moment_is_named(world: World) -> None:
    lock = world.source.path / ".git" / "index.lock"
    lock.touch()
    await world.refused("Another git command")
    lock.unlink()
    assert (await world.merge()).state == "merged"
