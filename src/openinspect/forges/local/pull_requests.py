"""Pull requests of the local code host: rows that follow git.

Each one keeps its commits alive by refs of its own, which nobody is shown: ``refs/openinspect/pull-requests/<number>/{head,base,merge}``. ``merge`` is
set in the very transaction of git that moves the base branch: where it exists the pull request is merged, whatever its row says. So a crash between
git and the row is put right when the pull request is next looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import func
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from ...db.engine import transaction
from ...protocol.diffs import RepositoryDiff
from ..contract import (
    CALL_SECONDS,
    MAX_PULL_REQUESTS,
    Mergeability,
    MergeMethod,
    NewPullRequest,
    Person,
    PullRequest,
    PullRequestChange,
    PullRequestState,
    Repository,
)
from ..errors import (
    BranchNotFound,
    ForgeError,
    ForgeUnavailable,
    HeadMoved,
    InvalidRequest,
    MergeConflict,
    NothingToPropose,
    NotMergeable,
    PullRequestNotFound,
    RepositoryNotFound,
)
from . import merging, refs, rows, worktrees
from .diffs import diff
from .git import Git
from .locks import exclusive
from .merging import Sides
from .place import locate

_ATTEMPTS = 4


class PullRequests:
    """The half of ``LocalForge`` that is about pull requests."""

    def __init__(self, engine: AsyncEngine, locks_dir: Path) -> None:
        self.engine = engine
        self._locks_dir = locks_dir

    def lock_file(self, repository_id: str) -> Path:
        """Whoever merges in the repository holds its lock."""
        return self._locks_dir / f"{repository_id}.lock"

    async def known(self, repository_id: str) -> Repository:
        async with transaction(self.engine) as connection:
            found = await rows.find_repository(connection, repository_id)
        if found is None or found.id != repository_id:
            raise RepositoryNotFound(
                "This repository is not known", "Add it: `openinspect repos add PATH|URL`."
            )
        return found

    async def git(self, repository_id: str) -> tuple[Git, Repository]:
        """Git in a repository that is known. Raises ``RepositoryNotFound`` also when its folder is gone."""
        repository = await self.known(repository_id)
        return Git(await asyncio.to_thread(locate, Path(repository.location))), repository

    async def open_pull_request(self, new: NewPullRequest) -> PullRequest:
        git, _ = await self.git(new.repository_id)
        sides = await self._proposable(git, new.head, new.base)
        assert sides.merge_base is not None
        for _ in range(_ATTEMPTS):
            async with transaction(self.engine) as connection:
                present = await rows.open_one(connection, new.repository_id, new.head, new.base)
            if present is not None:
                values = {"title": new.title, "body": new.body, "draft": new.draft}
                await self._set(present, values)
                return await self.pull_request(new.repository_id, present.number)
            try:
                async with transaction(self.engine) as connection:
                    number = await rows.insert_pull_request(
                        connection, new, head_sha=sides.head, base_sha=sides.merge_base
                    )
            except IntegrityError as error:
                if "uq_pull_requests_open" not in str(error.orig):
                    raise
                continue  # somebody else has opened it in this moment: update that one
            await self._keep(git, number, sides.head, sides.merge_base)
            opened = await self._row(new.repository_id, number)
            return opened.model_copy(update={"created": True})
        raise ForgeUnavailable("The pull request is being opened and closed at the same time", "Try again.")

    async def _proposable(self, git: Git, head: str, base: str) -> Sides:
        """Raises ``BranchNotFound``, ``EmptyRepository``, ``NothingToPropose``."""
        if head == base:
            raise NothingToPropose(
                "Head and base are the same branch", "Push the work to a branch of its own."
            )
        try:
            base_sha = await refs.branch_head(git, base)
        except BranchNotFound:
            if [one.name for one in await refs.list_branches(git, 2)] == [head]:
                raise refs.began_empty(head, base) from None
            raise
        head_sha = await refs.branch_head(git, head)
        sides = await merging.compare(git, base_sha, head_sha)
        if sides.merge_base is None:
            raise NothingToPropose(
                f"{head} and {base} have no common history",
                "Bring the work onto a branch that begins from the base.",
            )
        if sides.contained:
            raise NothingToPropose(
                f"{head} has no commit that {base} lacks", "Commit the work and push it to the branch first."
            )
        return sides

    async def update_pull_request(
        self, repository_id: str, number: int, change: PullRequestChange
    ) -> PullRequest:
        present = await self.pull_request(repository_id, number)
        values: dict[str, Any] = change.model_dump(exclude_none=True)
        if values.get("base") == present.base:
            del values["base"]
        if ("base" in values or "draft" in values) and present.state != "open":
            raise InvalidRequest(
                f"Pull request #{number} is {present.state}",
                "Base and draft can be changed while it is open.",
            )
        if "base" in values:
            git, _ = await self.git(repository_id)
            sides = await self._proposable(git, present.head, values["base"])
            values |= {"head_sha": sides.head, "base_sha": sides.merge_base}
        if values:
            await self._set(present, values, states=("open", "merged", "closed"))
        return await self.pull_request(repository_id, number)

    async def pull_request(self, repository_id: str, number: int) -> PullRequest:
        present = await self._row(repository_id, number)
        if present.state != "open":
            return present
        git, _ = await self.git(repository_id)
        return await self._follow(git, present)

    async def list_pull_requests(
        self,
        *,
        repository_id: str | None = None,
        session_id: str | None = None,
        state: PullRequestState | None = None,
        limit: int = 100,
    ) -> list[PullRequest]:
        asked = {"repository_id": repository_id, "session_id": session_id, "state": state}
        equal = {column: value for column, value in asked.items() if value is not None}
        async with transaction(self.engine) as connection:
            return await rows.list_pull_requests(connection, equal, max(1, min(limit, MAX_PULL_REQUESTS)))

    async def pull_request_diff(self, repository_id: str, number: int) -> RepositoryDiff:
        present = await self.pull_request(repository_id, number)
        git, repository = await self.git(repository_id)
        return await diff(git, present.base_sha, present.head_sha, directory=repository.name)

    async def mergeability(self, repository_id: str, number: int) -> Mergeability:
        present = await self.pull_request(repository_id, number)
        git, _ = await self.git(repository_id)
        methods: list[MergeMethod] = []
        commits = 0
        try:
            _mergeable_now(present)
            sides = await self._sides(git, present)
            commits = await merging.commits_ahead(git, sides)
            trees = await worktrees.checked_out(git, refs.branch_ref(present.base))
            await worktrees.check(git, trees, sides.base, None)
            if sides.fast_forward:
                methods.append("ff")
            await merging.merged_tree(git, sides)
            methods.extend(("merge", "squash"))
        except ForgeUnavailable:
            raise
        except ForgeError as error:
            conflicts = error.paths if isinstance(error, MergeConflict) else []
            return Mergeability(
                mergeable=False,
                methods=[],
                head_sha=present.head_sha,
                commits=commits,
                reason=error.reason,
                remedy=error.remedy,
                conflicts=conflicts,
            )
        return Mergeability(mergeable=True, methods=methods, head_sha=sides.head, commits=commits)

    async def merge(
        self,
        repository_id: str,
        number: int,
        *,
        method: MergeMethod,
        by: Person,
        expected_head: str | None = None,
    ) -> PullRequest:
        await self.known(repository_id)
        async with exclusive(self.lock_file(repository_id), seconds=CALL_SECONDS):
            return await self._merge(repository_id, number, method, by, expected_head)

    async def _merge(
        self, repository_id: str, number: int, method: MergeMethod, by: Person, expected_head: str | None
    ) -> PullRequest:
        git, _ = await self.git(repository_id)
        base = ""
        for _ in range(_ATTEMPTS):
            present = await self.pull_request(repository_id, number)
            if present.state == "merged":
                return present
            base = present.base
            _mergeable_now(present)
            sides = await self._sides(git, present)
            if expected_head is not None and expected_head != sides.head:
                raise HeadMoved(
                    f"{present.head} has changed: it is at {sides.head[:10]}, and you looked at {expected_head[:10]}",
                    "Look at the new state, then merge again.",
                )
            result = await merging.merged_commit(
                git,
                sides,
                method=method,
                number=number,
                title=present.title,
                body=present.body,
                head=present.head,
                author=present.author,
                by=by,
            )
            try:
                # once begun it is not cut in the middle, where a work tree would be left half moved
                await _to_its_end(self._land(git, present, sides, result))
            except refs.RefMoved:
                continue  # the base, the head or the merge itself came from elsewhere: look again
            return await self._finished(present, sides, result, method, by)
        raise ForgeUnavailable(f"{base} keeps changing while it is merged into", "Try again in a moment.")

    async def _sides(self, git: Git, present: PullRequest) -> Sides:
        """Base and head as they are. Raises ``BranchNotFound``, ``EmptyRepository``, ``NotMergeable``."""
        base_sha = await refs.branch_head(git, present.base)
        head_sha = await refs.branch_head(git, present.head)
        sides = await merging.compare(git, base_sha, head_sha)
        if sides.contained:
            raise NotMergeable(
                f"{present.head} has no commit that {present.base} lacks",
                "Push work to the branch, or close it.",
            )
        return sides

    async def _land(self, git: Git, present: PullRequest, sides: Sides, result: str) -> None:
        """Move the base to ``result`` together with the mark. Raises ``RefMoved``, ``NotMergeable``."""
        base = refs.branch_ref(present.base)
        assert sides.merge_base is not None
        updates = [
            (base, result, sides.base),
            # also a compare-and-swap: what is merged is what was looked at
            (refs.branch_ref(present.head), sides.head, sides.head),
            (_ref(present.number, "head"), sides.head, None),
            (_ref(present.number, "base"), sides.merge_base, None),
            (_ref(present.number, "merge"), result, "0" * len(result)),
        ]
        why = f"merge pull request #{present.number}"
        trees = await worktrees.checked_out(git, base)
        await worktrees.check(git, trees, sides.base, result)
        await worktrees.move(git, trees, sides.base, result)
        try:
            await refs.update_refs(git, updates, why)
        except (refs.RefMoved, ForgeError):
            await worktrees.move_back(git, trees, sides.base, result)
            raise

    async def _finished(
        self, present: PullRequest, sides: Sides, result: str, method: MergeMethod | None, by: Person | None
    ) -> PullRequest:
        values = {
            "state": "merged",
            "merge_method": method,
            "merge_sha": result,
            "merged_by": by.id if by else None,
            "merged_at": func.now(),
            "head_sha": sides.head,
            "base_sha": sides.merge_base,
        }
        # who merges knows more than a reader that found git's mark a moment before
        await self._set(present, values, states=("open", "merged") if by else ("open",))
        return await self._row(present.repository_id, present.number)

    async def _follow(self, git: Git, present: PullRequest) -> PullRequest:
        """Bring the row of an open one up to what git says."""
        names = {
            "head": refs.branch_ref(present.head),
            "base": refs.branch_ref(present.base),
            "merge": _ref(present.number, "merge"),
            "kept_head": _ref(present.number, "head"),
            "kept_base": _ref(present.number, "base"),
        }
        now = await refs.heads(git, list(names.values()))
        found = {key: now.get(name) for key, name in names.items()}
        if found["merge"] is not None:  # merged by us, and the row was not written any more
            sides = Sides("", found["kept_head"] or present.head_sha, found["kept_base"] or present.base_sha)
            method = await merging.method_of(git, found["merge"], sides.head)
            return await self._finished(present, sides, found["merge"], method, None)
        head, base = found["head"], found["base"]
        if head is None or base is None:
            return present
        sides = await merging.compare(git, base, head)
        if sides.contained and head == present.head_sha and present.base_sha != head:
            # somebody has merged it with git itself
            was = Sides(base, head, present.base_sha)
            return await self._finished(present, was, base, None, None)
        merge_base = sides.merge_base or present.base_sha
        if (head, merge_base) != (present.head_sha, present.base_sha):
            await self._set(present, {"head_sha": head, "base_sha": merge_base})
            await self._keep(git, present.number, head, merge_base)
            return await self._row(present.repository_id, present.number)
        return present

    async def close(self, repository_id: str, number: int) -> PullRequest:
        present = await self.pull_request(repository_id, number)
        if present.state == "merged":
            raise InvalidRequest(
                f"Pull request #{number} is merged", "What is merged stays merged; revert it instead."
            )
        if present.state == "open":
            await self._set(present, {"state": "closed", "closed_at": func.now()})
        return await self._row(repository_id, number)

    async def reopen(self, repository_id: str, number: int) -> PullRequest:
        present = await self.pull_request(repository_id, number)
        if present.state == "merged":
            raise InvalidRequest(f"Pull request #{number} is merged", "Open a new one for further work.")
        if present.state == "closed":
            git, _ = await self.git(repository_id)
            sides = await self._proposable(git, present.head, present.base)
            values = {
                "state": "open",
                "closed_at": None,
                "head_sha": sides.head,
                "base_sha": sides.merge_base,
            }
            try:
                await self._set(present, values, states=("closed",))
            except IntegrityError as error:
                raise InvalidRequest(
                    "Another pull request is open for the same branches", "Use that one, or close it first."
                ) from error
        return await self.pull_request(repository_id, number)

    async def _row(self, repository_id: str, number: int) -> PullRequest:
        async with transaction(self.engine) as connection:
            found = await rows.pull_request(connection, repository_id, number)
        if found is None:
            await self.known(repository_id)
            raise PullRequestNotFound(
                f"There is no pull request #{number} here", "Look at the list of pull requests."
            )
        return found

    async def _set(
        self, present: PullRequest, values: Mapping[str, Any], *, states: tuple[str, ...] = ("open",)
    ) -> None:
        async with transaction(self.engine) as connection:
            await rows.change_pull_request(connection, present.id, values, states=states)

    async def _keep(self, git: Git, number: int, head_sha: str, base_sha: str) -> None:
        updates = [(_ref(number, "head"), head_sha, None), (_ref(number, "base"), base_sha, None)]
        try:
            await refs.update_refs(git, updates, f"pull request #{number}")
        except refs.RefMoved as error:
            # another process keeps it at this moment; if not, the next look does
            raise ForgeUnavailable("The repository is being written to", "Try again in a moment.") from error


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Await ``work``; a cancellation waits for it and then goes on."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


def _ref(number: int, which: str) -> str:
    return f"refs/openinspect/pull-requests/{number}/{which}"


def _mergeable_now(present: PullRequest) -> None:
    if present.state != "open":
        raise NotMergeable(f"Pull request #{present.number} is {present.state}", "Reopen it first.")
    if present.draft:
        raise NotMergeable(f"Pull request #{present.number} is a draft", "Mark it as ready first.")
