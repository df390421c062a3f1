"""What every code host must do (``forges.contract``), run against each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from openinspect.forges import errors
from openinspect.forges.contract import (
    Forge,
    LocalGitBackend,
    MergeMethod,
    NewPullRequest,
    Person,
    PullRequest,
    PullRequestChange,
)
from openinspect.forges.local.forge import LocalForge
from openinspect.testing.repositories import SampleRepository

pytestmark = pytest.mark.anyio

SAM = Person(name="Sam Sample", email="sam@example.com")
KIM = Person(name="Kim Merger", email="kim@example.com")
LINES = "".join(f"line {n}\n" for n in range(1, 11))
BRANCH = "openinspect/ab12cd34"


class World(NamedTuple):
    forge: Forge
    repository_id: str
    upstream: SampleRepository
    """The repository as the code host has it, to look into and to commit to."""


@pytest.fixture(params=["local folder", "local bare", "local clone", "local sha256"])
async def world(request: pytest.FixtureRequest, engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[World]:
    object_format = "sha256" if request.param == "local sha256" else "sha1"
    source = SampleRepository.create(
        tmp_path / "source", {"a.txt": LINES, "b.txt": LINES}, object_format=object_format
    )
    forge = LocalForge(engine, tmp_path / "data")
    await forge.start()
    if request.param == "local bare":
        source = source.bare_copy(tmp_path / "source.git")
    if request.param == "local clone":
        repository = await forge.add(f"file://{source.path}")
        source = SampleRepository(Path(repository.location))
    else:
        repository = await forge.add(str(source.path))
    yield World(forge, repository.id, source)


@pytest.fixture
async def empty(engine: AsyncEngine, tmp_path: Path) -> World:
    source = SampleRepository.create(tmp_path / "nothing")
    forge = LocalForge(engine, tmp_path / "data")
    return World(forge, (await forge.add(str(source.path))).id, source)


async def propose(world: World, head: str = BRANCH, **more: object) -> PullRequest:
    new = {"title": "Count lines", "body": "They were miscounted.", "author": SAM, "base": "main", **more}
    return await world.forge.open_pull_request(
        NewPullRequest.model_validate({"repository_id": world.repository_id, "head": head, **new})
    )


async def test_a_repository_is_found_by_id_name_and_place(world: World) -> None:
    by_id = await world.forge.repository(world.repository_id)
    assert by_id.default_branch == "main"
    assert (await world.forge.repository(by_id.name.upper())).id == by_id.id
    assert (await world.forge.repository(by_id.origin_url or by_id.location)).id == by_id.id
    assert by_id in await world.forge.list_repositories()
    assert isinstance(await world.forge.git_backend(by_id.id), LocalGitBackend)


async def test_what_is_unknown_is_said_with_a_remedy(world: World) -> None:
    with pytest.raises(errors.RepositoryNotFound) as unknown:
        await world.forge.repository("no-such-repository")
    assert unknown.value.remedy
    with pytest.raises(errors.RepositoryNotFound):
        await world.forge.list_branches("repo_unknown")
    with pytest.raises(errors.PullRequestNotFound):
        await world.forge.pull_request(world.repository_id, 99)
    with pytest.raises(errors.RepositoryNotFound):
        await world.forge.pull_request("repo_unknown", 1)
    with pytest.raises(errors.BranchNotFound) as branch:
        await world.forge.branch_head(world.repository_id, "nope")
    assert "main" in branch.value.remedy


@pytest.mark.parametrize(
    "name", ["--upload-pack=x", "-dash", "a..b", "a b", "", "x.lock", "\udcff", "a\0b", "refs/../x"]
)
async def test_what_is_no_branch_name_is_not_found(world: World, name: str) -> None:
    with pytest.raises(errors.BranchNameUnusable):
        await world.forge.branch_head(world.repository_id, name)


async def test_branches_come_newest_first(world: World) -> None:
    head = world.upstream.commit_on(BRANCH, "Work\n\nmore", {"a.txt": "x\n"})
    branches = await world.forge.list_branches(world.repository_id)
    assert {one.name for one in branches} == {BRANCH, "main"}
    work = next(one for one in branches if one.name == BRANCH)
    assert (work.sha, work.subject) == (head, "Work")
    assert await world.forge.branch_head(world.repository_id, BRANCH) == head
    assert await world.forge.default_branch(world.repository_id) == "main"


async def test_an_empty_repository_says_so(empty: World) -> None:
    assert await empty.forge.list_branches(empty.repository_id) == []
    with pytest.raises(errors.EmptyRepository) as default:
        await empty.forge.default_branch(empty.repository_id)
    assert default.value.remedy
    with pytest.raises(errors.EmptyRepository):
        await empty.forge.branch_head(empty.repository_id, "main")
    with pytest.raises(errors.EmptyRepository):
        await propose(empty)
    empty.upstream.commit("First", {"a": "1"})
    assert await empty.forge.default_branch(empty.repository_id) == "main"


async def test_the_first_work_in_an_empty_repository_has_nothing_to_go_into(empty: World) -> None:
    empty.upstream.git("checkout", "-q", "--orphan", BRANCH)
    empty.upstream.commit("First", {"a": "1"})
    with pytest.raises(errors.EmptyRepository) as refused:
        await propose(empty)
    assert f"git branch main {BRANCH}" in refused.value.remedy


async def test_opening_is_idempotent(world: World) -> None:
    world.upstream.commit_on(BRANCH, "Work", {"a.txt": "x\n"})
    first = await propose(world)
    assert (first.created, first.state, first.number) == (True, "open", 1)
    head = world.upstream.commit_on(BRANCH, "More work", {"a.txt": "y\n"})
    again = await propose(world, title="A better title")
    assert (again.created, again.id, again.number) == (False, first.id, 1)
    assert (again.title, again.head_sha) == ("A better title", head)
    world.upstream.commit_on("other", "Other", {"b.txt": "x\n"})
    assert (await propose(world, head="other")).number == 2


async def test_numbers_are_without_gap_when_opened_at_once(world: World) -> None:
    for n in range(4):
        world.upstream.git("branch", f"work-{n}", world.upstream.commit_on(f"w-{n}", "w", {f"{n}": "x"}))
    opened = await asyncio.gather(*(propose(world, head=f"work-{n % 4}") for n in range(8)))
    assert {one.number for one in opened} == {1, 2, 3, 4}
    assert len({one.id for one in opened}) == 4
    assert sum(one.created for one in opened) == 4


async def test_nothing_to_propose(world: World) -> None:
    with pytest.raises(errors.NothingToPropose):
        await propose(world, head="main")
    world.upstream.git("branch", "same", "main")
    with pytest.raises(errors.NothingToPropose):
        await propose(world, head="same")
    with pytest.raises(errors.BranchNotFound):
        await propose(world, head="missing")
    with pytest.raises(errors.BranchNotFound):
        await propose(world, head="same", base="missing")


async def test_the_diff_is_what_head_changed_since_it_left_base(world: World) -> None:
    world.upstream.commit_on(BRANCH, "Work", {"a.txt": LINES.replace("line 1\n", "LINE 1\n"), "new": "n\n"})
    world.upstream.commit_on("main-later", "Later", {"b.txt": "other\n"})
    opened = await propose(world)
    diff = await world.forge.pull_request_diff(world.repository_id, opened.number)
    assert {(one.path, one.status, one.state) for one in diff.files} == {
        ("a.txt", "modified", "renderable"),
        ("new", "added", "renderable"),
    }
    changed = next(one for one in diff.files if one.path == "a.txt")
    assert "-line 1\n+LINE 1\n" in changed.patch
    assert (changed.additions, changed.deletions) == (1, 1)
    assert (diff.additions, diff.deletions, diff.head_sha) == (2, 1, opened.head_sha)


@pytest.mark.parametrize("method", ["ff", "merge", "squash"])
async def test_merging(world: World, method: MergeMethod) -> None:
    start = world.upstream.head("main")
    world.upstream.commit_on(
        BRANCH, "Work", {"a.txt": LINES + "end\n"}, person=("Robin Other", "robin@example.com")
    )
    opened = await propose(world)
    can = await world.forge.mergeability(world.repository_id, opened.number)
    assert (can.mergeable, can.methods, can.commits) == (True, ["ff", "merge", "squash"], 1)
    merged = await world.forge.merge(
        world.repository_id, opened.number, method=method, by=KIM, expected_head=opened.head_sha
    )
    assert (merged.state, merged.merge_method) == ("merged", method)
    assert merged.merged_at is not None
    head = world.upstream.head("main")
    assert merged.merge_sha == head
    parents, author, committer, message = world.upstream.git(
        "show", "-s", "--format=%P%x00%an <%ae>%x00%cn%x00%B", "main"
    ).split("\0")
    if method == "ff":
        assert head == opened.head_sha
    elif method == "merge":
        assert parents.split() == [start, opened.head_sha]
        assert author == "Kim Merger <kim@example.com>"
        assert committer == "Open-Inspect"
        assert "#1" in message
    else:
        assert parents.split() == [start]
        assert author == "Sam Sample <sam@example.com>"
        assert committer == "Open-Inspect"
        assert message.startswith("Count lines (#1)\n\nThey were miscounted.")
        assert "Co-authored-by: Robin Other <robin@example.com>" in message
    assert world.upstream.git("show", "main:a.txt").endswith("end")
    again = await world.forge.merge(world.repository_id, opened.number, method="merge", by=KIM)
    assert again.merge_sha == merged.merge_sha
    world.upstream.git("branch", "-D", BRANCH)
    world.upstream.git("reflog", "expire", "--expire=now", "--all", check=False)
    world.upstream.git("gc", "-q", "--prune=now")
    diff = await world.forge.pull_request_diff(world.repository_id, opened.number)
    assert [one.path for one in diff.files] == ["a.txt"]


async def test_branches_that_have_gone_apart_merge_without_losing_either(world: World) -> None:
    world.upstream.commit_on(BRANCH, "Work", {"a.txt": LINES.replace("line 9\n", "LINE 9\n")})
    opened = await propose(world)
    await _on_main(world, {"a.txt": LINES.replace("line 1\n", "LINE 1\n")})
    can = await world.forge.mergeability(world.repository_id, opened.number)
    assert can.methods == ["merge", "squash"]
    with pytest.raises(errors.NotMergeable) as refused:
        await world.forge.merge(world.repository_id, opened.number, method="ff", by=KIM)
    assert refused.value.remedy
    await world.forge.merge(world.repository_id, opened.number, method="squash", by=KIM)
    text = world.upstream.git("show", "main:a.txt")
    assert "LINE 1\n" in text and "LINE 9\n" in text


async def test_a_conflict_names_the_files_and_changes_nothing(world: World) -> None:
    world.upstream.commit_on(BRANCH, "Work", {"a.txt": "mine\n", "ok": "1"})
    opened = await propose(world)
    before = await _on_main(world, {"a.txt": "theirs\n"})
    can = await world.forge.mergeability(world.repository_id, opened.number)
    assert (can.mergeable, can.conflicts) == (False, ["a.txt"])
    assert can.remedy
    with pytest.raises(errors.MergeConflict) as conflict:
        await world.forge.merge(world.repository_id, opened.number, method="merge", by=KIM)
    assert conflict.value.paths == ["a.txt"]
    assert world.upstream.head("main") == before
    assert (await world.forge.pull_request(world.repository_id, opened.number)).state == "open"


async def test_a_head_that_moved_is_not_merged_unseen(world: World) -> None:
    world.upstream.commit_on(BRANCH, "Work", {"a.txt": "x\n"})
    opened = await propose(world)
    new_head = world.upstream.commit_on(BRANCH, "Sneaked in", {"a.txt": "y\n"})
    with pytest.raises(errors.HeadMoved):
        await world.forge.merge(
            world.repository_id, opened.number, method="merge", by=KIM, expected_head=opened.head_sha
        )
    assert (await world.forge.pull_request(world.repository_id, opened.number)).head_sha == new_head


async def test_merging_the_same_at_once_merges_once(world: World) -> None:
    world.upstream.commit_on(BRANCH, "Work", {"a.txt": "x\n"})
    opened = await propose(world)
    merged = await asyncio.gather(
        *(
            world.forge.merge(world.repository_id, opened.number, method=method, by=KIM)
            for method in ("merge", "squash", "merge")
        )
    )
    assert len({one.merge_sha for one in merged}) == 1
    assert world.upstream.git("rev-list", "--count", "--first-parent", "main") == "2"


async def test_two_merges_into_one_base_both_land(world: World) -> None:
    world.upstream.commit_on("one", "One", {"one": "1\n"})
    world.upstream.commit_on("two", "Two", {"two": "2\n"})
    opened = [await propose(world, head=name) for name in ("one", "two")]
    await asyncio.gather(
        *(world.forge.merge(world.repository_id, pr.number, method="merge", by=KIM) for pr in opened)
    )
    assert set(world.upstream.git("ls-tree", "--name-only", "main").split()) >= {"one", "two"}


async def test_what_was_merged_by_hand_is_merged(world: World) -> None:
    head = world.upstream.commit_on(BRANCH, "Work", {"a.txt": "x\n"})
    opened = await propose(world)
    world.upstream.git("update-ref", "refs/heads/main", head)
    found = await world.forge.pull_request(world.repository_id, opened.number)
    assert (found.state, found.merge_sha, found.merge_method) == ("merged", head, None)
    diff = await world.forge.pull_request_diff(world.repository_id, opened.number)
    assert [one.path for one in diff.files] == ["a.txt"]


async def test_a_branch_that_was_put_back_is_not_merged(world: World) -> None:
    world.upstream.commit_on(BRANCH, "Work", {"a.txt": "x\n"})
    opened = await propose(world)
    world.upstream.git("update-ref", f"refs/heads/{BRANCH}", "refs/heads/main")
    for _ in range(2):
        assert (await world.forge.pull_request(world.repository_id, opened.number)).state == "open"
    can = await world.forge.mergeability(world.repository_id, opened.number)
    assert not can.mergeable and can.reason


async def test_close_and_reopen(world: World) -> None:
    world.upstream.commit_on(BRANCH, "Work", {"a.txt": "x\n"})
    number = (await propose(world)).number
    assert (await world.forge.close(world.repository_id, number)).state == "closed"
    assert (await world.forge.close(world.repository_id, number)).state == "closed"
    with pytest.raises(errors.NotMergeable):
        await world.forge.merge(world.repository_id, number, method="merge", by=KIM)
    assert (await world.forge.reopen(world.repository_id, number)).state == "open"
    await world.forge.close(world.repository_id, number)
    assert (await propose(world)).number == number + 1  # a closed one is history: a new one is opened
    with pytest.raises(errors.InvalidRequest):
        await world.forge.reopen(world.repository_id, number)
    await world.forge.merge(world.repository_id, number + 1, method="merge", by=KIM)
    for call in (world.forge.close, world.forge.reopen):
        with pytest.raises(errors.InvalidRequest):
            await call(world.repository_id, number + 1)
    states = await world.forge.list_pull_requests(repository_id=world.repository_id)
    assert [(one.number, one.state) for one in states] == [(number + 1, "merged"), (number, "closed")]
    closed = await world.forge.list_pull_requests(repository_id=world.repository_id, state="closed")
    assert [one.number for one in closed] == [number]


async def test_changing_title_body_draft_and_base(world: World) -> None:
    world.upstream.commit_on(BRANCH, "Work", {"a.txt": "x\n"})
    world.upstream.git("branch", "release", "main")
    number = (await propose(world, draft=True)).number
    with pytest.raises(errors.NotMergeable):
        await world.forge.merge(world.repository_id, number, method="merge", by=KIM)
    changed = await world.forge.update_pull_request(
        world.repository_id,
        number,
        PullRequestChange(title="New\0 title", body="", draft=False, base="release"),
    )
    assert (changed.title, changed.body, changed.draft, changed.base) == ("New title", "", False, "release")
    main = world.upstream.head("main")
    await world.forge.merge(world.repository_id, number, method="merge", by=KIM)
    assert world.upstream.head("main") == main
    with pytest.raises(errors.InvalidRequest):
        await world.forge.update_pull_request(world.repository_id, number, PullRequestChange(base="main"))


async def _on_main(world: World, files: dict[str, str]) -> str:
    """A commit on main, by a person who works in the repository."""
    if world.upstream.git("rev-parse", "--is-bare-repository") == "false":
        return world.upstream.commit("On main", files)
    return world.upstream.commit_on("main", "On main", files)
