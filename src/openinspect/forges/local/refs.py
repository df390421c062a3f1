"""Branches and refs of one repository. Names from outside are checked before git sees them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from dulwich.refs import check_ref_format

from ..contract import COMMITTER, Branch
from ..errors import (
    BranchNameUnusable,
    BranchNotFound,
    EmptyRepository,
    ForgeError,
    ForgeUnavailable,
    RepositoryUnusable,
)
from .git import Git, identity

_OWN = "openinspect/"


class RefMoved(Exception):
    """A ref has another value than the caller believed, or another process holds its lock: look again."""


def branch_ref(branch: str) -> str:
    """``refs/heads/<branch>``. Raises ``BranchNameUnusable`` for what can't be a branch's name."""
    ref = f"refs/heads/{branch}"
    if branch.startswith("-"):
        raise BranchNameUnusable(
            f"A branch can't be used whose name begins with “-” ({branch!r}): git takes such a name for an option",
            "Choose another one; if there is such a branch, make one of a plain name from it (git branch NAME refs/heads/-NAME).",
        )
    try:
        valid = check_ref_format(ref.encode())  # pyright: ignore[reportArgumentType]
    except UnicodeEncodeError:
        valid = False
    if not valid:
        raise BranchNameUnusable(f"{branch!r} is not a valid branch name", "Give the name of a branch.")
    return ref


async def list_branches(git: Git, limit: int) -> list[Branch]:
    form = "%(refname:lstrip=2)%00%(objectname)%00%(committerdate:unix)%00%(contents:subject)"
    result = await git.run(
        "for-each-ref", "--sort=-committerdate", f"--count={limit}", f"--format={form}", "refs/heads"
    )
    branches: list[Branch] = []
    for line in result.stdout.decode("utf-8", "replace").split("\n"):
        fields = line.split("\0")
        if len(fields) != 4:
            continue
        name, sha, seconds, subject = fields
        when = datetime.fromtimestamp(int(seconds or 0), UTC)
        branches.append(Branch(name=name, sha=sha, committed_at=when, subject=subject[:500]))
    return branches


async def heads(git: Git, refs: Sequence[str]) -> dict[str, str]:
    """The present values of those of ``refs`` (full names) that exist."""
    result = await git.run("for-each-ref", "--format=%(objectname) %(refname)", *refs)
    found: dict[str, str] = {}
    for line in result.text.splitlines():
        sha, _, name = line.partition(" ")
        if name in refs:
            found[name] = sha
    return found


async def branch_head(git: Git, branch: str) -> str:
    """Raises ``BranchNotFound``, or what ``no_branches`` gives when there is no branch at all."""
    ref = branch_ref(branch)
    found = await heads(git, [ref])
    if ref not in found:
        raise await missing_branch(git, branch)
    return found[ref]


async def missing_branch(git: Git, branch: str) -> ForgeError:
    """The error for a branch that is not there."""
    known = [one.name for one in await list_branches(git, 6)]
    if not known:
        return await no_branches(git)
    return BranchNotFound(
        f"There is no branch {branch!r}", f"Choose one that exists, such as {', '.join(known[:5])}."
    )


async def no_branches(git: Git) -> EmptyRepository | RepositoryUnusable:
    """The error for a repository without a branch: it is empty, or has commits all the same, as a checkout by a CI may leave it."""
    result = await git.run("rev-parse", "--quiet", "--verify", "HEAD^{commit}", ok=(0, 1, 128))
    if result.returncode != 0:
        return EmptyRepository(
            "The repository is empty: it has no commit yet", "Make a first commit in it, then try again."
        )
    return RepositoryUnusable(
        "The repository has commits and no branch: its HEAD is detached",
        "Make a branch where it lies (git switch -c main), then try again.",
    )


def began_empty(head: str, base: str) -> EmptyRepository:
    return EmptyRepository(
        f"The repository was empty: {head} is its only branch, and there is no {base} to bring it into",
        f"It can become {base} where the repository lies: git branch {base} {head}",
    )


async def choose_default_branch(git: Git) -> str | None:
    """What work begins from when nobody says: the origin's default, else what HEAD is on, else main, master or the newest branch.

    None where there is no branch. A branch that a session has made is never chosen while there is another one.
    """
    names = [one.name for one in await list_branches(git, 5_000)]
    if not names:
        return None
    wishes: list[str] = []
    for symbolic, prefix in (("refs/remotes/origin/HEAD", "refs/remotes/origin/"), ("HEAD", "refs/heads/")):
        result = await git.run("symbolic-ref", "--quiet", symbolic, ok=(0, 1, 128))
        if result.returncode == 0 and result.text.startswith(prefix):
            wishes.append(result.text[len(prefix) :])
    present = set(names)
    for wish in (*(w for w in wishes if not w.startswith(_OWN)), "main", "master", *names):
        if wish in present and not wish.startswith(_OWN):
            return wish
    return names[0]


async def update_refs(git: Git, updates: Sequence[tuple[str, str, str | None]], why: str) -> None:
    """Set refs in one transaction: (ref, new value, value that it must have now; None: any). Both alike: it is only looked at.

    Raises ``RefMoved`` when one of them has another value or is being written; then none is changed.
    """
    lines = [
        f"verify {ref} {old}" if new == old else f"update {ref} {new} {old or ''}".rstrip()
        for ref, new, old in updates
    ]
    script = "\n".join(["start", *lines, "prepare", "commit", ""])
    result = await git.run(
        "update-ref",
        "-m",
        why,
        "--stdin",
        stdin=script.encode(),
        ok=(0, 1, 128),
        env=identity("COMMITTER", COMMITTER),
    )
    if result.returncode == 0:
        return
    if "cannot lock ref" in result.stderr or "Unable to create" in result.stderr:
        raise RefMoved(result.stderr.strip()[:500])
    raise ForgeUnavailable(
        f"git could not write a branch: {result.stderr.strip()[:300]}",
        "Check the rights and the free space there.",
    )


async def delete_own_refs(git: Git) -> None:
    """Remove every ref that the system keeps for itself (``refs/openinspect/…``), and no branch."""
    result = await git.run("for-each-ref", "--format=delete %(refname)", "refs/openinspect/")
    await git.run("update-ref", "--stdin", stdin=result.stdout)
