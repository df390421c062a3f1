"""Merging two branches without a work tree: compute the tree, write the commit, then move the base in one compare-and-swap.

``git merge-tree`` runs on the objects alone, so no merge driver and no attribute of the repository takes part. Objects are written before any ref
moves: a crash leaves at most objects that nobody refers to. The base branch and the ref that marks the pull request as merged move in
one transaction of git; the row in the database follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..contract import COMMITTER, MergeMethod, Person
from ..errors import MergeConflict, NotMergeable
from .git import Git, identity

MAX_CO_AUTHORS = 20


class Sides(NamedTuple):
    base: str
    head: str
    merge_base: str | None
    """None when the two have no common history."""

    @property
    def contained(self) -> bool:
        """Head has nothing that base lacks."""
        return self.merge_base == self.head

    @property
    def fast_forward(self) -> bool:
        return self.merge_base == self.base


async def compare(git: Git, base_sha: str, head_sha: str) -> Sides:
    result = await git.run_on_objects("merge-base", base_sha, head_sha, sha=head_sha, ok=(0, 1))
    return Sides(base_sha, head_sha, result.text.splitlines()[0] if result.returncode == 0 else None)


async def commits_ahead(git: Git, sides: Sides) -> int:
    """How many commits head has that base lacks."""
    result = await git.run_on_objects("rev-list", "--count", f"{sides.base}..{sides.head}", sha=sides.head)
    return int(result.text)


async def merged_tree(git: Git, sides: Sides) -> str:
    """The tree of both together. Raises ``MergeConflict``, or ``NotMergeable`` for branches without common history."""
    if sides.merge_base is None:
        raise NotMergeable(
            "The two branches have no common history",
            "Bring the work onto a branch that begins from the base.",
        )
    result = await git.run_on_objects(
        "merge-tree",
        "--write-tree",
        "--name-only",
        "--no-messages",
        "-z",
        sides.base,
        sides.head,
        sha=sides.head,
        ok=(0, 1),
    )
    tree, *paths = result.stdout.decode("utf-8", "replace").rstrip("\0").split("\0")
    if result.returncode == 0:
        return tree.strip()
    unique = list(dict.fromkeys(path for path in paths if path))
    named = ", ".join(unique[:5]) + (f" and {len(unique) - 5} more" if len(unique) > 5 else "")
    raise MergeConflict(
        f"Both branches changed the same places in {named}",
        "Merge the base into the branch and resolve the conflict there (a prompt to the session can do it), then merge again.",
        unique,
    )


async def merged_commit(
    git: Git,
    sides: Sides,
    *,
    method: MergeMethod,
    number: int,
    title: str,
    body: str,
    head: str,
    author: Person,
    by: Person,
) -> str:
    """The commit that base is to become.

    A merge commit's author is who merges; a squashed one's is the author of the pull request, with everybody else who wrote a commit of it as
    co-author. The committer is Open-Inspect. Raises ``NotMergeable``, ``MergeConflict``.
    """
    if method == "ff":
        if not sides.fast_forward:
            raise NotMergeable(
                "The base has commits that the branch lacks, so it can't simply be moved forward",
                "Merge with a merge commit, squash, or bring the branch up to date first.",
            )
        return sides.head
    tree = await merged_tree(git, sides)
    if method == "merge":
        message = f"Merge pull request #{number} from {head}\n\n{title}\n"
        return await _commit(git, tree, [sides.base, sides.head], message, by)
    paragraphs = [f"{title} (#{number})", body.strip(), await _co_authors(git, sides, author)]
    return await _commit(git, tree, [sides.base], "\n\n".join(p for p in paragraphs if p) + "\n", author)


async def method_of(git: Git, merge_sha: str, head_sha: str) -> MergeMethod:
    """How ``merge_sha`` was made, told by its shape."""
    if merge_sha == head_sha:
        return "ff"
    line = await git.run_on_objects("rev-list", "--parents", "--max-count=1", merge_sha, sha=merge_sha)
    return "merge" if len(line.text.split()) > 2 else "squash"


async def _commit(git: Git, tree: str, parents: Sequence[str], message: str, author: Person) -> str:
    words = [word for parent in parents for word in ("-p", parent)]
    result = await git.run_on_objects(
        "commit-tree",
        tree,
        *words,
        "-F",
        "-",
        sha=tree,
        stdin=message.encode(),
        env={**identity("AUTHOR", author), **identity("COMMITTER", COMMITTER)},
    )
    return result.text


async def _co_authors(git: Git, sides: Sides, author: Person) -> str:
    result = await git.run_on_objects(
        "log",
        "--no-show-signature",
        "--max-count=1000",
        "--reverse",
        "--format=%an%x00%ae",
        f"{sides.base}..{sides.head}",
        sha=sides.head,
    )
    known = {author.email.lower()}
    lines: list[str] = []
    for line in result.stdout.decode("utf-8", "replace").splitlines():
        name, _, email = line.partition("\0")
        if email.lower() not in known and name and email and len(lines) < MAX_CO_AUTHORS:
            known.add(email.lower())
            lines.append(f"Co-authored-by: {name} <{email}>")
    return "\n".join(lines)
