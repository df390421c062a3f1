"""What can go wrong at a code host. Every error says what happened, why, and in ``remedy`` what to do about it.

``code`` is the word that the API and the CLI answer with; it never changes once it is published. No error text holds a credential.
"""

from __future__ import annotations

from typing import ClassVar


class ForgeError(Exception):
    """Base of all. ``reason`` and ``remedy`` are for people; ``retryable`` says that the same call may succeed later."""

    code: ClassVar[str] = "forge_error"
    retryable: ClassVar[bool] = False

    def __init__(self, reason: str, remedy: str = "") -> None:
        reason = reason.rstrip(".")
        super().__init__(f"{reason}. {remedy}" if remedy else reason)
        self.reason = reason
        self.remedy = remedy


class RepositoryNotFound(ForgeError):
    """No repository of that name, id or place is known, or its folder is gone."""

    code = "repository_not_found"


class RepositoryExists(ForgeError):
    """The place or the name is registered already."""

    code = "repository_exists"


class RepositoryUnusable(ForgeError):
    """The folder is no git repository, is damaged, or its ownership makes it unsafe to run git in it."""

    code = "repository_unusable"


class RepositoryInUse(ForgeError):
    """Sessions refer to the repository, so it can't be removed."""

    code = "repository_in_use"


class CloneRefused(ForgeError):
    """The address can't be cloned: scheme not allowed, credentials inside, or too big."""

    code = "clone_refused"


class CloneFailed(ForgeError):
    """The other side did not answer, refused, or the clone took too long."""

    code = "clone_failed"
    retryable = True


class BranchNotFound(ForgeError):
    """The repository has no branch of that name."""

    code = "branch_not_found"


class BranchNameUnusable(BranchNotFound):
    """No branch can have this name, or one has it that git would take for an option."""


class EmptyRepository(ForgeError):
    """The repository has no commit yet, so there is nothing to begin from."""

    code = "empty_repository"


class PullRequestNotFound(ForgeError):
    """The repository has no pull request of that number."""

    code = "pull_request_not_found"


class NothingToPropose(ForgeError):
    """A pull request would be empty: head has no commit that base lacks, or they are the same branch."""

    code = "nothing_to_propose"


class HeadMoved(ForgeError):
    """The branch has changed since the person looked at it (``expected_head``)."""

    code = "head_moved"


class MergeConflict(ForgeError):
    """Head and base change the same lines. ``paths`` are the files, at most 50 of them."""

    code = "merge_conflict"

    def __init__(self, reason: str, remedy: str, paths: list[str]) -> None:
        super().__init__(reason, remedy)
        self.paths = paths[:50]


class NotMergeable(ForgeError):
    """Merging is not possible now for another reason: closed, draft, not a fast-forward, work tree in the way."""

    code = "not_mergeable"


class InvalidRequest(ForgeError):
    """What was asked is not possible in itself: a bad name, a state that does not allow it."""

    code = "invalid_request"


class ForgeUnavailable(ForgeError):
    """The code host did not answer in time or failed on its side. Asking again may help."""

    code = "forge_unavailable"
    retryable = True
