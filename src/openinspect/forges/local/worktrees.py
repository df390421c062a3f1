"""Moving a branch that somebody has checked out.

A branch that is checked out in a work tree can't just be moved: the files would seem changed back. The work tree goes along when it is clean, and only
when that runs no command: a repository with filter drivers (such as Git LFS) in its settings, or for a path that the merge changes, is refused. Nothing
that the person has not committed is ever overwritten. Otherwise ``NotMergeable`` says what to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..errors import ForgeError, NotMergeable, RepositoryUnusable
from .git import Git, GitResult
from .place import work_tree_git_dir

_IN_PROGRESS = ("MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "rebase-merge", "rebase-apply", "BISECT_LOG")
MAX_PATHS_CHECKED = 20_000


class CheckedOut(NamedTuple):
    path: Path
    git_dir: Path
    """Of this very work tree: its index and HEAD are here."""


async def checked_out(git: Git, ref: str) -> list[CheckedOut]:
    """The work trees that have ``ref`` checked out. Those whose folder is gone don't count."""
    result = await git.run("worktree", "list", "--porcelain", "-z")
    found: list[CheckedOut] = []
    path: Path | None = None
    for field in result.stdout.decode("utf-8", "surrogateescape").split("\0"):
        if field.startswith("worktree "):
            path = Path(field.removeprefix("worktree "))
        elif field == f"branch {ref}" and path is not None and path.is_dir():
            found.append(CheckedOut(path, work_tree_git_dir(path)))
    return found


async def check(git: Git, trees: list[CheckedOut], old: str, new: str | None) -> None:
    """Raises ``NotMergeable`` unless every one of ``trees`` could go from ``old`` to ``new`` (None: not computed yet)."""
    for tree in trees:
        await _check(git, tree)
    if trees and new is not None:
        await _check_filters_of_paths(git, trees[0], old, new)


async def _check(git: Git, tree: CheckedOut) -> None:
    where = f"The base branch is checked out in {tree.path}"
    expected = git.place.run_as.uid if git.place.run_as else None
    if expected is not None and tree.path.stat().st_uid != expected:
        raise NotMergeable(
            f"{where}, which belongs to another user than the repository", "Merge it there by hand."
        )
    if any((tree.git_dir / name).exists() for name in _IN_PROGRESS):
        raise NotMergeable(f"{where}, where a merge or rebase is going on", "Finish or abort it there first.")
    filters = await _run(
        git, tree, "config", "--includes", "--name-only", "--get-regexp", r"^filter\.", ok=(0, 1)
    )
    if filters.stdout:
        raise NotMergeable(
            f"{where}, and the repository's settings have filters, which Open-Inspect does not run",
            "Switch that work tree to another branch, or merge there by hand.",
        )
    status = await _run(
        git, tree, "status", "--porcelain=v1", "-z", "--untracked-files=no", "--ignore-submodules=all"
    )
    if status.stdout:
        raise NotMergeable(
            f"{where}, which has changes that are not committed",
            "Commit or stash them there, or switch that work tree to another branch.",
        )


async def _check_filters_of_paths(git: Git, tree: CheckedOut, old: str, new: str) -> None:
    names = await git.run_on_objects(
        "diff-tree", "-r", "--name-only", "-z", "--no-renames", old, new, sha=new
    )
    paths = names.stdout.split(b"\0")[:-1]
    if len(paths) > MAX_PATHS_CHECKED:
        raise NotMergeable(
            f"The base branch is checked out in {tree.path}, and this merge changes more than {MAX_PATHS_CHECKED} files",
            "Switch that work tree to another branch, then merge again.",
        )
    answer = await _run(git, tree, "check-attr", "-z", "--stdin", "filter", stdin=b"\0".join([*paths, b""]))
    values = answer.stdout.split(b"\0")[2::3]
    if any(value not in (b"unspecified", b"unset") for value in values):
        raise NotMergeable(
            f"The base branch is checked out in {tree.path}, and the merge changes files that a filter such as Git LFS handles",
            "Switch that work tree to another branch, or merge there by hand.",
        )


async def move(git: Git, trees: list[CheckedOut], old: str, new: str) -> None:
    """Bring index and files of ``trees`` from ``old`` to ``new``; all or none. Raises ``NotMergeable``."""
    moved: list[CheckedOut] = []
    try:
        for tree in trees:
            await _move(git, tree, old, new)
            moved.append(tree)
    except ForgeError:
        await move_back(git, moved, old, new)
        raise


async def move_back(git: Git, trees: list[CheckedOut], old: str, new: str) -> None:
    """Undo ``move``."""
    for tree in trees:
        await _move(git, tree, new, old)


async def _move(git: Git, tree: CheckedOut, old: str, new: str) -> None:
    await _run(git, tree, "update-index", "-q", "--refresh", "--ignore-submodules", ok=(0, 1, 128))
    result = await _run(
        git, tree, "read-tree", "-m", "-u", "--no-recurse-submodules", old, new, ok=(0, 1, 128)
    )
    if result.returncode != 0:
        if "index.lock" in result.stderr:
            raise NotMergeable(
                f"Another git command is running in the work tree {tree.path}",
                "Wait for it, then merge again. If none is running, remove the file .git/index.lock there.",
            )
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        raise NotMergeable(
            f"The work tree {tree.path} can't follow the merge: {lines[0][:300] if lines else 'git refused'}",
            "Move what is in the way, or switch that work tree to another branch, then merge again.",
        )


async def _run(
    git: Git, tree: CheckedOut, *args: str, ok: tuple[int, ...] = (0,), stdin: bytes = b""
) -> GitResult:
    if git.place.git_dir not in (tree.git_dir, *tree.git_dir.parents):
        raise RepositoryUnusable(
            f"The work tree {tree.path} belongs to another repository", "Run `git worktree prune`."
        )
    env = {"GIT_DIR": str(tree.git_dir), "GIT_WORK_TREE": str(tree.path)}
    return await git.run(
        *args, ok=ok, stdin=stdin, env=env, config=(f"safe.directory={tree.path}",), timeout=120
    )
