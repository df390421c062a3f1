"""Differences of work trees: everything that git can say about a file, within bounds, and whatever the repository's configuration tries."""

from __future__ import annotations

from pathlib import Path

import pytest

from openinspect.protocol.diffs import MAX_FILES, MAX_PATCHES_BYTES, RepositoryDiff
from openinspect.runtime.diffs import DiffFailed, repository_diff
from openinspect.runtime.git import EMPTY_TREES, Git
from openinspect.runtime.processes import Account

from .box import git

pytestmark = pytest.mark.anyio


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "kept.txt").write_text("a\nb\nc\n")
    (folder / "gone.txt").write_text("gone\n")
    (folder / "old name.txt").write_text("".join(f"line {n}\n" for n in range(20)))
    (folder / "link").symlink_to("kept.txt")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "Begin")
    return folder


async def told(folder: Path, base: str | None = None) -> RepositoryDiff:
    runner = Git(Account(), {"PATH": "/usr/bin:/bin", "HOME": str(folder.parent), "GIT_CONFIG_NOSYSTEM": "1"})
    return await repository_diff(
        runner, folder, "work", base or git(folder, "rev-list", "--max-parents=0", "HEAD")
    )


async def test_nothing_changed_is_no_difference(work: Path) -> None:
    diff = await told(work)
    assert diff.files == [] and diff.head_sha == diff.base_sha


async def test_every_kind_of_change(work: Path) -> None:
    (work / "kept.txt").write_text("a\nB\nc\n")
    (work / "gone.txt").unlink()
    (work / "old name.txt").rename(work / "new näme.txt")
    (work / "link").unlink()
    (work / "link").write_text("a file now\n")
    (work / "picture.png").write_bytes(b"\x89PNG\0\0")
    (work / "empty").touch()
    (work / "loose.txt").write_text("diff --git a/x b/x\nloose\n")
    git(work, "add", "new näme.txt", "old name.txt")
    diff = await told(work)
    found = {file.path: file for file in diff.files}
    assert {path: (file.status, file.state) for path, file in found.items()} == {
        "kept.txt": ("modified", "renderable"),
        "gone.txt": ("deleted", "renderable"),
        "new näme.txt": ("renamed", "metadata_only"),
        "link": ("type_changed", "renderable"),
        "picture.png": ("added", "binary"),
        "empty": ("added", "metadata_only"),
        "loose.txt": ("added", "renderable"),
    }
    assert found["new näme.txt"].old_path == "old name.txt"
    assert "-b\n+B\n" in found["kept.txt"].patch and found["kept.txt"].patch.startswith(
        "diff --git a/kept.txt"
    )
    assert "+diff --git a/x b/x\n+loose\n" in found["loose.txt"].patch
    assert (found["kept.txt"].additions, found["kept.txt"].deletions) == (1, 1)
    assert "a file now" in found["link"].patch and "deleted file mode" in found["link"].patch
    assert git(work, "status", "--porcelain", "loose.txt") == "?? loose.txt", (
        "the repository's own index is left alone"
    )


async def test_commits_and_the_work_tree_count_together(work: Path) -> None:
    (work / "kept.txt").write_text("a\nb\nc\nd\n")
    git(work, "commit", "-qam", "One")
    (work / "kept.txt").write_text("a\nb\nc\nd\ne\n")
    diff = await told(work)
    assert (diff.additions, diff.deletions) == (2, 0)
    assert diff.head_sha == git(work, "rev-parse", "HEAD") != diff.base_sha


async def test_a_conflict_shows_what_lies_there(work: Path) -> None:
    git(work, "checkout", "-q", "-b", "other")
    (work / "kept.txt").write_text("other\n")
    git(work, "commit", "-qam", "Other")
    git(work, "checkout", "-q", "main")
    (work / "kept.txt").write_text("mine\n")
    git(work, "commit", "-qam", "Mine")
    with pytest.raises(AssertionError):
        git(work, "merge", "other")
    (work / "z.txt").write_text("z\n")
    diff = await told(work)
    assert [file.path for file in diff.files] == ["kept.txt", "z.txt"]
    assert "+<<<<<<< HEAD\n+mine\n+=======\n+other\n" in diff.files[0].patch
    assert diff.files[-1].patch.startswith("diff --git a/z.txt")


async def test_a_repository_without_a_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "first").write_text("1\n")
    diff = await told(tmp_path, EMPTY_TREES["sha1"])
    assert [file.path for file in diff.files] == ["first"] and diff.head_sha is None


async def test_ignored_files_are_left_out(work: Path) -> None:
    (work / ".gitignore").write_text("build/\n")
    (work / "build").mkdir()
    (work / "build" / "x").write_text("x")
    assert [file.path for file in (await told(work)).files] == [".gitignore"]


async def test_too_much_is_listed_without_patches(work: Path) -> None:
    (work / "big.txt").write_text("x" * 99 + "\n" + "y\n" * 400_000)
    for number in range(4):
        (work / f"half{number}.txt").write_text("half a megabyte\n" * 25_000)
    for number in range(MAX_FILES):
        (work / f"n{number:04}").write_text("n\n")
    diff = await told(work)
    assert len(diff.files) == MAX_FILES and diff.more_files == 5
    states = {file.path: file.state for file in diff.files}
    assert states["big.txt"] == "too_large"
    assert list(states.values()).count("renderable") > 900
    assert sum(len(file.patch.encode()) for file in diff.files) <= MAX_PATCHES_BYTES


async def test_a_hostile_configuration_runs_nothing(work: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    for name in (
        "core.fsmonitor",
        "diff.external",
        "core.pager",
        "diff.evil.textconv",
        "diff.evil.command",
        "core.sshCommand",
    ):
        git(work, "config", name, str(trap))
    (work / ".git" / "hooks" / "post-index-change").write_text(trap.read_text())
    (work / ".git" / "hooks" / "post-index-change").chmod(0o755)
    (work / ".gitattributes").write_text("*.txt diff=evil\n")
    (work / "kept.txt").write_text("changed\n")
    diff = await told(work)
    assert {file.path for file in diff.files} == {".gitattributes", "kept.txt"}
    assert "+changed" in diff.files[1].patch
    assert not (tmp_path / "sprung").exists()


async def test_what_is_no_repository_is_said(tmp_path: Path) -> None:
    with pytest.raises(DiffFailed):
        await told(tmp_path, EMPTY_TREES["sha1"])
